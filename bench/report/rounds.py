"""Kinds that are measured beside training, in rounds of their own: which processes of an arm count, and why others do not."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from bench.records import rules
from bench.records.disturbed import disturbed_rounds, unsteady
from bench.records.record import Arm, Kind, Record
from bench.report import facts, figures, grouping


class Timed(Protocol):
    """The figures of one process."""

    @property
    def blocks_s(self) -> Sequence[float]: ...


class Row(Protocol):
    """One arm's processes that count, by their round."""

    @property
    def arm(self) -> Arm: ...
    @property
    def records(self) -> Mapping[int, Record]: ...


class Counted(NamedTuple):
    """What counts of a run."""

    arms: list[tuple[Arm, dict[int, Record]]]  # each with its processes by their round
    failures: list[str]  # in words


def by_run(records: Iterable[Record], kind: Kind) -> list[list[Record]]:
    """The records of a kind that were made together, in a fixed order."""
    found: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for one in rules.judged(records)[0]:
        if one.cell.kind == kind:
            found[one.cell.task, one.cell.preset, one.cell.spec_hash, one.run.id].append(one)
    return [found[key] for key in sorted(found)]


def counted(records: Sequence[Record], figures_of: Callable[[Record], Timed | None]) -> Counted:
    """The arms of a run that have climbed their ladders and failed in no round, without the rounds that were disturbed."""
    lost = {one.cell.round for one in records if one.outcome.status == "interrupted"}
    lost |= disturbed_rounds(records)
    failures = [f"{_name(one)}: {why}" for one in records if (why := _unfit(one))]
    changed = {id(one): one for one in unsteady(records, lambda one: _blocks_s(figures_of(one)))}
    failures += [f"{_name(one)}: not steady" for one in changed.values()]
    if lost:
        failures.append(f"disturbed or interrupted, and in no figure: round {', '.join(map(str, sorted(lost)))}")
    arms: dict[str, dict[int, Record]] = defaultdict(dict)
    for one in sorted(records, key=lambda one: (one.cell.arm.name, one.cell.round)):
        if one.cell.round not in lost and not _unfit(one) and figures_of(one) is not None and id(one) not in changed:
            arms[one.cell.arm.hash][one.cell.round] = one
    # What an arm failed at is not in its mean: one that lacks a round is compared with none.
    failed = {one.cell.arm.hash for one in records if one.cell.round not in lost and _unfit(one)}
    kept = [(next(iter(of.values())).cell.arm, of) for arm, of in arms.items() if arm not in failed]
    return Counted(kept, failures)


def _name(one: Record) -> str:
    return f"{one.cell.arm.name}, {one.cell.kind}, round {one.cell.round}"


def _blocks_s(timed: Timed | None) -> Sequence[float] | None:
    return None if timed is None else timed.blocks_s


def _unfit(one: Record) -> str | None:
    """Why a process is in no table: an arm is shown only if it has climbed its ladders."""
    if one.outcome.status != "ok":
        return f"{one.outcome.status}: {one.outcome.reason}"
    return rules.parity_fault(one.cell.arm, one.ladders)


def section(rows: Sequence[Row]) -> grouping.Section:
    """The same arms, for what a table of training tells of them too."""
    first = next(iter(rows[0].records.values()))
    return grouping.Section(first.run, first.cell, [grouping.Row(row.arm, list(row.records.values())) for row in rows])


def title(what: str, first: Record) -> str:
    """Of a table."""
    changes = "".join(f", {name}={value}" for name, value in first.cell.changes.items())
    return f"{what}: {first.cell.task}, preset {first.cell.preset}{changes}"


def about(of: grouping.Section, control: str) -> list[tuple[str, str]]:
    """What stands below the table: data, machine, what the control said, versions and settings."""
    told = [*facts.data(of), *facts.machine(of), *facts.spec(of)]
    if control:
        told.append(("Control", f"an arm against itself, a second time in every round: {control}"))
    for row in of.rows:
        outcome = row.records[0].outcome
        versions = ", ".join(f"{name} {version}" for name, version in sorted(outcome.versions.items()))
        known = {name: outcome.settings.get(name) for name in ("mode", "compile", "loader", "cores")}
        settings = ", ".join(f"{name}: {value}" for name, value in known.items() if value is not None)
        told.append((row.arm.name, f"{versions} ({settings}), n={len(row.records)}"))
    return told


def context(of: grouping.Section, arm: Arm) -> dict[str, object]:
    """What a row is of, where no figure of a training says so."""
    (same,) = (one for one in of.rows if one.arm == arm)
    return figures.identity(of, same)
