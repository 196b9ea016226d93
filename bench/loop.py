"""THE training loop: the only place that times, trains and evaluates, for every backend and task alike.

The clock is passed in and counts seconds.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np

from backends.api import Session
from tasks.spec import Batch, Evaluation, Preset

Clock = Callable[[], float]

MIN_WINDOW_S = 1.0
DISTINCT_BATCHES = 256  # built before the clock starts, and repeated in the window
CURVE_POINTS = 50


class Diverged(ArithmeticError):
    """The training loss is no longer a finite number."""


@dataclass
class Window:
    """The steady state of one process, in seconds; the fields are those of bench.record.Timings."""

    first_step_s: float = 0.0
    warmup_s: float = 0.0
    blocks_s: list[float] = field(default_factory=list)
    window_s: float = 0.0
    items: int = 0


def step(session: Session, batch: Batch) -> Any:
    """One update on a host batch; returns the loss's handle without waiting."""
    if batch.starts_sequence:
        session.reset_state()
    return session.train_step(session.put(batch))


def measure(session: Session, preset: Preset, *, clock: Clock, min_window_s: float = MIN_WINDOW_S) -> Window:
    """Times the first step, the warm-up, and then blocks of `preset.block_steps` updates with a barrier each.

    Copying a batch to the device belongs to a step; building it does not. The window has at least `preset.blocks` blocks
    and lasts at least `min_window_s`.
    """
    wanted = 1 + preset.warmup_steps + preset.block_steps * preset.blocks
    batches = list(islice(preset.task.train_batches(seed=0), min(wanted, DISTINCT_BATCHES)))
    items = [batch.items for batch in batches]
    upcoming = cycle(zip(batches, items, strict=True))
    window = Window()

    start = clock()
    step(session, next(upcoming)[0])
    session.wait()
    first = clock()
    window.first_step_s = first - start
    for batch, _ in islice(upcoming, preset.warmup_steps):
        step(session, batch)
    session.wait()
    window.warmup_s = clock() - first

    opened = block_start = clock()
    while len(window.blocks_s) < preset.blocks or window.window_s < min_window_s:
        for batch, count in islice(upcoming, preset.block_steps):
            step(session, batch)
            window.items += count
        session.wait()
        block_end = clock()
        window.blocks_s.append(block_end - block_start)
        window.window_s = block_end - opened
        block_start = block_end
    return window


def train(
    session: Session, batches: Iterator[Batch], *, steps: int, clock: Clock
) -> tuple[float, list[tuple[int, float, float]]]:
    """Trains for a budget; returns its seconds and (step, seconds, loss) at about CURVE_POINTS steps.

    Diverged names the step whose loss was seen to be infinite or not a number.
    """
    start = clock()
    interval = max(1, steps // CURVE_POINTS)
    curve: list[tuple[int, float, float]] = []
    for number, batch in enumerate(islice(batches, steps), start=1):
        loss = step(session, batch)
        if number % interval == 0 or number in (1, steps):
            value = float(session.fetch(loss))
            if not math.isfinite(value):
                raise Diverged(f"the training loss was {value} at step {number}")
            curve.append((number, clock() - start, value))
    session.wait()
    return clock() - start, curve


def evaluate(session: Session, batches: Iterable[Batch]) -> Evaluation:
    """Losses and predictions over all batches in order, padding removed."""
    session.reset_state()
    losses, predictions, labels = [], [], []
    for batch in batches:
        if batch.starts_sequence:
            session.reset_state()
        handles = session.eval_step(session.put(batch))
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
