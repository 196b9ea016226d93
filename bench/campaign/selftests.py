"""The latest self-test of each arm, kept in the user's cache for the tables that are made on the same machine later."""

import hashlib
from pathlib import Path

import platformdirs

from bench.campaign import parity_cache
from bench.process.interpreters import Interpreter
from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Cell, Run, SelfTest, Strict


class Kept(Strict, frozen=True):
    """A self-test in the cache; its key has everything for which it holds."""

    key: str
    found: SelfTest


def recall(run: Run, cell: Cell, interpreter: Interpreter | None) -> SelfTest | None:
    """The latest self-test of a cell's arm, task and preset in the same versions on this machine, or None."""
    key = _key(run, cell, interpreter)
    try:
        kept: Kept = files.decode(_path(key).read_bytes(), Kept)
    except (OSError, RecordError):
        return None
    return kept.found if kept.key == key else None


def remember(run: Run, cell: Cell, interpreter: Interpreter | None, test: SelfTest) -> None:
    """Keeps a self-test in place of the one before; OSError where the cache cannot be written."""
    key = _key(run, cell, interpreter)
    _path(key).parent.mkdir(parents=True, exist_ok=True)
    files.write(_path(key), Kept(key, test))


def _key(run: Run, cell: Cell, interpreter: Interpreter | None) -> str:
    parts = [parity_cache.key(cell, run.machine, interpreter), cell.preset, run.measurement]
    return hashlib.sha256(files.encode(parts)).hexdigest()


def _path(key: str) -> Path:
    return platformdirs.user_cache_path("framework-bench") / "selftest" / f"{key}.json"
