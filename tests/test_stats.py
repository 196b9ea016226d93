"""Intervals and verdicts against known values. What they promise is in tests/test_promises.py."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats as scipy_stats

from bench.report.formats import duration, mebibytes, significant, with_interval
from bench.stats import intervals, verdict
from bench.stats.intervals import Interval
from bench.stats.verdict import ERROR, MARGIN, Verdict, compare_all

FIGURES = [3.0, 3.5, 2.75, 4.25, 3.125]


def throughputs(logs: Sequence[float]) -> dict[int, float]:
    return {number: 1000 * math.exp(value) for number, value in enumerate(logs, start=1)}


def compare(logs: Sequence[float]) -> Verdict:
    """The verdict on backend a, whose log throughputs differ so much from b's."""
    return compare_all({"a": throughputs(logs), "b": throughputs([0.0] * len(logs))})["a", "b"]


def sample(*, n: int, mean: float, deviation: float) -> list[float]:
    """Figures with exactly this mean and standard deviation."""
    values = np.arange(n) - (n - 1) / 2
    return list(mean + deviation * values / np.std(values, ddof=1))


# Intervals.


def test_the_interval_of_a_mean_is_students() -> None:
    found = intervals.mean(FIGURES)
    expected = scipy_stats.ttest_1samp(FIGURES, 0).confidence_interval(0.95)
    assert found == pytest.approx((np.mean(FIGURES), expected.low, expected.high, 5), rel=1e-12)


def test_the_interval_of_two_figures_by_hand() -> None:
    # mean 2, s = sqrt(2), standard error 1, t(0.975, 1 degree of freedom) = 12.7062
    assert intervals.mean([1.0, 3.0]) == pytest.approx((2, 2 - 12.7062, 2 + 12.7062, 2), abs=1e-4)


def test_another_level_gives_another_interval() -> None:
    expected = scipy_stats.ttest_1samp(FIGURES, 0).confidence_interval(0.99)
    found = intervals.mean(FIGURES, 0.99)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_sums_are_rounded_once_so_that_no_order_changes_a_digit() -> None:
    values = [0.1, 1e16, 0.7, -1e16, 0.2]
    assert intervals.moments(values)[0] == pytest.approx(0.2, rel=1e-15)
    assert len({intervals.mean(list(order)) for order in permutations(values)}) == 1
    assert len({intervals.geometric_mean(list(order)) for order in permutations(FIGURES)}) == 1


def test_the_geometric_mean_has_the_interval_of_the_logarithms() -> None:
    found = intervals.geometric_mean(FIGURES)
    logs = intervals.mean(list(np.log(FIGURES)))
    assert found.estimate == pytest.approx(scipy_stats.gmean(FIGURES), rel=1e-12)
    assert logs.low is not None
    assert logs.high is not None
    assert (found.low, found.high) == pytest.approx((math.exp(logs.low), math.exp(logs.high)), rel=1e-12)


@pytest.mark.parametrize("interval_of", [intervals.mean, intervals.geometric_mean])
def test_one_figure_has_no_interval(interval_of: Callable[[Sequence[float]], Interval]) -> None:
    found = interval_of([3.0])
    assert found == (pytest.approx(3.0), None, None, 1)
    assert not found.known


@given(value=st.floats(1e-6, 1e12), n=st.integers(2, 12))
def test_figures_that_do_not_vary_have_no_interval_whatever_rounding_says(value: float, n: int) -> None:
    for found in (intervals.mean([value] * n), intervals.geometric_mean([value] * n)):
        assert found == (pytest.approx(value), None, None, n)


@pytest.mark.parametrize("value", [0.1, 0.95, 123.4, 1e-9])
def test_accuracies_that_are_all_the_same_are_shown_without_an_interval(value: float) -> None:
    assert with_interval(intervals.mean([value] * 3)) == significant(value)


# Verdicts.


