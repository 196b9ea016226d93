"""THE training loop: the only place that times, trains and evaluates, for every backend and task alike.

The clock is passed in and counts seconds.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np

from backends.api import Session
from bench.process import phases
from bench.records.record import Energy
from bench.records.rules import EACH_LOSS, LAST_LOSS, LOSS_EVERY
from bench.worker.several import steps_per_call
from tasks import batching
from tasks.spec import Batch, Evaluation, Preset, Task

Clock = Callable[[], float]

DISTINCT_BATCHES = 256  # built before the clock starts, and repeated in the window
LEAD = 1
"""Calls at the beginning of a turn that are not timed. Those who had their turns before have pushed this process's memory out
of the processor's caches: the first step after them takes longer than the next one. In a training a step follows another step
of its own."""

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread more evenly than those of any other number

MIXED_STEPS, ALIGNED = 4, 32
"""Where steps differ in length, a block has so many at least, and a window begins after a multiple of so many updates, more
than its warm-up has where blocks are short: arms whose steps take about as long are timed on the same batches."""

STEADY_BLOCKS, STEADY_WITHIN = 3, 0.03  # the warm-up ends when so many successive blocks lie within this share
MAX_WARMUP_BLOCKS = 15
CURVE_POINTS = 50

CHECKS = 3  # of the barrier


class Diverged(ArithmeticError):
    """The training loss is no longer a finite number."""


@dataclass
class Window:
    """The steady state of one process, in seconds; the fields are those of bench.records.record.Timings."""

    first_step_s: float = 0.0
    warmup_s: float = 0.0
    block_steps: int = 1
    blocks_s: list[float] = field(default_factory=list)
    items: int = 0
    tokens: int | None = None
    compilations: int | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)  # number of an update, loss of its batch
    flops: int | None = None
    exchanges_s: list[float] = field(default_factory=list)  # of a step of each block

    @property
    def window_s(self) -> float:
        """All blocks together."""
        return sum(self.blocks_s)

    def forget(self) -> None:
        """What was timed so far becomes a part of the warm-up."""
        self.warmup_s += self.window_s
        self.blocks_s, self.items, self.tokens, self.flops = [], 0, None, None
        self.exchanges_s = []


class Blocks(Protocol):
    """What was timed so far."""

    blocks_s: list[float]

    def forget(self) -> None: ...


class Metered(Protocol):
    """A context around each part of a training; after each, the energy of all so far."""

    energy: Energy

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...


class Turns(Protocol):
    """Says before each block whether there is one more, and encloses it."""

    block_s: float  # about how long a block is to last
    lead: int  # calls before each block that are not timed: LEAD where others ran since the block before

    def next(self, window: Blocks) -> bool: ...
    def block(self) -> AbstractContextManager[object]: ...


@dataclass
class Alone:
    """A number of blocks, one after the other."""

    blocks: int
    block_s: float
    lead = 0
    around: AbstractContextManager[object] = field(default_factory=nullcontext)

    def next(self, window: Blocks) -> bool:
        return len(window.blocks_s) < self.blocks

    def block(self) -> AbstractContextManager[object]:
        return self.around


def step(session: Session, batch: Batch) -> Any:
    """One update on a host batch; returns the loss's handle without waiting."""
    return step_prepared(session, session.prepare(batch), starts_sequence=batch.starts_sequence)


def step_prepared(session: Session, prepared: Any, *, starts_sequence: bool) -> Any:
    """One update on a batch from `prepare`: what is timed as a step."""
    if starts_sequence:
        session.reset_state()
    return session.train_step(session.put(prepared))


def announce(session: Session, coming: Iterable[tuple[Any, bool]]) -> None:
    """Tells a session of several processes the steps that come: each process then runs a loop of its own, as it would alone."""
    tell: Callable[[Iterable[tuple[Any, bool]]], None] | None = getattr(session, "announce", None)
    if tell is not None:
        tell(coming)


def put(session: Session, batch: Batch) -> Any:
    """A host batch on the device."""
    return session.put(session.prepare(batch))


