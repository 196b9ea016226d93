"""Intervals for ratios of positive figures. The process is the unit: one figure per process, on the log scale.

Samples from within a process are not independent (the process itself is fast or slow by its memory layout and its
neighbours), so they are never pooled over processes. Intervals are Student's t with N - 1 degrees of freedom.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
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


def mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The arithmetic mean with its t interval."""
    n = len(values)
    estimate = float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if deviation <= ROUNDING * float(np.max(np.abs(values))):
        # One process, or figures that do not vary: nothing is known about the noise.
        return Interval(estimate, None, None, n)
    half = deviation / math.sqrt(n) * float(student.ppf((1 + level) / 2, n - 1))
    return Interval(estimate, estimate - half, estimate + half, n)


def geometric_mean(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The geometric mean of positive figures with its interval, from the logarithms."""
    if max(values) - min(values) <= ROUNDING * max(values):
        return Interval(math.exp(float(np.mean(np.log(values)))), None, None, len(values))
    logs = mean([math.log(value) for value in values], level)
    if logs.low is None or logs.high is None:
        return Interval(math.exp(logs.estimate), None, None, logs.n)
    return Interval(math.exp(logs.estimate), math.exp(logs.low), math.exp(logs.high), logs.n)
