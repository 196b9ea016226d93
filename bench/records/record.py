"""What one process was asked, what became of it, and everything that it measured: the schema of a record.

A record has three parts: the `run` that its process belongs to, the `cell` of the comparison that it fills, and the `outcome`.
The parent writes the first two before the process starts, and the process only the third.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

import tasks.spec
from tasks.spec import hash_json

SCHEMA = 3
"""Raised whenever a field is added, removed or changes its meaning; bench/records/history.py reads the older ones."""

MEASUREMENT = 3
"""Raised whenever a figure would come out differently for the same program; figures of two versions are not compared."""

Status = Literal["ok", "failed", "oom", "killed", "timeout", "invalid", "unsupported", "skipped", "interrupted"]
Kind = Literal[
    "speed", "memory", "quality", "parity", "pilot", "explain", "inference", "loading"
]  # a pilot is a speed process that is in no figure
Setting = str | int | float | bool | None
Text = Annotated[str, Meta(pattern=r"\S")]
Label = Annotated[str, Meta(pattern=r"^[^\W_][\w.:=,+@/ -]{0,79}\Z")]  # of an arm
Count = Annotated[int, Meta(ge=1)]
Place = Annotated[int, Meta(ge=1, le=2_000)]  # a number of a round, a place in it, a rung
Seconds = Annotated[float, Meta(ge=0, le=1e30)]  # sums and ratios of such figures stay floats
Window = Annotated[float, Meta(ge=1e-9, le=1e30)]  # seconds that a rate is taken over
Figure = Annotated[float, Meta(ge=-1e150, le=1e150)]  # its square stays a float
Rate = Annotated[float, Meta(ge=1e-9, le=1e18)]  # items per second
Share = Annotated[float, Meta(ge=0, le=1)]
Part = Annotated[float, Meta(ge=0, le=1e6)]  # a share by two clocks that need not agree, of a group that may be larger

NAME_BYTES = 100  # of an arm's label in the name of a file, which may have 255
CONTROL = "control"  # name of an arm that is another one a second time, and only timed
RUNGS = (
    "parameters", "forward", "loss", "gradients", "one update", "trajectory", "evaluation",
    "dropout", "full size", "long run",
)  # fmt: skip
"""The ladder of parity (bench/worker/parity.py)."""

LEAST_S = 1e-9  # no window is shorter
MOST_RANKS = 64  # processes of an arm
MOST_DEEP, MOST_VALUES = 16, 10_000  # of a spec
FIRST_RUNGS = 7  # of a whole ladder, before those of dropout, size and length were added


def packed(value: Any) -> bytes:
    """The same bytes for the same content, quickly made."""
    try:
        return msgspec.msgpack.encode(value)
    except (UnicodeError, OverflowError):  # half a character, or an integer of more than 64 bits
        return json.dumps(msgspec.to_builtins(value)).encode()


@cache
def _hash_of(content: bytes) -> str:
    """hash_json of what was packed; thousands of records have few different arms and specs."""
    return hash_json(msgspec.msgpack.decode(content))


def _hashed(value: Any) -> str:
    try:
        return _hash_of(msgspec.msgpack.encode(value))
    except (UnicodeError, OverflowError):
        return hash_json(msgspec.to_builtins(value))


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A part of a record: immutable, unknown fields refused.

    Nothing that is read from JSON refers to what holds it, so that the garbage collector need not look at thousands of records.
    """


class Data(Strict, frozen=True):
    """The data set, as in tasks.spec.Data."""

    name: str
    description: str
    sha256: str


class Target(Strict, frozen=True):
    """The quality that is to be reached, as in tasks.spec.Target."""

    metric: Text
    at_least: Figure | None = None
    at_most: Figure | None = None
    margin: Window | None = None  # how far two arms' means may lie apart and be called equivalent

    def __post_init__(self) -> None:
        _ = self._spec  # which refuses a target that cannot be reached

    def reached(self, value: float) -> bool:
        return self._spec.reached(value)

    def __str__(self) -> str:
        return str(self._spec)

    @property
    def _spec(self) -> tasks.spec.Target:
        return tasks.spec.Target(self.metric, self.at_least, self.at_most, self.margin)