def measure(session: Session, preset: Preset, *, clock: Clock, turns: Turns, block_steps: int | None = None) -> Window:
    """Times the first step, warms up until the session is steady, and then times blocks with a barrier each.

    A session that trims its batches has a first step for each of their shapes, and all are over before the warm-up; one that
    takes several steps in a call has a first call. Copying a batch to the device belongs to a step; building and preparing it
    does not. A block has `block_steps` updates, or as many as take about `turns.block_s` after the warm-up (MIXED_STEPS at
    least, from a multiple of ALIGNED updates on, where batches are trimmed), and before it `turns.lead` calls that are not
    timed. Of the first updates, and then of every LOSS_EVERY-th, the loss is kept as a handle and fetched when the window has
    closed, so that it costs no block any time; Diverged names one that is not finite.
    """
    counted = count_batches(session, preset)
    upcoming = cycle(counted)
    window, losses = Window(), _Losses()

    shapes = until_every_shape(counted)
    mixed = shapes > 1  # steps differ in length
    for one in islice(upcoming, shapes):
        start = clock()
        losses.note(step_prepared(session, one.prepared, starts_sequence=one.starts_sequence))
        if one.new_shape:
            for more in islice(upcoming, steps_per_call(session) - 1):
                losses.note(step_prepared(session, more.prepared, starts_sequence=more.starts_sequence))
            session.wait()
            window.first_step_s += clock() - start
    first = clock()
    phases.enter("warm-up")
    stream = ((one.prepared, one.starts_sequence) for one in upcoming)
    size = warm_up(
        session, preset, stream, clock=clock, block_s=turns.block_s, block_steps=None if mixed else block_steps,
        note=losses.note, counts=mixed,
    )  # fmt: skip
    window.block_steps = block_steps or (max(MIXED_STEPS, size) if mixed else size)
    if mixed:
        _run(session, list(islice(upcoming, -losses.updates % ALIGNED)), losses)
    window.warmup_s = clock() - first

    phases.enter("window")
    compiled = session.compilations()
    tell_exchange: Callable[[], float | None] = getattr(session, "exchange_s", lambda: None)
    leading = turns.lead * steps_per_call(session)
    taken: list[Counted] = []  # since the window began, leads too
    while turns.next(window):
        if not window.blocks_s:
            taken.clear()
        if lead := list(islice(upcoming, leading)):
            _run(session, lead, losses)
        coming = list(islice(upcoming, window.block_steps))
        with turns.block():
            block_start = clock()
            _run(session, coming, losses)
            window.blocks_s.append(clock() - block_start)
        taken += lead + coming
        # A step's share of all batches in a row: of few, a lead could be the padded one every time.
        window.items = round(sum(one.items for one in taken) * len(window.blocks_s) * window.block_steps / len(taken))
        window.tokens = (window.tokens or 0) + sum(one.tokens for one in coming) or None
        window.flops = (window.flops or 0) + sum(one.flops for one in coming) or None
        if (exchange_s := tell_exchange()) is not None:
            window.exchanges_s.append(exchange_s)
    if compiled is not None:
        window.compilations = (session.compilations() or 0) - compiled
    window.losses = losses.fetched(session)
    return window


class Counted(NamedTuple):
    """A prepared batch and what a step on it counts for; 0 where there is nothing to count."""

    prepared: Any
    starts_sequence: bool
    items: int
    tokens: int
    flops: int
    new_shape: bool  # the first of its shape


def _run(session: Session, coming: Sequence[Counted], losses: "_Losses") -> None:
    """Takes steps, and returns when they are done."""
    announce(session, ((one.prepared, one.starts_sequence) for one in coming))
    for one in coming:
        losses.note(step_prepared(session, one.prepared, starts_sequence=one.starts_sequence))
    session.wait()


def count_batches(session: Session, preset: Preset) -> list[Counted]:
    """The distinct batches of a window, prepared."""
    task, trim = preset.task, getattr(session, "trim", None)
    count_tokens = getattr(task, "tokens", lambda batch: 0)
    count_flops = getattr(task, "batch_flops", lambda batch: 0) if trim else lambda batch: 0
    seen: set[tuple[tuple[int, ...], ...]] = set()
    counted = []
    for batch in _distinct(task):
        computed = trim(batch) if trim else batch
        shape = tuple(value.shape for value in computed.inputs.values())
        counted.append(
            Counted(
                session.prepare(batch), batch.starts_sequence, batch.items, count_tokens(batch), count_flops(computed),
                new_shape=shape not in seen,
            )
        )  # fmt: skip
        seen.add(shape)
    return counted


