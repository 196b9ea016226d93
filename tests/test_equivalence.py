"""Equivalence of quality: against known analyses, by simulation of its error rates, and in words."""

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.records.record import Record, Target
from bench.report import grouping, markdown, summary, table_csv, table_json
from bench.stats import intervals
from bench.stats.equivalence import Equivalence, compare_all
from tests.builders import a_quality, a_run, changed

MARGIN = 0.01
THREE = [[0.951, 0.953, 0.948], [0.944, 0.951, 0.949], [0.957, 0.956, 0.952], [0.949, 0.955, 0.941]]


def cells(layout: Any) -> dict[str, dict[int, float]]:
    """The cells of a layout [seeds, backends]."""
    columns = np.array(layout).T
    return {name: dict(enumerate(map(float, column))) for name, column in zip("abcdef", columns, strict=False)}


def test_of_two_backends_the_interval_is_that_of_the_paired_t_test() -> None:
    layout = np.array(THREE)[:, :2]
    found = compare_all(cells(layout), margin=MARGIN)["a", "b"]
    expected = scipy_stats.ttest_rel(layout[:, 0], layout[:, 1]).confidence_interval(0.9)
    assert found.difference == pytest.approx((np.mean(layout[:, 0] - layout[:, 1]), *expected, 4), rel=1e-9)


def test_of_three_backends_the_noise_is_the_residual_of_a_regression_on_seeds_and_backends() -> None:
    layout = np.array(THREE)
    seeds, backends = layout.shape
    seed, backend = np.divmod(np.arange(layout.size), backends)
    design = np.column_stack([seed[:, None] == np.arange(seeds), backend[:, None] == np.arange(1, backends)]).astype(
        float
    )
    _, (squares,), rank, _ = np.linalg.lstsq(design, layout.ravel())
    degrees = layout.size - rank
    assert degrees == (seeds - 1) * (backends - 1)
    half = np.sqrt(squares / degrees * 2 / seeds) * scipy_stats.t.ppf(0.95, degrees)
    found = compare_all(cells(layout), margin=MARGIN)
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    difference = found["a", "c"].difference
    centre = layout[:, 0].mean() - layout[:, 2].mean()
    assert difference == pytest.approx((centre, centre - half, centre + half, seeds), rel=1e-9)
    noise = intervals.noise(layout)
    assert noise is not None
    assert noise == pytest.approx((np.sqrt(squares / degrees), degrees))


@pytest.mark.parametrize(
    ("shift", "margin", "decision"),
    [(0.0, 0.01, "equivalent"), (0.0, 0.001, "not decided"), (0.02, 0.01, "different"), (-0.02, 0.01, "different"),
     (0.01, 0.01, "not decided")],
)  # fmt: skip
def test_a_decision_is_where_the_interval_lies(shift: float, margin: float, decision: str) -> None:
    base = np.array([0.95, 0.96, 0.94, 0.955])
    noise = 0.002 * np.array([1, -1, -1, 1])
    found = compare_all(cells(np.column_stack([base + shift + noise, base])), margin=margin)["a", "b"]
    assert found.decision == decision
    assert found.difference.low is not None
    assert found.difference.low < shift < found.difference.high  # type: ignore[operator]


@pytest.mark.parametrize(
    "layout",
    [
        [[0.95, 0.95]],
        [
            [0.95, 0.93],
            [0.94, 0.92],
            [0.96, 0.94],
        ],  # the same difference in every seed: nothing is known about its noise
        [[0.95, 0.95], [0.95, 0.95]],
        [[0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]],  # rounding is no noise
    ],
)
def test_one_seed_or_no_variation_decides_nothing_and_has_no_interval(layout: Any) -> None:
    found = compare_all(cells(layout), margin=10.0)["a", "b"]
    assert found.decision == "not decided"
    assert not found.difference.known
    assert found.difference.n == len(layout)


def test_only_seeds_that_all_backends_have_are_used() -> None:
    whole = cells(THREE)
    some = {name: dict(by) for name, by in whole.items()}
    some["a"][7] = 0.1
    del some["c"][3]
    assert compare_all(some, margin=MARGIN) == compare_all(cells(THREE[:3]), margin=MARGIN)
    assert compare_all({"a": {0: 0.9, 1: 0.8}, "b": {2: 0.9}}, margin=MARGIN) == {}
    assert compare_all({"a": {0: 0.9, 1: 0.8}}, margin=MARGIN) == {}
    assert compare_all({}, margin=MARGIN) == {}


# By simulation. The noise of a seed that backends share is large; it must not matter.

REPETITIONS = 4000


def decisions(differences: list[float], *, seeds: int, seed: int = 20260101) -> list[Equivalence]:
    """The first pair's decision in many comparisons whose backends differ by so many residual deviations; margin 3 of them."""
    rng = np.random.default_rng(seed)
    shape = (REPETITIONS, seeds, len(differences))
    layouts = 50 + 5 * rng.normal(size=(REPETITIONS, seeds, 1)) + np.array(differences) + rng.normal(size=shape)
    return [compare_all(cells(layout), margin=3.0)["a", "b"] for layout in layouts]


def share(found: list[Equivalence], decision: str) -> float:
    return sum(one.decision == decision for one in found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "others"), [(2, []), (3, [0.0]), (5, [0.0]), (5, [9.0])])
def test_a_difference_of_the_margin_is_rarely_called_equivalent_and_rarely_different(
    seeds: int, others: list[float]
) -> None:
    found = decisions([3.0, 0.0, *others], seeds=seeds)
    assert share(found, "equivalent") <= 0.06  # 5 % promised; the standard error of the simulation is 0.35 %
    assert 0.04 <= share(found, "different") <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "others"), [(2, []), (3, [0.0]), (5, [1.0])])
