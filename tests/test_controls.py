"""Faults of the data, which no comparison between backends can see: the target of quality keeps them out of the ranking."""

from pathlib import Path

import pytest

from bench.process.execute import execute
from bench.records.record import Record
from bench.report import grouping, markdown
from bench.worker.answer import too_good
from tasks.spec import Target
from tests.builders import a_ladder, a_timing, changed
from tests.conftest import BACKENDS_UNDER_TEST
from tests.fakes.campaign import a_plan, an_arm

pytestmark = pytest.mark.slow  # whole ladders

BACKEND = BACKENDS_UNDER_TEST[:1]  # one is enough: the fault is not a framework's


def trained(task: str, folder: Path) -> list[Record]:
    """A training with the real worker, beside a ladder and a speed that are beyond reproach."""
    # On one core: beside other tests, the threads of two would wait for one another.
    made = a_plan(*(an_arm(name, threads=1) for name in BACKEND), tasks=[task], preset="quick")
    (cell,) = made.of_kind("quality")
    quality = execute(made.run, cell, folder, data_dir=None)
    assert quality.outcome.status == "ok", quality.outcome.reason
    ladders = [a_ladder(precision="float64"), a_ladder()]
    climb = changed(quality, kind="parity", quality=None, ladders=ladders)
    return [climb, changed(quality, kind="speed", quality=None, timings=a_timing(1000), ladders=ladders), quality]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(not BACKEND, reason="no framework is under test")
def test_shuffled_labels_are_not_ranked(tmp_path: Path) -> None:
    records = trained("tests.children.shuffled_labels", tmp_path)
    quality = records[-1].outcome.quality
    assert quality is not None
    assert abs(quality.metrics["accuracy"] - 0.5) < 0.15
    (section,) = grouping.sections(records)
    assert section.ranked == []
    assert section.rows[0].excluded == "outside the target accuracy >= 0.84 and <= 0.97 in the mean of 1 trainings"
    assert "too good" not in markdown.render(records)


@pytest.mark.slow
@pytest.mark.skipif(not BACKEND, reason="no framework is under test")
def test_leaked_labels_are_flagged_as_too_good(tmp_path: Path) -> None:
    records = trained("tests.children.leaked_labels", tmp_path)
    (section,) = grouping.sections(records)
    assert section.ranked == []
    assert (
        "is too good, accuracy >= 0.84 and <= 0.97: were the answers in the inputs?" in records[-1].outcome.remarks[0]
    )
    assert "were the answers in the inputs?" in markdown.render(records)


@pytest.mark.parametrize(
    ("target", "value", "flagged"),
    [
        (Target("accuracy", at_least=0.84, at_most=0.97), 0.98, True),
        (Target("accuracy", at_least=0.84, at_most=0.97), 0.97, False),
        (Target("accuracy", at_least=0.84, at_most=0.97), 0.5, False),
        (Target("accuracy", at_least=0.84), 1.0, False),
        (Target("perplexity", at_most=300, at_least=30), 29.0, True),
        (Target("perplexity", at_most=300, at_least=30), 301.0, False),
        (Target("perplexity", at_most=300), 1.0, False),
    ],
)
def test_only_what_is_better_than_the_far_bound_is_too_good(target: Target, value: float, flagged: bool) -> None:
    assert bool(too_good(target, value)) == flagged
