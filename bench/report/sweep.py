"""A sweep: one comparison of speed at several points, from records alone.

A point is a value for each field that varies: of the task (`batch_size`, `model.hidden`), or of the arms (`threads`,
`precision`, `mode`, `release`). What took turns is compared: the arms of a point, and where a field of the arms varies, each
with the same backend at the field's first value, a release with the one before. Over all these pairs the decisions are Holm's
together (bench/stats/verdict.py). Points of a task are measured one after the other, so that no ratio is between two of them.
Quality is not judged: a target is that of a preset, and other sizes may not reach it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby, product, takewhile
from typing import NamedTuple

import backends
from bench.records.limits import MARGIN
from bench.records.record import Record
from bench.report import figures, grouping, markdown, scaling, summary, words
from bench.report.formats import mebibytes, significant, with_interval
from bench.report.grouping import Row, Section
from bench.stats import intervals, verdict
from bench.stats.verdict import Verdict

RELEASE = "release"
"""Of an arm's framework: which of its distributions that is, its backend says."""

OF_ARMS = ("threads", "processes", "precision", "mode", RELEASE)
"""Fields of an arm that may vary."""

RUN = "run"
"""By which two runs of one point are told apart."""

BATCH, PROCESSES = "batch_size", "processes"
"""The field of a task that grows with the processes in weak scaling, and theirs."""

UNKNOWN = "unknown"
"""A release of which a record does not tell."""

USUAL = ("default", "float32")
"""A mode and a precision with which others are compared."""

Point = tuple[str, ...]  # the values of a sweep's fields, in their order

NOTHING = "No sweep: no field of a task or an arm has more than one value in these records.\n"
MEANING = (
    "Speed is the steady state of a training step, as in every table; memory is the host's peak in a process of its own. "
    "An arm is compared where it climbed the whole ladder of parity for the sizes of the point. Ratios are between arms that "
    "took turns; quality is not judged. What was in force in each process is in the table of its point's run. "
    "The intervals of ratios are at the level at which their verdicts were decided, over all of them together."
)


Place = tuple[Point, str]
"""A point, and an arm there by the name of its line."""


class Spot(NamedTuple):
    """An arm at a point."""

    section: Section
    row: Row


@dataclass(frozen=True)
class Sweep:
    """The points of one task on one machine."""

    title: str
    fields: list[str]
    of_arms: int  # so many of the last fields are of the arms
    points: Mapping[Point, Mapping[str, Spot]]  # sorted; the arms by the name of their line in a plot

    @property
    def lines(self) -> list[str]:
        """The names of all arms, in a fixed order."""
        return sorted({name for spots in self.points.values() for name in spots})

    @property
    def unit(self) -> str:
        return next(iter(next(iter(self.points.values())).values())).section.first.unit

    def compared(self, point: Point) -> dict[str, Row]:
        """The arms of a point whose speeds may be compared, the fastest first."""
        rows = {name: spot.row for name, spot in self.points[point].items() if spot.row.unfit is None}
        return dict(sorted(rows.items(), key=lambda pair: pair[1].step_s or math.inf))

    def base(self, point: Point) -> Point:
        """With which a point's arms are compared: the first values of the arms' fields, and the release before its own."""
        of_task = point[: len(point) - self.of_arms]
        alike = [one for one in self.points if one[: len(of_task)] == of_task]
        if RELEASE not in self.fields:
            return alike[0]
        place = self.fields.index(RELEASE)
        before = [one for one in alike if one[:place] + one[place + 1 :] == point[:place] + point[place + 1 :]]
        return before[max(0, before.index(point) - 1)]

    @cached_property
    def verdicts(self) -> dict[tuple[Place, Place], Verdict]:
        """Of the arms of a point pairwise, and of each with the same one at its base; in both directions."""
        rows = {(point, name): row for point in self.points for name, row in self.compared(point).items()}
        keys = {place: f"{number}" for number, place in enumerate(rows)}
        places = {key: place for place, key in keys.items()}
        family = [(one, other) for one, other in combinations(rows, 2) if one[0] == other[0]]
        based = [((point, name), (self.base(point), name)) for point, name in rows]
        family += [(one, base) for one, base in based if base != one and base in rows]
        found = verdict.compare_all(
            {keys[place]: row.comparable for place, row in rows.items()},
            family=[(keys[one], keys[other]) for one, other in family],
            shares={keys[place]: row.share for place, row in rows.items()},
        )
        return {(places[one], places[other]): told for (one, other), told in found.items()}

    def between(self, point: Point, one: str, other: str) -> Verdict | None:
        """Of two arms at a point; None where they are not compared."""
        return self.verdicts.get(((point, one), (point, other)))

    def against_fastest(self, point: Point, name: str) -> Verdict | None:
        """An arm against the fastest of its point; None for the fastest itself, and where nothing is compared."""
        fastest = next(iter(self.compared(point)), name)
        return self.between(point, name, fastest) if name != fastest else None

    @property
    def axis(self) -> int:
        """The place of the field along which sentences and plots go: the first with numbers, else the first."""
        return next((place for place in range(len(self.fields)) if self.is_numeric(place)), 0)

    def is_numeric(self, place: int) -> bool:
        """Whether all values of a field are numbers."""
        return all(_number(point[place]) is not None for point in self.points)

    def along(self, axis: int) -> Iterator[tuple[str, list[Point]]]:
        """(what is held, the points along a field), for each combination of the other fields' values."""

        def others(point: Point) -> Point:
            return point[:axis] + point[axis + 1 :]

        names = [name for place, name in enumerate(self.fields) if place != axis]
        for held, points in groupby(
            sorted(self.points, key=lambda point: (_keys(others(point)), key(point[axis]))), others
        ):
            yield ", ".join(f"{name}={value}" for name, value in zip(names, held, strict=True)), list(points)


