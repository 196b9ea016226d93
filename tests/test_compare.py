"""Two folders cell by cell: Welch's test against the margin, Holm over the cells, and nothing passes by being absent."""

import math
import random
from typing import Any

import msgspec
import pytest
from scipy.stats import ttest_ind

from bench.records.record import MEASUREMENT, Disturbance, Record
from bench.report import compare
from bench.stats import welch
from tasks.spec import hash_json
from tests.builders import MACHINE, a_quality, a_record, a_row, a_run, changed
from tests.test_inference import an_asked_run
from tests.test_loading import a_loaded_run
from tests.test_report import FAST, SLOW, TWO, replaced, tables

KEY = ("mnist_mlp", "quick")
SPEC = a_record().cell.spec_hash


def later(made: list[Record], **changes: Any) -> list[Record]:
    """The same cells from another run."""
    return replaced(made, lambda _: True, id="99", **changes)


def scaled(factor: float) -> dict[str, list[float]]:
    return {name: [factor * value for value in values[::-1]] for name, values in TWO.items()}


@pytest.mark.parametrize(
    ("factor", "decision"),
    [(1.001, "tie"), (1.2, "faster"), (0.8, "slower"), (1.03, "not decided"), (1 / 1.2, "slower")],
)
def test_each_cell_has_its_verdict(factor: float, decision: str) -> None:
    found = compare.compare(a_run(TWO), later(a_run(scaled(factor))))
    assert [(change.key[-1], change.decision) for change in found.changes] == [("fast", decision), ("slow", decision)]
    assert found.only_before == found.only_after == []
    assert bool(compare.objections(found, {"slower"})) == (decision == "slower")
    assert bool(compare.objections(found, {"undecided"})) == (decision == "not decided")
    assert compare.objections(found, ()) == []
    for change in found.changes:
        assert change.ratio is not None
        assert change.ratio.estimate == pytest.approx(factor)


def test_the_interval_is_welchs() -> None:
    before, after = FAST, [150.0, 170.0, 144.0]
    expected = ttest_ind(
        [math.log(v) for v in after], [math.log(v) for v in before], equal_var=False
    ).confidence_interval()
    found = welch.ratio([math.log(v) for v in before], [math.log(v) for v in after])
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert found.n == 3


def test_one_process_has_no_interval_and_decides_nothing() -> None:
    for before, after in (([100.0], [50.0, 51.0]), ([100.0, 101.0], [50.0]), ([100.0, 100.0], [50.0, 50.0])):
        (change,) = compare.compare(a_row("x", before), later(a_row("x", after))).changes
        assert change.ratio is not None
        assert (change.decision, change.ratio.known) == ("not decided", False)


@pytest.mark.slow
def test_over_many_cells_chance_alone_decides_little_and_a_real_change_is_found() -> None:
    """Holm: of 400 comparisons of four equal cells, one in twenty may hold a wrong word; 10 % slower is found."""
    source = random.Random(1)
    wrong = found = 0
    for _ in range(400):
        logs = {
            (*KEY, name): ([source.gauss(0, 0.02) for _ in range(5)], [source.gauss(shift, 0.02) for _ in range(5)])
            for name, shift in (("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", -0.1))
        }
        told = {key[-1]: decision for key, (decision, _) in compare.decide(logs, 0.03).items()}
        wrong += any(told[name] in ("faster", "slower") for name in "abc")
        found += told["d"] == "slower"
    assert wrong <= 4
    assert found >= 320


def test_the_interval_of_a_ratio_is_the_one_that_decided() -> None:
    """A look spends half of the error, and a decision needs the whole interval beyond the margin."""
    for spread in range(1, 40):
        noisy = [100 * (1 + 0.002 * spread * step) for step in (-2, -1, 0, 1, 2)]
        before, after = a_row("x", noisy), later(a_row("x", [1.1 * value for value in noisy]))
        looked = replaced(after, lambda r: r.cell.kind == "speed", look=1)
        once, at_a_look = (compare.compare(before, one).changes[0] for one in (after, looked))
        for change in (once, at_a_look):
            assert change.ratio is not None
            assert change.ratio.low is not None
            assert (change.decision == "faster") == (change.ratio.low > 1.03), spread
        assert at_a_look.ratio.low < once.ratio.low


