"""What records say to somebody who has to choose, what they leave open, and what nobody measured: `framework-bench advise`.

No sentence is without a record behind it: each names its run. Runs that a later one supersedes are left out. What is not in the
records is said to be missing, with the command that would measure it.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import backends
import tasks
from bench.records.record import Record
from bench.report import grouping, publish, summary, sweep, totals
from bench.report.formats import mebibytes, with_interval
from bench.report.grouping import Row, Section

FRAMEWORKS = ("torch", "tensorflow", "jax")


@dataclass(frozen=True)
class Wish:
    """What the reader wants to do; None where anything will do."""

    task: str | None = None
    device: str | None = None
    batch_size: int | None = None

    def fits(self, section: Section) -> bool:
        """Whether a table is about it."""
        return self.task in (None, section.first.task) and (
            self.device is None or any(row.arm.device == self.device for row in section.rows)
        )


def advice(runs: Mapping[str, Sequence[Record]], wish: Wish) -> list[tuple[str, list[str]]]:
    """(title, sentences) of each table that is about the wish, the newest first, and at the end what was never measured.

    `runs` are records by the name of their run, the newest first, as publish.runs has them.
    """
    newest = publish.Newest(runs)
    found: list[Section] = []
    told: list[tuple[str, list[str]]] = []
    for name, records in runs.items():
        points = len({one.run.id for one in records}) > 1  # of a sweep, which has sentences of its own
        for section in grouping.sections(records):
            if wish.fits(section) and newest.of(section) == name:
                found.append(section)
                told += [] if points else [(_title(name, section), list(_sentences(section)))]
        told += [(f"{one.title} ({name})", sweep.sentences(one)) for one in sweep.sweeps(records)
                 if wish.task in (None, next(iter(next(iter(one.points.values())).values())).section.first.task)]  # fmt: skip
    return [*told, ("Never measured", list(_missing(found, wish)))]


def _title(name: str, section: Section) -> str:
    machine = section.run.machine
    versions = dict.fromkeys(
        f"{part} {version}"
        for row in section.rows
        for part, version in sorted(row.versions.items())
        if part in FRAMEWORKS
    )
    on = ", ".join(filter(None, [section.day, machine.cpu, f"{machine.cores} cores", machine.gpu, *versions]))
    return f"{summary.title(section)} ({name}: {on})"


def _sentences(section: Section) -> Iterator[str]:
    yield from summary.failed_control(section)
    yield summary.conclusion(section).partition(": ")[2]
    yield from _gains(section)
    yield from (text for text in totals.sentences(section) if "no break-even" not in text)
    yield from _memory(section)
    yield from _open(section)
    yield from (f"{row.name} is in no ranking: {row.excluded}" for row in section.rows if row.excluded)


def _gains(section: Section) -> Iterator[str]:
    """What each backend's tuned row is worth."""
    default, tuned = (grouping.track([row.arm for row in section.ranked], mode) for mode in ("default", "tuned"))
    for backend, name in tuned.items():
        found = section.verdicts.get((name, default.get(backend, "")))
        if found is not None:
            yield f"Tuning {backend}: {with_interval(found.ratio)} times as fast as its default, {found.decision}"


def _memory(section: Section) -> Iterator[str]:
    for part, what in (("device_peak_allocated", "device"), ("host_peak", "host")):
        peaks = sorted((size, row.name) for row in section.ranked if (size := row.bytes_of(part).bytes) is not None)
        if len(peaks) > 1:
            others = ", ".join(f"{name} {mebibytes(size)}" for size, name in peaks[1:])
            yield f"Least {what} memory at its peak: {peaks[0][1]} {mebibytes(peaks[0][0])}; {others}"


def _open(section: Section) -> Iterator[str]:
    """The pairs that are not decided, with what would decide them."""
    found = {pair: section.verdicts.get(pair) for pair in combinations([row.name for row in section.ranked], 2)}
    needed = [one.rounds_needed for one in found.values() if one is not None and one.rounds_needed]
    undecided = [
        f"{one} and {other}"
        for (one, other), told in found.items()
        if told is not None and told.decision == "not decided"
    ]
    if undecided:
        command = publish.command(section)
        rounds = shlex.split(command)
        if needed and "--rounds" in rounds:
            rounds[rounds.index("--rounds") + 1] = str(max(needed))
            command = shlex.join(rounds)
        yield f"Not decided: {'; '.join(undecided)}. {'To decide it' if needed else 'Again'}: {command}"


def _missing(found: Sequence[Section], wish: Wish) -> Iterator[str]:
    names = [wish.task] if wish.task else list(tasks.TASKS)
    device = wish.device or "cpu"
    for name in names:
        sections = [section for section in found if section.first.task == name]
        rows: list[Row] = [row for section in sections for row in section.rows if wish.device in (None, row.arm.device)]
        command = f"framework-bench run --task {name} --device {device}"
        if not rows:
            yield f"{name} on the {device}: {command}"
            continue
        absent = [backend for backend in backends.BACKENDS if backend not in {row.arm.backend for row in rows}]
        if absent:
            yield f"{name} in {', '.join(absent)}: {' '.join([command, *(f'--backend {backend}' for backend in absent)])}"
        sizes = {section.first.spec.get("batch_size") for section in sections}
        if wish.batch_size is not None and wish.batch_size not in sizes:
            known = ", ".join(str(size) for size in sorted(size for size in sizes if isinstance(size, int)))
            yield (
                f"{name} at a batch size of {wish.batch_size} (there is {known or 'none'}): "
                f"framework-bench sweep --task {name} --device {device} --vary batch_size={wish.batch_size}"
            )
        if not any(row.arm.precision == "bfloat16" for row in rows):
            arms = " ".join(
                f"--arm {backend}:precision=bfloat16" for backend in sorted({row.arm.backend for row in rows})
            )
            yield f"{name} in bfloat16: framework-bench run --task {name} --device {device} {arms}"
    yield "Inference, and reading the data: what is timed here is a training step"


def render(told: Sequence[tuple[str, list[str]]]) -> str:
    """The advice as plain text."""
    parts = []
    for title, sentences in told:
        lines = [f"- {text}{'' if text.endswith(('.', ')')) else '.'}" for text in sentences] or ["- Nothing."]
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts) + "\n"