def test_the_interval_covers_the_difference_in_nine_cases_of_ten(seeds: int, others: list[float]) -> None:
    found = decisions([1.0, 0.0, *others], seeds=seeds)
    covered = sum(one.difference.low <= 1.0 <= one.difference.high for one in found)  # type: ignore[operator]
    assert 0.885 <= covered / REPETITIONS <= 0.915


@pytest.mark.slow
def test_equal_backends_are_found_equivalent_and_different_ones_different() -> None:
    assert share(decisions([0.0, 0.0, 0.0], seeds=5), "equivalent") >= 0.95
    assert share(decisions([8.0, 0.0, 0.0], seeds=5), "different") >= 0.95
    assert share(decisions([0.0, 0.0], seeds=2), "equivalent") < 0.5  # two seeds say little, and it is not hidden
    assert share(decisions([0.0, 0.0, 0.0], seeds=5), "different") == 0.0


# In words.

SPEEDS = {"fast": [200.0, 204.0], "slow": [100.0, 101.0]}


def learned(accuracies: dict[str, list[float]], *, margin: float | None = None) -> list[Record]:
    """A comparison whose backends learned so much with seeds 0, 1, ..."""
    made = a_run(SPEEDS, target=Target("accuracy", at_least=0.9, margin=margin))
    first = next(one for one in made if one.cell.kind == "quality")
    return [one for one in made if one.cell.kind != "quality"] + [
        changed(first, backend=name, versions={name: "1.0"}, seed=seed, quality=a_quality(value))
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def sentence(made: list[Record]) -> str:
    (section,) = grouping.sections(made)
    (found,) = [text for text in summary.sentences(section) if " of fast and slow: " in text]
    assert found in markdown.render(made).replace("\\", "")
    assert found in markdown.brief(made).replace("\\", "")
    return found


def test_percent_are_told_in_points() -> None:
    made = learned(
        {"fast": [0.952, 0.948, 0.951], "slow": [0.950, 0.950, 0.949]},
        margin=0.02,
    )
    assert sentence(made) == (
        "test accuracy of fast and slow: equivalent within 2 points (difference 0.07 (-0.32 to 0.46) points, 3 seeds)."
    )


def test_a_difference_is_told_with_its_interval() -> None:
    made = learned(
        {"fast": [0.952, 0.948, 0.951], "slow": [0.910, 0.910, 0.909]},
        margin=0.01,
    )
    assert sentence(made).startswith("test accuracy of fast and slow: different by more than 1 point (difference 4.")


def test_what_is_not_decided_is_told_too() -> None:
    made = learned({"fast": [0.95, 0.90], "slow": [0.90, 0.95]}, margin=0.01)
    assert sentence(made).startswith(
        "test accuracy of fast and slow: not decided whether within 1 point (difference 0 ("
    )


def test_one_seed_is_said_once_for_all_pairs() -> None:
    made = learned({"fast": [0.95], "slow": [0.94], "third": [0.94]}, margin=0.01)
    (section,) = grouping.sections(made)
    told = [text for text in summary.sentences(section) if text.startswith("test accuracy")]
    assert told == ["test accuracy: not compared, for one seed tells nothing of chance."]


def test_equal_figures_are_called_equal_and_no_proof() -> None:
    made = learned({"fast": [0.95, 0.93, 0.94], "slow": [0.95, 0.93, 0.94]}, margin=0.01)
    assert sentence(made) == (
        "test accuracy of fast and slow: equal with each of 3 seeds, which tells nothing of chance: no interval, not decided."
    )


def test_other_metrics_keep_their_unit() -> None:
    made = learned(
        {"fast": [0.952, 0.948, 0.951], "slow": [0.95, 0.95, 0.949]},
        margin=0.5,
    )
    found = [changed(one, target=Target("loss", at_most=1, margin=0.5)) for one in made]
    assert sentence(found).startswith("held-out loss of fast and slow: equivalent within 0.5 (difference -0.0007 (")


def test_without_a_margin_or_a_second_backend_nothing_is_said() -> None:
    for made in (
        learned({"fast": [0.95, 0.94], "slow": [0.94, 0.95]}),
        learned({"fast": [0.95]}, margin=0.01),
    ):
        (section,) = grouping.sections(made)
        assert section.equivalences == {}
        assert "equivalent" not in markdown.render(made)


def test_other_programs_are_told_the_difference_of_each_backend_from_the_fastest() -> None:
    made = learned(
        {"fast": [0.952, 0.948, 0.951], "slow": [0.950, 0.950, 0.949]},
        margin=0.02,
    )
    (told,) = json.loads(table_json.render(made))["tables"][0]["equivalences"]
    assert (told["first"], told["second"], told["decision"], told["seeds"]) == ("fast", "slow", "equivalent", 3)
    fast, slow = csv.DictReader(io.StringIO(table_csv.render(made)))
    assert slow["equivalence"] == "equivalent"
    found = [float(slow[f"metric_minus_fastest{bound}"]) for bound in ("", "_low", "_high")]
    assert found == pytest.approx([-told["difference"], -told["high"], -told["low"]])
    assert fast["equivalence"] == fast["metric_minus_fastest"] == ""


def test_one_seed_is_a_difference_without_an_interval_there_too() -> None:
    _, slow = csv.DictReader(io.StringIO(table_csv.render(learned({"fast": [0.95], "slow": [0.94]}, margin=0.02))))
    assert float(slow["metric_minus_fastest"]) == pytest.approx(-0.01)
    assert slow["metric_minus_fastest_low"] == slow["metric_minus_fastest_high"] == ""
    assert slow["equivalence"] == "not decided"