def sweeps(records: Iterable[Record]) -> list[Sweep]:
    """Every sweep in the records, in a fixed order."""
    groups: dict[tuple[str, ...], list[Section]] = defaultdict(list)
    for section in grouping.sections(records):
        first, machine = section.first, section.run.machine
        groups[
            first.task, first.preset, str(section.run.measurement), machine.cpu, str(machine.cores), str(machine.gpu),
            machine.os,
        ].append(section)  # fmt: skip
    return [made for key in sorted(groups) if (made := _sweep(groups[key])) is not None]


def _sweep(sections: Sequence[Section]) -> Sweep | None:
    names = sorted({name for section in sections for name in section.first.changes})
    changes = [name for name in names if len({section.first.changes.get(name) for section in sections}) > 1]
    rows = [row for section in sections for row in section.rows]
    ways = [
        field
        for field in OF_ARMS
        if any(len({way(row, field) for row in rows if row.arm.backend == one.arm.backend}) > 1 for one in rows)
    ]
    if not changes and not ways:
        return None
    # Two runs of one point did not take turns: each is a point of its own.
    places = [tuple(section.first.changes.get(name, "preset") for name in changes) for section in sections]
    runs = [RUN] if len(set(places)) < len(places) else []
    points: dict[Point, dict[str, Spot]] = defaultdict(dict)
    for section, place in zip(sections, places, strict=True):
        for row in section.rows:
            of_task = [*place, *([section.run.id] if runs else [])]
            of_arm = [way(row, name) for name in ways]
            spots = points[(*of_task, *of_arm)]
            # Two rows of one backend at a point differ in something that does not vary here: their names tell them apart.
            spots[row.arm.backend if row.arm.backend not in spots else row.name] = Spot(section, row)
    first = sections[0].first
    fields = [*changes, *runs, *ways]
    title = f"Sweep: {first.task}, preset {first.preset}, over {' and '.join(fields)}"
    return Sweep(title, fields, len(ways), {point: points[point] for point in sorted(points, key=_keys)})


def way(row: Row, field: str) -> str:
    """The value of an arm's field."""
    if field != RELEASE:
        return str(getattr(row.arm, field) or "all")
    try:
        framework = next(iter(backends.find(row.arm.backend).distributions), "")
    except KeyError:  # of somebody else's records
        framework = ""
    return row.versions.get(framework, UNKNOWN)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


Key = tuple[bool, float, list[tuple[int, str]]]


def key(value: str) -> Key:
    """Numbers in their order, then what is usual, then other words in theirs, the numbers inside them as numbers.

    A joined mode comes after those of fewer parts: it is compared with the one that it adds something to. The plus of a
    release, as in 2.13.0+cpu, joins nothing.
    """
    number = _number(value)
    parts = [
        (int(part), "") if part.isascii() and part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", value)
    ]
    joined = value.count("+") if value[:1].isalpha() else 0
    return number is None, number or 0.0, [] if value in USUAL else [(joined, ""), *parts]


def _keys(point: Point) -> list[Key]:
    return [key(value) for value in point]


def sentences(sweep: Sweep) -> list[str]:
    """Of each pair of arms: at which values which of them is ahead; of each arm: what another value of its fields is worth."""
    told = list(_worth(sweep))
    for held, points in sweep.along(sweep.axis):
        for one, other in combinations(sweep.lines, 2):
            parts = _parts(sweep, points, one, other)
            if parts:
                told.append(f"{f'With {held}: ' if held else ''}{one} and {other}: {'; '.join(parts)}.")
    return [*told, *_weak(sweep)]


