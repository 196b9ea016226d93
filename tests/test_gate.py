"""The gate of a run: what must not be said of an arm against the baseline, and what can never pass."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.report import gate
from tests.builders import a_run, write_records
from tests.test_cli import Done, bench, refusal
from tests.test_control import controlled
from tests.test_report import FAST, SLOW, TWO, replaced

__all__ = ["bench"]  # the fixture

NOISY = [100.0, 130.0, 90.0, 101.0, 120.0]


def test_an_arm_that_is_slower_than_the_baseline_does_not_pass() -> None:
    (text,) = gate.objections(a_run(TWO), "fast", ["slower"])
    assert text.startswith("mnist_mlp quick: slow is slower: fast trains mnist_mlp 2.0")
    assert gate.objections(a_run(TWO), "slow", ["slower", "undecided"]) == []  # fast is faster
    assert gate.objections(a_run(TWO), "fast", ["undecided"]) == []


def test_what_is_not_decided_passes_unless_it_must_not() -> None:
    made = a_run({"base": SLOW, "head": NOISY})
    assert gate.objections(made, "base", ["slower"]) == []
    (text,) = gate.objections(made, "base", ["slower", "undecided"])
    assert "head is undecided: head and base: not decided" in text


def test_a_tie_passes() -> None:
    assert gate.objections(a_run({"base": SLOW, "head": SLOW[::-1]}), "base", ["slower", "undecided"]) == []


@pytest.mark.parametrize("fallen", ["base", "head"])
def test_an_arm_that_is_not_proven_never_passes(fallen: str) -> None:
    whole = a_run({"base": SLOW, "head": SLOW})
    made = replaced(
        whole, lambda one: one.cell.kind == "parity" and one.cell.arm.name == fallen, status="failed", reason="it fell"
    )
    texts = gate.objections(made, "base", ["slower"])
    assert any(f"{fallen} is not ranked" in text for text in texts)


def test_a_control_that_failed_passes_nothing() -> None:
    texts = gate.objections(controlled([1.5 * value for value in FAST[::-1]]), "fast", ["slower"])
    assert any("The control failed" in text for text in texts)


def test_a_baseline_that_is_in_no_table_is_an_error_with_the_names_that_are() -> None:
    with pytest.raises(gate.NoBaseline, match="only the speed of training is judged, of which there is no table"):
        gate.objections([], "old", ["slower"])
    with pytest.raises(gate.NoBaseline, match="no table has an arm called old; there are: fast, slow"):
        gate.objections(a_run(TWO), "old", ["slower"])


def test_the_command_prints_the_tables_and_ends_with_one(bench: Callable[..., Done], tmp_path: Path) -> None:
    run = write_records(tmp_path / "run", a_run(TWO))
    done = bench("report", run, "--baseline", "fast", "--fail-on", "slower")
    assert done.code == 1
    assert "| slow " in done.out
    assert "--fail-on mnist_mlp quick: slow is slower" in done.error
    assert bench("report", run, "--baseline", "slow", "--fail-on", "slower").code == 0


@pytest.mark.parametrize("options", [["--baseline", "fast"], ["--fail-on", "slower"]])
def test_a_baseline_and_a_verdict_go_together(bench: Callable[..., Done], tmp_path: Path, options: list[str]) -> None:
    run = write_records(tmp_path / "run", a_run(TWO))
    assert "--baseline and --fail-on go together" in refusal(bench("report", run, *options))
