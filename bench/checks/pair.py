"""Two implementations of your own model, in any two frameworks: whether they compute the same, and which is faster.

    from bench.checks.pair import Side, pair

    weights = {"fc.weight": ("kernel", np.transpose), "fc.bias": "bias"}
    print(pair(Side("torch", step, params, load), Side("jax", ...), batches=batches, weights=weights))

The first side's weights are put into the second, and both then take the same steps. Each rung compares what they compute with
the tolerance that stands beside it; the ladder ends at the first that is not passed, and nothing is timed. Unlike the ladder of
a backend it has no reference: where both are wrong alike, it sees nothing. Dropout, and whatever else is random, must be off.

Then both take turns, block by block, in this one process. The ratio's interval is over turns; what differs from one process to
the next is not in it. For that, make each a backend (docs/extending.md).
"""

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.report.formats import with_interval
from bench.stats import intervals
from bench.stats.intervals import Interval
from bench.worker.comparison import Comparison, size

Array = npt.NDArray[Any]
Leaf = str | tuple[str, Callable[[Array], Array]]
"""A weight's name on the second side, with what makes its layout of the first side's where they differ."""

BLOCK_S = 0.2
FORWARD, LOSS, GRADIENT, MOVED, FOLLOWED = 1e-5, 1e-6, 1e-4, 2e-3, 2e-2
"""Tolerances of single precision: relative norms of outputs, of the first loss, of its gradients, of a weight's movement in one
update, and of losses and movements over all steps, in which rounding adds up."""

ROUNDING = 1e-6
"""A gradient whose root mean square is a smaller share than this of the largest one's is rounding alone. That of an attention's
key bias is: softmax does not change with what is added to all scores of a row. Adam makes a movement of full size of it."""


@dataclass(frozen=True)
class Side:
    """One of two implementations of a model."""

    name: str
    step: Callable[[Any], Any]  # one training step on a batch; its loss, a number or what NumPy reads as one
    params: Callable[[], Mapping[str, Any]]  # the weights by this side's names, as arrays that NumPy reads
    load: Callable[[Mapping[str, Array]], object]  # puts weights by this side's names in their place
    forward: Callable[[Any], Any] | None = None  # the outputs of a batch; changes nothing
    wait: Callable[[], object] = lambda: None  # returns when every step that was begun is done
    gradients: Callable[[Any], Mapping[str, Any]] | None = (
        None  # of a batch's loss, by the weights' names; changes nothing
    )

    def weights(self) -> dict[str, Array]:
        """A copy of the weights."""
        return {name: np.array(value) for name, value in self.params().items()}


@dataclass(frozen=True)
class Rung:
    """What was compared, and what came of it."""

    name: str
    worst: Comparison | None  # the one that used up most of its tolerance
    error: str | None = None
    note: str | None = None  # what was left out of it

    @property
    def passed(self) -> bool:
        return self.worst is not None and self.worst.passed

    def __str__(self) -> str:
        if self.worst is None:
            return f"FAILED  {self.name}: {self.error}"
        told = f"difference {self.worst.difference:.1e}, tolerance {self.worst.tolerance:.0e}, {self.worst.where}"
        note = f"\n        ({self.note})" if self.note else ""
        return f"{'ok      ' if self.passed else 'FAILED  '}{self.name}: {told}{note}"


@dataclass(frozen=True)
class Pair:
    """The rungs that were climbed, and the speeds of two sides that passed all of them."""

    names: tuple[str, str]
    rungs: Sequence[Rung]
    ratio: Interval | None = None  # of the second side's step to the first's: above 1, the first is faster
    steps: Sequence[float] = field(default_factory=list)  # seconds of a step of each side, medians

    @property
    def proven(self) -> bool:
        """Whether every rung was passed."""
        return all(rung.passed for rung in self.rungs)

    def __str__(self) -> str:
        lines = [str(rung) for rung in self.rungs]
        if self.ratio is not None:
            first, second = self.names
            lines.append(
                f"{first} is {with_interval(self.ratio)} times as fast as {second} "
                f"({1e3 * self.steps[0]:.3g} ms and {1e3 * self.steps[1]:.3g} ms a step, {self.ratio.n} turns in one process)"
            )
        return "\n".join(lines)


