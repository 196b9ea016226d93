"""Reading and writing: strict JSON, whole files or nothing.

What is read is untrusted: strict JSON (no NaN or Infinity, no duplicate keys), bounded size and depth, a closed schema, and no
path is ever taken from a field. A file is written under a temporary name, flushed to the disk and renamed, so that a reader
never sees half of it.
"""

import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.records import digest, history, limits, rules
from bench.records.record import SCHEMA, Cell, Outcome, Record
from bench.records.text import printable

MAX_BYTES = limits.MAX_BYTES
MAX_VALUES = 1_000_000  # empty ones take much more memory than bytes of the file
MAX_INTEGER = 2**63 - 1
MAX_NAME, MAX_TEXT = 300, 20_000  # characters; what is shown is not longer than what is read

SCRATCH = ".framework-bench-scratch"
"""The folder, inside a run's own, in which a process gets its request and leaves its answer."""

SHAPE, LONG = bytes.maketrans(b"123456789:,[-\n\r\t", b"000000000       "), b" " + 19 * b"0"
"""What makes of any number its length, and what may be an integer of more than 64 bits."""

SPACED = re.compile(rb'"\s+:')
"""A key that its colon does not follow at once."""

TEMPORARY = re.compile(r"\.framework-bench-[0-9a-f]{16}\.tmp")


class RecordError(ValueError):
    """A file is not a record; the message names it and says why."""


def encode(value: Any) -> bytes:
    """Strict JSON, indented, with a final newline; ValueError for NaN or Infinity."""
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode(errors="replace")


def decode(content: bytes, kind: type[Any] = Record) -> Any:
    """The value of type `kind` in strict JSON; RecordError says what is wrong with it."""
    if len(content) > MAX_BYTES:
        raise RecordError(f"larger than {MAX_BYTES:,} bytes")
    if content.count(b",") > MAX_VALUES:
        raise RecordError(f"more than {MAX_VALUES:,} values")
    if (quick := _quickly(content, kind)) is not None:
        if kind is Record:
            check(quick)
        return quick
    try:
        plain = json.loads(
            content.decode("utf-8"),  # json would guess other encodings
            object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded,
        )  # fmt: skip
        if kind is Record and isinstance(plain, dict):
            plain = _newest(plain)
        value = msgspec.convert(plain, type=kind, strict=True)
    except RecordError:
        raise
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except (ValueError, msgspec.ValidationError) as error:  # json's and Unicode's errors are ValueErrors
        raise RecordError(printable(str(error))) from None
    if kind is Record:
        check(value)
    return value


def _quickly(content: bytes, kind: type[Any]) -> Any | None:
    """The value where nothing is to be said about the JSON, by a decoder that is fast and sees no key that stands twice; None
    where the careful one is to read it.

    Nothing is escaped, so that every second part between quotation marks is a text, and a colon right after a quotation
    mark has a key before it or begins a text. As many in the content as in what is made of it: none stands twice.
    """
    parts = content.split(b'"')
    if b"\\" in content or SPACED.search(content) or LONG in content.translate(SHAPE):
        return None
    if max(map(len, parts[1::2]), default=0) > MAX_NAME:
        return None
    try:
        plain = msgspec.json.decode(content)
        if content.count(b'":') != msgspec.json.encode(plain).count(b'":'):
            return None
        if kind is Record and plain.get("schema") != SCHEMA:
            return None
        return msgspec.convert(plain, type=kind, strict=True)
    except (ValueError, AttributeError, RecursionError, msgspec.MsgspecError):
        return None  # the careful one says why


def _newest(plain: dict[str, Any]) -> dict[str, Any]:
    schema = plain.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise RecordError(f"schema {schema} is newer than this program's {SCHEMA}; update framework-bench")
    return history.upgraded(plain, schema) if isinstance(schema, int) else plain


def check(record: Record) -> None:
    """RecordError for a record that breaks a rule (bench/records/rules.py)."""
    if found := rules.invalid(record):
        raise RecordError(printable("; ".join(found)))


def read(path: Path, *, known: Mapping[str, str] | None = None) -> Record:
    """The record in a file, which has every hash that is `known`, by the file that has it; RecordError names the file."""
    record: Record = read_as(path, Record, what="a record", known=known)
    return record


