"""The gate: a ladder of parity stays valid for as long as nothing that it depends on has changed.

The key of a stored ladder is the hash of the spec, the source code, the installed versions, the interpreter, the CPU, the
device, the precision and the number of threads.
"""

import hashlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import platformdirs

import backends
import tasks
from bench import record
from bench.interpreters import DISTRIBUTIONS, Interpreter
from bench.record import Ladder, Record, RecordError


class Stored(record.Model, frozen=True):
    """A passed climb in the cache."""

    ladders: list[Ladder]
    versions: dict[str, str]


def key(cell: Record, interpreter: Interpreter | None = None) -> str:
    """Hash of everything on which this cell's ladder depends, in another interpreter if one is given."""
    parts = [cell.task, cell.backend, cell.spec_hash, cell.device, cell.precision, str(cell.threads)]
    parts += [cell.machine.cpu, str(cell.machine.gpu), cell.machine.python]
    parts += [f"{name} {number}" for name, number in versions(cell.backend, interpreter).items()]
    parts.append(source_hash(cell.task, cell.backend, interpreter))
    return hashlib.sha256(record.encode(parts)).hexdigest()


def versions(backend: str, interpreter: Interpreter | None = None) -> dict[str, str]:
    """The installed versions that decide what a backend computes."""
    there = interpreter.versions if interpreter else {}
    names = (*DISTRIBUTIONS, *backends.find(backend).distributions)
    return {name: there.get(name) or _version(name) for name in names}


def source_hash(task: str, backend: str, interpreter: Interpreter | None = None) -> str:
    """Hash of the source code that decides what a backend computes for a task."""
    digest = hashlib.sha256()
    elsewhere = _beside(interpreter.origin) if interpreter and interpreter.origin else []
    for path in sorted({*_sources(backends.find(backend).module), *_files(tasks.TASKS.get(task, task)), *elsewhere}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def recall(cell: Record, interpreter: Interpreter | None = None) -> Record | None:
    """The cell's parity record from the cache, or None."""
    try:
        stored: Stored = record.decode(_path(cell, interpreter).read_bytes(), Stored)
    except (OSError, RecordError):
        return None
    if not stored.ladders or not all(ladder.passed for ladder in stored.ladders):
        return None
    return msgspec.structs.replace(
        cell, status="ok", reason=None, parity=stored.ladders, versions=stored.versions, settings={"from cache": True}
    )


def remember(climbed: Record, interpreter: Interpreter | None = None) -> None:
    """Keeps a passed climb. A cache that cannot be written costs only time."""
    path = _path(climbed, interpreter)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record.write(path, Stored(climbed.parity, climbed.versions))
    except OSError:
        pass


def _path(cell: Record, interpreter: Interpreter | None) -> Path:
    return platformdirs.user_cache_path("framework-bench") / "parity" / f"{key(cell, interpreter)}.json"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _sources(module: str) -> list[Path]:
    root = Path(__file__).parent.parent
    shared = [root / "tasks", root / "backends" / "reference"]
    files = [path for folder in shared for path in folder.glob("*.py")]
    files += [root / "backends" / "__init__.py", root / "backends" / "api.py", root / "bench" / "parity.py"]
    files += [root / "bench" / name for name in ("comparison.py", "dropout.py", "loop.py")]
    return sorted({*files, *_files(module)})


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