def pair(
    first: Side,
    second: Side,
    *,
    batches: Sequence[Any],
    weights: Mapping[str, Leaf],
    steps: int = 20,
    turns: int = 20,
    limit_s: float = 60.0,
    batches_of_second: Sequence[Any] | None = None,
) -> Pair:
    """Compares two sides rung by rung, and times them if all are passed and `turns` is not 0.

    `weights` has every weight of both sides; what turns one layout into the other turns gradients too. `batches` are given to
    both, one after the other and again from the first; a side with batches of another form gets `batches_of_second`. A call
    that takes longer than `limit_s` is a rung that is not passed (on the main thread; elsewhere nothing can end it), and so is
    what a side raises. Both are left as the steps left them.
    """
    climber = _Climber(first, second, list(batches), list(batches_of_second or batches), weights, steps)
    rungs: list[Rung] = []
    for name, rung_of in climber.rungs:
        try:
            with _limited(limit_s):
                climber.note = None
                worst = max(rung_of(), key=lambda found: found.share)
                rungs.append(Rung(name, worst, note=climber.note))
        except Exception as error:  # whatever a side raises is a finding about it
            rungs.append(Rung(name, None, f"{type(error).__name__}: {error}"[:500]))
        if not rungs[-1].passed:
            break
    names = (first.name, second.name)
    if not turns or len(rungs) < len(climber.rungs) or not rungs[-1].passed:
        return Pair(names, rungs)
    ratios, medians = _timed(climber, turns)
    return Pair(names, rungs, intervals.geometric_mean(ratios), medians)


