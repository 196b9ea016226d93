"""The mode `trim`: batches are cut to their longest sentence, and nothing that is computed changes."""

from dataclasses import replace

import numpy as np
import pytest

import backends
import tasks
from backends.api import Options, Session, Unsupported
from bench.worker import loop
from bench.worker.trimmed import Trimming
from tasks.bert_sentiment import BertSentiment
from tasks.spec import Batch

TASK = tasks.load("bert_sentiment", "smoke").task.for_parity()
assert isinstance(TASK, BertSentiment)
PARAMS = TASK.init_params(0)
BATCH = next(iter(TASK.train_batches(0)))


def of_length(longest: int) -> Batch:
    """A batch of sentences of up to so many tokens."""
    mask = np.zeros_like(BATCH.inputs["mask"])
    mask[:, :2] = 1
    mask[0, :longest] = 1
    return BATCH._replace(inputs={**BATCH.inputs, "mask": mask})


def session(mode: str, task: BertSentiment = TASK) -> Session:
    backend = Trimming(backends.load("reference"))
    return backend.open_session(task, PARAMS, Options(precision="float64", mode=mode))


@pytest.mark.parametrize(("longest", "length"), [(2, 3), (3, 3), (4, 6), (9, 9), (10, 12), (12, 12)])
def test_a_batch_is_cut_behind_its_longest_sentence_to_a_quarter_of_the_longest_possible(
    longest: int, length: int
) -> None:
    batch = of_length(longest)
    cut = TASK.trimmed(batch)
    assert {value.shape[1] for value in cut.inputs.values()} == {length}
    for name, value in cut.inputs.items():
        assert np.array_equal(value, batch.inputs[name][:, :length])
    assert (cut.labels is batch.labels, cut.weights is batch.weights) == (True, True)


def test_a_length_that_four_does_not_divide_is_never_exceeded() -> None:
    task = replace(TASK, max_length=10)
    batch = next(iter(task.train_batches(0)))
    whole = batch._replace(inputs={**batch.inputs, "mask": np.ones_like(batch.inputs["mask"])})
    assert task.trimmed(whole).inputs["tokens"].shape[1] == 10


def test_what_is_cut_changes_neither_logits_nor_gradients_nor_training() -> None:
    plain, trimmed = session("default"), session("trim")
    batch = of_length(4)
    assert trimmed.prepare(batch).inputs["tokens"].shape[1] == 6
    np.testing.assert_allclose(trimmed.predict(batch.inputs), plain.predict(batch.inputs), rtol=1e-12)
    found, expected = (one.gradients(loop.put(one, batch)) for one in (trimmed, plain))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-14)
    losses = [[float(loop.step(one, batch)) for _ in range(3)] for one in (plain, trimmed)]
    np.testing.assert_allclose(*losses, rtol=1e-9)


def test_a_batch_that_is_cut_too_short_is_another_function() -> None:
    """The control: what the ladder would see."""
    plain, trimmed = session("default"), session("trim")
    trimmed.trim = lambda batch: TASK.trimmed(of_length(2))  # type: ignore[attr-defined]
    batch = of_length(4)
    assert not np.allclose(trimmed.predict(batch.inputs), plain.predict(batch.inputs), rtol=1e-6)


def test_the_mode_stands_behind_the_sessions_own_with_the_shapes_that_were_prepared() -> None:
    trimmed = session("trim")
    assert (trimmed.settings()["mode"], dict(trimmed.settings())["inputs"]) == ("trim", None)
    for longest in (4, 2, 5):
        trimmed.prepare(of_length(longest))
    assert dict(trimmed.settings())["inputs"] == "6 x 3, 6 x 6"
    assert session("default").settings()["mode"] == "default"


@pytest.mark.parametrize("task", ["mnist_mlp", "gru_lm"])
def test_a_task_without_padding_has_nothing_to_cut(task: str) -> None:
    loaded = tasks.load(task, "smoke").task.for_parity()
    with pytest.raises(Unsupported, match=f"the batches of {task} have no padding to cut"):
        Trimming(backends.load("reference")).open_session(loaded, loaded.init_params(0), Options(mode="trim"))


def test_the_operations_of_a_shorter_batch_are_fewer() -> None:
    assert TASK.batch_flops(BATCH) == TASK.step_flops
    assert 0.2 < TASK.batch_flops(TASK.trimmed(of_length(3))) / TASK.step_flops < 0.3
