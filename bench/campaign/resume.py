"""What makes a run continue where an earlier one into the same folder ended.

DIR/plan.json keeps what the first start fixed: the order's seed, and everything that its records depend on, by name. A process
is done when its record parses, validates and has the key of what would be run now; that there is a file says nothing.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.campaign import journal as journals
from bench.campaign import parity_cache
from bench.campaign.journal import Journal
from bench.campaign.plan import COMPARISON, IN_ROUNDS, MEASURES, TaskPlan
from bench.machine import locks
from bench.process.execute import LINK, TRACES, remove_temporary
from bench.records import digest, files, rules
from bench.records.files import RecordError
from bench.records.record import Arm, Cell, Outcome, Record, Strict
from bench.records.text import printable

TABLES = ("table.md", "table.csv")
"""The files that a run writes beside its records, and again whenever they have changed."""

FOLDERS = ("records", "logs", "corrupt", files.SCRATCH, TRACES)
"""The folders that a run makes inside its own."""


MEASURED = "what is measured"
"""The fact of a folder that holds no whole comparison; that of `run` has none."""

BUDGET, SPENT = "--budget", "more rounds where verdicts are open"
"""The fact of a folder whose rounds were not planned once, and what it says."""

PAGES = "the kernel's huge pages"
"""The fact of a machine that tells who gets them."""

STEP, SPEED = "what a step's time is made of", "speed and memory"
"""What it says: of `explain`, and of a point of `sweep`."""


class Mismatch(ValueError):
    """A folder holds another comparison; the message says what differs."""


class Fixed(Strict, frozen=True):
    """DIR/plan.json."""

    run_id: str
    facts: dict[str, str]  # as `facts` makes them


class Found(NamedTuple):
    """What an earlier run has left."""

    kept: dict[str, Record]  # name of the file -> record that is not made again
    crashed: list[Cell]  # processes that were running when a run was killed, and are not done
    aside: list[str]  # why a file was moved to DIR/corrupt


def stored(folder: Path) -> Fixed | None:
    """What the first start fixed, None for a new folder.

    Mismatch if the folder cannot be continued, OSError if there can be none of its name.
    """
    refuse_links(folder)
    for name in ("plan.json", "journal.jsonl"):
        if (folder / name).exists() and not (
            folder / name
        ).is_file():  # to open a pipe would wait for somebody who writes
            raise Mismatch(f"holds a {name} that is no regular file")
    try:
        with (folder / "plan.json").open("rb") as file:
            fixed: Fixed = files.decode(file.read(files.MAX_BYTES + 1), Fixed)
    except FileNotFoundError:
        if found := foreign(folder):
            raise Mismatch(
                f"holds {found!r} and no plan.json of an earlier run: a run starts in an empty folder"
            ) from None
        return None
    except NotADirectoryError:
        raise  # there is no such file
    except OSError as error:
        raise Mismatch(f"holds a plan.json that cannot be read: {error.strerror}") from None
    except RecordError as error:
        raise Mismatch(f"holds a plan.json that cannot be read: {error}") from None
    return fixed


def refuse_links(folder: Path) -> None:
    """Mismatch if anything in a run's folder is a symbolic link: what a run writes or removes would be somebody else's.

    The program's own links to temporary folders may be there; remove_temporary sees where they lead.
    """
    for path in (folder, *(folder / name for name in FOLDERS)):
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            own = path.name == files.SCRATCH and LINK.fullmatch(entry.name)
            if entry.is_symlink() and not own:
                name = Path(entry.path).relative_to(folder)
                raise Mismatch(printable(f"holds {str(name)!r}, which is a link: nothing in a run's folder may be one"))


def foreign(folder: Path) -> str | None:
    """The name of something in a folder that no run has been started in; None if it is empty or not there.

    A run that was killed before its plan was written leaves its lock and empty folders: those are nobody else's.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    own = {locks.NAME} | ({"records"} if _is_bare(folder / "records") else set())
    return next((printable(name) for name in names if name not in own), None)


