"""A ladder of parity stays valid for as long as nothing that it depends on has changed.

The key of a stored ladder is the hash of the spec, the way in which its arm uses the backend (mode, device, precision, threads,
environment), the source code, the installed versions, also of libraries that bring kernels, the interpreter and the machine.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs

import backends
import tasks
from bench.machine import libraries
from bench.process.interpreters import DISTRIBUTIONS, Interpreter
from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Cell, Ladder, Machine, Outcome, Record, Run, Strict
from bench.records.source import ROOT, hash_files


class Stored(Strict, frozen=True):
    """A passed climb in the cache."""

    ladders: list[Ladder]
    versions: dict[str, str]


def key(cell: Cell, machine: Machine, interpreter: Interpreter | None = None) -> str:
    """Hash of everything on which this cell's ladder depends, in another interpreter if one is given."""
    arm = cell.arm
    mode = backends.mode_for(arm.backend, arm.mode, task=cell.task, device=arm.device, processes=arm.processes)
    parts = {
        "task": cell.task,
        "spec": cell.spec_hash,
        "way": {**cell.arm.way, "mode": mode},
        "machine": [machine.cpu, machine.cores, machine.gpu, machine.gpu_driver],
        "python": interpreter.python if interpreter else machine.python,
        "versions": versions(cell.arm.backend, interpreter),
        "kernels": _kernels(cell.arm.device),
        "source": source_hash(cell.task, cell.arm.backend, interpreter and interpreter.origin),
    }
    return hashlib.sha256(files.encode(parts)).hexdigest()


@cache
def _kernels(device: str) -> Mapping[str, str]:
    """The installed libraries of kernels, which are looked for once: that reads the metadata of all that is installed."""
    return libraries.kernels(device)


def versions(backend: str, interpreter: Interpreter | None = None) -> dict[str, str]:
    """The installed versions that decide what a backend computes."""
    there = interpreter.versions if interpreter else {}
    names = (*DISTRIBUTIONS, *backends.find(backend).distributions)
    return {name: there.get(name) or _version(name) for name in names}


@cache
def source_hash(task: str, backend: str, elsewhere: Path | None = None) -> str:
    """Hash of the source code that decides what a backend computes for a task."""
    return hash_files(sources(task, backend, elsewhere))


def sources(task: str, backend: str, elsewhere: Path | None = None) -> list[Path]:
    """The files that decide what a backend computes for a task; `elsewhere` is its module in another interpreter.

    A backend of the user's own may wrap one of ours, so that the source of all of them counts for it.
    """
    package = ROOT / "backends" / backend
    own = [*package.rglob("*.py")] if package.is_dir() else [*(ROOT / "backends").rglob("*.py"), *_files(backend)]
    shared = [*(ROOT / "tasks").glob("*.py"), *(ROOT / "backends" / "reference").glob("*.py")]
    shared += [*(ROOT / "backends").glob("*.py"), *(ROOT / "bench" / "worker").glob("*.py")]
    theirs = _beside(elsewhere) if elsewhere else []
    return [*own, *shared, *theirs, *_files(tasks.TASKS.get(task, task))]


def recall(run: Run, cell: Cell, interpreter: Interpreter | None = None) -> Record | None:
    """The cell's parity record from the cache, or None."""
    try:
        stored: Stored = files.decode(_path(run, cell, interpreter).read_bytes(), Stored)
    except (OSError, RecordError):
        return None
    return recalled(run, cell, stored.ladders, stored.versions)


def recalled(run: Run, cell: Cell, ladders: list[Ladder], versions: dict[str, str], at: str = "") -> Record | None:
    """The parity record of ladders that were climbed earlier; None if one of them was not passed."""
    if not ladders or not all(ladder.passed for ladder in ladders):
        return None
    settings = {"from cache": True}
    outcome = Outcome(status="ok", ladders=ladders, versions=versions, settings=settings, started_utc=at)  # type: ignore[arg-type]
    return Record(run=run, cell=cell, outcome=outcome)


def remember(climbed: Record, interpreter: Interpreter | None = None) -> None:
    """Keeps a passed climb. A cache that cannot be written costs only time."""
    path = _path(climbed.run, climbed.cell, interpreter)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, Stored(climbed.outcome.ladders, climbed.outcome.versions))
    except OSError:
        pass


def _path(run: Run, cell: Cell, interpreter: Interpreter | None) -> Path:
    name = f"{key(cell, run.machine, interpreter)}.json"
    return platformdirs.user_cache_path("framework-bench") / "parity" / name


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _files(module: str) -> list[Path]:
    """The files of a module, or of a package without those below it; none for what cannot be found."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return []
    if spec is None or spec.origin is None:
        return []
    return _beside(Path(spec.origin))


def _beside(origin: Path) -> list[Path]:
    return list(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
