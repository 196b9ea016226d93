"""One framework over its releases, from records alone: speed, first step and memory, and where they changed beyond the noise.

The releases are arms of one run that took turns (`framework-bench history`, `run --arm jax==0.10.1 --arm jax==0.10.2`,
`sweep --vary release=...`). Each release is compared with the one before it, and the last with the first, by the mean of the
logarithms of their ratios, paired by round, with Student's t interval; all these decisions, of speed and of the first step, are
one family under Holm's procedure (Holm, 1979, https://www.jstor.org/stable/4615733; bench/stats/verdict.py). A step is a change
that is decided to be larger than the margin. A release that could not be installed, or that failed, is a point with its reason.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import msgspec

from bench.records.limits import MARGIN
from bench.records.record import LEAST_S, Record
from bench.report import facts, figures, grouping, markdown, summary, sweep
from bench.report.formats import duration, mebibytes, with_interval
from bench.report.grouping import Row, Section
from bench.stats import intervals, verdict
from bench.stats.intervals import Interval
from bench.stats.verdict import Verdict

NOTHING = "No history: no framework stands in these records in two releases or more, in rounds of one run.\n"
MEANING = (
    "Each release has an environment of its own, and the processes of all take turns in every round. A release is compared "
    "with the one before it, and the last with the first: ratios are paired by round, and their t intervals are at the level "
    "at which they were decided, by Holm's procedure over the ratios of speed and of the first step of this table. A step is a "
    f"change that is decided to be larger than {100 * MARGIN:.0f} %. The peak of the host's memory is of one process, and not "
    "judged."
)


class Quantity(NamedTuple):
    """What is compared from release to release."""

    name: str
    rates: Callable[[Row], Mapping[int, float]]  # round -> how much of it a second


QUANTITIES = (
    Quantity("speed", lambda row: row.comparable),
    Quantity("first step", lambda row: {at: 1 / max(one.first_step_s, LEAST_S) for at, one in row.timed.items()}),
)

Place = tuple[str, str]  # a release, a quantity


@dataclass(frozen=True)
class History:
    """The releases of one framework, used in one way."""

    section: Section
    name: str  # of the way: "jax", "jax:rbg"
    rows: Mapping[str, Row]  # release -> its row, in the order of the releases

    @property
    def title(self) -> str:
        return f"History: {self.section.first.task}, preset {self.section.first.preset}, {self.name} over its releases"

    @property
    def fit(self) -> list[str]:
        """The releases whose speeds may be compared."""
        return [release for release, row in self.rows.items() if row.unfit is None]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(a release, the one that it is compared with): the one before, and of the last the first too."""
        before = [(later, earlier) for earlier, later in pairwise(self.fit)]
        return before + ([(self.fit[-1], self.fit[0])] if len(self.fit) > 2 else [])

    @cached_property
    def verdicts(self) -> dict[tuple[Place, Place], Verdict]:
        """Of the pairs, in each quantity."""
        cells = {(release, one.name): one.rates(self.rows[release]) for one in QUANTITIES for release in self.fit}
        family = [((one, made.name), (other, made.name)) for made in QUANTITIES for one, other in self.pairs]
        shares = {place: self.rows[place[0]].share for place in cells}
        return verdict.compare_all(cells, family=family, shares=shares)

    def change(self, quantity: Quantity, release: str, other: str) -> Verdict | None:
        return self.verdicts.get(((release, quantity.name), (other, quantity.name)))

    def steps(self, quantity: Quantity) -> dict[str, Verdict]:
        """Release -> its change against the one before, where that is beyond the noise and the margin."""
        found = {later: self.change(quantity, later, earlier) for earlier, later in pairwise(self.fit)}
        return {release: one for release, one in found.items() if one and one.decision in ("faster", "slower")}


def histories(records: Iterable[Record]) -> list[History]:
    """Every framework that stands in a table in two releases or more, in a fixed order."""
    made = []
    for section in grouping.sections(records):
        ways: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in section.rows:
            way = {name: value for name, value in row.arm.way.items() if name != "python"}
            ways[f"{row.arm.backend} {msgspec.json.encode(way, order='sorted').decode()}"][release_of(row)] = row
        for key in sorted(ways):
            rows = {release: ways[key][release] for release in sorted(ways[key], key=sweep.key)}
            if len(rows) > 1:
                made.append(History(section, _name(next(iter(rows.values()))), rows))
    return made