def read_outcome(path: Path) -> Outcome:
    """What a process left; RecordError names the file."""
    outcome: Outcome = read_as(path, Outcome, what="an outcome")
    return outcome


def read_as(path: Path, kind: type[Any], *, what: str, known: Mapping[str, str] | None = None) -> Any:
    """The value of type `kind` in a file, whose content has the `known` hashes; RecordError names the file."""
    try:
        content = _content(path)
        for place, sha256 in (known or {}).items():
            if digest.of(content) != sha256:
                raise RecordError(f"it was changed after the run ended ({place})")
        return decode(content, kind)
    except (OSError, RecordError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordError(printable(f"{path}: not {what}: {why}")) from None


def _content(path: Path) -> bytes:
    """Of a regular file, no more than a byte beyond what is accepted; RecordError for anything else, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # to open a pipe would wait for somebody who writes
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise RecordError("not a regular file")
        # A file object: it reads on where the system gives less than it was asked for.
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(min(found.st_size, MAX_BYTES) + 1)
    finally:
        os.close(descriptor)


def read_folder(folder: Path, *, more: Mapping[str, Mapping[str, str]] | None = None) -> tuple[list[Record], list[str]]:
    """All records below `folder/records`, in the order of their file names, and a line for each file that is not one.

    Where the run has ended, they are those that it left: they have the digest's hashes, and those of `more` files, each of
    which has hashes by the names of the records.
    """
    records, problems = [], []
    known = digest.stored(folder)
    hashes = {digest.NAME: known or {}, **(more or {})}
    paths = sorted((folder / "records").glob("*.json"))
    for name in sorted(set(known or ()) - {path.name for path in paths}):
        problems.append(
            printable(f"{folder / 'records' / name}: it has been deleted since the run ended ({digest.NAME})")
        )
    for path in paths:
        try:
            if known is not None and path.name not in known:
                raise RecordError(printable(f"{path}: it was added after the run ended ({digest.NAME})"))
            found = read(path, known=of_file(path.name, hashes))
            if path.name not in found.cell.file_names:
                raise RecordError(
                    printable(f"{path}: its name does not match its content, which is {found.cell.file_name}")
                )
            records.append(found)
        except RecordError as error:
            problems.append(str(error))
    return records, problems


def of_file(name: str, hashes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The hashes that files have of one record, by the file."""
    return {place: there[name] for place, there in hashes.items() if name in there}


def write_digest(folder: Path) -> None:
    """Writes what the records are now, at the end of a run."""
    write_bytes(folder / digest.NAME, digest.text(folder).encode(), via=folder / "records")


def write(path: Path, value: Any, *, via: Path | None = None) -> None:
    """Writes strict JSON atomically; OSError (a full disk, a read-only folder) leaves what was there before."""
    write_bytes(path, encode(value), via=via)


def write_bytes(path: Path, content: bytes, *, via: Path | None = None) -> None:
    """Writes a whole file or nothing. Until it is whole, it lies in `via`, by default the file's own folder."""
    temporary = (via or path.parent) / f".framework-bench-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def no_link(name: str, flags: int) -> int:
    """An opener of a file that is no symbolic link: OSError for one."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def remove_halves(folder: Path) -> None:
    """Removes what killed writes left in a folder of the program's own, known by names that nobody else chooses."""
    for path in folder.glob(".framework-bench-*.tmp"):
        if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


def exchange(folder: Path, cell: Cell) -> tuple[Path, Path]:
    """Where a process finds its request, and where it leaves its answer."""
    scratch = folder / SCRATCH
    return scratch / f"request-{cell.file_name}", scratch / f"answer-{cell.file_name}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    for name, value in pairs:
        for text, most in (
            (name, MAX_NAME),
            *((one, MAX_TEXT) for one in (value if isinstance(value, list) else [value])),
        ):
            if isinstance(text, str) and len(text) > most:
                raise RecordError(f"a text of {len(text):,} characters")
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise RecordError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return result


def _bounded(text: str) -> int:
    value = int(text) if len(text) < 25 else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise RecordError("an integer of more than 64 bits")
    return value


def _no_constant(name: str) -> float:
    raise RecordError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise RecordError(f"{text} is beyond the range of a float")
    return value
