"""Faster, slower, tie or not decided: what a paired comparison of two arms can say.

The logarithms of the two throughputs are paired by round. With d their mean difference, s its standard error and m the
margin, "faster" needs d - t s > log(1 + m), "slower" d + t s < -log(1 + m), and "tie" that the whole interval lies within
the margin; anything else is not decided. Over the pairs of a table's family the three-way decisions are Holm's (1979,
https://www.jstor.org/stable/4615733), so that the chance of one wrong decision in the whole table stays at 5 %. Where the
fastest arm, with which the others are compared, is picked from the same rounds, and arms differ by exactly the margin, it was
up to 12 % in simulation (ten arms, eight of them faster; tests/test_promises.py); of equal arms, below 1 %.

Where rounds were added because a verdict was open, each pair may spend a share of the error only (bench/stats/looks.py): its
p-value is divided by it.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from scipy.special import stdtr, stdtrit

from bench.records.limits import MARGIN
from bench.stats import intervals
from bench.stats.intervals import Interval

ERROR = 0.05  # two-sided, for a whole table
MOST_ROUNDS = 1000

Decision = Literal["faster", "slower", "tie", "not decided"]
Rounds = Mapping[int, float]  # round -> throughput
Name = TypeVar("Name", bound=Hashable)  # of an arm, or of an arm with what it does


class Verdict(NamedTuple):
    """The first arm against the second."""

    decision: Decision
    ratio: Interval  # of throughputs, first to second
    rounds_needed: int | None  # for a decision at this noise and difference; None if decided, or not to be had


def compare_all(
    cells: Mapping[Name, Rounds],
    *,
    family: Sequence[tuple[Name, Name]] | None = None,
    margin: float = MARGIN,
    adjusted: bool = True,
    shares: Mapping[Name, float] | None = None,
) -> dict[tuple[Name, Name], Verdict]:
    """A verdict for every pair of a family, by default all pairs of a table, in both directions.

    The interval of each ratio is the one that decided: at the level of the pair's step in Holm's procedure, or, from the first
    step on that is not decided, at that one's. Without `adjusted` each is a 95 % interval of its own. `shares` says of an
    arm what share of the error its verdicts may spend, where that is not the whole.
    """
    shares = shares or {}
    pairs = list(combinations(cells, 2) if family is None else family)
    differences = {pair: _paired(cells[pair[0]], cells[pair[1]]) for pair in pairs}
    share = {pair: min(shares.get(name, 1.0) for name in pair) for pair in pairs}
    p_values = {pair: _p_value(differences[pair], margin) / share[pair] for pair in pairs}
    ranked = sorted(pairs, key=p_values.__getitem__)
    verdicts: dict[tuple[Name, Name], Verdict] = {}
    deciding, level = True, ERROR / 2
    for rank, pair in enumerate(ranked):
        level = ERROR / 2 / (len(ranked) - rank) if deciding or not adjusted else level
        deciding = deciding and p_values[pair] <= level
        spent = level * share[pair]
        decision = _direction(differences[pair], margin) if deciding else "not decided"
        needed = None if deciding else _rounds_needed(differences[pair], margin=margin, level=spent)
        for (first, second), told in ((pair, decision), (pair[::-1], _OPPOSITE[decision])):
            ratios = [cells[first][r] / cells[second][r] for r in _common(cells[first], cells[second])]
            if ratios:
                confidence = 1 - 2 * spent if adjusted else intervals.LEVEL
                verdicts[first, second] = Verdict(told, intervals.geometric_mean(ratios, confidence), needed)
    return verdicts


_OPPOSITE: Mapping[Decision, Decision] = {
    "faster": "slower", "slower": "faster", "tie": "tie", "not decided": "not decided",
}  # fmt: skip


def _common(first: Rounds, second: Rounds) -> list[int]:
    return sorted(set(first) & set(second))


def _paired(first: Rounds, second: Rounds) -> list[float]:
    return [math.log(first[r] / second[r]) for r in _common(first, second)]


def _summary(differences: Sequence[float]) -> tuple[float, float] | None:
    """(mean, standard error), or None where they say nothing about the noise."""
    if len(differences) < 2:
        return None
    centre, deviation = intervals.moments(differences)
    error = deviation / math.sqrt(len(differences))
    return (centre, error) if error > intervals.ROUNDING else None


def _p_value(differences: Sequence[float], margin: float) -> float:
    """One-sided p-value of the decision that the differences point to; 1 where nothing is known."""
    summary = _summary(differences)
    if summary is None:
        return 1.0
    centre, error = summary
    # How far the mean lies from the nearer edge of the margin, to whichever side of it.
    distance = abs(abs(centre) - math.log1p(margin)) / error
    return float(stdtr(len(differences) - 1, -distance))


def _direction(differences: Sequence[float], margin: float) -> Decision:
    centre, _ = intervals.moments(differences)
    if abs(centre) < math.log1p(margin):
        return "tie"
    return "faster" if centre > 0 else "slower"


def _rounds_needed(differences: Sequence[float], *, margin: float, level: float) -> int | None:
    """Smallest N at which this mean and this deviation would be a decision."""
    summary = _summary(differences)
    if summary is None:
        return None
    centre, error = summary
    deviation = error * math.sqrt(len(differences))
    distance = abs(abs(centre) - math.log1p(margin))
    candidates = np.arange(len(differences) + 1, MOST_ROUNDS + 1)
    enough = candidates[distance * np.sqrt(candidates) / deviation >= _quantiles(level)[len(differences) + 1 :]]
    return int(enough[0]) if len(enough) else None


@cache
def _quantiles(level: float) -> np.ndarray:
    """By the number of rounds, from 0 on: so many standard errors are a decision at a level."""
    degrees = np.arange(MOST_ROUNDS + 1) - 1
    return -stdtrit(np.maximum(degrees, 1), level)
