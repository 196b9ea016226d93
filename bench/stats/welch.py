"""Two means of figures that were not paired, by Welch's t test (1947, https://www.jstor.org/stable/2332510).

For rounds that did not take turns: those of two folders (bench/report/compare.py), or of two points of a sweep
(bench/report/scaling.py). Figures are logarithms of throughputs, one per process.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from bench.stats import intervals
from bench.stats.intervals import Interval


class Difference(NamedTuple):
    """Of the means of logarithms."""

    centre: float
    error: float  # 0: nothing is known about the noise
    freedom: float


def difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """The mean after, less the one before."""
    (mean_before, *_), (mean_after, *_) = moments = [intervals.moments(values) for values in (before, after)]
    centre = mean_after - mean_before
    if min(len(before), len(after)) < 2:
        return Difference(centre, 0.0, 0.0)
    parts = [deviation**2 / len(values) for (_, deviation), values in zip(moments, (before, after), strict=True)]
    error = math.sqrt(sum(parts))
    if error <= intervals.ROUNDING:
        return Difference(centre, 0.0, 0.0)
    # Welch-Satterthwaite
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(share**2 / (len(v) - 1) for share, v in zip(shares, (before, after), strict=True))
    return Difference(centre, error, freedom)


def ratio(before: Sequence[float], after: Sequence[float], level: float = intervals.LEVEL) -> Interval:
    """What the figures after are to those before, with its interval; the number is that of the fewer."""
    found = difference(before, after)
    n = min(len(before), len(after))
    if not found.error:
        return Interval(math.exp(found.centre), None, None, n)
    half = found.error * float(stdtrit(found.freedom, (1 + level) / 2))
    return Interval(math.exp(found.centre), math.exp(found.centre - half), math.exp(found.centre + half), n)
