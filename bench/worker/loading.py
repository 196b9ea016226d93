"""What a framework's own loader gives: its batches alone, and training that is fed by it beside training on ready batches.

The loader reads the task's arrays from the host's memory, as the framework's users write it (backends.api.Loads). Before
anything is timed, two of its passes are read and compared with the task's own batches: shapes, types, every example once, and
an order that is the task's or a shuffled one. What the timed parts read is not looked at again.

A turn has three blocks: steps on prepared batches (the step that `--measure training` times), steps on what the loader
yields, and the loader alone. Each begins with a few batches that are not counted. A loader that loads ahead in threads or
processes goes on while other arms have their turns, and a block could live on what it has in store. So the store is emptied
before a block wherever it would be empty if the block had gone on from the one before: with the loader alone always, and with
training where that was seen to wait for the loader in the warm-up, which runs without a break.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import cycle, islice
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from backends.api import Session, Unsupported
from bench.process import phases
from bench.records.record import Feed
from bench.worker.loop import DISTINCT_BATCHES, Clock, Diverged, Turns, step_prepared, until_steady
from bench.worker.several import steps_per_call
from tasks import batching
from tasks.spec import Array, Batch, Examples, Preset, Task

LEAD = 0.25  # of a block's batches, before its clock starts
MAX_AHEAD = 5_000  # batches that a loader may have in store: tf.data's limit is 2,048
WAITS = 0.5  # of the time that the loader alone takes for a batch: a batch that was waited for as long was not in store
MAX_Z = 5.0
"""Standard errors of a correlation from 0; of unrelated orders, one pair in 1.7 million has more."""


class LoaderFault(Exception):
    """The loader does not hand over the task's batches; the message says what is wrong."""


class Fed(NamedTuple):
    """A batch that `put` takes, and what it counts for."""

    prepared: Any
    starts_sequence: bool
    items: int


class Stream:
    """Batches, and how long each was waited for."""

    def __init__(self, batches: Iterator[Fed], clock: Clock) -> None:
        self.batches, self.clock = batches, clock
        self.waits_s: list[float] = []

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Fed:
        start = self.clock()
        one = next(self.batches)
        self.waits_s.append(self.clock() - start)
        return one


