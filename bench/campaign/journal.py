"""DIR/journal.jsonl: a line when a run begins, and one before and one after each of its processes.

Each line is strict JSON and is on the disk before what it announces begins. A start without an end is a crash: of the process's
parent, or of the machine. The last line of a crash may be torn; a line that cannot be read is passed over.
"""

import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Cell, Strict

NAME = "journal.jsonl"
MOST_UNREADABLE = 1_000  # lines: each crash tears one, and nobody reads on in a file of something else

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
        self.path = folder / NAME
        self._read: tuple[bytes, list[Line]] = b"", []  # what the file held when it was last read, and its lines

    def add(self, event: Event, cell: Cell | None = None, *, status: str = "", sha256: str = "") -> None:
        """Appends a line and waits for the disk; OSError if that does not take it."""
        line = Line(event, datetime.now(UTC).isoformat(timespec="microseconds"))
        if cell is not None:
            line = msgspec.structs.replace(line, cell=cell.file_name, key=cell.key, status=status, sha256=sha256)
        content = json.dumps(msgspec.to_builtins(line), allow_nan=False).encode() + b"\n"
        with open(self.path, "ab+", opener=files.no_link) as file:
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
        if content != self._read[0]:
            self._read = content, _decoded(content)
        return self._read[1]

    def ended(self) -> dict[str, Line]:
        """Name of a record -> the line about the end of its process, where none began after it."""
        last = {line.cell: line for line in self.lines()}
        return {name: line for name, line in last.items() if line.event == "end"}

    def hashes(self) -> dict[str, str]:
        """Name of a record -> the hash of its file at the end of its process, where that is known."""
        return {name: line.sha256 for name, line in self.ended().items() if line.sha256}

    def overtaken(self) -> dict[str, str]:
        """Name of a record -> the hash of what a process left, where one began after it and is not known to have left any."""
        found: dict[str, str] = {}
        known: dict[str, str] = {}
        for line in self.lines():
            if line.event == "start" and line.cell in known:
                found[line.cell] = known[line.cell]
            elif line.event == "end" and line.sha256:
                known[line.cell] = line.sha256
                found.pop(line.cell, None)
        return found

    def crashed(self) -> set[str]:
        """The names of the records whose processes were started and neither ended nor are known as crashed."""
        last = {line.cell: line.event for line in self.lines() if line.cell}
        return {cell for cell, event in last.items() if event == "start"}


def _decoded(content: bytes) -> list[Line]:
    lines, unreadable = [], 0
    for text in io.BytesIO(content):
        try:
            lines.append(files.decode(text, Line))
        except RecordError:
            unreadable += 1
            if unreadable > MOST_UNREADABLE:
                break
    return lines


def _ends_with_newline(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"