class Rung(Strict, frozen=True):
    """One step of the ladder of parity: the comparison that came nearest to its tolerance, or beyond it."""

    number: int
    name: str
    difference: Annotated[float, Meta(ge=0)] | None  # None: the comparison itself failed, and `where` says how
    tolerance: Annotated[float, Meta(ge=0, le=10)]  # of a relative norm, or in standard errors
    where: str  # what was compared: a parameter's name, a step, a count

    @property
    def passed(self) -> bool:
        return self.difference is not None and self.difference <= self.tolerance


class Ladder(Strict, frozen=True):
    """The rungs climbed in one precision on one device; it ends at the first rung that was not passed."""

    precision: str
    device: str
    rungs: list[Rung]
    height: Place = FIRST_RUNGS  # rungs of the whole ladder, as it was when this one was climbed

    @property
    def passed(self) -> bool:
        whole = len(self.rungs) == self.height and all(rung.number == at for at, rung in enumerate(self.rungs, start=1))
        return whole and all(rung.passed for rung in self.rungs)


class Timings(Strict, frozen=True):
    """Durations in seconds, from the monotonic clock."""

    import_s: Seconds
    build_s: Seconds
    first_step_s: Seconds  # trace, compile and one update, for each shape of batch that there is
    warmup_s: Seconds
    block_steps: Count
    blocks_s: Annotated[list[Seconds], Meta(min_length=1)]  # block_steps updates and one barrier each
    window_s: Window  # all blocks together
    items: Count  # images, tokens or sentences in the window, padding left out
    tokens: Count | None = None  # not padding, in the window; None where the items are tokens or there are none
    barrier_s: Seconds | None = None  # one barrier when there is nothing to wait for
    unfinished_s: Seconds | None = None  # work that was still undone after a barrier: the barrier's self-check
    compilations: Annotated[int, Meta(ge=0)] | None = None  # inside the window; None where the framework does not tell
    cpu_s: Seconds | None = None  # processor time of all processes of the arm in the window, all threads
    losses: list[tuple[Count, Figure]] = []  # number of an update, training loss of its batch: proof of work
    flops: Count | None = (
        None  # of the model in the window, where batches were cut; else `step_flops` of the cell each step
    )
    exchanges_s: list[Seconds] = []  # of the gradients between the processes, in a step of each block; where it is told

    @property
    def throughput(self) -> float:
        """Items per second of the window."""
        return self.items / self.window_s

    @property
    def step_s(self) -> float:
        """Seconds of one step in the window."""
        return self.window_s / (len(self.blocks_s) * self.block_steps)

    @property
    def start_s(self) -> float:
        """Seconds until the first step is done: import, build, trace and compile."""
        return self.import_s + self.build_s + self.first_step_s


class GpuState(Strict, frozen=True):
    """A GPU at the end of the window, as its driver describes it; None where it does not."""

    clock_mhz: Count | None
    temperature_celsius: int | None
    power_watts: float | None
    throttle_reasons: list[str] | None  # in the window; at its end where the card does not count them
    other_processes: Annotated[int, Meta(ge=0)] | None  # that use the card and are not of this run
    throttled_shares: dict[str, Share] | None = (
        None  # reason -> share of the window; None where the card does not count
    )


class Disturbance(Strict, frozen=True):
    """What else the machine did during the window; see bench/worker/disturbance.py for the sources and the rule."""

    load: float | None  # processes that wanted to run, mean of the minute before the process started
    others_share: Part | None  # of the usable cores' time in the window, used by other processes
    stolen_share: Part | None  # of the usable cores' time in the window, taken by the hypervisor
    involuntary_switches: Annotated[int, Meta(ge=0)] | None
    major_page_faults: Annotated[int, Meta(ge=0)] | None
    cpu_mhz: float | None
    siblings_share: Part | None = None  # used by any process on the other threads of the same physical cores
    withheld_share: Part | None = None  # by a control group's quota; None without one
    gpu: GpuState | None = None
    disturbed: str | None = None  # why the rule excludes this round; None where it does not


class Probe(Strict, frozen=True):
    """A matrix product in the framework, on the device and in the precision that were timed, after the window."""

    error: float  # relative to the product in double precision: about 1e-7 is float32, 1e-4 to 1e-3 TF32, 1e-3 to 1e-2 bfloat16
    size: Count  # rows and columns of the matrices below
    flops_per_second: Window  # of a chain of square products


