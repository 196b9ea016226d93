"""Faults of the data, which no comparison between backends can see: the target of quality keeps them out of the ranking."""

from pathlib import Path

import msgspec
import pytest

from bench.campaign import campaign, plan
from bench.campaign.plan import Choice
from bench.records.record import Record
from bench.report import grouping, markdown
from bench.worker.answer import too_good
from tasks.spec import Target
from tests.conftest import BACKENDS_UNDER_TEST, a_ladder, a_timing

BACKEND = BACKENDS_UNDER_TEST[:1]  # one is enough: the fault is not a framework's


def trained(task: str, folder: Path) -> list[Record]:
    """A training with the real worker, beside a ladder and a speed that are beyond reproach."""
    choice = Choice(
        tasks=[task], backends=BACKEND, absent=[], preset="quick", device="cpu", precision="float32", rounds=1, seeds=1,
        data_dir=None, order_seed=1,
    )  # fmt: skip
    (cell,) = plan.make(task, choice).quality(choice)
    quality = campaign.execute(cell, folder, data_dir=None)
    assert quality.status == "ok", quality.reason
    ok = msgspec.structs.replace(cell, status="ok", reason=None)
    ladders = [a_ladder(precision="float64"), a_ladder()]
    speed = msgspec.structs.replace(ok, kind="speed", timings=a_timing(1000), parity=ladders)
    return [msgspec.structs.replace(ok, kind="parity", parity=ladders), speed, quality]


@pytest.mark.skipif(not BACKEND, reason="no framework is under test")
def test_shuffled_labels_are_not_ranked(tmp_path: Path) -> None:
    records = trained("tests.shuffled_labels", tmp_path)
    assert records[-1].quality is not None
    assert abs(records[-1].quality.metrics["accuracy"] - 0.5) < 0.15
    (section,) = grouping.sections(records)
    assert section.ranked == []
    assert section.rows[0].excluded == "outside the target accuracy >= 0.84 and <= 0.97 in 1 of 1 trainings"
    assert "too good" not in markdown.render(records)


@pytest.mark.skipif(not BACKEND, reason="no framework is under test")
def test_leaked_labels_are_flagged_as_too_good(tmp_path: Path) -> None:
    records = trained("tests.leaked_labels", tmp_path)
    (section,) = grouping.sections(records)
    assert section.ranked == []
    assert "is too good, accuracy >= 0.84 and <= 0.97: were the answers in the inputs?" in records[-1].remarks[0]
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
