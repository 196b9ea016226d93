"""DIR/journal.jsonl: a line when a run begins, and one before and one after each of its processes.

Each line is strict JSON and is on the disk before what it announces begins. A start without an end is a crash: of the process's
parent, or of the machine. The last line of a crash may be torn; a line that cannot be read is passed over.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Cell, Strict

Event = Literal["run", "start", "end", "crash"]


class Line(Strict, frozen=True):
    """What happened, when, and to which process of the comparison."""

    event: Event
    at: str  # UTC, to the microsecond
    cell: str = ""  # the name of its record's file; empty for a run
    key: str = ""
    status: str = ""  # of an end
    sha256: str = ""  # of the record's file, at an end


class Journal:
    """The journal of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"

    def add(self, event: Event, cell: Cell | None = None, *, status: str = "", sha256: str = "") -> None:
        """Appends a line and waits for the disk; OSError if that does not take it."""
        line = Line(event, datetime.now(UTC).isoformat(timespec="microseconds"))
        if cell is not None:
            line = msgspec.structs.replace(line, cell=cell.file_name, key=cell.key, status=status, sha256=sha256)
        content = json.dumps(msgspec.to_builtins(line), allow_nan=False).encode() + b"\n"
        with self.path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file.fileno()):
                content = b"\n" + content  # the end of a torn line
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[Line]:
        """Every line that can be read, in the order in which they were written."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            content = file.read(files.MAX_BYTES)
        lines = []
        for text in filter(None, content.split(b"\n")):
            try:
                lines.append(files.decode(text, Line))
            except RecordError:
                continue
        return lines

    def ended(self) -> dict[str, Line]:
        """Name of a record -> the line about the end of its process, where none began after it."""
        last = {line.cell: line for line in self.lines()}
        return {name: line for name, line in last.items() if line.event == "end"}

    def crashed(self) -> set[str]:
        """The names of the records whose processes were started and neither ended nor are known as crashed."""
        last = {line.cell: line.event for line in self.lines() if line.cell}
        return {cell for cell, event in last.items() if event == "start"}


def _ends_with_newline(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"
