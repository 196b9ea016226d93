"""What it takes to ask each arm's model, in tables and words: from the records of `run --measure inference` alone.

A figure is the geometric mean over an arm's processes with its interval; within a process, a percentile of its single calls.
Two arms are compared as in a table of training: paired by round, all sizes of batch in one family (bench/stats/verdict.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from operator import attrgetter
from statistics import median

from bench.records.record import LEAST_S, Arm, Calls, Inference, Record, control_of
from bench.report import figures, grouping, rounds
from bench.report.formats import duration, mebibytes, with_interval
from bench.report.words import verdict_in_words
from bench.stats import intervals, verdict
from bench.stats.intervals import Interval

CAPTION = "Single examples and batches"

MEANING = (
    "A call goes from the host's arrays to the logits in the host's memory, dropout off, and the next one begins when it has "
    "answered. In a round the processes of all arms take turns, block by block; a percentile is of a process's single calls. "
    "Intervals are 95 % t intervals over processes on the log scale; of a ratio, paired by round, at the level at which its "
    "verdict was decided (Holm's procedure over the pairs and sizes of this table). The first call traces and compiles."
)

BOUND: Mapping[str, float] = {"float64": 1e-6, "float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}
"""Precision -> relative difference of the mean size of a batch's logits that rounding may lead to."""


@dataclass(frozen=True)
class Row:
    """One arm's processes that count, by their round."""

    arm: Arm
    records: Mapping[int, Record]

    @property
    def found(self) -> list[Inference]:
        return [one.outcome.inference for one in self.records.values() if one.outcome.inference is not None]

    def calls(self, batch_size: int) -> dict[int, Calls]:
        """Round -> its calls of a size."""
        return {
            number: calls
            for number, one in self.records.items()
            for calls in (one.outcome.inference.calls if one.outcome.inference else ())
            if calls.batch_size == batch_size
        }

    def mean(self, batch_size: int, figure: Callable[[Calls], float]) -> Interval:
        """Over processes, on the log scale."""
        return intervals.geometric_mean([max(figure(calls), LEAST_S) for calls in self.calls(batch_size).values()])

    def rates(self, batch_size: int) -> dict[int, float]:
        """Round -> what is compared: the inverse of the median latency of single examples, else items per second."""
        calls = self.calls(batch_size)
        return {
            number: 1 / max(one.p50_s, LEAST_S) if batch_size == 1 else one.throughput for number, one in calls.items()
        }

    @property
    def start_s(self) -> float:
        """Seconds until the first answer for one example: import, build, and the first call."""
        return median(one.import_s + one.build_s + one.calls[0].first_s for one in self.found)

    def peak(self, name: str) -> float | None:
        """The median over processes of a peak of memory, in bytes; None where there is none."""
        known = [size for one in self.found if (size := getattr(one, name).bytes) is not None]
        return median(known) if known else None

    @property
    def cores_busy(self) -> float | None:
        known = [one.cpu_s / max(sum(one.blocks_s), LEAST_S) for one in self.found if one.cpu_s is not None]
        return median(known) if known else None


