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
from bench.record import Ladder, Record, RecordError

DISTRIBUTIONS = ("numpy", "autograd")  # what the reference computes with


class Stored(record.Model, frozen=True):
    """A passed climb in the cache."""

    ladders: list[Ladder]
    versions: dict[str, str]


def key(cell: Record) -> str:
    """Hash of everything on which this cell's ladder depends."""
    digest = hashlib.sha256()
    entry = backends.find(cell.backend)
    parts = [cell.task, cell.backend, cell.spec_hash, cell.device, cell.precision, str(cell.threads)]
    parts += [cell.machine.cpu, str(cell.machine.gpu), cell.machine.python]
    parts += [f"{name} {_version(name)}" for name in (*DISTRIBUTIONS, *entry.distributions)]
    digest.update(record.encode(parts))
    for path in sorted({*_sources(entry.module), *_files(tasks.TASKS.get(cell.task, cell.task))}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def recall(cell: Record) -> Record | None:
    """The cell's parity record from the cache, or None."""
    try:
        stored: Stored = record.decode(_path(cell).read_bytes(), Stored)
    except (OSError, RecordError):
        return None
    if not stored.ladders or not all(ladder.passed for ladder in stored.ladders):
        return None
    return msgspec.structs.replace(
        cell, status="ok", reason=None, parity=stored.ladders, versions=stored.versions, settings={"from cache": True}
    )


def remember(climbed: Record) -> None:
    """Keeps a passed climb. A cache that cannot be written costs only time."""
    path = _path(climbed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record.write(path, Stored(climbed.parity, climbed.versions))
    except OSError:
        pass


def _path(cell: Record) -> Path:
    return platformdirs.user_cache_path("framework-bench") / "parity" / f"{key(cell)}.json"


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
    files += [root / "bench" / "loop.py"]
    return sorted({*files, *_files(module)})


def _files(module: str) -> list[Path]:
    """The files of a module, or of a package without those below it; none for what cannot be found."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return []
    if spec is None or spec.origin is None:
        return []
    origin = Path(spec.origin)
    return list(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