def test_a_clear_difference_a_clear_tie_and_no_decision() -> None:
    assert compare(sample(n=5, mean=0.2, deviation=0.01)).decision == "faster"
    assert compare(sample(n=5, mean=-0.2, deviation=0.01)).decision == "slower"
    assert compare(sample(n=5, mean=0.0, deviation=0.01)).decision == "tie"
    assert compare(sample(n=5, mean=0.0, deviation=0.1)).decision == "not decided"
    assert compare(sample(n=5, mean=0.2, deviation=0.2)).decision == "not decided"


@pytest.mark.slow
def test_a_decision_is_where_the_interval_lies() -> None:
    """Of one pair: beyond the margin, inside, or across its edge."""
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(300):
        found = compare(list(rng.normal(rng.uniform(-0.08, 0.08), 0.01, 4)))
        assert found.ratio.low is not None
        assert found.ratio.high is not None
        if found.ratio.low > 1 + MARGIN:
            expected = "faster"
        elif found.ratio.high < 1 / (1 + MARGIN):
            expected = "slower"
        elif found.ratio.low > 1 / (1 + MARGIN) and found.ratio.high < 1 + MARGIN:
            expected = "tie"
        else:
            expected = "not decided"
        assert found.decision == expected
        seen.add(expected)
    assert len(seen) == 4


def test_a_difference_smaller_than_the_margin_is_no_difference_however_sure_it_is() -> None:
    assert compare(sample(n=20, mean=0.02, deviation=0.001)).decision == "tie"
    assert compare(sample(n=20, mean=math.log(1 + MARGIN), deviation=0.001)).decision == "not decided"
    assert compare(sample(n=20, mean=0.04, deviation=0.001)).decision == "faster"


def test_the_ratio_is_the_geometric_mean_of_the_rounds() -> None:
    found = compare([0.1, 0.2, 0.3])
    assert found.ratio == pytest.approx(
        intervals.geometric_mean([math.exp(value) for value in (0.1, 0.2, 0.3)]), rel=1e-9
    )


@pytest.mark.parametrize("logs", [[0.5], [0.5, 0.5, 0.5], [0.0, 0.0]])
def test_one_round_or_no_variation_decides_nothing(logs: list[float]) -> None:
    found = compare(logs)
    assert found.decision == "not decided"
    assert found.rounds_needed is None
    assert not found.ratio.known


@given(first=st.floats(1, 1e6), second=st.floats(1, 1e6), drift=st.lists(st.floats(0.5, 2), min_size=2, max_size=6))
def test_ratios_that_do_not_vary_decide_nothing_whatever_rounding_says(
    first: float, second: float, drift: list[float]
) -> None:
    cells = {
        name: {number: speed * factor for number, factor in enumerate(drift)}
        for name, speed in (("a", first), ("b", second))
    }
    found = compare_all(cells)["a", "b"]
    assert found.decision == "not decided"
    assert not found.ratio.known


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=6), st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=6))
def test_the_reverse_comparison_says_the_reverse(first: list[float], second: list[float]) -> None:
    verdicts = compare_all({"a": throughputs(first), "b": throughputs(second)})
    one, other = verdicts["a", "b"], verdicts["b", "a"]
    opposite = {"faster": "slower", "slower": "faster"}
    assert other.decision == opposite.get(one.decision, one.decision)
    assert other.rounds_needed == one.rounds_needed
    assert other.ratio.estimate == pytest.approx(1 / one.ratio.estimate)
    if one.ratio.low is not None and one.ratio.high is not None:
        assert (other.ratio.low, other.ratio.high) == pytest.approx((1 / one.ratio.high, 1 / one.ratio.low))


def test_the_order_of_the_backends_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    cells = {name: throughputs(rng.normal(shift, 0.03, 5)) for name, shift in (("a", 0), ("b", 0.1), ("c", 0.05))}
    verdicts = compare_all(cells)
    turned = compare_all({name: cells[name] for name in ("c", "a", "b")})
    assert set(verdicts) == set(turned)
    for pair, found in verdicts.items():
        assert turned[pair][::2] == found[::2]
        assert turned[pair].ratio == pytest.approx(found.ratio)