class Part:
    """One of the blocks of a turn."""

    def __init__(self, batches: Stream, take: Callable[[Fed], Any], session: Session, *, multiple: int) -> None:
        self.batches, self.take, self.session, self.multiple = batches, take, session, multiple
        self.batch_s = 0.0  # of one batch, without a break
        self.load_s = 0.0  # of a batch of the loader alone, where the store is to be emptied before a block
        self.block_batches = multiple
        self.blocks_s: list[float] = []
        self.items = 0
        self.last: Any = None  # what the last batch gave

    def block(self, clock: Clock) -> float:
        """Takes one block's batches, after some that are not counted; returns its seconds."""
        self._empty_store()
        self._take(self.multiple * math.ceil(LEAD * self.block_batches / self.multiple))
        start = clock()
        self.items += self._take(self.block_batches)
        self.blocks_s.append(clock() - start)
        return self.blocks_s[-1]

    def size(self, clock: Clock, *, seconds: float, least_s: float, least: int) -> None:
        """Finds how many batches last about so long, after some for `least_s` and at least so many."""
        start, taken = clock(), 0
        while taken < least or clock() - start < least_s:
            self._take(self.multiple)
            taken += self.multiple
        start, batches = clock(), max(self.multiple, taken // 2 // self.multiple * self.multiple)
        self.batches.waits_s.clear()
        self._take(batches)
        self.batch_s = (clock() - start) / batches
        self.block_batches = self.multiple * max(1, round(seconds / self.batch_s / self.multiple))

    def waits(self, load_s: float) -> bool:
        """Whether most of the last batches were waited for about as long as the loader takes for one."""
        return median(self.batches.waits_s) >= WAITS * load_s

    def _empty_store(self) -> None:
        for _ in range(MAX_AHEAD if self.load_s else 0):
            next(self.batches)
            if self.batches.waits_s[-1] >= WAITS * self.load_s:
                break

    def _take(self, count: int) -> int:
        items = 0
        for one in islice(self.batches, count):
            self.last = self.take(one)
            items += one.items
        self.session.wait()
        return items

    def forget(self) -> None:
        """What was taken so far is no part of the window."""
        self.blocks_s, self.items = [], 0
        self.batches.waits_s.clear()

    def told(self) -> Feed:
        """The window's figures."""
        return Feed(self.block_batches, self.blocks_s, self.items)


class Window:
    """The steady state of one process; what turns are given (loop.Turns)."""

    def __init__(self) -> None:
        self.first_s = self.warmup_s = 0.0
        self.items: list[int] = []  # of each batch of a pass
        self.parts: dict[str, Part] = {}
        self.blocks_s: list[float] = []
        self.compilations: int | None = None

    def forget(self) -> None:
        """What was timed so far becomes a part of the warm-up."""
        self.warmup_s += sum(self.blocks_s)
        self.blocks_s = []
        for part in self.parts.values():
            part.forget()


def measure(session: Session, preset: Preset, *, turns: Turns, clock: Clock = time.perf_counter) -> Window:
    """Proves the loader, warms all three parts up until they are steady, and then times blocks of each.

    Unsupported where the task hands over no arrays or the backend has no loader; LoaderFault where the loader is no proper one;
    Diverged where the training goes wrong.
    """
    task, window = preset.task, Window()
    if not hasattr(task, "training_examples"):
        raise Unsupported(f"{task.name} provides no arrays that a loader could read (tasks.spec.Examples)")
    if not hasattr(session, "loader"):
        raise Unsupported("this backend has no loader of its own (backends.api.Loads)")
    examples: Examples = task.training_examples()
    phases.enter("checks")
    start = clock()
    loader = session.loader(examples, seed=0)
    window.first_s = _first(loader, clock) - start
    window.items = prove(session, task, examples, loader)

    phases.enter("first step")
    together = steps_per_call(session)
    ready = [
        Fed(session.prepare(batch), batch.starts_sequence, batch.items)
        for batch in islice(batching.endless(task, 0), DISTINCT_BATCHES)
    ]

    def train(one: Fed) -> Any:
        return step_prepared(session, one.prepared, starts_sequence=one.starts_sequence)

    passes = [_passes(loader, window.items, carries=not examples.shuffled) for _ in range(2)]
    window.parts = {
        "prepared": Part(Stream(cycle(ready), clock), train, session, multiple=together),
        "fed": Part(Stream(passes[0], clock), train, session, multiple=together),
        "alone": Part(Stream(passes[1], clock), lambda one: None, session, multiple=1),
    }
    window.parts["prepared"].block(clock)

    phases.enter("warm-up")
    begun, share = clock(), 1 / len(window.parts)
    for part in window.parts.values():
        part.size(clock, seconds=share * turns.block_s, least_s=share * preset.warmup_s, least=preset.warmup_steps)
    fed, alone = window.parts["fed"], window.parts["alone"]
    alone.load_s = alone.batch_s
    fed.load_s = alone.batch_s if fed.waits(alone.batch_s) else 0.0
    until_steady(lambda: _turn(window, clock))
    window.warmup_s = clock() - begun
    for part in window.parts.values():
        part.forget()

    phases.enter("window")
    compiled = session.compilations()
    while turns.next(window):
        with turns.block():
            window.blocks_s.append(_turn(window, clock))
        _check_loss(session, window)
    if compiled is not None:
        window.compilations = (session.compilations() or 0) - compiled
    for one_pass in passes:  # the loader may have processes
        one_pass.close()
    return window


def _first(loader: Iterable[Any], clock: Clock) -> float:
    """The time of the loader's first batch."""
    passing = iter(loader)
    next(passing)
    return clock()


def _passes(loader: Iterable[Any], items: Sequence[int], *, carries: bool) -> Generator[Fed]:
    """Pass after pass; LoaderFault where one has another number of batches than those that were proven."""
    while True:
        count = 0
        for prepared in loader:
            yield Fed(prepared, carries and not count, items[count] if count < len(items) else 0)
            count += 1
        if count != len(items):
            raise LoaderFault(f"a later pass of the loader has {count:,} batches, the first two have {len(items):,}")


def _turn(window: Window, clock: Clock) -> float:
    return sum(part.block(clock) for part in window.parts.values())


def _check_loss(session: Session, window: Window) -> None:
    for name in ("prepared", "fed"):
        loss = float(session.fetch(window.parts[name].last))
        if not math.isfinite(loss):
            raise Diverged(f"the training loss was {loss} on {name} batches")


# The proof.


class _Pass(NamedTuple):
    """What a pass over the examples consists of."""

    rows: list[bytes]  # a digest of each example that counts, in the order in which they came
    forms: set[str]  # of a batch: names, shapes and types
    weights: list[Array]  # of each batch


def prove(session: Session, task: Task, examples: Examples, loader: Iterable[Any]) -> list[int]:
    """Compares two passes of the loader with one of the task's own batches; returns the items of each batch of a pass.

    LoaderFault names the first difference.
    """
    count = batching.steps_per_epoch(len(examples.labels), examples.batch_size)
    own = list(islice(batching.endless(task, 0), count))
    on_host: Callable[[Any], Batch] = session.on_host  # type: ignore[attr-defined]
    wanted = _read(map(on_host, map(session.prepare, own)))
    in_order = batching.in_order(examples.inputs, examples.labels, batch_size=examples.batch_size)
    places: dict[bytes, int] = {}
    for row in _read(map(on_host, map(session.prepare, in_order))).rows:
        places.setdefault(row, len(places))
    passes = [_read(map(on_host, islice(loader, count + 1))) for _ in range(2)]
    for found in passes:
        _check_content(found, wanted, unit=task.unit)
    if examples.shuffled:
        _check_shuffled([[places[row] for row in found.rows] for found in passes])
    elif any(found.rows != wanted.rows for found in passes):
        raise LoaderFault(
            "the loader's batches come in a different order from the task's, whose examples form a sequence"
        )
    return [batch.items for batch in own]


def _read(batches: Iterable[Batch]) -> _Pass:
    found = _Pass([], set(), [])
    for batch in batches:
        arrays = {**{name: batch.inputs[name] for name in sorted(batch.inputs)}, "labels": batch.labels}
        found.forms.add(", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in arrays.items()))
        found.weights.append(np.array(batch.weights))
        counts = np.flatnonzero(batch.weights.reshape(len(batch.weights), -1).any(axis=1))
        for row in counts:
            digest = blake2b(digest_size=16)
            for value in arrays.values():
                digest.update(np.ascontiguousarray(value[row]).tobytes())
            found.rows.append(digest.digest())
    return found


def _check_content(found: _Pass, wanted: _Pass, *, unit: str) -> None:
    if found.forms != wanted.forms:
        raise LoaderFault(f"the loader's batches are {' and '.join(sorted(found.forms)) or 'none'}; the task's are "
                          f"{' and '.join(sorted(wanted.forms))}")  # fmt: skip
    there, due = Counter(found.rows), Counter(wanted.rows)
    if there != due:
        raise LoaderFault(
            f"a pass of the loader is missing {(due - there).total():,} of {due.total():,} examples and has "
            f"{(there - due).total():,} too many"
        )
    if len(found.weights) != len(wanted.weights):
        raise LoaderFault(
            f"a pass of the loader has {len(found.weights):,} batches, the task's {len(wanted.weights):,}"
        )
    for number, (weights, own) in enumerate(zip(found.weights, wanted.weights, strict=True), start=1):
        if weights.dtype != own.dtype or not np.array_equal(weights, own):
            raise LoaderFault(f"batch {number:,} of the loader weights its {unit} differently from the task")


def _check_shuffled(passes: Sequence[Sequence[int]]) -> None:
    """Of two passes, each the numbers of its examples in the order of the data set: neither is in that order, nor alike.

    Pearson's correlation of an order that was drawn by lot with any other has mean 0 and variance 1 / (n - 1), whatever the
    numbers are (the permutation test; Pitman, 1937), so that examples that occur twice do no harm.
    """
    count = len(passes[0])
    orders: list[tuple[str, Sequence[int]]] = [("that of the data set", range(count))]
    for number, order in enumerate(passes, start=1):
        for what, other in orders:
            correlation = _correlation(order, other)
            if abs(correlation) * math.sqrt(count - 1) > MAX_Z:
                raise LoaderFault(
                    f"the order of pass {number} is not shuffled: its correlation with {what} is {correlation:.2f}"
                )
        orders.append((f"that of pass {number}", order))


def _correlation(first: Sequence[int], second: Sequence[int]) -> float:
    one, other = (np.asarray(order, np.float64) - np.mean(order) for order in (first, second))
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0  # examples that are all the same have no order
