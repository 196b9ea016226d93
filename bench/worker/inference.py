"""What it takes to ask a model: single calls, one by one, and calls of the preset's batch.

A call is what a user makes who serves the model: from the host's arrays to the logits in the host's memory, with the weights
that a training starts from, dropout off, and zero recurrent state. Each call waits for its answer, so that there is no queue.
The ladder of parity compares what the same function returns.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from backends.api import Session
from bench.process import phases
from bench.records.record import Calls
from bench.worker.loop import Clock, Turns, until_steady
from tasks import batching
from tasks.spec import Array, Batch, Preset

BATCHES = 16
SINGLES = 64
PERCENTILES = (50, 90, 99)


class Ask(NamedTuple):
    """What one call is given, and what it counts for."""

    inputs: Mapping[str, Array]
    items: int
    new_shape: bool  # the first of its shape


class Size:
    """The calls of one size of batch."""

    def __init__(self, batch_size: int, asks: Sequence[Ask]) -> None:
        self.batch_size, self.asks = batch_size, asks
        self.upcoming = cycle(asks)
        self.first_s = 0.0
        self.block_calls = 1
        self.blocks_s: list[float] = []
        self.calls_s: list[float] = []
        self.items = 0

    def first(self, session: Session, clock: Clock) -> list[float]:
        """The first call of every shape, and then one of each other input; the mean size of what they return."""
        outputs = []
        for ask in self.asks:
            start = clock()
            outputs.append(float(np.mean(np.abs(session.predict(ask.inputs)))))
            self.first_s += (clock() - start) if ask.new_shape else 0.0
        return outputs

    def block(self, session: Session, clock: Clock) -> float:
        """One block's calls, one after the other; returns the seconds of all of them."""
        before = len(self.calls_s)
        for ask in islice(self.upcoming, self.block_calls):
            start = clock()
            session.predict(ask.inputs)
            self.calls_s.append(clock() - start)
            self.items += ask.items
        self.blocks_s.append(sum(self.calls_s[before:]))
        return self.blocks_s[-1]

    def lead(self, session: Session, calls: int) -> None:
        """Calls that are in no figure, and take no input out of turn: of few, it could be the padded one every time."""
        for _ in range(calls):
            session.predict(self.asks[0].inputs)

    def forget(self) -> None:
        """What was asked so far is no part of the window, which begins with the same inputs in every arm."""
        self.blocks_s, self.calls_s, self.items = [], [], 0
        self.upcoming = cycle(self.asks)

    def told(self) -> Calls:
        """The window's figures."""
        p50, p90, p99 = (float(value) for value in np.percentile(self.calls_s, PERCENTILES))
        return Calls(
            batch_size=self.batch_size, first_s=self.first_s, block_calls=self.block_calls, blocks_s=self.blocks_s,
            items=self.items, p50_s=p50, p90_s=p90, p99_s=p99,
        )  # fmt: skip


class Window:
    """The steady state of one process; what turns are given (loop.Turns)."""

    def __init__(self, sizes: Sequence[Size]) -> None:
        self.sizes = sizes
        self.warmup_s = 0.0
        self.blocks_s: list[float] = []
        self.outputs: list[float] = []
        self.compilations: int | None = None

    @property
    def calls(self) -> list[Calls]:
        return [size.told() for size in self.sizes]

    def forget(self) -> None:
        """What was timed so far becomes a part of the warm-up."""
        self.warmup_s += sum(self.blocks_s)
        self.blocks_s = []
        for size in self.sizes:
            size.forget()


def measure(session: Session, preset: Preset, *, turns: Turns, clock: Clock = time.perf_counter) -> Window:
    """Asks once for every input, warms up until the calls are steady, and then times blocks of them.

    In a block, half of the time is for single calls and half for those of the preset's batch, one after the other.
    """
    batches = list(islice(batching.endless(preset.task, 0), BATCHES))
    window = Window(sizes(batches, getattr(session, "trim", None)))
    phases.enter("first step")
    window.outputs = window.sizes[-1].first(session, clock)
    for size in window.sizes[:-1]:
        size.first(session, clock)

    phases.enter("warm-up")
    begun = clock()
    for size in window.sizes:
        size.block_calls = _calls_for(
            size, session, clock, seconds=turns.block_s / len(window.sizes), least_s=preset.warmup_s / 2
        )
    until_steady(lambda: _block(window, session, clock))
    window.warmup_s = clock() - begun
    for size in window.sizes:
        size.forget()

    phases.enter("window")
    compiled = session.compilations()
    while turns.next(window):
        for size in window.sizes:
            size.lead(session, turns.lead)
        with turns.block():
            window.blocks_s.append(_block(window, session, clock))
    if compiled is not None:
        window.compilations = (session.compilations() or 0) - compiled
    return window


def sizes(batches: Sequence[Batch], trim: Callable[[Batch], Batch] | None) -> list[Size]:
    """Single examples from the first batch or more, and the batches as they are; one size where a batch has one example."""
    rows = len(batches[0].labels)
    singles = [_row(batch, at) for batch in batches for at in range(rows) if np.any(batch.weights[at])]
    whole = Size(rows, _asks(batches, trim))
    return [Size(1, _asks(singles[:SINGLES], trim)), whole] if rows > 1 else [whole]


def _row(batch: Batch, at: int) -> Batch:
    inputs = {name: value[at : at + 1] for name, value in batch.inputs.items()}
    return Batch(inputs, batch.labels[at : at + 1], batch.weights[at : at + 1])


def _asks(batches: Sequence[Batch], trim: Callable[[Batch], Batch] | None) -> list[Ask]:
    seen: set[tuple[Any, ...]] = set()
    asks = []
    for batch in batches:
        shape = tuple(value.shape for value in (trim(batch) if trim else batch).inputs.values())
        asks.append(Ask(batch.inputs, batch.items, shape not in seen))
        seen.add(shape)
    return asks


def _calls_for(size: Size, session: Session, clock: Clock, *, seconds: float, least_s: float) -> int:
    """How many calls last about so long, after calls for `least_s` or more."""
    size.block_calls = 1
    start = clock()
    while not size.calls_s or clock() - start < least_s:
        size.block(session, clock)
    return max(1, round(seconds / fmean(size.calls_s[len(size.calls_s) // 2 :])))


def _block(window: Window, session: Session, clock: Clock) -> float:
    return sum(size.block(session, clock) for size in window.sizes)
