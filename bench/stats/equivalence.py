"""Equivalent, different or not decided: whether backends learn the same, from the seeds that they share.

Every backend trains with the same seeds, that is from the same initial parameters on the same batches, so figures of quality
are a two-way layout seed x backend and are analysed as randomised complete blocks: the residual variance, pooled over all B
backends that have all S seeds, has (S - 1)(B - 1) degrees of freedom (equal variances assumed), and the difference of two
backends' means the standard error s sqrt(2 / S). Two one-sided tests at 5 % each (Schuirmann, 1987,
https://doi.org/10.1007/BF01068419) say "equivalent" when the 90 % interval of the difference lies within the stated margin;
"different", when it lies beyond it. Each pair is judged by itself.
"""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

from bench.stats import intervals
from bench.stats.intervals import Interval

ERROR = 0.05  # of each of the two tests

Decision = Literal["equivalent", "different", "not decided"]
Seeds = Mapping[int, float]  # seed -> figure


class Equivalence(NamedTuple):
    """The first backend's mean against the second's."""

    decision: Decision
    difference: Interval  # first minus second, 90 %; n is the number of seeds
    margin: float


def compare_all(cells: Mapping[str, Seeds], *, margin: float) -> dict[tuple[str, str], Equivalence]:
    """A decision for every pair of backends, from the seeds that all of them have; empty without such a seed."""
    seeds = sorted(set.intersection(*(set(cell) for cell in cells.values()))) if len(cells) > 1 else []
    if not seeds:
        return {}
    layout = np.array([[cell[seed] for cell in cells.values()] for seed in seeds])  # [S, B]
    noise = intervals.noise(layout)
    means = dict(zip(cells, map(float, layout.mean(axis=0)), strict=True))
    half = None
    if noise is not None:
        half = noise.deviation * math.sqrt(2 / len(seeds)) * -float(stdtrit(noise.degrees, ERROR))
    found = {}
    for first, second in combinations(cells, 2):
        difference = Interval(means[first] - means[second], None, None, len(seeds))
        if half is not None:
            difference = difference._replace(low=difference.estimate - half, high=difference.estimate + half)
        found[first, second] = Equivalence(_decide(difference, margin), difference, margin)
    return found


def _decide(difference: Interval, margin: float) -> Decision:
    if difference.low is None or difference.high is None:
        return "not decided"
    if -margin < difference.low and difference.high < margin:
        return "equivalent"
    if difference.low > margin or difference.high < -margin:
        return "different"
    return "not decided"
