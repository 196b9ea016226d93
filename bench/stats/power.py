"""How often a verdict of bench/stats/verdict.py is reached at a given noise: for planning rounds before they are measured.

One process's log throughput has the standard deviation `noise` within its round, so a round's log ratio of two backends has
tau = sqrt(2) noise. With N rounds, D the true log ratio, m the margin's logarithm, t the quantile of Student's t with N - 1
degrees of freedom at Holm's level for the first of a table's pairs, and u = s / tau the ratio of the estimated to the true
deviation, whose square is chi-squared over N - 1 and independent of the mean (normal noise):

    P(tie | D = 0)     = E[ max(0, 2 Phi(m sqrt(N) / tau - t u) - 1) ]
    P(faster | D > m)  = E[ Phi((D - m) sqrt(N) / tau - t u) ]              the upper tail of the noncentral t distribution

The expectations are integrals over u, done by Gauss-Legendre quadrature over its quantiles. Holm's later steps are easier than
the first, so for a pair of a larger table both are lower bounds.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from bench.records.limits import LEAST_ROUNDS, MARGIN, MOST_ROUNDS
from bench.stats.verdict import ERROR

MOST_EFFECT = 1000.0
TIE_WANTED, FOUND_WANTED = 0.95, 0.9

PILOT_CONFIDENCE = 0.8
"""Three rounds say little about noise: planned is for the bound below which it lies with this confidence."""

NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)


class Plan(NamedTuple):
    """A number of rounds and what it achieves."""

    rounds: int
    tie: float  # chance that two equal backends are called a tie
    found: float  # chance that the wanted effect is called faster or slower

    @property
    def enough(self) -> bool:
        return self.tie >= TIE_WANTED and self.found >= FOUND_WANTED


def rounds_for(noise: float, *, effect: float, pairs: int) -> Plan:
    """The fewest rounds that achieve both TIE_WANTED and FOUND_WANTED, else MOST_ROUNDS."""
    for rounds in range(LEAST_ROUNDS, MOST_ROUNDS + 1):
        tie = chance_of_tie(noise, rounds=rounds, pairs=pairs)
        plan = Plan(rounds, tie, chance_of_finding(effect, noise, rounds=rounds, pairs=pairs))
        if plan.enough:
            break
    return plan


def chance_of_tie(noise: float, *, rounds: int, pairs: int) -> float:
    """That two equally fast backends are called a tie."""
    edge = _in_errors(math.log1p(MARGIN), noise, rounds)
    t = _quantile(rounds, pairs)
    return _expectation(lambda u: np.maximum(0.0, 2 * ndtr(edge - t * u) - 1), rounds - 1)


def chance_of_finding(effect: float, noise: float, *, rounds: int, pairs: int) -> float:
    """That a backend which is faster by `effect` (0.05 is 5 %) is called so."""
    return _found(math.log1p(effect), noise, rounds, pairs)


def _found(log_effect: float, noise: float, rounds: int, pairs: int) -> float:
    beyond = _in_errors(log_effect - math.log1p(MARGIN), noise, rounds)
    t = _quantile(rounds, pairs)
    return _expectation(lambda u: ndtr(beyond - t * u), rounds - 1)


@cache
def smallest_effect(noise: float, *, rounds: int, pairs: int) -> float | None:
    """The effect that is called faster with the chance FOUND_WANTED; 0.05 is 5 %. None beyond a factor of MOST_EFFECT."""
    from scipy.optimize import brentq  # a third of a second, which most reports do without

    def missing(log_effect: float) -> float:
        return _found(log_effect, noise, rounds, pairs) - FOUND_WANTED

    low, high = math.log1p(MARGIN), math.log(MOST_EFFECT)
    return math.expm1(float(brentq(missing, low, high))) if missing(high) > 0 else None


def _in_errors(distance: float, noise: float, rounds: int) -> float:
    return distance * math.sqrt(rounds) / (math.sqrt(2) * noise)


def _quantile(rounds: int, pairs: int) -> float:
    return -float(stdtrit(rounds - 1, ERROR / 2 / pairs))


def _expectation(of: Callable[[np.ndarray], np.ndarray], degrees: int) -> float:
    """The mean of a function of u, where degrees * u**2 is chi-squared."""
    return min(1.0, float(WEIGHTS @ of(_quantiles(degrees))) / 2)


@cache
def _quantiles(degrees: int) -> np.ndarray:
    """Those of u at which the integral is taken."""
    return np.asarray(np.sqrt(chdtri(degrees, (1 - NODES) / 2) / degrees))