def test_over_two_cells_the_surest_is_decided_first_and_at_half_of_the_error() -> None:
    both = (
        a_run({"fast": FAST, "slow": SLOW}),
        later(a_run({"fast": [1.2 * v for v in FAST], "slow": [1.1 * v for v in SLOW]})),
    )
    alone = a_row("fast", FAST), later(a_row("fast", [1.2 * value for value in FAST]))
    first, single = compare.compare(*both).changes[0], compare.compare(*alone).changes[0]
    assert first.ratio.low < single.ratio.low


def test_disturbed_rounds_are_left_out_as_they_are_from_a_table() -> None:
    told = Disturbance(0.5, 0.4, 0.0, 1, 0, 2900.0, disturbed="other processes took 40% of the cores' time")
    after = replaced(
        later(a_row("x", [*FAST[:4], 1.0])), lambda r: r.cell.kind == "speed" and r.cell.round == 5, disturbance=told
    )
    (change,) = compare.compare(a_row("x", FAST), after).changes
    assert len(change.after.row.throughputs) == 4
    assert change.ratio is not None
    assert change.ratio.estimate == pytest.approx(1, abs=0.02)


def test_a_cell_that_is_no_longer_ranked_is_not_compared_and_counts_as_worse() -> None:
    after = replaced(
        later(a_run(TWO)), lambda r: (r.cell.kind, r.cell.arm.name) == ("quality", "slow"), quality=a_quality(0.5)
    )
    found = compare.compare(a_run(TWO), after)
    slow = found.changes[1]
    assert (slow.decision, slow.ratio) == (None, None)
    assert "not compared (not ranked after: outside the target accuracy >= 0.9" in compare.render(found).replace(
        "&gt;", ">"
    )
    (objection,) = compare.objections(found, {"slower"})
    assert objection.startswith(
        "slower: mnist_mlp slow (preset quick): not compared (not ranked after: outside the target"
    )
    assert compare.objections(compare.compare(after, after), {"slower"}) == []  # neither was it ranked before
    assert compare.objections(compare.compare(after, a_run(TWO)), {"slower"}) == []  # it is again


def test_cells_on_one_side_only_are_listed_and_a_lost_one_counts_as_worse() -> None:
    found = compare.compare(a_run(TWO), later(a_row("fast", FAST) + a_row("new", FAST)))
    assert [key[-1] for key in found.only_before] == ["slow"]
    assert [key[-1] for key in found.only_after] == ["new"]
    text = compare.render(found).replace("\\", "")
    assert "- only before: mnist_mlp slow (preset quick)" in text
    assert "- only after: mnist_mlp new (preset quick)" in text
    assert compare.objections(found, {"slower"}) == [
        "slower: mnist_mlp slow (preset quick) is missing in the second folder"
    ]
    assert compare.objections(compare.compare(a_row("fast", FAST), later(a_run(TWO))), {"slower"}) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"spec": {"epochs": 6}},
            f"mnist_mlp quick fast: other specs ({SPEC[:12]} and {hash_json({'epochs': 6})[:12]})",
        ),
        ({"measurement": 1}, f"measurement versions {MEASUREMENT} and 1 are not compared"),
        (
            {"task": "other"},
            "no cell in common (the first has mnist_mlp fast (preset quick), mnist_mlp slow (preset quick); ",
        ),
        ({"preset": "full"}, "no cell in common"),
        ({"device": "gpu"}, "mnist_mlp quick fast: device cpu and gpu are other ways of using it"),
        ({"precision": "float64"}, "mnist_mlp quick fast: precision float32 and float64 are other ways of using it"),
        ({"mode": "compile"}, "mnist_mlp quick fast: mode default and compile are other ways of using it"),
        ({"slow_down": 0.1}, "mnist_mlp quick fast: slow_down 0.0 and 0.1 are other ways of using it"),
    ],
    ids=str,
)
def test_what_may_not_be_compared_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(compare.NotComparable) as refused:
        compare.compare(a_run(TWO), later(a_run(TWO, **changes)))
    assert why in str(refused.value)


