"""Intervals for ratios of positive figures. The process is the unit: one figure per process, on the log scale.

Samples from within a process are not independent (the process itself is fast or slow by its memory layout and its
neighbours), so they are never pooled over processes. Intervals are Student's t with N - 1 degrees of freedom.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, stdtrit

LEVEL = 0.95
MOST_LOG = 700.0  # beyond it a float ends
ROUNDING = 1e-12  # figures that differ by no larger a share do not differ


class Interval(NamedTuple):
    """An estimate and, where there are at least two unequal figures, its interval."""

    estimate: float
    low: float | None
    high: float | None
    n: int

    @property
    def known(self) -> bool:
        return self.low is not None

    def __neg__(self) -> "Interval":
        """Of a difference, the other way round."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Interval(-self.estimate, low, high, self.n)


class Noise(NamedTuple):
    """A standard deviation and its degrees of freedom."""

    deviation: float
    degrees: int

    def upper(self, confidence: float) -> float:
        """The bound below which the true deviation lies with this confidence, by the chi-squared distribution."""
        return self.deviation * math.sqrt(self.degrees / float(chdtri(self.degrees, confidence)))


def noise(layout: Sequence[Sequence[float]] | np.ndarray) -> Noise | None:
    """The noise of one figure in randomised complete blocks [blocks, arms]: what blocks and arms do not explain.

    The residuals of the two-way layout have (blocks - 1)(arms - 1) degrees of freedom (Fisher, The Design of Experiments,
    1935). None where there are none, or where nothing varies.
    """
    values = np.array(layout, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2:
        return None
    degrees = (values.shape[0] - 1) * (values.shape[1] - 1)
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    deviation = math.sqrt(float(np.sum(residuals**2)) / degrees)
    if deviation <= ROUNDING * float(np.max(np.abs(values))):
        return None
    return Noise(deviation, degrees)


def mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The arithmetic mean with its t interval."""
    n = len(values)
    estimate, deviation = moments(values)
    if deviation <= ROUNDING * max(map(abs, values)):
        # One process, or figures that do not vary: nothing is known about the noise.
        return Interval(estimate, None, None, n)
    half = deviation / math.sqrt(n) * _quantile(n - 1, (1 + level) / 2)
    return Interval(estimate, estimate - half, estimate + half, n)


def moments(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation, which is 0 of a single figure.

    Sums are exact until they are rounded once: neither the order of the figures nor a library's way of adding them changes a
    digit.
    """
    n = len(values)
    estimate = math.fsum(values) / n
    squares = ((value - estimate) * (value - estimate) for value in values)
    return estimate, math.sqrt(math.fsum(squares) / (n - 1)) if n > 1 else 0.0


@cache
def _quantile(degrees: int, probability: float) -> float:
    """Of Student's t distribution."""
    return float(stdtrit(degrees, probability))


def geometric_mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The geometric mean of positive figures with its interval, from the logarithms."""
    if max(values) - min(values) <= ROUNDING * max(values):
        return Interval(math.exp(math.fsum(map(math.log, values)) / len(values)), None, None, len(values))
    logs = mean([math.log(value) for value in values], level)
    if logs.low is None or logs.high is None:
        return Interval(math.exp(logs.estimate), None, None, logs.n)
    high = math.exp(min(logs.high, MOST_LOG))
    return Interval(math.exp(logs.estimate), math.exp(logs.low), high, logs.n)