def test_only_rounds_in_common_are_paired() -> None:
    first = {1: 100.0, 2: 110.0, 3: 105.0, 5: 1e9}
    second = {1: 50.0, 2: 50.0, 3: 52.0, 4: 1e-9}
    found = compare_all({"a": first, "b": second})["a", "b"]
    assert found.ratio == pytest.approx(intervals.geometric_mean([2.0, 2.2, 105 / 52]))
    assert found.ratio.n == 3


def test_pairing_by_round_removes_what_is_common_to_a_round() -> None:
    rng = np.random.default_rng(3)
    weather = rng.normal(0, 0.3, 5)  # a machine that is slow in some rounds, for both
    cells = {
        "a": throughputs(weather + 0.1 + rng.normal(0, 0.005, 5)),
        "b": throughputs(weather + rng.normal(0, 0.005, 5)),
    }
    assert compare_all(cells)["a", "b"].decision == "faster"


def test_without_a_round_in_common_there_is_no_verdict() -> None:
    verdicts = compare_all({"a": {1: 10.0, 2: 11.0}, "b": {3: 10.0, 4: 11.0}, "c": {1: 5.0, 2: 5.6}})
    assert set(verdicts) == {("a", "c"), ("c", "a")}


def test_nothing_to_compare_is_no_error() -> None:
    assert compare_all({}) == {}
    assert compare_all({"a": {1: 10.0}}) == {}


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.05), (0.06, 0.05), (-0.1, 0.12), (0.02, 0.03), (0.3, 0.5)])
def test_the_named_number_of_rounds_decides_and_one_less_does_not(mean: float, deviation: float) -> None:
    found = compare(sample(n=4, mean=mean, deviation=deviation))
    assert found.decision == "not decided"
    needed = found.rounds_needed
    assert needed is not None
    assert needed > 4
    assert compare(sample(n=needed, mean=mean, deviation=deviation)).decision != "not decided"
    if needed > 5:
        assert compare(sample(n=needed - 1, mean=mean, deviation=deviation)).decision == "not decided"


def test_a_single_round_more_can_be_the_answer() -> None:
    # The margin's edge lies 1.4 deviations off: not enough for t(3) / sqrt(4) = 1.59, enough for t(4) / sqrt(5) = 1.24.
    assert compare(sample(n=4, mean=0.2, deviation=(0.2 - math.log1p(MARGIN)) / 1.4)).rounds_needed == 5


def test_what_no_reasonable_number_of_rounds_decides_has_no_number() -> None:
    assert compare(sample(n=4, mean=math.log(1 + MARGIN), deviation=0.1)).rounds_needed is None
    assert compare(sample(n=4, mean=0.0, deviation=5)).rounds_needed is None


