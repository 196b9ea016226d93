"""Two folders of records, cell by cell: what an upgrade of a framework, or another machine, did.

A cell is an arm, by its name, on a task and preset. The rounds of two runs were not interleaved, so they are not
paired: the logarithms of the throughputs, one per process, are compared by Welch's t test
(bench/stats/welch.py) against the margin of verdict.py, and over the cells the decisions are Holm's. A row whose rounds
were added because a verdict was open spends its share of the error (bench/stats/looks.py), and each interval is the one that
decided. What counts as a figure of speed, and which row is ranked, is decided as for a table (bench/report/grouping.py).
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import msgspec
from scipy.special import stdtr

from backends import TUNED
from bench.records import rules
from bench.records.limits import MARGIN
from bench.records.record import Bytes, Record
from bench.records.text import printable
from bench.report import figures, grouping, inference, loading, markdown
from bench.report.formats import mebibytes, with_interval
from bench.report.grouping import Row, Section
from bench.stats import welch
from bench.stats.intervals import Interval
from bench.stats.verdict import ERROR, Decision

Key = tuple[str, str, str]  # task, preset, arm

DRIFT = (
    "The ratio is the throughput after, over the one before, with the interval that decided (Welch, one figure per process; "
    "Holm's procedure over the cells). The rounds of the two folders were not interleaved: whatever else changed on the "
    "machine between them is in the ratio."
)


class NotComparable(ValueError):
    """The two folders have nothing in common, or figures that may not be compared; the message says which."""


class Cell(NamedTuple):
    """A row and the table that it stands in."""

    section: Section
    row: Row


@dataclass
class Beside(Row):
    """An arm in what is measured beside training, as a row with that throughput (bench/report/apart.py)."""

    what: str = ""  # that was done
    kind: str = ""  # of its records: the name of their figures
    rates: Mapping[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.arm.name}, {self.what}"

    @property
    def throughputs(self) -> dict[int, float]:
        return dict(self.rates)

    @property
    def settings(self) -> dict[str, object]:
        return dict(self.records[0].outcome.settings)

    @property
    def excluded(self) -> str | None:
        return None  # what is not proven is in no group

    def bytes_of(self, name: str) -> Bytes:
        found = [getattr(one.outcome, self.kind) for one in self.records]
        known = [size for one in found if one and (size := getattr(one, name, Bytes(None, "-")).bytes) is not None]
        return Bytes(int(median(known))) if known else Bytes(None, "not measured")


class Change(NamedTuple):
    """A cell that both folders have."""

    key: Key
    before: Cell
    after: Cell
    decision: Decision | None  # of the throughput after, against before; None where the cell is not ranked
    ratio: Interval | None
    why_not: str | None  # why there is no ratio


@dataclass(frozen=True)
class Comparison:
    changes: list[Change]
    only_before: list[Key]
    only_after: list[Key]


def compare(before: Iterable[Record], after: Iterable[Record], *, margin: float = MARGIN) -> Comparison:
    """Every cell that both have; NotComparable where there is none, or one with another spec or measurement version."""
    first, second = _cells(before, "the first"), _cells(after, "the second")
    common = sorted(set(first) & set(second))
    if not common:
        raise NotComparable(f"no cell in common (the first has {_names(first)}; the second has {_names(second)})")
    refused = [text for key in common for text in _refusals(key, first[key], second[key])]
    if refused:
        raise NotComparable("; ".join(dict.fromkeys(refused)))
    rows = {key: (first[key].row, second[key].row) for key in common}
    ranked = {key: pair for key, pair in rows.items() if _why_not(*pair) is None}
    decided = decide(
        {key: (_logs(before), _logs(after)) for key, (before, after) in ranked.items()},
        margin,
        {key: min(row.share for row in pair) for key, pair in ranked.items()},
    )
    changes = []
    for key in common:
        decision, ratio = decided.get(key, (None, None))
        changes.append(Change(key, first[key], second[key], decision, ratio, _why_not(*rows[key])))
    return Comparison(changes, sorted(set(first) - set(second)), sorted(set(second) - set(first)))


def objections(found: Comparison, verdicts: Collection[str]) -> list[str]:
    """What speaks against AFTER, in words, by the verdicts that are to count: "slower" and "undecided".

    A cell that is no longer there or no longer ranked counts as slower. One that could not have been decided, because a folder
    has a single process of it, never passes.
    """
    texts = []
    for change in found.changes:
        ranked = [cell.row.excluded is None for cell in (change.before, change.after)]
        if "slower" in verdicts and (change.decision == "slower" or ranked == [True, False]):
            texts.append(f"slower: {_sentence(change)}")
        elif change.ratio is not None and not change.ratio.known:
            what = " and ".join(sorted(verdicts))
            texts.append(
                f"{what}: {_name(change.key)} could not be decided: each folder needs two rounds or more of it"
            )
        elif "undecided" in verdicts and change.decision in (None, "not decided"):
            texts.append(f"undecided: {_sentence(change)}")
    lost = [
        f"slower: {_name(key)} is missing in the second folder" for key in found.only_before if "slower" in verdicts
    ]
    return [*texts, *lost] if verdicts else []


def _cells(records: Iterable[Record], which: str) -> dict[Key, Cell]:
    cells: dict[Key, Cell] = {}
    judged = rules.judged(records)[0]
    found = [Cell(section, row) for section in grouping.sections(judged) for row in section.rows]
    found += [
        _beside(group, row, "inference", f"asked with batch {size}", row.rates(size))
        for group in inference.groups(judged) for size in group.sizes for row in group.rows
    ]  # fmt: skip
    found += [
        _beside(group, row, "loading", loading.WHAT[part][0].lower(), row.rates(part))
        for group in loading.groups(judged) for part in loading.COMPARED for row in group.rows
    ]  # fmt: skip
    for cell in found:
        first = cell.section.first
        key = (first.task, first.preset, cell.row.name)
        if key in cells:
            raise NotComparable(
                f"{which} folder has {_name(key)} more than once (several runs, machines or specs); give one of one run"
            )
        cells[key] = cell
    return cells


def _beside(group: Any, row: Any, kind: str, what: str, rates: Mapping[int, float]) -> Cell:
    made = Beside(row.arm, list(row.records.values()), what=what, kind=kind, rates=rates)
    return Cell(group.section, made)


def _refusals(key: Key, before: Cell, after: Cell) -> list[str]:
    first, second = before.section.first, after.section.first
    what = " ".join(key)
    texts = []
    if first.spec_hash != second.spec_hash:
        texts.append(f"{what}: other specs ({first.spec_hash[:12]} and {second.spec_hash[:12]}) are other programs")
    versions = before.section.run.measurement, after.section.run.measurement
    if versions[0] != versions[1]:
        texts.append(f"{what}: measurement versions {versions[0]} and {versions[1]} are not compared")
    old, new = before.row.arm, after.row.arm
    texts += [
        f"{what}: {name} {getattr(old, name)} and {getattr(new, name)} are other ways of using it"
        for name in ("backend", "mode", "device", "precision", "slow_down")
        if getattr(old, name) != getattr(new, name)
    ]
    parts = [cell.row.settings.get(TUNED) for cell in (before, after)]
    if None not in parts and parts[0] != parts[1]:
        texts.append(
            f"{what}: {TUNED} stood for {parts[0]} and stands for {parts[1]}, which are other ways of using it"
        )
    return [printable(text, " ") for text in texts]


def _why_not(before: Row, after: Row) -> str | None:
    reasons = [
        f"not ranked {when}: {row.excluded}" for when, row in (("before", before), ("after", after)) if row.excluded
    ]
    return "; ".join(reasons) or None


def _logs(row: Row) -> list[float]:
    return [math.log(value) for value in row.throughputs.values()]


def decide(
    logs: Mapping[Key, tuple[list[float], list[float]]], margin: float, shares: Mapping[Key, float] | None = None
) -> dict[Key, tuple[Decision, Interval]]:
    """Holm's decisions over the cells, the surest first, and none after one that is not decided; with the ratios' intervals at
    the level of that step. `shares` says of a cell what part of the error it may spend, where that is not the whole."""
    shares = shares or {}
    differences = {key: welch.difference(*pair) for key, pair in logs.items()}
    edge = math.log1p(margin)

    def p_value(key: Key) -> float:
        found = differences[key]
        if not found.error:
            return 1.0
        return float(stdtr(found.freedom, -abs(abs(found.centre) - edge) / found.error)) / shares.get(key, 1.0)

    ranked = sorted(differences, key=p_value)
    decided: dict[Key, tuple[Decision, Interval]] = {}
    deciding, level = True, ERROR / 2
    for rank, key in enumerate(ranked):
        level = ERROR / 2 / (len(ranked) - rank) if deciding else level
        deciding = deciding and p_value(key) <= level
        centre = differences[key].centre
        told: Decision = "tie" if abs(centre) < edge else "faster" if centre > 0 else "slower"
        ratio = welch.ratio(*logs[key], level=1 - 2 * level * shares.get(key, 1.0))
        decided[key] = told if deciding else "not decided", ratio
    return decided


def render(found: Comparison) -> str:
    """Verdicts, table, what differs, and what stands on one side only, in Markdown; everything from a record is escaped."""
    lines = [f"- {markdown.escape(_sentence(change))}" for change in found.changes]
    titles = [
        "task", "preset", "arm", "before", "after", "after / before", "quality", "host memory peak",
    ]  # fmt: skip
    lines += ["", markdown.table(titles, [_row(change) for change in found.changes]), "", DRIFT, ""]
    lines += [f"- only before: {markdown.escape(_name(key))}" for key in found.only_before]
    lines += [f"- only after: {markdown.escape(_name(key))}" for key in found.only_after]
    lines += [f"- {markdown.escape(text)}" for text in differences(found)]
    return "\n".join(lines).rstrip() + "\n"


def _sentence(change: Change) -> str:
    name = _name(change.key)
    if change.ratio is None or change.decision is None:
        return f"{name}: not compared ({change.why_not})."
    numbers = " and ".join(str(len(cell.row.throughputs)) for cell in (change.before, change.after))
    ratio = f"ratio {with_interval(change.ratio)}, {numbers} processes"
    if change.decision == "tie":
        return f"{name}: tie within {100 * MARGIN:.0f} % ({ratio})."
    return f"{name}: {change.decision} ({ratio})."


def _row(change: Change) -> list[str]:
    before, after = change.before, change.after
    ratio = f"{with_interval(change.ratio)}: {change.decision}" if change.ratio else f"not compared: {change.why_not}"
    pairs = [
        (figures.quality(*before), figures.quality(*after)),
        (_memory(before), _memory(after)),
    ]
    return [
        *change.key, figures.speed(before.row), figures.speed(after.row), ratio,
        *(first if first == second else f"{first}; after: {second}" for first, second in pairs),
    ]  # fmt: skip


def _memory(cell: Cell) -> str:
    peak = cell.row.bytes_of("host_peak").bytes
    return "not measured" if peak is None else mebibytes(peak)


def differences(found: Comparison) -> list[str]:
    """A line for each version, setting and property of the machine that is not the same on both sides."""
    lines: dict[str, None] = {}
    for change in found.changes:
        name = change.key[-1]
        before, after = change.before, change.after
        pairs: list[tuple[str, Mapping[str, object], Mapping[str, object]]] = [
            (f"{name}, version of", before.row.versions, after.row.versions),
            (f"{name}, setting", before.row.settings, after.row.settings),
            (f"{name},", _way(before.row), _way(after.row)),
            (
                "machine,",
                msgspec.structs.asdict(before.section.run.machine),
                msgspec.structs.asdict(after.section.run.machine),
            ),
            ("framework-bench", _harness(before.section), _harness(after.section)),
        ]
        for what, old, new in pairs:
            for part in sorted({*old, *new}):
                if old.get(part) != new.get(part):
                    lines[f"differs: {what} {part}: {_shown(old.get(part))} before, {_shown(new.get(part))} after"] = (
                        None
                    )
    return list(lines)


def _way(row: Row) -> dict[str, object]:
    return {part: value for part, value in row.arm.way.items() if value not in (None, {}, 0.0)}


def _harness(section: Section) -> dict[str, object]:
    return {"version": section.run.harness, "source": section.run.source and section.run.source[:12]}


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _name(key: Key) -> str:
    return printable(f"{key[0]} {key[2]} (preset {key[1]})", " ")


def _names(cells: Iterable[Key]) -> str:
    names = [_name(key) for key in sorted(cells)]
    return (", ".join(names[:5]) or "none") + (f" and {len(names) - 5} more" if len(names) > 5 else "")
