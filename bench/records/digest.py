"""DIR/records.sha256: the hash of every record, as they were when the run ended. `sha256sum -c records.sha256` reads it too.

It shows a record that was edited, added or deleted afterwards. It proves nothing about who wrote them: whoever edits a record
can compute the hash anew.
"""

import hashlib
import re
from pathlib import Path

from bench.records.limits import MAX_BYTES

NAME = "records.sha256"
LINE = re.compile(r"(?P<hash>[0-9a-f]{64})  records/(?P<name>[^/\n]+\.json)")


def of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def text(folder: Path) -> str:
    """The digest of the records below a folder; what cannot be one is left out, and is named where records are read."""
    paths = sorted(path for path in (folder / "records").glob("*.json") if _can_be_a_record(path))
    return "".join(f"{of(path.read_bytes())}  records/{path.name}\n" for path in paths)


def _can_be_a_record(path: Path) -> bool:
    """Whether it is a regular file that is not too large, with a name that fits on a line of UTF-8."""
    return path.name.isprintable() and path.is_file() and path.stat().st_size <= MAX_BYTES


def stored(folder: Path) -> dict[str, str] | None:
    """Name of a record -> its hash when the run ended; None where no digest can be read."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [LINE.fullmatch(line) for line in lines]
    return {match["name"]: match["hash"] for match in found if match}