def test_the_number_of_rounds_costs_no_noticeable_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table asks for it pair by pair, each time that it is drawn: at most a few calls of SciPy, which are slow."""
    calls: list[object] = []
    quantile = verdict.stdtrit
    monkeypatch.setattr(verdict, "stdtrit", lambda *a: (calls.append(a), quantile(*a))[1])
    assert compare(sample(n=4, mean=0.0, deviation=5)).rounds_needed is None
    assert len(calls) < 50


def test_a_decision_needs_no_more_rounds() -> None:
    assert compare(sample(n=5, mean=0.2, deviation=0.01)).rounds_needed is None


# Holm's correction over the pairs of a table.


def deviation_for(p: float, *, mean: float, n: int) -> float:
    """The standard deviation at which the one-sided p-value against the margin is `p`."""
    return (abs(mean) - math.log1p(MARGIN)) * math.sqrt(n) / float(scipy_stats.t.isf(p, n - 1))


def table(*p_values: float) -> list[str]:
    """Decisions of as many pairs, none of which shares a round with another, each with its p-value alone."""
    cells = {}
    for number, p in enumerate(p_values):
        logs = sample(n=5, mean=0.2, deviation=deviation_for(p, mean=0.2, n=5))
        rounds = range(10 * number, 10 * number + 5)
        cells[f"{number} fast"] = {r: math.exp(value) for r, value in zip(rounds, logs, strict=True)}
        cells[f"{number} slow"] = dict.fromkeys(rounds, 1.0)
    return [compare_all(cells)[f"{number} fast", f"{number} slow"].decision for number in range(len(p_values))]


def test_one_pair_is_judged_at_five_percent_in_two_sides() -> None:
    assert table(ERROR / 2 * 0.99) == ["faster"]
    assert table(ERROR / 2 * 1.01) == ["not decided"]


def three(p_ab: float, p_ac: float, p_bc: float) -> list[str]:
    """Decisions over three backends whose three pairs have these p-values, each pair in rounds of its own."""
    cells: dict[str, dict[int, float]] = {"a": {}, "b": {}, "c": {}}
    pairs = [("a", "b", p_ab), ("a", "c", p_ac), ("b", "c", p_bc)]
    for block, (first, second, p) in enumerate(pairs):
        for at, value in enumerate(sample(n=5, mean=0.2, deviation=deviation_for(p, mean=0.2, n=5))):
            cells[first][10 * block + at] = math.exp(value)
            cells[second][10 * block + at] = 1.0
    verdicts = compare_all(cells)
    return [verdicts[first, second].decision for first, second, _ in pairs]


HALF = ERROR / 2


def test_of_three_pairs_the_surest_is_judged_at_a_third_the_next_at_a_half_the_last_at_the_whole_level() -> None:
    assert three(HALF / 3 * 0.99, HALF / 2 * 0.99, HALF * 0.99) == ["faster", "faster", "faster"]
    assert three(HALF * 0.99, HALF / 3 * 0.99, HALF / 2 * 0.99) == ["faster", "faster", "faster"]
    assert three(HALF / 3 * 0.99, HALF / 2 * 0.99, HALF * 1.01) == ["faster", "faster", "not decided"]


def test_after_the_first_pair_that_fails_none_is_decided() -> None:
    assert three(HALF / 3 * 1.01, HALF / 3 * 1.02, HALF / 3 * 1.03) == ["not decided"] * 3
    assert three(HALF / 3 * 0.99, HALF / 2 * 1.01, HALF * 0.99) == ["faster", "not decided", "not decided"]


def four(p_ab: float, p_cd: float, *, family: list[tuple[str, str]] | None = None) -> dict[tuple[str, str], Verdict]:
    """Verdicts over four arms in two pairs that share no round, each with its p-value alone."""
    cells: dict[str, dict[int, float]] = {name: {} for name in "abcd"}
    for block, (first, second, p) in enumerate((("a", "b", p_ab), ("c", "d", p_cd))):
        for at, value in enumerate(sample(n=5, mean=0.2, deviation=deviation_for(p, mean=0.2, n=5))):
            cells[first][10 * block + at] = math.exp(value)
            cells[second][10 * block + at] = 1.0
    return compare_all(cells, family=family)


def test_only_the_pairs_of_the_family_count_and_only_they_get_a_verdict() -> None:
    """Six pairs of four arms ask for a sixth of the level at first; a family of two for a half."""
    p = HALF / 2 * 0.99
    assert p > HALF / 6
    pairs = [("a", "b"), ("c", "d")]
    assert {four(p, HALF * 0.99)[pair].decision for pair in pairs} == {"not decided"}
    found = four(p, HALF * 0.99, family=pairs)
    assert set(found) == {*pairs, ("b", "a"), ("d", "c")}
    assert [found[pair].decision for pair in pairs] == ["faster", "faster"]
    assert [found[pair[::-1]].decision for pair in pairs] == ["slower", "slower"]
    assert [four(HALF * 1.01, p, family=pairs)[pair].decision for pair in pairs] == ["not decided", "faster"]
    assert set(four(p, p, family=[("d", "c")])) == {("c", "d"), ("d", "c")}
    assert four(p, p, family=[]) == {}


def test_the_interval_is_the_one_that_decided() -> None:
    """At the level of the pair's own step: it lies beyond the margin where the pair is decided, and only there."""
    pairs = [("a", "b"), ("c", "d")]
    for p_ab, p_cd in ((HALF / 2 * 0.99, HALF * 0.99), (HALF / 2 * 0.99, HALF * 1.01), (HALF / 2 * 1.01, HALF * 0.99)):
        for found in (four(p_ab, p_cd, family=pairs)[pair] for pair in pairs):
            assert found.ratio.low is not None
            assert (found.ratio.low > 1 + MARGIN) == (found.decision == "faster")
    plain = compare_all({"a": throughputs(FIGURES), "b": throughputs([0.0] * 5)}, adjusted=False)["a", "b"]
    assert plain.ratio == pytest.approx(intervals.geometric_mean([math.exp(value) for value in FIGURES]))


