"""One JSON file per process: its schema, and the only code that reads or writes it.

Records are untrusted input: strict JSON (no NaN or Infinity, no duplicate keys), bounded size and depth, a closed schema,
and no path is ever taken from a field. A file is written under a temporary name in the same folder, flushed to the disk and
renamed, so that a reader never sees half of it.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import msgspec

SCHEMA = 1
"""Raised whenever a field is added, removed or changes its meaning."""

MEASUREMENT = 1
"""Raised whenever a figure would come out differently for the same program; figures of two versions are not compared."""

MAX_BYTES = 16 * 2**20

Status = Literal["ok", "failed", "oom", "killed", "timeout", "invalid", "unsupported", "skipped", "interrupted"]
Kind = Literal["speed", "memory", "quality", "parity"]
Setting = str | int | float | bool | None


class RecordError(ValueError):
    """A file is not a record; the message names it and says why."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a record: immutable, unknown fields refused."""


class Data(Model, frozen=True):
    """The data set, as in tasks.spec.Data."""

    name: str
    description: str
    sha256: str


class Rung(Model, frozen=True):
    """One step of the ladder of parity: the comparison that came nearest to its tolerance, or beyond it."""

    number: int
    name: str
    difference: float | None  # None: the comparison itself failed, and `where` says how
    tolerance: float
    where: str  # what was compared: a parameter's name, a step, a count
    passed: bool


class Ladder(Model, frozen=True):
    """The rungs climbed in one precision on one device; it ends at the first rung that was not passed."""

    precision: str
    device: str
    rungs: list[Rung]

    @property
    def passed(self) -> bool:
        return bool(self.rungs) and all(rung.passed for rung in self.rungs)


class Timings(Model, frozen=True):
    """Durations in seconds, from the monotonic clock."""

    import_s: float
    build_s: float
    first_step_s: float  # trace, compile and one update
    warmup_s: float
    block_steps: int
    blocks_s: list[float]  # block_steps updates and one barrier each
    window_s: float  # from the first block's start to the last one's end
    items: int  # images, tokens or sentences in the window, padding left out


class Bytes(Model, frozen=True):
    """A measured number of bytes, or the reason why there is none."""

    bytes: int | None
    reason: str | None = None


class Memory(Model, frozen=True):
    """Peaks of one process that does nothing else; see `bench/memory.py` for the sources."""

    host_import: Bytes  # resident after the framework was imported
    host_peak: Bytes  # the process's highest resident set
    host_peak_training: Bytes  # the same, from the end of set-up on
    device_peak_allocated: Bytes
    device_peak_reserved: Bytes


class Quality(Model, frozen=True):
    """What the task's whole budget of training led to, on the whole held-out set."""

    steps: int
    train_s: float
    evaluate_s: float
    metrics: dict[str, float]
    curve: list[tuple[int, float, float]]  # (step, seconds since the first step, training loss of that step's batch)


class Machine(Model, frozen=True):
    """The machine, without anything that identifies its owner."""

    cpu: str
    cores: int  # logical cores that this process may use
    memory_bytes: int
    gpu: str | None
    gpu_driver: str | None
    os: str
    python: str


class Record(Model, frozen=True, kw_only=True):
    """What one process was asked, what became of it, and everything it measured."""

    schema: int = SCHEMA
    measurement: int = MEASUREMENT
    kind: Kind
    status: Status
    reason: str | None = None  # required where the status is not ok
    task: str
    preset: str
    unit: str
    backend: str
    device: str
    precision: str
    round: int  # from 1
    position: int  # place in the shuffled order of its round, from 1
    seed: int
    order_seed: int  # of the shuffled order of every round
    spec: dict[str, Any]
    spec_hash: str
    data: Data
    target: str
    target_reached: bool | None = None
    parity: list[Ladder] = []
    timings: Timings | None = None
    memory: Memory | None = None
    quality: Quality | None = None
    settings: dict[str, Setting] = {}
    versions: dict[str, str] = {}
    machine: Machine
    started_utc: str
    wall_s: float = 0.0  # the whole process, as its parent saw it


def encode(value: Any) -> bytes:
    """Strict JSON, indented, with a final newline; ValueError for NaN or Infinity."""
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def decode(content: bytes, kind: type[Any] = Record) -> Any:
    """The value of type `kind` in strict JSON; RecordError says what is wrong with it."""
    if len(content) > MAX_BYTES:
        raise RecordError(f"larger than {MAX_BYTES:,} bytes")
    try:
        plain = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        schema = plain.get("schema") if isinstance(plain, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise RecordError(f"schema {schema} is newer than this program's {SCHEMA}; update framework-bench")
        value = msgspec.convert(plain, type=kind, strict=True)
    except RecordError:
        raise
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except (ValueError, msgspec.ValidationError) as error:  # json's and Unicode's errors are ValueErrors
        raise RecordError(str(error)) from None
    if kind is Record and value.status != "ok" and not value.reason:
        raise RecordError(f"status {value.status} without a reason")
    return value


def read(path: Path) -> Record:
    """The record in a file; RecordError names the file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        record: Record = decode(content)
    except (OSError, RecordError) as error:
        raise RecordError(f"{path}: not a record: {error}") from None
    return record


def read_folder(folder: Path) -> tuple[list[Record], list[str]]:
    """All records below `folder/records`, in the order of their file names, and a line for each file that is not one."""
    records, problems = [], []
    for path in sorted((folder / "records").glob("*.json")):
        try:
            records.append(read(path))
        except RecordError as error:
            problems.append(str(error))
    return records, problems


def write(path: Path, value: Any) -> None:
    """Writes strict JSON atomically; OSError (a full disk, a read-only folder) leaves what was there before."""
    write_bytes(path, encode(value))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_name(record: Record) -> str:
    """A name in the folder `records` that sorts by task, kind, round and place."""
    count = f"seed{record.seed}" if record.kind == "quality" else f"round{record.round:02d}"
    return f"{record.task}-{record.preset}-{record.kind}-{count}-{record.backend}.json"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise RecordError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return result


def _no_constant(name: str) -> float:
    raise RecordError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise RecordError(f"{text} is beyond the range of a float")
    return value