class Energy(Strict, frozen=True):
    """What the hardware's own counter says about the window, or the reason why it says nothing."""

    joules: Window | None
    source: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.joules is None and not self.reason:
            raise ValueError("a figure that was not measured needs a reason")


class Bytes(Strict, frozen=True):
    """A measured number of bytes, or the reason why there is none."""

    bytes: Count | None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.bytes is None and not self.reason:
            raise ValueError("a figure that was not measured needs a reason")


class Memory(Strict, frozen=True):
    """Peaks of an arm that does nothing else, summed over its processes; see `bench/worker/memory.py` for the sources."""

    host_import: Bytes  # resident after the framework was imported
    host_peak: Bytes  # a process's highest resident set
    host_peak_training: Bytes  # the same, from the end of set-up on
    device_peak_allocated: Bytes  # by the framework's allocator, since the session was opened
    device_peak_reserved: Bytes  # the allocator's pool
    device_peak_process: Bytes = Bytes(None, "not recorded")  # the driver's view of the card, minus its idle baseline


class Rank(Strict, frozen=True):
    """One of the processes that train a model together; they stand in the order of their ranks."""

    cores: Count | None  # that its threads may run on; None where the system does not tell
    host_peak: Bytes  # its highest resident set
    device_peak_allocated: Bytes  # by the framework's allocator
    cpu_s: Seconds | None = None  # its processor time in the window, all threads; None where nothing was timed


class Quality(Strict, frozen=True):
    """What the task's whole budget of training led to, on the whole held-out set."""

    steps: int
    train_s: float
    evaluate_s: float
    metrics: dict[str, Figure]
    curve: list[tuple[int, Figure, Figure]]  # (step, seconds since the first step, training loss of that step's batch)
    sample: str | None = None  # what a language model says after training
    validation: list[tuple[Count, Seconds, Figure]] = []  # on the way: (step, seconds of training, the target's metric)
    energy: list[
        tuple[Count, Energy]
    ] = []  # (step, of the training until then) at each of these, and at the end; if asked for

    def reached(self, target: Target) -> tuple[int, float] | None:
        """(step, seconds of training) of the first evaluation that reached a target, the one at the end among them."""
        last = (self.steps, self.train_s, self.metrics.get(target.metric, math.nan))
        return next(
            ((step, seconds) for step, seconds, value in (*self.validation, last) if target.reached(value)), None
        )


class OperationTime(Strict, frozen=True):
    """An operation of a profile, all its calls in a step together."""

    name: str  # the framework's own
    kind: str  # one of backends.operations.KINDS
    seconds: Seconds


class Profile(Strict, frozen=True):
    """What the framework's own profiler saw; the kinds and the time in which nothing ran add up to a step."""

    steps: Count  # that it watched
    step_s: Window  # while it watched
    kinds: dict[str, Seconds]  # of backends.operations.KINDS, in one step; operations that run at once share their time
    operations: Figure  # in one step
    largest: list[OperationTime]

    @property
    def nothing_s(self) -> float:
        """Of a step, while no operation ran: the interpreter, dispatch, and waiting."""
        return self.step_s - sum(self.kinds.values())


class Explanation(Strict, frozen=True):
    """What the time of a training step is made of, in one process (bench/worker/explain.py)."""

    parts: dict[str, Annotated[list[Seconds], Meta(min_length=1)]]  # what was timed -> seconds of one, turn by turn
    cpu_s: Seconds  # processor time of a step, all threads
    page_faults: Annotated[float, Meta(ge=0)]  # in a step, minor ones
    updates: Count  # that were made before the state was looked at
    state_values: Annotated[int, Meta(ge=0)] | None = (
        None  # figures of the optimizer's state; None where it is not told
    )
    denormals: Annotated[int, Meta(ge=0)] | None = None  # of them
    profile: Profile | None = None
    no_profile: str | None = None  # why there is none
    flops: Count | None = None  # of the model in a step, where batches were cut; else `step_flops` of the cell

    def __post_init__(self) -> None:
        if self.profile is None and not self.no_profile:
            raise ValueError("a figure that was not measured needs a reason")


