"""Two folders cell by cell: Welch's test against the margin, Holm over the cells, and nothing passes by being absent."""

import math
import random
from typing import Any

import msgspec
import pytest
from scipy.stats import ttest_ind

from bench.records.record import Disturbance, Record
from bench.report import compare
from tests.builders import a_record, a_row, a_run
from tests.test_report import FAST, SLOW, TWO, replaced, tables

KEY = ("mnist_mlp", "quick", "cpu", "float32")


def later(made: list[Record], **changes: Any) -> list[Record]:
    """The same cells from another run."""
    return replaced(made, lambda _: True, order_seed=99, **changes)


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
    assert found.worse == (decision == "slower")
    for change in found.changes:
        assert change.ratio is not None
        assert change.ratio.estimate == pytest.approx(factor)


def test_the_interval_is_welchs() -> None:
    before, after = FAST, [150.0, 170.0, 144.0]
    expected = ttest_ind(
        [math.log(v) for v in after], [math.log(v) for v in before], equal_var=False
    ).confidence_interval()
    found = compare.ratio_of([math.log(v) for v in before], [math.log(v) for v in after])
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert found.n == 3


def test_one_process_has_no_interval_and_decides_nothing() -> None:
    for before, after in (([100.0], [50.0, 51.0]), ([100.0, 101.0], [50.0]), ([100.0, 100.0], [50.0, 50.0])):
        (change,) = compare.compare(a_row("x", before), later(a_row("x", after))).changes
        assert change.ratio is not None
        assert (change.decision, change.ratio.known) == ("not decided", False)


def test_over_many_cells_chance_alone_decides_little_and_a_real_change_is_found() -> None:
    """Holm: of 400 comparisons of four equal cells, one in twenty may hold a wrong word; 10 % slower is found."""
    source = random.Random(1)
    wrong = found = 0
    for _ in range(400):
        logs = {
            (*KEY, name): ([source.gauss(0, 0.02) for _ in range(5)], [source.gauss(shift, 0.02) for _ in range(5)])
            for name, shift in (("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", -0.1))
        }
        told = {key[-1]: decision for key, decision in compare.decide(logs, 0.03).items()}
        wrong += any(told[name] in ("faster", "slower") for name in "abc")
        found += told["d"] == "slower"
    assert wrong <= 4
    assert found >= 320


def test_disturbed_rounds_are_left_out_as_they_are_from_a_table() -> None:
    told = Disturbance(0.5, 0.4, 0.0, 1, 0, 2900.0, disturbed="other processes took 40% of the cores' time")
    after = replaced(
        later(a_row("x", [*FAST[:4], 1.0])), lambda r: r.kind == "speed" and r.round == 5, disturbance=told
    )
    (change,) = compare.compare(a_row("x", FAST), after).changes
    assert len(change.after.row.throughputs) == 4
    assert change.ratio is not None
    assert change.ratio.estimate == pytest.approx(1, abs=0.02)


def test_a_cell_that_is_no_longer_ranked_is_not_compared_and_counts_as_worse() -> None:
    after = replaced(later(a_run(TWO)), lambda r: r.kind == "quality" and r.backend == "slow", target_reached=False)
    found = compare.compare(a_run(TWO), after)
    slow = found.changes[1]
    assert (slow.decision, slow.ratio) == (None, None)
    assert "not compared (not ranked after: outside the target accuracy >= 0.9" in compare.render(found).replace(
        "&gt;", ">"
    )
    assert found.worse
    assert not compare.compare(after, after).worse  # neither was it ranked before


def test_cells_on_one_side_only_are_listed_and_a_lost_one_counts_as_worse() -> None:
    found = compare.compare(a_run(TWO), later(a_row("fast", FAST) + a_row("new", FAST)))
    assert [key[-1] for key in found.only_before] == ["slow"]
    assert [key[-1] for key in found.only_after] == ["new"]
    text = compare.render(found).replace("\\", "")
    assert "- only before: mnist_mlp slow (quick, float32 on the cpu)" in text
    assert "- only after: mnist_mlp new (quick, float32 on the cpu)" in text
    assert found.worse
    assert not compare.compare(a_row("fast", FAST), later(a_run(TWO))).worse


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spec_hash": "6" * 64}, "mnist_mlp quick cpu float32: other specs (555555555555 and 666666666666)"),
        ({"measurement": 2}, "measurement versions 1 and 2 are not compared"),
        ({"task": "other"}, "no cell in common (the first has mnist_mlp fast (quick, float32 on the cpu)"),
        ({"preset": "full"}, "no cell in common"),
        ({"device": "gpu"}, "no cell in common"),
        ({"precision": "float64"}, "no cell in common"),
    ],
    ids=str,
)
def test_what_may_not_be_compared_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(compare.NotComparable) as refused:
        compare.compare(a_run(TWO), later(a_run(TWO, **changes)))
    assert why in str(refused.value)


def test_a_folder_that_has_a_cell_twice_is_refused() -> None:
    with pytest.raises(compare.NotComparable, match=r"the second folder has mnist_mlp slow .* more than once"):
        compare.compare(a_run(TWO), [*later(a_run(TWO)), *a_row("slow", SLOW)])


def test_what_differs_is_told() -> None:
    other = msgspec.structs.replace(a_record().machine, os="Linux 6.2", gpu_driver="555")
    before = a_row("x", FAST, settings={"precision": "float32", "compile": "eager"})
    after = later(
        a_row(
            "x", SLOW, versions={"x": "2.0", "y": "1"}, settings={"precision": "float32", "kernels": 3}, machine=other
        ),
        threads=2,
    )
    assert compare.differences(compare.compare(before, after)) == [
        "differs: x, version of x: 1.0 before, 2.0 after",
        "differs: x, version of y: none before, 1 after",
        "differs: x, setting compile: eager before, none after",
        "differs: x, setting kernels: none before, 3 after",
        "differs: run, threads: none before, 2 after",
        "differs: machine, gpu_driver: none before, 555 after",
        "differs: machine, os: Linux 6.1 x86_64 before, Linux 6.2 after",
    ]
    assert compare.differences(compare.compare(before, later(before))) == []


def test_the_report_has_verdicts_table_and_what_the_ratio_is() -> None:
    text = compare.render(compare.compare(a_run(TWO), later(a_run(scaled(0.8), accuracies=[0.91, 0.92]))))
    assert text.replace("\\", "").startswith("- mnist_mlp fast (quick, float32 on the cpu): slower (ratio 0.80")
    assert "5 and 5 processes" in text
    assert "were not interleaved" in text
    (table,) = tables(text)
    assert table[1][4:] == [
        "fast", "201.0 (198.2-203.8), n=5", "160.8 (158.6-163.0), n=5", table[1][7],
        "95.5 (89.1-100.0) %, n=2; after: 91.5 (85.1-97.9) %, n=2", "300 MiB",
    ]  # fmt: skip
    assert table[1][7].endswith(": slower")
