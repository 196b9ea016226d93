"""What makes a run continue where an earlier one into the same folder ended.

DIR/plan.json keeps what the first start fixed: the order's seed, and everything that its records depend on, by name. A process
is done when its record parses, validates and has the key of what would be run now; that there is a file says nothing.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.campaign import parity_cache
from bench.campaign.journal import Journal
from bench.campaign.plan import Choice, TaskPlan
from bench.machine import locks
from bench.process.interpreters import Interpreter
from bench.records import record
from bench.records.record import Model, Record, RecordError
from tasks.spec import hash_json

NOT_FIXED = {"absent", "data_dir", "interpreters", "order_seed", "rounds", "seeds"}
"""Fields of a Choice that may differ, or stand under another name below: what is in the data is fixed, not where they lie."""

TABLES = ("table.md", "table.csv")
"""The files that a run writes beside its records, and again whenever they have changed."""

OPTIONS = {"tasks": "--task", "backends": "--backend", "cool_down_s": "--cool-down"}


class Mismatch(ValueError):
    """A folder holds another comparison; the message says what differs."""


class Fixed(Model, frozen=True):
    """DIR/plan.json."""

    order_seed: int
    facts: dict[str, str]  # as `facts` makes them


class Found(NamedTuple):
    """What an earlier run has left."""

    kept: dict[str, Record]  # name of the file -> record that is not made again
    crashed: list[Record]  # processes that were running when a run was killed, and are not done
    aside: list[str]  # why a file was moved to DIR/corrupt


def stored(folder: Path) -> Fixed | None:
    """What the first start fixed, None for a new folder; Mismatch if the folder cannot be continued."""
    path = folder / "plan.json"
    try:
        with path.open("rb") as file:
            fixed: Fixed = record.decode(file.read(record.MAX_BYTES + 1), Fixed)
    except FileNotFoundError:
        if found := foreign(folder):
            raise Mismatch(
                f"holds {found!r} and no plan.json of an earlier run: a run starts in an empty folder"
            ) from None
        return None
    except OSError as error:
        raise Mismatch(f"holds a plan.json that cannot be read: {error.strerror}") from None
    except RecordError as error:
        raise Mismatch(f"holds a plan.json that cannot be read: {error}") from None
    return fixed


def foreign(folder: Path) -> str | None:
    """The name of something in a folder that no run has been started in; None if it is empty or not there.

    A run that was killed before its plan was written leaves its lock and empty folders: those are nobody else's.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    own = {locks.NAME} | ({"records"} if _is_bare(folder / "records") else set())
    return next((record.printable(name) for name in names if name not in own), None)


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed write leaves."""
    return folder.is_dir() and all(record.TEMPORARY.fullmatch(name) for name in os.listdir(folder))


def fix(folder: Path, plans: Sequence[TaskPlan], choice: Choice) -> None:
    """Writes DIR/plan.json."""
    record.write(folder / "plan.json", Fixed(choice.order_seed, facts(plans, choice)), via=folder / "records")


def compare(earlier: Fixed | None, plans: Sequence[TaskPlan], choice: Choice) -> None:
    """Compares what the first start fixed with what is asked now; Mismatch names each difference."""
    if earlier is None:
        return
    now = facts(plans, choice)
    names = list(dict.fromkeys([*earlier.facts, *now]))
    changes = [
        f"{name} was {earlier.facts.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in names
        if earlier.facts.get(name) != now.get(name)
    ]
    if changes:
        raise Mismatch(record.printable(f"holds another comparison: {'; '.join(changes[:5])}"))


def facts(plans: Sequence[TaskPlan], choice: Choice) -> dict[str, str]:
    """Everything that the records of a comparison depend on, in the words of a user: name -> value."""
    found = {}
    for field in dataclasses.fields(choice):
        if field.name not in NOT_FIXED:
            value = getattr(choice, field.name)
            option = OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
            found[option] = ", ".join(value) if isinstance(value, list | tuple) else str(value)
    machine = plans[0].blank.machine
    found |= {
        "the processor": f"{machine.cpu}, {machine.cores} cores",
        "the GPU": f"{machine.gpu}, {machine.gpu_driver}",
        "Python": machine.python,
        "the version of the measurement": str(plans[0].blank.measurement),
    }
    for plan in plans:
        found[f"--rounds of {plan.name}"] = str(len(list(plan.rounds(choice))))
        found[f"--seeds of {plan.name}"] = str(len({cell.seed for cell in plan.quality(choice)}))
        found[f"the spec of {plan.name}"] = plan.blank.spec_hash
    for backend in choice.backends:
        interpreter = choice.interpreters.get(backend)
        found |= parity_cache.versions(backend, interpreter)
        if interpreter is not None:
            found[f"Python of {backend}"] = interpreter.python
        for plan in plans:
            found[f"the source code of {plan.name} in {backend}"] = parity_cache.source_hash(
                plan.name, backend, interpreter
            )
    return found


def with_keys(cells: Iterable[Record], interpreters: Mapping[str, Interpreter] | None = None) -> list[Record]:
    """The cells, each with the hash of everything that its record depends on."""
    ladders: dict[tuple[object, ...], str] = {}  # of a ladder, whose key reads every source file
    keyed = []
    for cell in cells:
        one = (cell.task, cell.backend, cell.spec_hash, cell.device, cell.precision, cell.threads, cell.machine)
        if one not in ladders:
            ladders[one] = parity_cache.key(cell, (interpreters or {}).get(cell.backend))
        asked = [
            ladders[one], cell.kind, cell.round, cell.position, cell.seed, cell.order_seed, cell.preset, cell.threads,
            cell.measurement, cell.data.sha256, cell.target, cell.machine.cores, cell.machine.gpu_driver,
        ]  # fmt: skip
        keyed.append(msgspec.structs.replace(cell, key=hash_json(asked)))
    return keyed


def find(folder: Path, cells: Iterable[Record], *, retry_failed: bool) -> Found:
    """Looks through the records of an earlier run; moves aside what is no record of these cells, and closes the journal.

    What is ok is kept, and so is what failed, unless `retry_failed`. What was interrupted is not, nor what was skipped for a
    parity that is to be climbed again.
    """
    found = Found({}, [], [])
    for place in (folder / "records", folder / record.SCRATCH):
        record.remove_halves(place)
    journal = Journal(folder)
    crashed = journal.crashed()
    fallen: set[tuple[str, str]] = set()
    for cell in cells:
        name = record.file_name(cell)
        for left in record.exchange(folder, cell):
            left.unlink(missing_ok=True)
        try:
            done = _read(folder / "records" / name, cell)
        except RecordError as error:
            found.aside.append(f"{error}; moved to {_move_aside(folder / 'records' / name, folder / 'corrupt')}")
            done = None
        if done is not None:
            again = done.status == "interrupted" or (done.status != "ok" and retry_failed)
            if done.status == "skipped" and (cell.task, cell.backend) not in fallen:
                again = True
            if not again:
                found.kept[name] = done
                if done.kind == "parity" and done.status != "ok":
                    fallen.add((cell.task, cell.backend))
        if name in crashed and name in found.kept:
            journal.add("end", found.kept[name])  # killed between the record and its line
        elif name in crashed:
            journal.add("crash", cell)
            found.crashed.append(cell)
    return found


def recall(cell: Record, kept: Iterable[Record]) -> Record | None:
    """The parity record of a cell from the ladder that every other record of its backend carries, or None."""
    for other in kept:
        same = (other.task, other.backend, other.status) == (cell.task, cell.backend, "ok")
        if same and other.parity and all(ladder.passed for ladder in other.parity):
            return msgspec.structs.replace(
                cell, status="ok", reason=None, parity=other.parity, versions=other.versions,
                settings={"from cache": True}, started_utc=other.started_utc,
            )  # fmt: skip
    return None


def _read(path: Path, cell: Record) -> Record | None:
    """The record that an earlier run left of a cell, or None; RecordError if it is none, or that of something else."""
    if not os.path.lexists(path):
        return None
    done = record.read(path)
    if done.key != cell.key:
        raise RecordError(record.printable(f"{path}: a record of another comparison"))
    return done


def _move_aside(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    number = 1
    while os.path.lexists(to := folder / f"{path.stem}.{number}{path.suffix}"):
        number += 1
    path.rename(to)
    return to