def release_of(row: Row) -> str:
    """Of the arm's framework: that which was in force, or that which was asked for."""
    asked = row.arm.name.partition("==")[2].partition(":")[0]
    found = sweep.way(row, sweep.RELEASE)
    return asked if asked and found == sweep.UNKNOWN else found


def _name(row: Row) -> str:
    """The arm without its release and its label."""
    arm = msgspec.structs.replace(row.arm, name=row.arm.backend, python=None)
    return arm.way_typed


def sentences(history: History) -> list[str]:
    """Of each quantity, where it changed beyond the noise and where that is not decided; then what failed."""
    task, fit = history.section.first.task, history.fit
    told = summary.failed_control(history.section)
    for quantity in QUANTITIES if len(fit) > 1 else ():
        steps = history.steps(quantity)
        parts = [
            f"a step at {release}, {_times(one)} times as fast as the release before" for release, one in steps.items()
        ]
        others = [
            f"{later} {with_interval(one.ratio)}, {one.decision}"
            for earlier, later in pairwise(fit)
            if later not in steps and (one := history.change(quantity, later, earlier)) is not None
        ]
        if not parts:
            parts = ["no step beyond the noise"]
        text = f"{quantity.name.capitalize()} of {history.name} on {task}, over {', '.join(fit)}: {'; '.join(parts)}"
        text += f" (against the release before: {'; '.join(others)})" if others else ""
        overall = history.change(quantity, fit[-1], fit[0]) if len(fit) > 2 else None
        if overall is not None:
            text += f". From {fit[0]} to {fit[-1]}: {_times(overall)} times as fast, {overall.decision}"
        told.append(f"{text}.")
    return [*told, *(f"{history.name} {release}: {row.unfit}" for release, row in history.rows.items() if row.unfit)]


def _times(found: Verdict) -> str:
    return f"{with_interval(found.ratio)} (n={found.ratio.n})"


def first_step(row: Row) -> Interval:
    """Seconds, over processes, on the log scale."""
    return intervals.geometric_mean([max(found.first_step_s, LEAST_S) for found in row.timed.values()])


def speed(row: Row) -> Interval:
    """Items per second, over processes, on the log scale."""
    return intervals.geometric_mean(list(row.throughputs.values()))


def table(history: History) -> list[list[str]]:
    """Titles, then a line for each release."""
    titles = [
        "release", f"{history.section.first.unit}/s", "speed / the release before", "first step, s",
        "first step: times as fast as before", "import + build", "host memory peak", "parity",
    ]  # fmt: skip
    before = dict(history.pairs[: len(history.fit) - 1])
    lines = []
    for release, row in history.rows.items():
        if row.unfit is not None:
            lines.append([release, f"not compared: {row.unfit}", *[""] * 5, figures.ladders(row.ladders)])
            continue
        changes = [history.change(one, release, before[release]) if release in before else None for one in QUANTITIES]
        shown = ["" if one is None else f"{with_interval(one.ratio)}: {one.decision}" for one in changes]
        peak, start = row.bytes_of("host_peak").bytes, [row.timing("import_s"), row.timing("build_s")]
        lines.append([
            release, f"{with_interval(speed(row))}, n={len(row.throughputs)}", shown[0], with_interval(first_step(row)),
            shown[1], duration(sum(filter(None, start))), mebibytes(peak) if peak else "", figures.ladders(row.ladders),
        ])  # fmt: skip
    return [titles, *lines]


def render(records: Iterable[Record]) -> str:
    """The histories in Markdown; the same records give the same bytes."""
    parts = []
    for history in histories(records):
        rows = table(history)
        below = [*facts.data(history.section), *facts.machine(history.section), *facts.spec(history.section)]
        parts += [
            f"## {markdown.escape(history.title)}", "",
            *(f"- {markdown.escape(text)}" for text in sentences(history)), "",
            markdown.table(rows[0], rows[1:]), "", markdown.escape(MEANING), "",
            *(f"- {markdown.escape(name)}: {markdown.escape(text)}" for name, text in below),
            *(f"- {markdown.escape(release)}: {markdown.escape(_versions(row))}" for release, row in history.rows.items()), "",
        ]  # fmt: skip
    return "\n".join(parts) if parts else NOTHING


def _versions(row: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(row.versions.items())) or "not installed"


def told(records: Sequence[Record]) -> list[str]:
    """The sentences of all histories in the records."""
    return [text for history in histories(records) for text in sentences(history)]