def undecided(found: Iterable[Sweep]) -> dict[tuple[str, str], list[Verdict]]:
    """(id of a point's run, task) -> its verdicts that are open."""
    still_open: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for one in found:
        for ((point, name), other), told in one.verdicts.items():
            # Every verdict is there in both directions.
            if told.decision == "not decided" and (point, name) < other:
                section = one.points[point][name].section
                still_open[section.run.id, section.first.task].append(told)
    return still_open


def fitting(sweep: Sweep, limit: int) -> list[str]:
    """Up to which value of the axis each arm's peak of memory fits into so many bytes, by what was measured.

    The peak is the device's where it has memory of its own, else the host's. Where memory ran out, that is a point as well.
    What fits lies below the first value that does not, even where a larger one happened to need less.
    """
    told = []
    field = sweep.fields[sweep.axis]
    for held, points in sweep.along(sweep.axis):
        for name in sweep.lines:
            peaks = [
                (point[sweep.axis], peak)
                for point in points
                if (spot := sweep.points[point].get(name)) and (peak := _peak(spot.row)) is not None
            ]
            fits = list(takewhile(lambda one: one[1] <= limit, peaks))
            beyond = peaks[len(fits) :]
            if not fits and not beyond:
                continue
            parts = []
            if fits:
                value, peak = fits[-1]
                largest = "" if beyond else ", the largest that was measured,"
                parts.append(f"{field} {value}{largest} fits into {mebibytes(limit)} ({mebibytes(peak)})")
            if beyond:
                value, peak = beyond[0]
                how = "out of memory" if peak == math.inf else mebibytes(peak)
                parts.append(f"{field} {value} does not fit{'' if fits else f' into {mebibytes(limit)}'} ({how})")
            told.append(f"{f'With {held}: ' if held else ''}{name}: {'; '.join(parts)}.")
    return told


def _peak(row: Row) -> float | None:
    """Bytes; infinite where a process of the arm had too few, None where nothing is known."""
    if any(one.outcome.status == "oom" for one in row.records):
        return math.inf
    return row.bytes_of("host_peak" if row.arm.device == "cpu" else "device_peak_allocated").bytes


def _worth(sweep: Sweep) -> Iterator[str]:
    for name in sweep.lines:
        for point in sweep.points:
            base = sweep.base(point)
            found = sweep.verdicts.get(((point, name), (base, name)))
            if found is not None:
                values = list(zip(sweep.fields, point, base, strict=True))
                held = ", ".join(f"{field}={here}" for field, here, there in values if here == there)
                here = ", ".join(f"{field}={here}" for field, here, there in values if here != there)
                there = ", ".join(f"{field}={there}" for field, here, there in values if here != there)
                times = f"{with_interval(found.ratio)} times as fast with {here} as with {there}"
                yield f"{f'With {held}: ' if held else ''}{name} is {times}: {found.decision}."


def _weak(sweep: Sweep) -> Iterator[str]:
    """Of each arm of N processes at N times a batch: against one process at that batch."""
    if not {BATCH, PROCESSES} <= set(sweep.fields):
        return
    varying = [sweep.fields.index(field) for field in (BATCH, PROCESSES)]
    for name, base, point in product(sweep.lines, sweep.points, sweep.points):
        spots = [sweep.points[at].get(name) for at in (base, point)]
        held = [f"{sweep.fields[at]}={value}" for at, value in enumerate(base) if at not in varying]
        prefix = f"With {', '.join(held)}: " if held else ""
        alike = all(base[at] == point[at] for at in range(len(base)) if at not in varying)
        if not alike or any(spot is None or spot.row.unfit is not None for spot in spots):
            continue
        one, several = (spot for spot in spots if spot is not None)
        small, grown = (spot.section.first.spec.get(BATCH, 0) for spot in (one, several))
        processes = several.row.arm.processes
        if one.row.arm.processes == 1 < processes and grown == processes * small:
            told = scaling.weak(several.row, one.row, f"{BATCH} {grown}", f"{BATCH} {small}")
            if told:
                yield f"{prefix}{name}: {told}"


def _parts(sweep: Sweep, points: Sequence[Point], one: str, other: str) -> list[str]:
    """What is to be said of a pair along a field, points with the same verdict together."""
    found = [(point, sweep.between(point, one, other)) for point in points]
    field = sweep.fields[sweep.axis]
    parts = []
    for decision, group in groupby(found, key=lambda pair: pair[1].decision if pair[1] else None):
        at = list(group)
        where = f"at {field} {_span([point[sweep.axis] for point, _ in at])}"
        ratios = [one_verdict.ratio.estimate for _, one_verdict in at if one_verdict is not None]
        if decision is None:
            parts.append(f"not compared {where}")
        elif decision in ("faster", "slower"):
            ahead = one if decision == "faster" else other
            times = sorted(ratio if decision == "faster" else 1 / ratio for ratio in ratios)
            parts.append(f"{ahead} is {_between(times)} times as fast {where}")
        else:
            parts.append(f"{f'a tie within {100 * MARGIN:.0f} %' if decision == 'tie' else 'not decided'} {where}")
    return parts if any(one_verdict is not None for _, one_verdict in found) else []


