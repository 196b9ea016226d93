"""Which version of this program, in which state of its source code, measured something."""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tasks", "backends", "bench")


def harness_version() -> str | None:
    """The installed version of framework-bench; None where it runs without being installed."""
    try:
        return version("framework-bench")
    except PackageNotFoundError:
        return None


@cache
def harness_hash() -> str:
    """sha256 of the source code of this program, with the names of its files."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return hash_files(files, root=ROOT)


def hash_files(files: Iterable[Path], *, root: Path | None = None) -> str:
    """sha256 of files in the order of their names, which count where they lie below `root`."""
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        if root is not None:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