def until_every_shape(counted: Sequence[Counted]) -> int:
    """How many steps there are until there was one of each shape; 1 where all are alike."""
    return 1 + max(at for at, one in enumerate(counted) if one.new_shape)


def _distinct(task: Task) -> list[Batch]:
    """The distinct batches of a window, in an order that is the same in every mode, for losses are compared update by update.

    Where batches are cut, a step on a long one takes twice as long as on a short one, and a window may have fewer than a
    hundred. So of a task that cuts them, every stretch has the lengths in about their shares: sorted by length, the batches are
    visited at the places k * GOLDEN mod 1. The first of each length comes before all others: until there was one of each, no
    other step is taken.
    """
    batches = list(islice(batching.endless(task, 0), DISTINCT_BATCHES))
    trimmed = getattr(task, "trimmed", None)
    if trimmed is None or any(batch.starts_sequence for batch in batches):
        return batches
    lengths = [[value.shape for value in trimmed(batch).inputs.values()] for batch in batches]
    by_length = sorted(range(len(batches)), key=lengths.__getitem__)
    order = [by_length[rank] for rank in np.argsort(np.argsort(np.arange(len(batches)) * GOLDEN % 1))]
    new = {at for place, at in enumerate(order) if lengths[at] not in [lengths[other] for other in order[:place]]}
    return [batches[at] for at in sorted(order, key=lambda at: at not in new)]


class _Losses:
    """The losses of some updates of a process: handles, until they are fetched."""

    def __init__(self) -> None:
        self.updates = 0
        self.handles: dict[int, Any] = {}

    def note(self, loss: Any) -> None:
        self.updates += 1
        if self.updates <= EACH_LOSS or (self.updates % LOSS_EVERY == 0 and self.updates <= LAST_LOSS):
            self.handles[self.updates] = loss

    def fetched(self, session: Session) -> list[tuple[int, float]]:
        found = [(update, float(session.fetch(loss))) for update, loss in self.handles.items()]
        for update, value in found:
            if not math.isfinite(value):
                raise Diverged(f"the training loss was {value} at update {update}")
        return found


def warm_up(
    session: Session,
    preset: Preset,
    batches: Iterator[tuple[Any, bool]],
    *,
    clock: Clock,
    block_s: float,
    block_steps: int | None,
    note: Callable[[Any], object],
    counts: bool = False,
) -> int:
    """Trains on prepared batches until the session is steady, by one rule for all; returns the number of steps of a block.

    It lasts at least the preset's steps and seconds, and then until STEADY_BLOCKS successive blocks lie within STEADY_WITHIN,
    but no longer than MAX_WARMUP_BLOCKS. Where it `counts` how many steps there were, each of the first is waited for: a
    framework that queues them would otherwise have taken more when the time is up.
    """
    start, steps = clock(), 0
    while steps < preset.warmup_steps or clock() - start < preset.warmup_s:
        prepared, starts_sequence = next(batches)
        note(step_prepared(session, prepared, starts_sequence=starts_sequence))
        steps += 1
        if counts:
            session.wait()
    session.wait()
    step_s = (clock() - start) / steps if steps else math.inf
    together = steps_per_call(session)  # a block is made of whole calls
    size = block_steps or together * max(1, round(block_s / step_s / together))

    def block() -> float:
        coming = list(islice(batches, size))
        block_start = clock()
        announce(session, coming)
        for prepared, starts_sequence in coming:
            note(step_prepared(session, prepared, starts_sequence=starts_sequence))
        session.wait()
        return clock() - block_start

    until_steady(block)
    return size


def until_steady(block: Callable[[], float]) -> None:
    """Runs blocks, each of which tells its seconds, until STEADY_BLOCKS of them in a row lie within STEADY_WITHIN, or
    MAX_WARMUP_BLOCKS are done."""
    blocks_s: list[float] = []
    while len(blocks_s) < MAX_WARMUP_BLOCKS:
        blocks_s.append(block())
        latest = blocks_s[-STEADY_BLOCKS:]
        if len(latest) == STEADY_BLOCKS and max(latest) <= (1 + STEADY_WITHIN) * min(latest):
            break