class _Climber:
    """A method per rung; each yields its comparisons."""

    def __init__(
        self, first: Side, second: Side, batches: list[Any], others: list[Any], weights: Mapping[str, Leaf], steps: int
    ) -> None:
        if not batches or len(batches) != len(others):
            raise ValueError(f"{len(batches)} batches for {first.name} and {len(others)} for {second.name}")
        self.first, self.second, self.batches, self.others, self.steps = first, second, batches, others, steps
        self.map = {name: (leaf, _same) if isinstance(leaf, str) else leaf for name, leaf in weights.items()}
        self.taken = 0
        self.before: dict[str, Array] = {}  # the first side's weights at the start, in the second's layouts
        self.of_rounding: set[str] = set()  # weights whose gradient is nothing else, by the second side's names
        self.note: str | None = None  # on the rung that is climbed

    @property
    def rungs(self) -> list[tuple[str, Callable[[], Iterator[Comparison]]]]:
        """In their order."""
        return [
            ("names", self.named), ("parameters", self.loaded), ("forward", self.outputs), ("gradients", self.gradients),
            ("loss", self.loss), ("one update", self.moved), ("trajectory", self.followed),
        ]  # fmt: skip

    def named(self) -> Iterator[Comparison]:
        for side, known in ((self.first, set(self.map)), (self.second, {name for name, _ in self.map.values()})):
            missing = sorted(set(side.weights()) ^ known)
            where = f"weights of {side.name} without a counterpart: {', '.join(missing)}" if missing else "all"
            yield Comparison(where, len(missing), 0)

    def loaded(self) -> Iterator[Comparison]:
        self.before = self.in_second_layout(self.first.weights())
        self.second.load({name: np.array(value) for name, value in self.before.items()})
        found = self.second.weights()
        for name, value in self.before.items():
            if found[name].shape != value.shape:
                raise ValueError(
                    f"{name} is {found[name].shape} in {self.second.name}, and {value.shape} of {self.first.name}"
                )
            yield Comparison(name, float(np.sum(found[name] != value.astype(found[name].dtype))), 0)

    def outputs(self) -> Iterator[Comparison]:
        if self.first.forward is None or self.second.forward is None:
            yield Comparison("a side has no forward pass of its own: left to the loss", 0.0, 0.0)
            return
        yield _compared("outputs", self.second.forward(self.others[0]), self.first.forward(self.batches[0]), FORWARD)

    def gradients(self) -> Iterator[Comparison]:
        if self.first.gradients is None or self.second.gradients is None:
            yield Comparison("a side has no gradients of its own: left to the update", 0.0, 0.0)
            return
        expected = self.in_second_layout(
            {name: np.array(value) for name, value in self.first.gradients(self.batches[0]).items()}
        )
        found = {name: np.asarray(value, np.float64) for name, value in self.second.gradients(self.others[0]).items()}
        means = {name: size(value) / math.sqrt(max(value.size, 1)) for name, value in expected.items()}
        self.of_rounding = {name for name, mean in means.items() if 0 < mean < ROUNDING * max(means.values())}
        if self.of_rounding:
            self.note = f"of rounding alone, so that movements are not compared: {', '.join(sorted(self.of_rounding))}"
        floor = _floor(expected)
        for name, value in expected.items():
            if found[name].shape != value.shape:
                raise ValueError(f"gradient of {name}: shapes {value.shape} and {found[name].shape}")
            difference = size(found[name] - value)
            yield Comparison(
                f"gradient of {name}", difference / max(size(value), floor) if difference else 0.0, GRADIENT
            )

    def loss(self) -> Iterator[Comparison]:
        yield self.step(LOSS)

    def moved(self) -> Iterator[Comparison]:
        yield from self.movements(MOVED)

    def followed(self) -> Iterator[Comparison]:
        for _ in range(self.steps - 1):
            yield self.step(FOLLOWED)
        yield from self.movements(FOLLOWED)

    def step(self, tolerance: float) -> Comparison:
        """The same step of both."""
        at = self.taken % len(self.batches)
        self.taken += 1
        expected, found = self.first.step(self.batches[at]), self.second.step(self.others[at])
        return _compared(f"loss of step {self.taken}", found, expected, tolerance)

    def movements(self, tolerance: float) -> Iterator[Comparison]:
        """How far each weight has moved; one that moves far less than the others may do so by rounding alone."""
        expected = {
            name: value - self.before[name] for name, value in self.in_second_layout(self.first.weights()).items()
        }
        found = self.second.weights()
        floor = _floor(expected)
        for name, movement in expected.items():
            if name in self.of_rounding:
                continue
            difference = size(found[name].astype(np.float64) - self.before[name] - movement)
            yield Comparison(
                f"movement of {name}", difference / max(size(movement), floor) if difference else 0.0, tolerance
            )

    def in_second_layout(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.asarray(convert(weights[own]), np.float64) for own, (name, convert) in self.map.items()}


def _floor(values: Mapping[str, Array]) -> float:
    """The norm of what is so small beside the others that it is measured with theirs."""
    return math.sqrt(sum(size(value) ** 2 for value in values.values())) / 1000


def _same(value: Array) -> Array:
    return value


def _compared(where: str, found: Any, expected: Any, tolerance: float) -> Comparison:
    """The relative norm of a difference."""
    one, other = (np.asarray(value, np.float64) for value in (found, expected))
    if one.shape != other.shape:
        raise ValueError(f"{where}: shapes {other.shape} and {one.shape}")
    difference = size(one - other)
    return Comparison(where, difference / max(size(other), 1e-300) if difference else 0.0, tolerance)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds, where a signal can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _timed(climber: _Climber, turns: int) -> tuple[list[float], list[float]]:
    """Of each turn, the second side's seconds per step over the first's; and the medians of both."""
    sides = ((climber.first, climber.batches), (climber.second, climber.others))
    sizes = [max(1, round(BLOCK_S / _block(side, batches, len(batches)))) for side, batches in sides]
    found: list[list[float]] = [[], []]
    rng = random.Random(0)
    for _ in range(turns):
        for which in rng.sample((0, 1), 2):
            side, batches = sides[which]
            found[which].append(_block(side, batches, sizes[which]))
    ratios = [second / first for first, second in zip(*found, strict=True)]
    return ratios, [float(np.median(values)) for values in found]


def _block(side: Side, batches: Sequence[Any], steps: int) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    for number in range(steps):
        side.step(batches[number % len(batches)])
    side.wait()
    return (time.perf_counter() - start) / steps
