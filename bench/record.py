"""One JSON file per process: its schema, and the only code that reads or writes it.

Records are untrusted input: strict JSON (no NaN or Infinity, no duplicate keys), bounded size and depth, a closed schema,
and no path is ever taken from a field. A file is written under a temporary name in the same folder, flushed to the disk and
renamed, so that a reader never sees half of it.
"""

import json
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench import history

SCHEMA = 2
"""Raised whenever a field is added, removed or changes its meaning; bench/history.py reads the older ones."""

MEASUREMENT = 1
"""Raised whenever a figure would come out differently for the same program; figures of two versions are not compared."""

MAX_BYTES = 16 * 2**20

Status = Literal["ok", "failed", "oom", "killed", "timeout", "invalid", "unsupported", "skipped", "interrupted"]
Kind = Literal["speed", "memory", "quality", "parity", "pilot"]  # a pilot is a speed process that is in no figure
Setting = str | int | float | bool | None
Text = Annotated[str, Meta(pattern=r"\S")]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e30)]  # sums and ratios of such figures stay floats
Window = Annotated[float, Meta(ge=1e-9, le=1e30)]  # seconds that a rate is taken over
Figure = Annotated[float, Meta(ge=-1e150, le=1e150)]  # its square stays a float
Rate = Annotated[float, Meta(ge=1e-9, le=1e18)]  # items per second
Share = Annotated[float, Meta(ge=0, le=1)]

MAX_INTEGER = 2**63 - 1


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
    wanted: Literal[7, 10] = (
        7  # rungs of a whole ladder when it was climbed; those of dropout, size and length came later
    )

    @property
    def passed(self) -> bool:
        return len(self.rungs) == self.wanted and all(rung.passed for rung in self.rungs)


class Timings(Model, frozen=True):
    """Durations in seconds, from the monotonic clock."""

    import_s: Seconds
    build_s: Seconds
    first_step_s: Seconds  # trace, compile and one update
    warmup_s: Seconds
    block_steps: Count
    blocks_s: Annotated[list[Seconds], Meta(min_length=1)]  # block_steps updates and one barrier each
    window_s: Window  # from the first block's start to the last one's end
    items: Count  # images, tokens or sentences in the window, padding left out
    tokens: Count | None = None  # not padding, in the window; None where the items are tokens or there are none
    barrier_s: Seconds | None = None  # one barrier when there is nothing to wait for
    unfinished_s: Seconds | None = None  # work that was still undone after a barrier: the barrier's self-check
    compilations: Annotated[int, Meta(ge=0)] | None = None  # inside the window; None where the framework does not tell
    cpu_s: Seconds | None = None  # processor time of this process in the window, all threads
    losses: list[Figure] = []  # of each block's last update: proof of work (bench/proof.py)


class GpuState(Model, frozen=True):
    """A GPU at the end of the window, as its driver describes it; None where it does not."""

    clock_mhz: Count | None
    temperature_celsius: int | None
    power_watts: float | None
    throttle_reasons: list[str] | None
    other_processes: Annotated[int, Meta(ge=0)] | None  # that use the card besides this one


class Disturbance(Model, frozen=True):
    """What else the machine did during the window; see bench/disturbance.py for the sources and the rule."""

    load: float | None  # processes that wanted to run, mean of the minute before the process started
    others_share: float | None  # of the usable cores' time in the window, used by other processes
    stolen_share: float | None  # of the usable cores' time in the window, taken by the hypervisor
    involuntary_switches: Annotated[int, Meta(ge=0)] | None
    major_page_faults: Annotated[int, Meta(ge=0)] | None
    cpu_mhz: float | None
    gpu: GpuState | None = None
    disturbed: str | None = None  # why the rule excludes this round; None where it does not


class Probe(Model, frozen=True):
    """A matrix product in the framework, on the device and in the precision that were timed, after the window."""

    error: float  # relative to the product in double precision: about 1e-7 is float32, 1e-4 to 1e-3 TF32, 1e-3 to 1e-2 bfloat16
    size: Count  # rows and columns of the matrices below
    flops_per_second: Window  # of a chain of square products


class Energy(Model, frozen=True):
    """What the hardware's own counter says about the window, or the reason why it says nothing."""

    joules: Window | None
    source: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.joules is None and not self.reason:
            raise ValueError("a figure that was not measured needs a reason")


class Bytes(Model, frozen=True):
    """A measured number of bytes, or the reason why there is none."""

    bytes: Count | None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.bytes is None and not self.reason:
            raise ValueError("a figure that was not measured needs a reason")


class Memory(Model, frozen=True):
    """Peaks of one process that does nothing else; see `bench/memory.py` for the sources."""

    host_import: Bytes  # resident after the framework was imported
    host_peak: Bytes  # the process's highest resident set
    host_peak_training: Bytes  # the same, from the end of set-up on
    device_peak_allocated: Bytes  # by the framework's allocator, since the session was opened
    device_peak_reserved: Bytes  # the allocator's pool
    device_peak_process: Bytes = Bytes(None, "not recorded")  # the driver's view of the card, minus its idle baseline