@dataclass(frozen=True)
class Group:
    """The arms of one task that were asked in one run, those with the least latency first."""

    rows: list[Row]
    failures: list[str]  # processes that are not ok, and arms that are not proven
    control: Row | None = None  # one of the rows' arms a second time

    @property
    def first(self) -> Record:
        return next(iter(self.rows[0].records.values()))

    @property
    def title(self) -> str:
        return rounds.title("Inference", self.first)

    @property
    def sizes(self) -> list[int]:
        """The sizes of batches that were asked."""
        return sorted({calls.batch_size for row in self.rows for one in row.found for calls in one.calls})

    @cached_property
    def section(self) -> grouping.Section:
        """The same arms, for what a table of training tells of them too."""
        return rounds.section(self.rows)

    @cached_property
    def verdicts(self) -> dict[tuple[int, str, str], verdict.Verdict]:
        """(batch size, arm, other arm) -> the verdict; all of them are one family."""
        cells = {(size, row.arm.name): row.rates(size) for size in self.sizes for row in self.rows}
        family = []
        for size in self.sizes:
            pairs = grouping.family_of([row.arm for row in self.ordered(size)])
            family += [((size, one), (size, other)) for one, other in pairs]
        found = verdict.compare_all(cells, family=family)
        return {(size, one, other): told for ((size, one), (_, other)), told in found.items()}

    @cached_property
    def controls(self) -> dict[int, verdict.Verdict]:
        """Batch size -> the control against the same program; nothing without one."""
        same = next((row for row in self.rows if self.control and row.arm.way == self.control.arm.way), None)
        if self.control is None or same is None:
            return {}
        pairs = {size: {"control": self.control.rates(size), "same": same.rates(size)} for size in self.sizes}
        found = {size: verdict.compare_all(pair).get(("control", "same")) for size, pair in pairs.items()}
        return {size: told for size, told in found.items() if told is not None}

    def ordered(self, size: int) -> list[Row]:
        """The rows, those that are fastest with a size first."""
        speeds = {row.arm.name: intervals.geometric_mean(list(row.rates(size).values())).estimate for row in self.rows}
        return sorted(self.rows, key=lambda row: (-speeds[row.arm.name], row.arm.name))


def groups(records: Iterable[Record]) -> list[Group]:
    """What was asked together, in a fixed order."""
    return [made for part in rounds.by_run(records, "inference") if (made := _group(part)).rows]


def _group(records: Sequence[Record]) -> Group:
    arms, failures = rounds.counted(records, lambda one: one.outcome.inference)
    rows = [Row(arm, of) for arm, of in arms]
    apart = {row.arm.name: why for row in rows if (why := _apart(row, rows))}
    failures += [f"{name}: {why}" for name, why in apart.items()]
    twice = control_of(row.arm for row in rows)
    control = next((row for row in rows if row.arm == twice), None)
    proven = [row for row in rows if row.arm.name not in apart and row is not control]
    made = Group(proven, failures)
    return Group(made.ordered(made.sizes[0]) if proven else [], failures, control)


def _apart(row: Row, rows: Sequence[Row]) -> str | None:
    """Why what an arm answered is other than what most of the others did."""
    others = [other for other in rows if other is not row]
    against = [other.arm.name for other in others if not _agree(row, other)]
    if 2 * len(against) > len(others):
        return f"its answers differ from those of {', '.join(against)}: the mean size of the logits is another"
    return None


def _agree(row: Row, other: Row) -> bool:
    bound = max(BOUND.get(one.arm.precision, max(BOUND.values())) for one in (row, other))
    first, second = row.found[0].outputs, other.found[0].outputs
    return len(first) == len(second) and all(
        abs(a - b) <= bound * max(abs(a), abs(b)) for a, b in zip(first, second, strict=True)
    )


def table(group: Group) -> list[list[str]]:
    """Titles, then a line for each arm."""
    columns: dict[str, Callable[[Row], str]] = {"arm": lambda row: row.arm.name}
    for size in group.sizes:
        if size == 1:
            for name in ("p50", "p90", "p99"):
                columns[f"batch 1: {name}, ms"] = lambda row, name=name: _ms(row, name)  # type: ignore[misc]
        else:
            columns[f"batch {size}: {group.first.cell.unit}/s"] = lambda row, size=size: with_interval(  # type: ignore[misc]
                row.mean(size, lambda one: one.throughput)
            )
        columns[f"batch {size}: relative"] = lambda row, size=size: _relative(group, row, size)  # type: ignore[misc]
    columns |= {
        "import, build, first call": lambda row: duration(row.start_s),
        "processes": lambda row: str(len(row.records)) + (", no interval" if len(row.records) == 1 else ""),
        "cores busy": lambda row: "" if row.cores_busy is None else f"{row.cores_busy:.2f}",
        "host memory peak": lambda row: _peak(row, "host_peak"),
        "device memory peak": lambda row: _peak(row, "device_peak_allocated"),
        "parity": lambda row: figures.ladders(next(iter(row.records.values())).ladders),
    }
    lines = [[text(row) for text in columns.values()] for row in group.rows]
    kept = [at for at in range(len(columns)) if any(line[at] for line in lines)]
    return [[list(columns)[at] for at in kept], *([line[at] for at in kept] for line in lines)]


