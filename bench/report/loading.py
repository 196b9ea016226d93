"""What the frameworks' own loaders give, in tables and words: from the records of `run --measure loading` alone.

A figure is the geometric mean over an arm's processes with its interval. What is compared, paired by round: each arm's training
that is fed by its loader with the same arm's on prepared batches, and the arms with each other, in both the loader alone and
the training that it feeds. All of these are one family (bench/stats/verdict.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import median

from bench.records.limits import MARGIN
from bench.records.record import LOADING_PARTS, Arm, Loading, Record, control_of
from bench.report import figures, grouping, rounds
from bench.report.formats import duration, many_rounds, significant, with_interval
from bench.report.words import verdict_in_words
from bench.stats import intervals, verdict
from bench.stats.intervals import Interval

CAPTION = "The loader alone, and a training that is fed by it"

MEANING = (
    "Each framework's own loader reads the task's arrays from the host's memory, shuffles them where the task does, and hands "
    "over batches in the framework's host tensors; two of its passes were read and compared with the task's own batches before "
    "anything was timed. In a turn there are blocks of training steps on batches that were ready, of steps on batches of the "
    "loader, and of the loader alone; ends of passes lie within them, and what a loader had in store from the turns of others "
    "does not, where it would not have had it without a break. Intervals are 95 % t intervals over processes on the log "
    "scale; of a ratio, paired by round, at the level at which its verdict was decided (Holm's procedure over this table)."
)

COMPARED = ("alone", "fed")
"""The parts in which arms are compared with each other."""

WHAT: Mapping[str, tuple[str, str]] = {"alone": ("Loader alone", "loads"), "fed": ("Fed by its loader", "trains")}


@dataclass(frozen=True)
class Row:
    """One arm's processes that count, by their round."""

    arm: Arm
    records: Mapping[int, Record]

    @property
    def found(self) -> dict[int, Loading]:
        """Round -> figures."""
        return {number: one.outcome.loading for number, one in self.records.items() if one.outcome.loading is not None}

    def rates(self, part: str) -> dict[int, float]:
        """Round -> items per second of one of LOADING_PARTS."""
        return {number: one.feeds[part].throughput for number, one in self.found.items()}

    def mean(self, part: str) -> Interval:
        """Items per second over processes, on the log scale."""
        return intervals.geometric_mean(list(self.rates(part).values()))

    @property
    def first_s(self) -> float:
        """Seconds to make the loader and to take its first batch."""
        return median(one.first_s for one in self.found.values())

    @property
    def cores_busy(self) -> float | None:
        known = [one.cpu_s / one.turns_s for one in self.found.values() if one.cpu_s is not None and one.turns_s]
        return median(known) if known else None

    @property
    def loader(self) -> str:
        """What the loader is, by the backend's account."""
        return str(next(iter(self.records.values())).outcome.settings.get("loader") or "not told")


Key = tuple[str, str]  # an arm, a part


@dataclass(frozen=True)
class Group:
    """The arms of one task whose loaders were measured in one run, those that train fastest from theirs first."""

    rows: list[Row]
    failures: list[str]  # processes that are not ok, and arms that are not proven
    control: Row | None = None  # one of the rows' arms a second time

    @property
    def first(self) -> Record:
        return next(iter(self.rows[0].records.values()))

    @property
    def title(self) -> str:
        return rounds.title("Loading", self.first)

    @cached_property
    def section(self) -> grouping.Section:
        """The same arms, for what a table of training tells of them too."""
        return rounds.section(self.rows)

    @cached_property
    def verdicts(self) -> dict[tuple[Key, Key], verdict.Verdict]:
        """(arm, part), (arm, part) -> the verdict on the first against the second."""
        cells = {(row.arm.name, part): row.rates(part) for part in LOADING_PARTS for row in self.rows}
        family = [((row.arm.name, "fed"), (row.arm.name, "prepared")) for row in self.rows]
        for part in COMPARED:
            pairs = grouping.family_of([row.arm for row in self.ordered(part)])
            family += [((one, part), (other, part)) for one, other in pairs]
        return verdict.compare_all(cells, family=family)

    def slowed(self, row: Row) -> verdict.Verdict | None:
        """Training that is fed, against training on prepared batches."""
        return self.verdicts.get(((row.arm.name, "fed"), (row.arm.name, "prepared")))

    @cached_property
    def controls(self) -> dict[str, verdict.Verdict]:
        """Part -> the control against the same program; nothing without one."""
        same = next((row for row in self.rows if self.control and row.arm.way == self.control.arm.way), None)
        if self.control is None or same is None:
            return {}
        pairs = {part: {"control": self.control.rates(part), "same": same.rates(part)} for part in COMPARED}
        found = {part: verdict.compare_all(pair).get(("control", "same")) for part, pair in pairs.items()}
        return {part: told for part, told in found.items() if told is not None}

    def ordered(self, part: str) -> list[Row]:
        """The rows, those that are fastest in a part first."""
        return sorted(self.rows, key=lambda row: (-row.mean(part).estimate, row.arm.name))


def groups(records: Iterable[Record]) -> list[Group]:
    """What was measured together, in a fixed order."""
    return [made for part in rounds.by_run(records, "loading") if (made := _group(part)).rows]