def test_an_arm_of_the_same_name_and_another_backend_is_refused() -> None:
    before, after = a_row("pytorch", FAST, name="mine"), later(a_row("jax", FAST, name="mine"))
    with pytest.raises(
        compare.NotComparable, match="mnist_mlp quick mine: backend pytorch and jax are other ways of using it"
    ):
        compare.compare(before, after)


def test_arms_are_compared_by_name_whatever_stands_beside_them() -> None:
    """An arm's threads, interpreter and variables may be what is compared; they are told, not refused."""
    before = a_row("pytorch", FAST) + a_row("pytorch", SLOW, name="pytorch:compile", mode="compile")
    after = later(
        a_row("pytorch", SLOW, threads=1, python="3.12.1", environment={"OMP_NUM_THREADS": "1"})
        + a_row("pytorch", FAST, name="pytorch:compile", mode="compile")
        + a_row("jax", FAST)
    )
    found = compare.compare(before, after)
    assert [(change.key[-1], change.decision) for change in found.changes] == [
        ("pytorch", "slower"), ("pytorch:compile", "faster"),
    ]  # fmt: skip
    assert found.only_after == [(*KEY, "jax")]
    assert compare.differences(found) == [
        "differs: pytorch, setting cores: 2 before, 1 after",
        "differs: pytorch, environment: none before, {'OMP_NUM_THREADS': '1'} after",
        "differs: pytorch, python: none before, 3.12.1 after",
        "differs: pytorch, threads: none before, 1 after",
    ]
    assert [text.partition(" (")[0] for text in compare.objections(found, {"slower"})] == ["slower: mnist_mlp pytorch"]


@pytest.mark.parametrize(
    ("before", "after"), [(FAST, FAST[:1]), (FAST[:1], FAST), (FAST[:1], SLOW[:1]), ([5.0] * 3, [5.0] * 3)]
)
@pytest.mark.parametrize("verdicts", [{"slower"}, {"undecided"}, {"slower", "undecided"}])
def test_a_gate_that_could_not_have_failed_is_not_passed(
    verdicts: set[str], before: list[float], after: list[float]
) -> None:
    """A single process, or figures that never vary, say nothing about noise: nothing could have been called slower."""
    found = compare.compare(a_row("x", before), later(a_row("x", after)))
    (objection,) = compare.objections(found, verdicts)
    assert "mnist_mlp x (preset quick) could not be decided: each folder needs two rounds or more of it" in objection
    assert compare.objections(found, ()) == []


def test_what_was_not_decided_passes_a_gate_on_slower_and_not_one_on_undecided() -> None:
    found = compare.compare(a_row("x", FAST), later(a_row("x", [1.03 * speed for speed in FAST])))
    assert found.changes[0].decision == "not decided"
    assert compare.objections(found, {"slower"}) == []
    (objection,) = compare.objections(found, {"undecided"})
    assert objection.startswith("undecided: mnist_mlp x (preset quick): not decided (ratio 1.030 (")


def test_a_cell_that_is_in_no_ratio_is_undecided() -> None:
    after = replaced(later(a_row("x", FAST)), lambda r: r.cell.kind == "quality", quality=a_quality(0.5))
    (objection,) = compare.objections(compare.compare(after, after), {"undecided"})
    assert objection.startswith("undecided: mnist_mlp x (preset quick): not compared (not ranked before: ")