def check_barrier(
    session: Session, batches: Iterator[Batch], *, clock: Clock, block_steps: int = 1
) -> tuple[float, float]:
    """(seconds of a barrier with nothing to wait for, seconds of work that was undone after the barrier of a block).

    Reading the parameters waits for everything that makes them. Just after a barrier it should take no longer than later.
    """
    barriers, early, late = [], [], []
    for _ in range(CHECKS):
        for batch in islice(batches, block_steps):
            step(session, batch)
        session.wait()
        early.append(_seconds(session.params, clock))
        late.append(_seconds(session.params, clock))
        barriers.append(_seconds(session.wait, clock))
    # The least of each: what was left undone is there every time, an interruption by the kernel is not.
    return median(barriers), max(0.0, min(early) - min(late))


def _seconds(call: Callable[[], object], clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


class Trained(NamedTuple):
    """A training that came to its end."""

    seconds: float  # without those of the evaluations
    curve: list[tuple[int, float, float]]  # (step, seconds, loss), at about CURVE_POINTS steps, the first among them
    validation: list[tuple[int, float, float]]  # (steps before it, seconds, what `validate` gave)
    energy: list[
        tuple[int, Energy]
    ]  # (steps, of all of them) at each of these points and at the end; none without a meter


def train(
    session: Session,
    batches: Iterator[Batch],
    *,
    steps: int,
    clock: Clock,
    validations: int = 0,
    validate: Callable[[], float] = lambda: math.nan,
    meter: Metered | None = None,
) -> Trained:
    """Trains for a budget, and calls `validate` so many times on the way, evenly spread, while clock and meter stand still.

    A task with a carried state is validated where that starts anew, at the beginning of the next pass over the text: an
    evaluation puts it back to zero. Where several steps are taken in one call, the first is taken alone: the program of the
    steps that are left at the end is then compiled at the beginning, and whole calls lie between the points.

    Diverged names the step whose loss was seen to be infinite or not a number.
    """
    together = steps_per_call(session)
    interval = together * max(1, steps // CURVE_POINTS // together)
    due = [at for number in range(validations) if (at := steps * (number + 1) // (validations + 1))]
    carries = False
    trained = Trained(0.0, [], [], [])

    def pause(steps_done: int) -> None:
        """Everything is done, and the meter stands still."""
        session.wait()
        if meter is not None:
            meter.__exit__()
            trained.energy.append((steps_done, meter.energy))

    if meter is not None:
        meter.__enter__()
    start, stopped_s = clock(), 0.0
    for number, batch in enumerate(islice(batches, steps), start=1):
        carries = carries or batch.starts_sequence
        if due and number > due[0] and (batch.starts_sequence or not carries):
            pause(number - 1)
            began = clock()
            trained.validation.append((number - 1, began - start - stopped_s, validate()))
            stopped_s += clock() - began
            due = [step for step in due if step >= number]
            if meter is not None:
                meter.__enter__()
        loss = step(session, batch)
        if (number - (together > 1)) % interval == 0 or number in (1, steps):
            value = float(session.fetch(loss))
            if not math.isfinite(value):
                raise Diverged(f"the training loss was {value} at step {number}")
            trained.curve.append((number, clock() - start - stopped_s, value))
    pause(steps)
    return trained._replace(seconds=clock() - start - stopped_s)


def evaluate(session: Session, batches: Iterable[Batch]) -> Evaluation:
    """Losses and predictions over all batches in order, padding removed."""
    session.reset_state()
    losses, predictions, labels = [], [], []
    for batch in batches:
        if batch.starts_sequence:
            session.reset_state()
        handles = session.eval_step(put(session, batch))
        counts = batch.weights != 0
        losses.append(session.fetch(handles[0])[counts])
        predictions.append(session.fetch(handles[1])[counts])
        labels.append(batch.labels[counts])
    session.reset_state()
    return Evaluation(
        np.concatenate(losses).astype(np.float64),
        np.concatenate(predictions).astype(np.int64),
        np.concatenate(labels).astype(np.int64),
    )