class Quality(Model, frozen=True):
    """What the task's whole budget of training led to, on the whole held-out set."""

    steps: int
    train_s: float
    evaluate_s: float
    metrics: dict[str, Figure]
    curve: list[tuple[int, Figure, Figure]]  # (step, seconds since the first step, training loss of that step's batch)
    sample: str | None = None  # what a language model says after training


class SelfTest(Model, frozen=True):
    """One cell in three arms: twice as it is, once with a planted slow-down. bench/selftest.py says what follows from it."""

    preset: str
    rates: Annotated[list[tuple[Rate, Rate, Rate]], Meta(min_length=2)]  # of the three arms, round by round
    slow_down: Annotated[float, Meta(gt=0, le=1)]  # more work per counted step in the third arm; 0.1 is 10 %
    disturbed: Annotated[int, Meta(ge=0)]  # rounds that were left out
    started_utc: str


class RoundsPlan(Model, frozen=True):
    """How the number of rounds was found, before the first of them."""

    rounds: Count
    effect: Annotated[float, Meta(gt=0)]  # to be found; 0.05 is 5 %
    noise: (
        Annotated[float, Meta(gt=0)] | None
    )  # upper bound on log throughput's deviation; None: the pilot says nothing
    tie: Share | None = None  # chance that equal backends are called a tie
    found: Share | None = None  # chance that the effect is called


class Machine(Model, frozen=True):
    """The machine, without anything that identifies its owner."""

    cpu: str
    cores: Count  # logical cores that this process may use
    memory_bytes: Count
    gpu: str | None
    gpu_driver: str | None
    os: str
    python: str


class Record(Model, frozen=True, kw_only=True):
    """What one process was asked, what became of it, and everything it measured."""

    schema: Count = SCHEMA
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
    target: Text
    target_reached: bool | None = None
    equivalence_margin: Window | None = None  # how far two backends' means of the target's metric may lie apart
    step_flops: Count | None = None  # of the model in one training step, from the spec
    threads: Count | None = None  # cores that were asked for; None: all that the process may use
    key: str = ""  # hash of everything on which this record depends: what a resumed run need not do again
    parity: list[Ladder] = []  # this backend's ladder, in every record of it
    timings: Timings | None = None
    probe: Probe | None = None
    disturbance: Disturbance | None = None
    energy: Energy | None = None
    selftest: SelfTest | None = None  # the latest one of this cell on this machine, when the run began
    rounds_plan: RoundsPlan | None = None  # None where the number of rounds was given
    memory: Memory | None = None
    quality: Quality | None = None
    remarks: list[Text] = []  # what a reader of the figures must know
    settings: dict[str, Setting] = {}
    versions: dict[str, str] = {}
    machine: Machine
    started_utc: str
    wall_s: Seconds = 0.0  # the whole process, as its parent saw it


def encode(value: Any) -> bytes:
    """Strict JSON, indented, with a final newline; ValueError for NaN or Infinity."""
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode(errors="replace")


def decode(content: bytes, kind: type[Any] = Record) -> Any:
    """The value of type `kind` in strict JSON; RecordError says what is wrong with it."""
    if len(content) > MAX_BYTES:
        raise RecordError(f"larger than {MAX_BYTES:,} bytes")
    try:
        plain = json.loads(
            content.decode("utf-8"),  # json would guess other encodings
            object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded,
        )  # fmt: skip
        schema = plain.get("schema") if isinstance(plain, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise RecordError(f"schema {schema} is newer than this program's {SCHEMA}; update framework-bench")
        if isinstance(schema, int) and kind is Record:
            plain = history.upgraded(plain, schema)
        value = msgspec.convert(plain, type=kind, strict=True)
    except RecordError:
        raise
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except (ValueError, msgspec.ValidationError) as error:  # json's and Unicode's errors are ValueErrors
        raise RecordError(printable(str(error))) from None
    if kind is Record and value.status == "ok":
        speed = value.timings
        figures = {
            "parity": value.parity, "speed": speed, "pilot": speed, "memory": value.memory, "quality": value.quality,
        }  # fmt: skip
        if not figures[value.kind]:
            raise RecordError(f"status ok without figures of {value.kind}")
    if kind is Record and value.status != "ok" and not value.reason:
        raise RecordError(f"status {value.status} without a reason")
    return value


def read(path: Path) -> Record:
    """The record in a file; RecordError names the file."""
    try:
        if path.is_fifo():  # to open it would wait for somebody who writes
            raise RecordError("a pipe")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        record: Record = decode(content)
    except (OSError, RecordError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordError(printable(f"{path}: not a record: {why}")) from None
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def one_line(text: str) -> str:
    """The text on one line of at most 500 characters, and without the folders of this machine."""
    text = re.sub(r"(?:/[^\s/:'\"]+){2,}", lambda match: "…/" + match[0].rpartition("/")[2], " ".join(text.split()))
    return text if len(text) <= 500 else text[:499] + "…"


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


def printable(text: str) -> str:
    """On one line, and nothing in it that a terminal would act on."""
    return "".join(character if character.isprintable() else "?" for character in text)


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
