"""The page of the docs about public implementations: `python -m bench.checks.handwritten.page FILE... > PAGE`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.checks.handwritten.measured import Measured, read
from bench.report import markdown
from bench.report.formats import with_interval
from bench.report.grouping import GIB
from bench.stats import intervals
from bench.stats.intervals import Interval

OWN = ("default", "tuned")

HEAD = """# Public implementations

Is a backend here slower than what its framework's users have? Each one takes turns with public implementations of the same
model on the same batches, block by block, in processes that are alive together: programs as a library's documentation writes
them, with no session, no harness and no clock of ours inside ([their sources](../bench/checks/handwritten)). A ratio is the
speed of our row over the speed of that program, the geometric mean over rounds with its 95 % interval; above 1, ours is faster.
These programs climb no ladder of parity, and our rows are only timed here: [published tables](tables.md) have their proof,
settings and verdicts, and no ranking is made of this page. Where a program computes another function, its line says how, and
its ratio tells only how far apart the two are.

`python -m bench.checks.handwritten --task TASK --preset standard` measures; this page is made of what it left.
"""


def ratio(found: Measured, framework: str, ours: str, name: str) -> Interval | None:
    """The speed of a row of ours over that of a loop; None where no round has both."""
    ratios = [
        one.steps_s[name] / one.steps_s[ours]
        for one in found.rounds
        if one.framework == framework and one.disturbed is None and {ours, name} <= one.steps_s.keys()
    ]
    return intervals.geometric_mean(ratios) if ratios else None


def names(found: Measured, framework: str) -> list[str]:
    """Our rows, and then the loops."""
    seen = dict.fromkeys(name for one in found.rounds if one.framework == framework for name in one.steps_s)
    return [name for name in OWN if name in seen] + [name for name in seen if name not in OWN]


def table(found: Measured) -> str:
    """A line for each implementation."""
    lines = []
    for framework in dict.fromkeys(one.framework for one in found.rounds):
        for name in names(found, framework):
            steps = [
                one.steps_s[name]
                for one in found.rounds
                if one.framework == framework and one.disturbed is None and name in one.steps_s
            ]
            if not steps:
                continue
            own = name in OWN
            label = f"{framework}{'' if name == 'default' else ':tuned'}, ours" if own else name
            function = found.tuned.get(framework, "") if name == "tuned" else found.apart.get(f"{framework}/{name}", "")
            against = (None if own else ratio(found, framework, row, name) for row in OWN)
            lines.append(
                [
                    framework, label, function or "the same", f"{with_interval(intervals.geometric_mean(steps), 1000)}",
                    *("" if one is None else with_interval(one) for one in against), str(len(steps)),
                ]
            )  # fmt: skip
    titles = [
        "framework",
        "implementation",
        "function or mode",
        "step, ms",
        "default over it",
        "tuned over it",
        "rounds",
    ]
    return markdown.table(titles, lines)


def section(found: Measured) -> Iterator[str]:
    """A task's table, and what stands below it."""
    machine = found.machine
    yield f"\n## {found.task}, preset {found.preset}\n\n{table(found)}\n"
    lost = [f"round {one.number} of {one.framework} ({one.disturbed})" for one in found.rounds if one.disturbed]
    if lost:
        yield f"\n- Disturbed, in no figure: {'; '.join(lost)}"
    gpu = f", {machine.gpu} (driver {machine.gpu_driver})" if machine.gpu else ", no GPU"
    yield (
        f"\n- Measured {found.day} on {machine.cpu}, {machine.cores} cores, {machine.memory_bytes / GIB:.0f} GiB"
        f"{gpu}, {machine.os}, Python {machine.python}; framework-bench {found.source[:12]}"
    )
    for framework, versions in found.versions.items():
        yield f"\n- {framework}: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}"
    yield "\n"


def render(paths: Sequence[Path]) -> str:
    """The whole page; the same files give the same bytes."""
    return HEAD + "".join(part for path in paths for part in section(read(path)))


if __name__ == "__main__":
    print(render([Path(name) for name in sys.argv[1:]]), end="")