def _span(values: Sequence[str]) -> str:
    if len(values) > 2 and all(_number(value) is not None for value in values):
        return f"{values[0]} to {values[-1]}"
    return " and ".join(values) if len(values) < 3 else f"{', '.join(values[:-1])} and {values[-1]}"


def _between(values: Sequence[float]) -> str:
    low, high = significant(values[0]), significant(values[-1])
    return low if low == high else f"{low} to {high}"


def table(sweep: Sweep) -> list[list[str]]:
    """Titles, then a line for each arm at each point."""
    titles = [
        *sweep.fields,
        "arm",
        f"{sweep.unit}/s",
        "relative to the fastest",
        "host memory peak",
        "device memory peak",
        "parity",
    ]
    lines = [titles]
    for point, spots in sweep.points.items():
        compared = sweep.compared(point)
        for name in [*compared, *(name for name in spots if name not in compared)]:
            row = spots[name].row
            values = list(row.throughputs.values())
            speed = f"{with_interval(intervals.geometric_mean(values))}, n={len(values)}" if values else ""
            peaks = [row.bytes_of(part).bytes for part in ("host_peak", "device_peak_allocated")]
            lines.append(
                [
                    *point,
                    row.name,
                    speed,
                    _relative(sweep, point, name),
                    *(mebibytes(peak) if peak else "" for peak in peaks),
                    figures.ladders(row.ladders),
                ]
            )
    return lines


def _relative(sweep: Sweep, point: Point, name: str) -> str:
    row = sweep.points[point][name].row
    if row.unfit is not None:
        return f"not compared: {row.unfit}"
    found = sweep.against_fastest(point, name)
    if found is None:
        return "1" if len(sweep.compared(point)) > 1 else "alone"
    return f"{with_interval(found.ratio)}: {found.decision}"


def verdicts(sweep: Sweep) -> list[str]:
    """The sentences; before them, the points whose control failed."""
    spots = [one for spots in sweep.points.values() for one in spots.values()]
    failed = dict.fromkeys(text for one in spots for text in summary.failed_control(one.section))
    return [*failed, *(sentences(sweep) or ["Nothing is compared: no two arms have a speed at one point."])]


def about(sweep: Sweep) -> list[tuple[str, str]]:
    """What stands below the table: machine, versions, and how rounds were added where they were."""
    spots = [one for spots in sweep.points.values() for one in spots.values()]
    machine = spots[0].section.run.machine
    versions = dict.fromkeys(f"{name} {version}" for one in spots for name, version in sorted(one.row.versions.items()))
    told = [
        ("Machine", _machine(machine.cpu, machine.cores, machine.gpu, machine.os)),
        ("Versions", ", ".join(versions)),
    ]
    looked = {one.row.rounds for one in spots if one.row.look}
    return [*told, *([("Rounds of a point", words.looks(looked))] if looked else [])]


def render(records: Iterable[Record], *, memory_limit: int | None = None) -> str:
    """The sweeps in Markdown; the same records give the same bytes. With a limit in bytes, what fits into it."""
    parts = [
        f"## {markdown.escape(sweep.title)}\n\n{_body(sweep, memory_limit)}\n{MEANING}\n" for sweep in sweeps(records)
    ]
    return "\n".join(parts) if parts else NOTHING


def brief(records: Iterable[Record]) -> str:
    """Sentences, table, machine and versions only, for a page that links to the whole."""
    return "\n".join(_body(sweep, None) for sweep in sweeps(records))


def _body(sweep: Sweep, memory_limit: int | None) -> str:
    rows = table(sweep)
    told = [*verdicts(sweep), *(fitting(sweep, memory_limit) if memory_limit is not None else ())]
    parts = [
        *(f"- {markdown.escape(text)}" for text in told), "",
        markdown.table(rows[0], rows[1:]), "",
        *(f"- {name}: {markdown.escape(text)}" for name, text in about(sweep)), "",
    ]  # fmt: skip
    return "\n".join(parts)


def _machine(cpu: str, cores: int, gpu: str | None, system: str) -> str:
    return f"{cpu}, {cores} cores, {gpu or 'no GPU'}, {system}"
