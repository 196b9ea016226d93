"""Reads the records back that `pytest bench` left in the file of `--benchmark-json`.

pytest-benchmark's own part of the file is not read: it lacks the cells that failed, and says nothing of parity.
"""

import re
from pathlib import Path
from typing import Any

from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Record
from bench.records.text import printable

KEY = "framework_bench"
"""Where such a file holds every record of its session, those of failed cells too."""

NAME = re.compile(r"\w[\w.-]{0,200}\.json")  # of a file: no field of a record leads anywhere else


def read(path: Path) -> dict[str, Record]:
    """File name -> record; RecordError, with one line, for anything but a whole and unharmed file."""
    try:
        with path.open("rb") as file:
            whole: dict[str, Any] = files.decode(file.read(files.MAX_BYTES + 1), dict[str, Any])
        held = whole.get(KEY)
        if not isinstance(held, dict) or not isinstance(held.get("records"), list) or not held["records"]:
            raise RecordError("there are no records of framework-bench in it")
        found: dict[str, Record] = {}
        for number, plain in enumerate(held["records"], start=1):
            one = _record(plain, number)
            name = one.cell.file_name
            if not NAME.fullmatch(name):
                raise RecordError(f"record {number}: {name[:80]!r} is no name for a file")
            if name in found:
                raise RecordError(f"record {number}: {name} stands twice")
            found[name] = one
    except (OSError, RecordError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordError(printable(f"{path}: not a file of `pytest bench --benchmark-json`: {why}")) from None
    return found


def _record(plain: Any, number: int) -> Record:
    try:
        one: Record = files.decode(files.encode(plain))
    except (RecordError, RecursionError, ValueError) as error:
        raise RecordError(f"record {number}: {error}") from None
    return one
