"""Planned rounds: exact powers against another way of computing them, and the plan against both."""

import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from bench.stats import power
from bench.stats.verdict import ERROR, MARGIN

EDGE = math.log1p(MARGIN)


@pytest.mark.parametrize("rounds", [3, 5, 12, 30])
@pytest.mark.parametrize(("noise", "effect"), [(0.01, 0.05), (0.02, 0.1), (0.05, 0.2), (0.08, 0.05)])
@pytest.mark.parametrize("pairs", [1, 3])
def test_the_power_is_that_of_the_noncentral_t_distribution(
    rounds: int, noise: float, effect: float, pairs: int
) -> None:
    shift = (math.log1p(effect) - EDGE) * math.sqrt(rounds) / (math.sqrt(2) * noise)
    quantile = scipy_stats.t.isf(ERROR / 2 / pairs, rounds - 1)
    expected = scipy_stats.nct.sf(quantile, rounds - 1, shift)
    assert power.chance_of_finding(effect, noise, rounds=rounds, pairs=pairs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rounds", [3, 5, 12, 30])
@pytest.mark.parametrize("noise", [0.002, 0.01, 0.02, 0.05])
def test_the_chance_of_a_tie_is_the_integral_over_the_estimated_noise(rounds: int, noise: float) -> None:
    quantile = scipy_stats.t.isf(ERROR / 2, rounds - 1)
    tau = math.sqrt(2) * noise

    def tie_and(s: float) -> float:
        """The density of the estimated deviation times the chance that the mean is then near enough to 0."""
        room = EDGE - quantile * s / math.sqrt(rounds)
        inside = scipy_stats.norm.cdf(room * math.sqrt(rounds) / tau) * 2 - 1
        scale = tau / math.sqrt(rounds - 1)
        return float(inside * scipy_stats.chi.pdf(s, rounds - 1, scale=scale)) if room > 0 else 0.0

    most = min(EDGE * math.sqrt(rounds) / quantile, 20 * tau)
    expected, _ = integrate.quad(tie_and, 0, most, limit=200, points=[tau] if tau < most else None)
    assert power.chance_of_tie(noise, rounds=rounds, pairs=1) == pytest.approx(expected, abs=2e-3)


def test_hardly_any_noise_is_no_trouble() -> None:
    assert power.chance_of_tie(1e-12, rounds=2, pairs=3) == pytest.approx(1)
    assert power.chance_of_finding(0.05, 1e-12, rounds=2, pairs=3) == pytest.approx(1)
    assert power.rounds_for(1e-12, effect=0.05, pairs=3).rounds == power.LEAST_ROUNDS
    assert power.smallest_effect(1e-12, rounds=5, pairs=1) == pytest.approx(MARGIN)


@pytest.mark.parametrize(("noise", "effect", "pairs"), [(0.008, 0.05, 1), (0.01, 0.05, 3), (0.02, 0.1, 3)])
def test_the_plan_is_the_fewest_rounds_that_do_both(noise: float, effect: float, pairs: int) -> None:
    plan = power.rounds_for(noise, effect=effect, pairs=pairs)
    assert power.LEAST_ROUNDS < plan.rounds < power.MOST_ROUNDS
    assert plan.enough

    def chances(rounds: int) -> tuple[float, float]:
        found = power.chance_of_finding(effect, noise, rounds=rounds, pairs=pairs)
        return power.chance_of_tie(noise, rounds=rounds, pairs=pairs), found

    assert (plan.tie, plan.found) == chances(plan.rounds)
    tie, found = chances(plan.rounds - 1)
    assert tie < power.TIE_WANTED or found < power.FOUND_WANTED


def test_too_much_noise_gets_the_most_rounds_and_the_plan_says_that_they_are_not_enough() -> None:
    plan = power.rounds_for(0.2, effect=0.05, pairs=3)
    assert plan.rounds == power.MOST_ROUNDS
    assert not plan.enough
    assert plan.found < 0.1


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("rounds", [3, 5, 20])
def test_the_smallest_effect_is_found_with_the_wanted_chance(noise: float, rounds: int) -> None:
    effect = power.smallest_effect(noise, rounds=rounds, pairs=3)
    assert effect is not None
    assert effect > MARGIN
    assert power.chance_of_finding(effect, noise, rounds=rounds, pairs=3) == pytest.approx(power.FOUND_WANTED, abs=1e-6)


def test_noise_that_hides_everything_leaves_no_visible_effect() -> None:
    assert power.smallest_effect(30.0, rounds=2, pairs=3) is None


def test_more_noise_needs_more_rounds_and_more_rounds_see_smaller_effects() -> None:
    rounds = [power.rounds_for(noise, effect=0.05, pairs=3).rounds for noise in (0.002, 0.005, 0.01, 0.02)]
    assert rounds == sorted(rounds)
    assert len(set(rounds)) > 2
    effects = [power.smallest_effect(0.02, rounds=n, pairs=3) for n in (3, 5, 8, 20)]
    assert list(np.diff(effects) < 0) == [True] * 3