class Calls(Strict, frozen=True):
    """Predictions of one size of batch, in the window of one process: from the host's arrays to the host's logits."""

    batch_size: Count
    first_s: Seconds  # trace, compile and one call, for each shape of batch that there is
    block_calls: Count
    blocks_s: Annotated[list[Seconds], Meta(min_length=1)]  # block_calls calls each
    items: Count  # images, tokens or sentences in all of them, padding left out
    p50_s: Seconds  # of single calls: half of them took no longer
    p90_s: Seconds
    p99_s: Seconds

    @property
    def count(self) -> int:
        """How many calls there were."""
        return self.block_calls * len(self.blocks_s)

    @property
    def window_s(self) -> float:
        """All of them together."""
        return sum(self.blocks_s)

    @property
    def throughput(self) -> float:
        """Items per second."""
        return self.items / max(self.window_s, LEAST_S)


class Inference(Strict, frozen=True):
    """What it takes to ask a model, in one process (bench/worker/inference.py)."""

    import_s: Seconds
    build_s: Seconds
    warmup_s: Seconds
    calls: Annotated[list[Calls], Meta(min_length=1)]  # of each size, as many blocks of each
    outputs: list[Figure]  # the mean size of the logits of some batches: proof of work
    compilations: Annotated[int, Meta(ge=0)] | None = None  # inside the window; None where the framework does not tell
    cpu_s: Seconds | None = None  # processor time of this process in the window, all threads
    host_peak: Bytes = Bytes(None, "not recorded")  # the process's highest resident set
    device_peak_allocated: Bytes = Bytes(None, "not recorded")  # by the framework's allocator

    @property
    def blocks_s(self) -> list[float]:
        """Seconds of each turn, with its calls of every size."""
        return [sum(turn) for turn in zip(*(calls.blocks_s for calls in self.calls), strict=False)]


LOADING_PARTS = ("alone", "prepared", "fed")


class Feed(Strict, frozen=True):
    """Batches that were taken one after the other, in the window of one process."""

    block_batches: Count
    blocks_s: Annotated[list[Seconds], Meta(min_length=1)]  # block_batches each
    items: Count  # images, tokens or sentences in all of them, padding left out

    @property
    def window_s(self) -> float:
        """All of them together."""
        return sum(self.blocks_s)

    @property
    def throughput(self) -> float:
        """Items per second."""
        return self.items / max(self.window_s, LEAST_S)


class Loading(Strict, frozen=True):
    """What a framework's own loader gives, in one process (bench/worker/loading.py)."""

    import_s: Seconds
    build_s: Seconds
    first_s: Seconds  # to make the loader and to take its first batch
    warmup_s: Seconds
    pass_batches: Count  # in one pass over the training set
    pass_items: Count  # in the same; of two passes it was proven that they hold every example once
    alone: Feed  # batches of the loader, and nothing done with them
    prepared: Feed  # training steps on batches that were ready
    fed: Feed  # training steps on batches of the loader
    compilations: Annotated[int, Meta(ge=0)] | None = None  # inside the window; None where the framework does not tell
    cpu_s: Seconds | None = None  # processor time in the turns, all threads and the loader's processes
    turns_s: Seconds | None = None  # the turns' wall time, with what is in no block; None in the first records
    host_peak: Bytes = Bytes(None, "not recorded")  # the process's highest resident set

    @property
    def feeds(self) -> dict[str, Feed]:
        """The parts by their names."""
        return {name: getattr(self, name) for name in LOADING_PARTS}

    @property
    def blocks_s(self) -> list[float]:
        """Seconds of each turn, with a block of every part."""
        return [sum(turn) for turn in zip(*(feed.blocks_s for feed in self.feeds.values()), strict=False)]


class SelfTest(Strict, frozen=True):
    """One cell in three arms: twice as it is, once with a planted slow-down. selftest.py says what follows from it."""

    preset: str
    rates: Annotated[list[tuple[Rate, Rate, Rate]], Meta(min_length=2)]  # of the three arms, round by round
    slow_down: Annotated[float, Meta(gt=0, le=1)]  # more work per counted step in the third arm; 0.1 is 10 %
    disturbed: Annotated[int, Meta(ge=0)]  # rounds that were left out
    started_utc: str
    company: list[Window] = []  # of each round: a step among the others over one alone, mean of the three arms