def _group(records: Sequence[Record]) -> Group:
    arms, failures = rounds.counted(records, lambda one: one.outcome.loading)
    rows = [Row(arm, of) for arm, of in arms]
    twice = control_of(row.arm for row in rows)
    control = next((row for row in rows if row.arm == twice), None)
    shown = Group([row for row in rows if row is not control], failures, control)
    return Group(shown.ordered("fed"), failures, control)


def table(group: Group) -> list[list[str]]:
    """Titles, then a line for each arm."""
    unit = group.first.cell.unit
    titles = [
        "arm", f"loader alone, {unit}/s", "loader alone: relative", f"fed by the loader, {unit}/s", "fed: relative",
        f"prepared batches, {unit}/s", "fed / prepared", "loader and first batch", "cores busy", "processes", "loader",
        "parity",
    ]  # fmt: skip
    lines = [
        [
            row.arm.name, with_interval(row.mean("alone")), _relative(group, row, "alone"), with_interval(row.mean("fed")),
            _relative(group, row, "fed"), with_interval(row.mean("prepared")), _of(group.slowed(row)), duration(row.first_s),
            "" if row.cores_busy is None else f"{row.cores_busy:.2f}",
            str(len(row.records)) + (", no interval" if len(row.records) == 1 else ""), row.loader,
            figures.ladders(next(iter(row.records.values())).ladders),
        ]
        for row in group.rows
    ]  # fmt: skip
    return [titles, *lines]


def _relative(group: Group, row: Row, part: str) -> str:
    fastest = group.ordered(part)[0]
    return "1" if row is fastest else _of(group.verdicts.get(((row.arm.name, part), (fastest.arm.name, part))))


def _of(found: verdict.Verdict | None) -> str:
    return "no round in common" if found is None else f"{with_interval(found.ratio)}: {found.decision}"


def sentences(group: Group) -> list[str]:
    """What each loader does to its training, and then the arms against each other; before them, whether the control failed."""
    told = [
        f"The control failed: {WHAT[part][0].lower()}, the same program was called {found.decision} than itself "
        f"({with_interval(found.ratio)} times, {found.ratio.n} rounds). No verdict of this table can be trusted."
        for part, found in group.controls.items()
        if found.decision in ("faster", "slower")
    ]
    told += [_cost(row, found) for row in group.rows if (found := group.slowed(row)) is not None]
    for part in COMPARED:
        what, does = WHAT[part]
        for one, other in combinations([row.arm.name for row in group.ordered(part)], 2):
            found = group.verdicts.get(((one, part), (other, part)))
            if found is not None:
                told.append(f"{what}: {verdict_in_words(does, one, other, found)}")
    return told


def _cost(row: Row, found: verdict.Verdict) -> str:
    """Whether the loader is what a training waits for."""
    name = row.arm.name
    many = many_rounds(found.ratio.n)
    ratio = f"{with_interval(found.ratio)} times as fast as on prepared batches ({many})"
    if found.decision == "tie":
        return f"{name} does not wait for its loader: fed by it, it trains as fast as on prepared batches within " \
               f"{100 * MARGIN:.0f} % (ratio {with_interval(found.ratio)}, {many})."  # fmt: skip
    if found.decision == "not decided":
        more = f"; about {found.rounds_needed} rounds would decide at this noise" if found.rounds_needed else ""
        return (
            f"{name}: whether it waits for its loader is not decided (ratio to prepared batches "
            f"{with_interval(found.ratio)}, {many}{more}); the loader alone is "
            f"{significant(row.mean('alone').estimate / row.mean('prepared').estimate, 2)} times as fast as that training."
        )
    if found.decision == "slower":
        return f"{name} waits for its loader: fed by it, it trains {ratio}."
    return f"{name} trains faster when its loader feeds it: {ratio}."


def about(group: Group) -> list[tuple[str, str]]:
    """What stands below the table: data, machine, versions and settings."""
    control = "; ".join(
        f"{WHAT[part][0].lower()} {with_interval(one.ratio)}, {one.decision}" for part, one in group.controls.items()
    )
    return rounds.about(group.section, control)


def pairs(group: Group) -> list[dict[str, object]]:
    """The verdicts for programs."""
    return [
        {
            "first": one[0], "first_part": one[1], "second": other[0], "second_part": other[1], "decision": found.decision,
            "rounds_needed": found.rounds_needed, "ratio": found.ratio.estimate, "low": found.ratio.low,
            "high": found.ratio.high, "rounds": found.ratio.n,
        }
        for (one, other), found in sorted(group.verdicts.items())
    ]  # fmt: skip


def values(group: Group, row: Row) -> dict[str, object]:
    """One row as plain values, each under its name."""
    told: dict[str, object] = {"loader": row.loader, "loader_first_batch_s": row.first_s}
    for part in LOADING_PARTS:
        found = row.mean(part)
        told |= {
            f"loading_{part}": found.estimate,
            f"loading_{part}_low": found.low,
            f"loading_{part}_high": found.high,
        }
    slowed = group.slowed(row)
    told |= {
        "loading_fed_to_prepared": slowed and slowed.ratio.estimate, "loading_fed_to_prepared_low": slowed and slowed.ratio.low,
        "loading_fed_to_prepared_high": slowed and slowed.ratio.high, "loading_verdict": slowed and slowed.decision,
    }  # fmt: skip
    return told | {"loading_cores_busy": row.cores_busy, "loading_rounds": len(row.records)}


def context(group: Group, row: Row) -> dict[str, object]:
    """What the row is of, where no figure of a training says so."""
    return rounds.context(group.section, row.arm)