def test_a_folder_that_has_a_cell_twice_is_refused() -> None:
    with pytest.raises(
        compare.NotComparable, match=r"the second folder has mnist_mlp slow \(preset quick\) more than once"
    ):
        compare.compare(a_run(TWO), [*later(a_run(TWO)), *a_row("slow", SLOW)])


def test_what_differs_is_told() -> None:
    other = msgspec.structs.replace(MACHINE, os="Linux 6.2", gpu_driver="555")
    before = a_row("x", FAST, settings={"precision": "float32", "compile": "eager"})
    after = later(
        a_row(
            "x", SLOW, versions={"x": "2.0", "y": "1"}, settings={"precision": "float32", "kernels": 3}, machine=other
        ),
        threads=2, harness="0.2.0", source="f" * 64,
    )  # fmt: skip
    assert compare.differences(compare.compare(before, after)) == [
        "differs: x, version of x: 1.0 before, 2.0 after",
        "differs: x, version of y: none before, 1 after",
        "differs: x, setting compile: eager before, none after",
        "differs: x, setting kernels: none before, 3 after",
        "differs: x, threads: none before, 2 after",
        "differs: machine, gpu_driver: none before, 555 after",
        "differs: machine, os: Linux 6.1 x86_64 before, Linux 6.2 after",
        "differs: framework-bench source: none before, ffffffffffff after",
        "differs: framework-bench version: none before, 0.2.0 after",
    ]
    assert compare.differences(compare.compare(before, later(before))) == []


def test_the_report_has_verdicts_table_and_what_the_ratio_is() -> None:
    text = compare.render(compare.compare(a_run(TWO), later(a_run(scaled(0.8), accuracies=[0.91, 0.92]))))
    assert text.replace("\\", "").startswith("- mnist_mlp fast (preset quick): slower (ratio 0.80")
    assert "5 and 5 processes" in text
    assert "were not interleaved" in text
    (table,) = tables(text)
    assert table[1][2:] == [
        "fast", "201.0 (198.2-203.8), n=5", "160.8 (158.6-163.0), n=5", table[1][5],
        "95.5 (89.1-100.0) %, n=2; after: 91.5 (85.1-97.9) %, n=2", "300 MiB",
    ]  # fmt: skip
    assert table[1][5].endswith(": slower")


def test_two_tuned_arms_that_stood_for_other_modes_are_not_compared() -> None:
    def tuned(mode: str) -> list[Record]:
        made = a_row("x", FAST, mode="tuned")
        return [changed(one, settings={**one.outcome.settings, "tuned": mode}) for one in made if one.outcome.settings]

    with pytest.raises(compare.NotComparable, match="tuned stood for trim and stands for rbg\\+trim"):
        compare.compare(tuned("trim"), later(tuned("rbg+trim")))
    assert compare.compare(tuned("trim"), later(tuned("trim"))).changes


def test_predictions_of_two_runs_are_compared_size_by_size() -> None:
    before, after = an_asked_run({"x": [2.0, 2.01, 1.99]}), an_asked_run({"x": [1.0, 1.01, 0.99]})
    found = compare.compare(before, after)
    assert [change.key[-1] for change in found.changes] == ["x, asked with batch 1", "x, asked with batch 4"]
    assert {change.decision for change in found.changes} == {"faster"}
    assert "x, asked with batch 1 (preset quick): faster (ratio 2.0" in compare.render(found)
    with pytest.raises(compare.NotComparable, match="no cell in common"):
        compare.compare(before, a_row("x", FAST))


def test_loaders_are_compared_as_rows_of_their_own() -> None:
    before, after = (
        {"x": [(400.0, 200.0, fed), (401.0, 201.0, fed + 1), (399.0, 199.0, fed - 1)]} for fed in (190.0, 95.0)
    )
    found = compare.compare(a_loaded_run(before), a_loaded_run(after))
    told = {change.key[-1]: change.decision for change in found.changes}
    assert told == {"x, fed by its loader": "slower", "x, loader alone": "tie"}
    assert len(compare.objections(found, {"slower"})) == 1