class RoundsPlan(Strict, frozen=True):
    """How the number of rounds was found, before the first of them."""

    rounds: Count
    effect: Annotated[float, Meta(gt=0)]  # to be found; 0.05 is 5 %
    noise: (
        Annotated[float, Meta(gt=0)] | None
    )  # upper bound on log throughput's deviation; None: the pilot says nothing
    tie: Share | None = None  # chance that equal backends are called a tie
    found: Share | None = None  # chance that the effect is called


class Machine(Strict, frozen=True):
    """The machine, without anything that identifies its owner."""

    cpu: str
    cores: Count  # logical cores that this process may use
    memory_bytes: Count  # to the nearest GiB
    gpu: str | None
    gpu_driver: str | None
    os: str
    python: str
    cpu_quota: Window | None = None  # cores' time that a control group grants, 1.5 for example; None: no quota
    huge_pages: str | None = (
        None  # who gets pages of 2 MiB, in the kernel's word: always, madvise or never; None: not known
    )


class Arm(Strict, frozen=True, dict=True, gc=True):  # with room for what is computed once
    """One backend in one declared way of using it: what a row of a table is a row of.

    Everything that may differ between two rows is in it, and nothing else is.
    """

    name: Label  # of its row
    backend: str  # one of backends.BACKENDS, or a dotted module
    mode: str = "default"  # of backends.modes, or several joined by "+"
    device: str = "cpu"
    precision: str = "float32"
    threads: Count | None = None  # cores that it runs on; None: all that may be used
    python: str | None = None  # version of the interpreter, where it is another one than the parent's
    environment: dict[str, str] = {}  # variables that were asked for
    slow_down: Share = 0.0  # injected by a self-test: this share of the timed steps is done twice and counted once
    processes: Annotated[int, Meta(ge=1, le=MOST_RANKS)] = 1  # that train one model together; `threads` is of each
    nodes: Annotated[int, Meta(ge=1, le=MOST_RANKS)] = 1  # machines that its processes are spread over, as many on each

    @property
    def way(self) -> dict[str, Any]:
        """Everything but the name: two arms with the same way are the same program."""
        return {name: value for name, value in self._declared.items() if name != "name"}

    @cached_property
    def hash(self) -> str:
        return _hashed(self._declared)

    @property
    def _declared(self) -> dict[str, Any]:
        """Its fields; one process and one machine go without saying, as in the names of files from before there were more."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name not in ("processes", "nodes") or value > 1}

    @property
    def way_typed(self) -> str:
        """How the backend is used, as `--arm` takes it, without a label and without what is usual."""
        return self.typed({"device": "cpu", "precision": "float32"}).removeprefix(f"{self.name}=")

    def typed(self, common: Mapping[str, Any]) -> str:
        """The arm as `--arm` takes it, without what is `common` to all arms and said by options of its own."""
        declared = {"device": self.device, "precision": self.precision, "threads": self.threads}
        items = [self.mode] if self.mode != "default" else []
        items += [f"{name}={value}" for name, value in declared.items() if value not in (None, common.get(name))]
        items += [f"processes={self.processes}"] if self.processes > 1 else []
        items += [f"nodes={self.nodes}"] if self.nodes > 1 else []
        items += [f"env.{name}={value}" for name, value in sorted(self.environment.items())]
        head = self.name.partition(":")[0]
        release = head if self.python and head.startswith(f"{self.backend}==") else ""
        items += ["python=PATH"] if self.python and not release else []
        way = ":".join(filter(None, [release or self.backend, ",".join(item.replace(",", "\\,") for item in items)]))
        has_label = self.name != way and ":" not in self.name  # no label has a colon, which ends it
        return f"{self.name}={way}" if has_label else way


def control_of(arms: Iterable[Arm]) -> Arm | None:
    """The arm that is another one of these a second time, under the name of a control; None where there is none."""
    named = {arm.name: arm for arm in arms}
    control = named.pop(CONTROL, None)
    return control if control is not None and any(arm.way == control.way for arm in named.values()) else None


class Run(Strict, frozen=True):
    """What all processes of a comparison have in common."""

    id: str  # of the run, made when it was started; the order of its rounds is drawn from it
    machine: Machine
    harness: str | None = None  # version of framework-bench; None where it was not recorded
    source: str | None = None  # sha256 of its source code
    measurement: Count = MEASUREMENT


class Cell(Strict, frozen=True, kw_only=True, dict=True, gc=True):
    """What one process is asked."""

    kind: Kind
    task: str
    preset: str
    changes: dict[str, str] = {}  # of the task's fields, by `--set`
    unit: str  # what is counted per second
    arm: Arm
    round: Place = 1
    position: Place = 1  # place in the shuffled order of its round
    seed: Annotated[int, Meta(ge=0)] = 0
    spec: dict[str, Any]
    data: Data
    target: Target
    step_flops: Count | None = None  # of the model in one training step, from the spec
    block_steps: Count | None = None  # as the arm's first process found it; None: to be found
    energy: bool = False  # whether an energy counter is to be read
    key: str = ""  # hash of everything on which the outcome depends: what a resumed run need not do again
    ladders: list[Ladder] = []  # that the arm has climbed before this process started
    selftest: SelfTest | None = None  # the latest one of this arm on this machine, when the run began
    rounds_plan: RoundsPlan | None = None  # None where the number of rounds was given
    look: Place | None = None  # at which its round was added (bench/stats/looks.py); None where rounds are planned once

    def __post_init__(self) -> None:
        _bound(self.spec)

    @cached_property
    def spec_hash(self) -> str:
        return _hashed(self.spec)

    @cached_property
    def file_name(self) -> str:
        """Of its record: a name that sorts by task, kind, round and arm."""
        count = f"seed{self.seed}" if self.kind == "quality" else f"round{self.round:02d}"
        label = re.sub(r"[^\w.-]+", "-", self.arm.name).encode()[:NAME_BYTES].decode(errors="ignore")
        return f"{self.task}-{self.preset}-{self.kind}-{count}-{label}-{self.arm.hash[:8]}.json"

    @property
    def file_names(self) -> tuple[str, str]:
        """The name of its record, and the one that it had before an arm could be more than a backend."""
        return self.file_name, self.file_name.replace(f"-{self.arm.hash[:8]}.json", ".json")


def _bound(spec: Any) -> None:
    """SpecError for a spec that is so deep or so long that nobody could hash or show it; not recursive for the same reason."""
    level, values = [spec], 0
    for _ in range(MOST_DEEP):
        level = [
            part for one in level if isinstance(one, (dict, list, tuple))
            for part in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
        values += len(level)
        if values > MOST_VALUES:
            raise tasks.spec.SpecError(f"the spec has more than {MOST_VALUES:,} values")
        if not level:
            return
    raise tasks.spec.SpecError(f"the spec is nested more than {MOST_DEEP} levels deep")


class Outcome(Strict, frozen=True, kw_only=True):
    """What became of a process, and what it measured."""

    status: Status
    reason: str | None = None  # required where the status is not ok
    started_utc: str = ""
    wall_s: Seconds = 0.0  # the whole process, as its parent saw it
    beside: Annotated[int, Meta(ge=0)] = 0  # other arms of its round that were alive and took turns with this one
    ladders: list[Ladder] = []  # climbed by this process
    timings: Timings | None = None
    probe: Probe | None = None
    disturbance: Disturbance | None = None
    energy: Energy | None = None
    memory: Memory | None = None
    quality: Quality | None = None
    explanation: Explanation | None = None
    inference: Inference | None = None
    loading: Loading | None = None
    ranks: list[Rank] = []  # of an arm of several processes: the figures of each
    remarks: list[Text] = []  # what a reader of the figures must know
    settings: dict[str, Setting] = {}
    versions: dict[str, str] = {}


class Record(Strict, frozen=True, kw_only=True):
    """One process of a comparison."""

    schema: Count = SCHEMA
    run: Run
    cell: Cell
    outcome: Outcome

    @property
    def ladders(self) -> list[Ladder]:
        """Of the arm: climbed by this process, or before it."""
        return self.outcome.ladders or self.cell.ladders