def _is_bare(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed write leaves."""
    return folder.is_dir() and all(files.TEMPORARY.fullmatch(name) for name in os.listdir(folder))


def fix(folder: Path, plans: Sequence[TaskPlan]) -> None:
    """Writes DIR/plan.json."""
    files.write(folder / "plan.json", Fixed(plans[0].run.id, facts(plans)), via=folder / "records")


def compare(earlier: Fixed | None, plans: Sequence[TaskPlan]) -> None:
    """Compares what the first start fixed with what is asked now; Mismatch names each difference."""
    if earlier is None:
        return
    now = facts(plans)
    names = list(dict.fromkeys([*earlier.facts, *now]))
    changes = [
        f"{name} was {earlier.facts.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in names
        if earlier.facts.get(name) != now.get(name)
    ]
    if changes:
        raise Mismatch(printable(f"holds another comparison: {'; '.join(changes[:5])}"))


def facts(plans: Sequence[TaskPlan]) -> dict[str, str]:
    """Everything that the records of a comparison depend on, in the words of a user: name -> value."""
    choice, run = plans[0].choice, plans[0].run
    found = {
        "--task": ", ".join(choice.tasks),
        "--preset": choice.preset,
        "--set": set_text(choice.changes),
        "the arms": ", ".join(arm.name for arm in choice.arms),
        "--cool-down": str(choice.cool_down_s),
        "--energy": str(choice.energy),
        "--effect": str(choice.effect),
        "the processor": f"{run.machine.cpu}, {run.machine.cores} cores",
        "the GPU": f"{run.machine.gpu}, {run.machine.gpu_driver}",
        "Python": run.machine.python,
        "the version of the measurement": str(run.measurement),
        "the source code of framework-bench": str(run.source)[:12],
    }
    if run.machine.huge_pages is not None:
        found[PAGES] = run.machine.huge_pages
    if tuple(choice.kinds) != COMPARISON:
        names = [name for name, kinds in MEASURES.items() if set(kinds) <= set(choice.kinds)]
        found[MEASURED] = " and ".join(names) or (STEP if "explain" in choice.kinds else SPEED)
    if choice.looks:
        found[BUDGET] = SPENT
    for plan in plans:
        found[f"--rounds of {plan.name}"] = "auto" if choice.effect is not None else str(plan.first_rounds)
        found[f"--seeds of {plan.name}"] = str(plan.seeds)
        found[f"the spec of {plan.name}"] = plan.template.spec_hash
        found[f"the target of {plan.name}"] = target_text(plan.template)
    for arm in choice.arms:
        interpreter = choice.interpreters.get(arm.name)
        found |= {f"{name} of {arm.name}": value for name, value in way_texts(arm).items()}
        for name, version in parity_cache.versions(arm.backend, interpreter).items():
            found[f"{name} of {arm.name}"] = version
        for plan in plans:
            source = parity_cache.source_hash(plan.name, arm.backend, interpreter and interpreter.origin)
            found[f"the source code of {plan.name} in {arm.name}"] = source
    return found


def set_text(changes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "nothing"


def target_text(cell: Cell) -> str:
    """The quality to be reached, the margin of equivalence, and what is counted."""
    margin = cell.target.margin
    return f"{cell.target}, margin {'None' if margin is None else f'{margin:g}'}, in {cell.unit}"


def way_texts(arm: Arm) -> dict[str, str]:
    way = {**arm.way, "environment": " ".join(f"{name}={value}" for name, value in arm.environment.items()) or None}
    return {name: str(value) for name, value in way.items()}


def find(folder: Path, cells: Iterable[Cell], *, run_id: str, retry_failed: bool) -> Found:
    """Looks through the records of an earlier run; moves aside what is no record of these cells, and closes the journal.

    A record is that of a cell if its run and all that was asked are the same, and if its file is what the journal and the
    digest say. What breaks a rule beside the others is moved aside too. What is ok is kept, and so is what failed, unless
    `retry_failed`. What was interrupted is not, nor what was skipped for a parity that is to be climbed again. A round is kept
    whole or not at all: its arms are compared with each other, and half of it would be paired with another day's half.
    """
    cells = list(cells)
    found = Found({}, [], [])
    journal = Journal(folder)
    hashes = {digest.NAME: digest.stored(folder) or {}, journals.NAME: journal.hashes()}
    for place in (folder / "records", folder / files.SCRATCH):
        files.remove_halves(place)
    remove_temporary(folder)
    fallen: set[tuple[str, str]] = set()
    for cell in cells:
        name = cell.file_name
        for left in files.exchange(folder, cell):
            left.unlink(missing_ok=True)
        try:
            done = _read(folder / "records" / name, cell, run_id, files.of_file(name, hashes))
        except RecordError as error:
            found.aside.append(f"{error}; moved to {_move_aside(folder, name)}")
            done = None
        if done is not None and _is_kept(
            done.outcome, retry_failed=retry_failed, fell=(cell.task, cell.arm.name) in fallen
        ):
            found.kept[name] = done
            if cell.kind == "parity" and done.outcome.status != "ok":
                fallen.add((cell.task, cell.arm.name))
    _move_broken(folder, found)
    apart = _of_two_days(folder, [one for one in found.kept.values() if one.outcome.status == "ok"], journal)
    crashed = journal.crashed()
    _close(journal, [cell for cell in cells if cell.file_name in crashed], folder, found)
    broken = {_round(cell) for cell in cells if cell.file_name not in found.kept} | apart
    for cell in cells:
        if _round(cell) is not None and _round(cell) in broken:
            found.kept.pop(cell.file_name, None)
    return found


def _close(journal: Journal, crashed: Iterable[Cell], folder: Path, found: Found) -> None:
    """Gives the processes that were running when a run was killed their ends in the journal."""
    for cell in crashed:
        kept = found.kept.get(cell.file_name)
        if kept is not None:  # killed between the record and its line
            sha256 = digest.of((folder / "records" / cell.file_name).read_bytes())
            journal.add("end", cell, status=kept.outcome.status, sha256=sha256)
        else:
            journal.add("crash", cell)
            found.crashed.append(cell)


def _move_broken(folder: Path, found: Found) -> None:
    """Moves aside what breaks a rule about records that lie together: it would take part in nothing."""
    for (name, one), judged in zip(list(found.kept.items()), rules.judged(found.kept.values())[0], strict=True):
        if judged is not one:
            del found.kept[name]
            why = printable(f"{folder / 'records' / name}: {judged.outcome.reason}")
            found.aside.append(f"{why}; moved to {_move_aside(folder, name)}")


def _round(cell: Cell) -> tuple[str, str, int] | None:
    """The round that a cell belongs to, None where it belongs to none."""
    return (cell.task, cell.kind, cell.round) if cell.kind in IN_ROUNDS else None


def _of_two_days(folder: Path, records: Iterable[Record], journal: Journal) -> set[tuple[str, str, int] | None]:
    """The rounds of which a part was measured anew and the rest was not.

    Their processes were not begun in a row, or one that was begun left nothing, and what an earlier one left is still there.
    """
    begun = [line.cell for line in journal.lines() if line.event in ("run", "start")]
    last = {name: number for number, name in enumerate(begun)}
    overtaken = journal.overtaken()
    found: set[tuple[str, str, int] | None] = set()
    starts: dict[tuple[str, str, int] | None, list[tuple[int, int]]] = defaultdict(list)
    for one in records:
        name, place = one.cell.file_name, _round(one.cell)
        if name in last:
            starts[place].append((one.cell.position, last[name]))
        if name in overtaken and overtaken[name] == digest.of((folder / "records" / name).read_bytes()):
            found.add(place)
    for place, cells in starts.items():
        numbers = [number for _, number in sorted(cells)]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            found.add(place)
    return found


def _is_kept(outcome: Outcome, *, retry_failed: bool, fell: bool) -> bool:
    if outcome.status == "skipped" and not fell:
        return False
    return outcome.status == "ok" or (outcome.status != "interrupted" and not retry_failed)


def _read(path: Path, cell: Cell, run_id: str, known: Mapping[str, str]) -> Record | None:
    """The record that an earlier run left of a cell, or None; RecordError if it is none, or that of something else."""
    if not os.path.lexists(path):
        return None
    done = files.read(path, known=known)
    if done.run.id != run_id or _asked(done.cell) != _asked(cell):
        raise RecordError(printable(f"{path}: a record of another comparison"))
    return done


def _asked(cell: Cell) -> bytes:
    """What a process was asked, as it reads from JSON, without what is known only when it starts."""
    return files.encode(
        msgspec.structs.replace(cell, ladders=[], block_steps=None, selftest=None, rounds_plan=None, look=None)
    )


def _move_aside(folder: Path, name: str) -> Path:
    """Moves a record of a run's folder to DIR/corrupt."""
    path, folder = folder / "records" / name, folder / "corrupt"
    folder.mkdir(exist_ok=True)
    number = 1
    while os.path.lexists(to := folder / f"{path.stem}.{number}{path.suffix}"):
        number += 1
    path.rename(to)
    return to