# How figures are written.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.0, "12,300"),
        (1234.5, "1,230"),
        (123.4, "123"),
        (1.0, "1.00"),
        (0.012345, "0.0123"),
        (0.0, "0"),
        (-5.5, "-5.50"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(12345.6, 12000.0, 12700.0, 5), "12,350 (12,000-12,700)"),
        (Interval(1.23456, 1.2, 1.27, 5), "1.235 (1.200-1.270)"),
        (Interval(1.23456, 1.2345, 1.2347, 5), "1.234560 (1.234500-1.234700)"),
        (Interval(12345.6, 8000.0, 19000.0, 5), "12,300 (8,000-19,000)"),
        (Interval(12345.6, None, None, 1), "12,300"),
        (Interval(1.1, 0.027, 44.6, 2), "1.1 (0.027-45)"),
        (Interval(1.04, 0.3, 3.6, 2), "1.04 (0.30-3.60)"),
        (Interval(1.26, 3e-12, 3.2e11, 2), "1.3 (interval wider than 1 to 10,000)"),
    ],
)
def test_a_figure_is_no_finer_than_its_interval(interval: Interval, text: str) -> None:
    assert with_interval(interval) == text


@given(
    estimate=st.floats(1e-3, 1e6), low=st.floats(1e-5, 0.5), high=st.floats(1e-5, 0.5), scale=st.sampled_from([1.0, 100.0])
)  # fmt: skip
def test_no_figure_has_more_than_two_digits_of_its_intervals_shorter_side(
    estimate: float, low: float, high: float, scale: float
) -> None:
    interval = Interval(estimate, estimate * (1 - low), estimate * (1 + high), 5)
    written = with_interval(interval, scale).replace(",", "").replace("(", "").replace(")", "")
    centre, _, ends = written.partition(" ")
    for part in (centre, *ends.split("-")):
        unit = 10.0 ** -len(part.partition(".")[2])  # of the last digit
        assert unit >= min(low, high) * estimate * scale / 100.1 or "." not in part
    assert float(centre) == pytest.approx(estimate * scale, abs=min(low, high) * estimate * scale / 5 + 1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(123.4, "123 s"), (1.0, "1.00 s"), (0.0123, "12.3 ms"), (4.5e-5, "45.0 µs"), (4.5e-8, "45.0 ns")],
)
def test_durations_have_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_bytes_that_were_measured_are_never_written_as_none() -> None:
    assert mebibytes(300 * 2**20) == "300 MiB"
    assert mebibytes(5000 * 2**20) == "5,000 MiB"
    assert not mebibytes(200_000).startswith("0 ")