def _ms(row: Row, name: str) -> str:
    return with_interval(row.mean(1, attrgetter(f"{name}_s")), 1e3)


def _relative(group: Group, row: Row, size: int) -> str:
    fastest = group.ordered(size)[0]
    if row is fastest:
        return "1"
    found = group.verdicts.get((size, row.arm.name, fastest.arm.name))
    return "no round in common" if found is None else f"{with_interval(found.ratio)}: {found.decision}"


def _peak(row: Row, name: str) -> str:
    peak = row.peak(name)
    return "" if peak is None else mebibytes(peak)


def failed_control(group: Group) -> list[str]:
    """A sentence for each size of batch with which the same program was called different from itself."""
    return [
        f"The control failed: with batch {size}, the same program was called {found.decision} than itself "
        f"({with_interval(found.ratio)} times, {found.ratio.n} rounds). No verdict of this table can be trusted."
        for size, found in group.controls.items()
        if found.decision in ("faster", "slower")
    ]


def sentences(group: Group) -> list[str]:
    """The verdicts in words, size by size; before them, whether the control failed."""
    told = failed_control(group)
    for size in group.sizes:
        names = [row.arm.name for row in group.ordered(size)]
        what = f"Batch {size}" + (", median latency" if size == 1 else "")
        for one, other in combinations(names, 2):
            found = group.verdicts.get((size, one, other))
            if found is not None:
                told.append(f"{what}: {verdict_in_words('answers', one, other, found)}")
    return told or ["Nothing is compared: fewer than two arms were proven and asked."]


def about(group: Group) -> list[tuple[str, str]]:
    """What stands below the table: data, machine, versions and settings."""
    control = "; ".join(
        f"batch {size} {with_interval(one.ratio)}, {one.decision}" for size, one in group.controls.items()
    )
    return rounds.about(group.section, control)


def pairs(group: Group) -> list[dict[str, object]]:
    """The verdicts for programs."""
    return [
        {
            "batch_size": size, "first": one, "second": other, "decision": found.decision,
            "rounds_needed": found.rounds_needed, "ratio": found.ratio.estimate, "low": found.ratio.low,
            "high": found.ratio.high, "rounds": found.ratio.n,
        }
        for (size, one, other), found in sorted(group.verdicts.items())
    ]  # fmt: skip


def values(group: Group, row: Row) -> dict[str, object]:
    """One row as plain values, each under its name."""
    told: dict[str, object] = {}
    for size in group.sizes:
        fastest, prefix = group.ordered(size)[0], f"predict_{'one' if size == 1 else 'batch'}"
        found = group.verdicts.get((size, row.arm.name, fastest.arm.name))
        told |= {
            f"{prefix}_batch_size": size,
            f"{prefix}_first_call_s": row.mean(size, lambda one: one.first_s).estimate,
        }
        for name in ("p50", "p90", "p99"):
            told |= _bounds(f"{prefix}_{name}", "_s", row.mean(size, attrgetter(f"{name}_s")))
        told |= _bounds(f"{prefix}_throughput", "", row.mean(size, lambda one: one.throughput))
        told |= {
            f"{prefix}_ratio_to_fastest": 1.0 if row is fastest else found and found.ratio.estimate,
            f"{prefix}_verdict": found and found.decision,
        }
    return told | {"predict_rounds": len(row.records)}


def context(group: Group, row: Row) -> dict[str, object]:
    """What the row is of, where no figure of a training says so."""
    return rounds.context(group.section, row.arm)


def _bounds(name: str, unit: str, found: Interval) -> dict[str, object]:
    return {f"{name}{unit}": found.estimate, f"{name}_low{unit}": found.low, f"{name}_high{unit}": found.high}
