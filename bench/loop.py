"""THE training loop: the only place that times, trains and evaluates, for every backend and task alike.

The clock is passed in and counts seconds.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from typing import Any

import numpy as np

from backends.api import Session
from bench import phases
from bench.record import Timings
from tasks.spec import Batch, Evaluation, Preset

Clock = Callable[[], float]

MIN_WINDOW_S = 1.0
DISTINCT_BATCHES = 256  # built before the clock starts, and repeated in the window
CURVE_POINTS = 50

CHECKS = 5  # of the barrier
MOST_UNFINISHED = 0.5  # of a step, undone after a barrier: less is noise, and a forward pass alone is a third of a step
MOST_APART = 0.01  # the blocks' sum and the window
HICCUP_S = 0.01  # between two readings of a clock the kernel may give the core to somebody else
STEADY = 0.1  # a window's first and last quarter may be so far apart


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
    tokens: int | None = None
    compilations: int | None = None
    losses: list[float] = field(default_factory=list)


def step(session: Session, batch: Batch) -> Any:
    """One update on a host batch; returns the loss's handle without waiting."""
    if batch.starts_sequence:
        session.reset_state()
    return session.train_step(session.put(batch))


def measure(
    session: Session,
    preset: Preset,
    *,
    clock: Clock,
    min_window_s: float = MIN_WINDOW_S,
    around: AbstractContextManager[object] | None = None,
) -> Window:
    """Times the first step, the warm-up, and then blocks of `preset.block_steps` updates with a barrier each.

    Copying a batch to the device belongs to a step; building it does not. The window has at least `preset.blocks` blocks
    and lasts at least `min_window_s`; `around` is entered just before it and left just after. Of the loss of each block's last
    update only the handle is kept there; its value is fetched when the window has closed, and costs no block any time. Diverged
    names the block whose loss was not a finite number.
    """
    wanted = 1 + preset.warmup_steps + preset.block_steps * preset.blocks
    batches = list(islice(preset.task.train_batches(seed=0), min(wanted, DISTINCT_BATCHES)))
    count_tokens = getattr(preset.task, "tokens", lambda batch: 0)
    counted = [(batch, batch.items, count_tokens(batch)) for batch in batches]
    upcoming = cycle(counted)
    window = Window()
    tokens = 0
    losses: list[Any] = []  # handles

    start = clock()
    step(session, next(upcoming)[0])
    session.wait()
    first = clock()
    window.first_step_s = first - start
    phases.enter("warm-up")
    for batch, *_ in islice(upcoming, preset.warmup_steps):
        step(session, batch)
    session.wait()
    window.warmup_s = clock() - first

    phases.enter("window")
    compiled = session.compilations()
    with around or nullcontext():
        opened = block_start = clock()
        while len(window.blocks_s) < preset.blocks or block_start - opened < min_window_s:
            for batch, items, of_tokens in islice(upcoming, preset.block_steps):
                loss = step(session, batch)
                window.items += items
                tokens += of_tokens
            session.wait()
            block_end = clock()
            losses.append(loss)
            window.blocks_s.append(block_end - block_start)
            block_start = block_end
        window.window_s = clock() - opened
    if compiled is not None:
        window.compilations = (session.compilations() or 0) - compiled
    window.tokens = tokens or None
    window.losses = [float(session.fetch(loss)) for loss in losses]
    for block, value in enumerate(window.losses, start=1):
        if not math.isfinite(value):
            raise Diverged(f"the training loss was {value} at the end of the window's block {block}")
    return window


def check_barrier(session: Session, batches: Iterator[Batch], *, clock: Clock) -> tuple[float, float]:
    """(seconds of a barrier with nothing to wait for, seconds of work that was undone after a barrier).

    Reading the parameters waits for everything that makes them. Just after a barrier it should take no longer than later.
    """
    barriers, early, late = [], [], []
    for batch in islice(batches, CHECKS):
        step(session, batch)
        session.wait()
        early.append(_seconds(session.params, clock))
        late.append(_seconds(session.params, clock))
        barriers.append(_seconds(session.wait, clock))
    # The least of each: what was left undone is there every time, an interruption by the kernel is not.
    return median(barriers), max(0.0, min(early) - min(late))


def faults(timings: Timings) -> list[str]:
    """Why these timings do not measure a steady state, in words; empty if they do."""
    found = []
    step_s = timings.window_s / (len(timings.blocks_s) * timings.block_steps)
    if timings.compilations:
        found.append(f"{timings.compilations} compilations inside the timed window: a batch of another shape?")
    if timings.unfinished_s is not None and timings.unfinished_s > MOST_UNFINISHED * step_s:
        share = timings.unfinished_s / step_s
        found.append(f"the barrier does not wait: {share:.0%} of a step was still undone after it")
    if abs(sum(timings.blocks_s) - timings.window_s) > max(MOST_APART * timings.window_s, HICCUP_S):
        found.append(f"the blocks' sum and the window are more than {MOST_APART:.0%} apart")
    return found


def unsteady(blocks_s: list[float]) -> str | None:
    """What to say about a window whose speed changed from its first quarter to its last; None if it did not."""
    quarter = max(1, len(blocks_s) // 4)
    first, last = median(blocks_s[:quarter]), median(blocks_s[-quarter:])
    change = last / first - 1
    if abs(change) <= STEADY:
        return None
    more = "more" if change > 0 else "less"
    return f"not steady: blocks of the window's last quarter took {abs(change):.0%} {more} time than those of its first"


def _seconds(call: Callable[[], object], clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


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
