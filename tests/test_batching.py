"""Batches, the digits, and the hash of a spec."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn.datasets import load_digits

import tasks
from tasks import batching
from tasks.mnist_mlp import DIGITS_HELD_OUT, MlpConfig, MnistMlp, preset
from tasks.spec import (
    AdamW,
    Batch,
    Evaluation,
    SpecError,
    Target,
    describe,
    describe_task,
    hash_arrays,
    hash_json,
)

sizes = given(examples=st.integers(1, 40), batch_size=st.integers(1, 17), seed=st.integers(0, 2**32))


def an_epoch(*, examples: int, batch_size: int, seed: int | None) -> list:
    """The batches of one pass over examples that are their own numbers; in order without a seed."""
    values = np.arange(examples, dtype=np.int32)
    inputs = {"x": values * 10, "pair": np.stack([values, -values], axis=1)}
    if seed is None:
        return list(batching.in_order(inputs, values, batch_size=batch_size))
    batches = batching.shuffled(inputs, values, batch_size=batch_size, seed=seed)
    return list(islice(batches, batching.steps_per_epoch(examples, batch_size)))


@sizes
def test_every_example_comes_once_per_epoch_and_the_rest_is_padding(examples: int, batch_size: int, seed: int) -> None:
    for order in (seed, None):
        epoch = an_epoch(examples=examples, batch_size=batch_size, seed=order)
        counted = np.concatenate([batch.labels[batch.weights == 1] for batch in epoch])
        assert sorted(counted) == list(range(examples))
        assert sum(batch.items for batch in epoch) == examples


@sizes
def test_shapes_are_the_same_in_every_batch(examples: int, batch_size: int, seed: int) -> None:
    for batch in an_epoch(examples=examples, batch_size=batch_size, seed=seed):
        assert batch.inputs["x"].shape == batch.labels.shape == batch.weights.shape == (batch_size,)
        assert batch.inputs["pair"].shape == (batch_size, 2)
        assert (batch.weights.dtype, batch.labels.dtype) == (np.float32, np.int32)
        assert set(np.unique(batch.weights)) <= {0.0, 1.0}
        assert not batch.starts_sequence


@sizes
def test_inputs_and_labels_stay_together_in_padding_too(examples: int, batch_size: int, seed: int) -> None:
    for batch in an_epoch(examples=examples, batch_size=batch_size, seed=seed):
        np.testing.assert_array_equal(batch.inputs["x"], batch.labels * 10)
        np.testing.assert_array_equal(batch.inputs["pair"], np.stack([batch.labels, -batch.labels], axis=1))


def test_padding_stands_only_at_the_end_of_the_last_batch() -> None:
    *full, last = an_epoch(examples=11, batch_size=4, seed=0)
    assert [batch.items for batch in full] == [4, 4]
    assert last.weights.tolist() == [1, 1, 1, 0]
    assert last.labels[3] == last.labels[0]  # a real example, so that nothing sees an odd input


def test_held_out_examples_come_in_their_own_order() -> None:
    epoch = an_epoch(examples=10, batch_size=4, seed=None)
    assert [batch.labels.tolist() for batch in epoch] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 8, 8]]
    assert [batch.weights.tolist() for batch in epoch] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]


def test_a_seed_gives_the_same_batches_again_and_another_seed_others() -> None:
    def labels(seed: int) -> list[int]:
        return [label for batch in an_epoch(examples=30, batch_size=7, seed=seed) for label in batch.labels]

    assert labels(3) == labels(3)
    assert labels(3) != labels(4)
    assert labels(3) != list(range(30))


def test_every_epoch_has_an_order_of_its_own() -> None:
    values = np.arange(32, dtype=np.int32)
    stream = batching.shuffled({"x": values}, values, batch_size=8, seed=0)
    first, second, third = ([label for batch in islice(stream, 4) for label in batch.labels] for _ in range(3))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(32))
    assert first != second != third != first


@pytest.mark.parametrize(("examples", "batch_size", "steps"), [(1, 1, 1), (32, 32, 1), (33, 32, 2), (1437, 32, 45)])
def test_steps_of_an_epoch_count_the_padded_batch(examples: int, batch_size: int, steps: int) -> None:
    assert batching.steps_per_epoch(examples, batch_size) == steps


# The digits of scikit-learn.

DIGITS = MnistMlp(source="digits", batch_size=32, epochs=2)


def test_the_digits_are_scikit_learns_in_squares_of_three_inside_of_a_border() -> None:
    examples = DIGITS._examples
    images = np.concatenate([examples.train_images, examples.test_images])
    labels = np.concatenate([examples.train_labels, examples.test_labels])
    expected = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(labels, expected.target[order])
    pictures = images.reshape(-1, 28, 28)
    for row in range(3):
        for column in range(3):  # each of the nine pixels of a square
            pixels = pictures[:, 2 + row : 26 : 3, 2 + column : 26 : 3]
            np.testing.assert_array_equal(pixels, expected.images[order].astype(np.float32) / 16)
    frame = pictures.copy()
    frame[:, 2:26, 2:26] = 0
    assert not frame.any()


def test_digits_have_the_shapes_and_ranges_that_the_task_declares() -> None:
    examples = DIGITS._examples
    assert examples.train_images.shape == (1797 - DIGITS_HELD_OUT, 784)
    assert examples.test_images.shape == (DIGITS_HELD_OUT, 784)
    assert (examples.train_images.dtype, examples.train_labels.dtype) == (np.float32, np.int32)
    assert (examples.train_images.min(), examples.train_images.max()) == (0, 1)
    assert np.bincount(examples.test_labels, minlength=10).min() > 20  # every digit is held out often enough


def test_batches_of_the_task() -> None:
    batch = next(DIGITS.train_batches(seed=0))
    assert batch.inputs["image"].shape == (32, 784)
    assert (batch.inputs["image"].dtype, batch.labels.dtype) == (np.float32, np.int32)
    held_out = list(DIGITS.eval_batches())
    assert sum(batch.items for batch in held_out) == DIGITS_HELD_OUT
    np.testing.assert_array_equal(
        np.concatenate([b.labels[b.weights != 0] for b in held_out]), DIGITS._examples.test_labels
    )
    assert DIGITS.train_steps == 2 * 45


def test_digits_are_read_where_scikit_learn_must_not_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker hides it from Keras, which would import it, before the digits are read."""
    monkeypatch.setitem(sys.modules, "sklearn", None)  # type: ignore[arg-type]
    assert MnistMlp(source="digits", batch_size=32, epochs=2).data.sha256 == DIGITS.data.sha256


def test_the_table_is_told_that_digits_are_not_mnist() -> None:
    assert "NOT MNIST" in DIGITS.data.description
    assert "1,437 training and 360 test images" in DIGITS.data.description
    assert DIGITS.data.name == "digits"
    assert DIGITS.data.sha256 == hash_arrays(*DIGITS._examples)


def test_parameters_have_canonical_names_shapes_and_glorots_range() -> None:
    params = DIGITS.init_params(0)
    shapes = {name: value.shape for name, value in params.items()}
    assert shapes == {
        "dense_0/kernel": (784, 128), "dense_0/bias": (128,), "dense_1/kernel": (128, 10), "dense_1/bias": (10,),
    }  # fmt: skip
    for name, value in params.items():
        assert value.dtype == np.float32
        if name.endswith("bias"):
            assert not value.any()
        else:
            limit = np.sqrt(6 / sum(value.shape))
            assert 0.95 * limit < np.abs(value).max() <= np.float32(limit)
            assert value.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_parameters_follow_their_seed() -> None:
    first, again, other = (DIGITS.init_params(seed) for seed in (0, 0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(first["dense_0/kernel"], other["dense_0/kernel"])


def test_metrics_by_hand() -> None:
    evaluation = Evaluation(np.array([1.0, 3.0, 2.0, 2.0]), np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    assert DIGITS.metrics(evaluation) == {"accuracy": 0.75, "loss": 2.0}


@pytest.mark.parametrize("name", tasks.PRESETS)
def test_every_preset_has_a_window_that_the_protocol_allows(name: str) -> None:
    chosen = preset(name)
    assert chosen.blocks >= 10
    assert chosen.rounds >= 2
    assert chosen.target.metric == "accuracy"
    assert isinstance(chosen.task, MnistMlp)
    assert chosen.task.source == ("digits" if name in ("smoke", "quick") else "mnist")
    adam = AdamW(learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)
    assert (chosen.task.optimizer, chosen.task.model) == (adam, MlpConfig((784, 128, 10)))


def test_an_unknown_preset_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        preset("huge")


# The hash of a spec.


def spec_hash(task: MnistMlp) -> str:
    return hash_json(describe_task(task))


def changed(value: object) -> object:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return 0.5 * value + 0.1
        case str():
            return {"digits": "mnist"}.get(value, value + "x")
        case tuple():
            return (value[0], value[1] + 1, *value[2:])
        case None:
            return 7
    raise TypeError(value)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(AdamW)])
def test_every_constant_of_the_optimizer_is_in_the_hash(field: str) -> None:
    optimizer = dataclasses.replace(DIGITS.optimizer, **{field: changed(getattr(DIGITS.optimizer, field))})
    assert spec_hash(dataclasses.replace(DIGITS, optimizer=optimizer)) != spec_hash(DIGITS)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(MlpConfig)])
def test_every_size_of_the_model_is_in_the_hash(field: str) -> None:
    model = dataclasses.replace(DIGITS.model, **{field: changed(getattr(DIGITS.model, field))})
    assert spec_hash(dataclasses.replace(DIGITS, model=model)) != spec_hash(DIGITS)


def test_every_field_of_the_task_but_the_folder_is_in_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tasks.mnist_mlp._mnist", lambda data_dir: (DIGITS._examples, True)
    )  # the same data under another name
    for field in dataclasses.fields(MnistMlp):
        if field.name in ("model", "optimizer"):
            continue
        value = tmp_path if field.name == "data_dir" else changed(getattr(DIGITS, field.name))
        other = dataclasses.replace(DIGITS, **{field.name: value})
        assert (spec_hash(other) == spec_hash(DIGITS)) == (field.name == "data_dir"), field.name
        assert str(tmp_path) not in str(describe_task(other))


def test_the_hash_is_the_same_in_another_order_of_keys_and_after_json() -> None:
    assert hash_json({"a": 1, "b": [1.5, None]}) == hash_json({"b": [1.5, None], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": "1"})
    assert len(hash_json({})) == 64


@pytest.mark.parametrize(
    "other", [np.zeros(4), np.zeros((2, 3)), np.zeros((2, 2), np.float32), np.ones((2, 2))], ids=str
)
def test_the_hash_of_an_array_sees_shape_type_and_values(other: np.ndarray) -> None:
    assert hash_arrays(np.zeros((2, 2))) != hash_arrays(other)
    assert hash_arrays(np.zeros((2, 2))) == hash_arrays(np.zeros((2, 4))[:, ::2])


def test_a_spec_refuses_what_is_not_plain() -> None:
    with pytest.raises(SpecError, match=r"the task's field a\.b is array\(.*, a ndarray: a spec holds plain values"):
        describe({"a": {"b": np.zeros(2)}})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_spec_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(SpecError, match=f"the task's field model is {value}: expected a finite number"):
        describe({"model": [1.0, value]})


@pytest.mark.parametrize("steps", [0, -1, 2.0, np.int64(3), True, None])
def test_a_training_of_no_whole_number_of_steps_is_refused(steps: object) -> None:
    class Odd(MnistMlp):
        train_steps = steps

    with pytest.raises(SpecError, match=r"train_steps is .*: expected a whole number of 1 or more"):
        describe_task(Odd(source="digits", batch_size=32, epochs=1))


@pytest.mark.parametrize("count", [0, 2])
def test_batches_that_end_are_named_with_how_many_there_were(count: int) -> None:
    class Ending(MnistMlp):
        def train_batches(self, seed: int) -> Iterator[Batch]:
            return islice(super().train_batches(seed), count)

    batches = batching.endless(Ending(source="digits", batch_size=32, epochs=1), seed=0)
    assert len(list(islice(batches, count))) == count
    with pytest.raises(
        SpecError, match=f"mnist_mlp: train_batches ended after {count} batches, expected batches without"
    ):
        next(batches)


def test_batches_without_end_are_the_tasks_own() -> None:
    mine, own = batching.endless(DIGITS, seed=3), DIGITS.train_batches(seed=3)
    for one, other in islice(zip(mine, own, strict=False), 50):
        np.testing.assert_array_equal(one.labels, other.labels)


# Sizes and constants that no task can have.


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(SpecError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a finite number > 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan: expected a finite number > 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'"),
        ({"beta1": 1.0}, "beta1 is 1.0: expected a finite number >= 0 and < 1"),
        ({"beta2": -0.1}, "beta2 is -0.1"),
        ({"eps": -1e-8}, "eps is -1e-08"),
        ({"eps": math.nan}, "eps is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1: expected a finite number >= 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0: expected a finite number > 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1: expected a whole number of 0 or more"),
        ({"decay_steps": 0}, "decay_steps is 0: expected a whole number of 1 or more"),
        ({"decay_steps": 10**400}, "decay_steps is 1000"),
        ({"warmup_steps": 5, "decay_steps": 5}, "warmup_steps is 5: expected fewer than the 5 decay_steps"),
    ],
)
def test_an_optimizer_that_cannot_train_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: dataclasses.replace(DIGITS.optimizer, **change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0: expected a whole number of 1 or more"),
        ({"batch_size": 32.0}, "batch_size is 32.0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 10**9}, "epochs is 1000000000: expected a whole number of 100,000,000 or less"),
        ({"source": "cifar"}, "source is 'cifar': expected 'digits' or 'mnist'"),
        ({"model": MlpConfig((783, 10))}, "widths is (783, 10): expected 784 pixels first and 10 digits last"),
        ({"model": MlpConfig((784, 9))}, "widths is (784, 9)"),
    ],
)
def test_a_perceptron_that_cannot_learn_digits_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: dataclasses.replace(DIGITS, **change))


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ((), "widths is (): expected a tuple of 2 to 1,000 sizes"),
        ((784,), "widths is (784,)"),
        ([784, 10], "widths is [784, 10]: expected a tuple"),
        ((784, 0, 10), "a width is 0: expected a whole number of 1 or more"),
        ((784, 1.5, 10), "a width is 1.5"),
        ((784, 10**9, 10**9, 10), "parameters: expected 2,000,000,000 or less"),
        ((1,) * 1001, "expected a tuple of 2 to 1,000 sizes"),
    ],
)
def test_layers_that_cannot_be_built_are_refused(widths: Any, said: str) -> None:
    assert said in refused(lambda: MlpConfig(widths))


def test_a_batch_larger_than_the_training_set_is_refused_and_one_of_its_size_is_not() -> None:
    said = refused(lambda: dataclasses.replace(DIGITS, batch_size=1438).data)
    assert said == ("batch_size is 1,438: larger than the training set of 1,437 images; set it to 1,437 or less")
    assert dataclasses.replace(DIGITS, batch_size=1437).train_steps == 2


def test_the_ladder_takes_the_layers_that_were_asked_for_at_sizes_that_it_can_afford() -> None:
    assert DIGITS.for_parity() is DIGITS
    asked = dataclasses.replace(DIGITS, batch_size=1000, model=MlpConfig((784, 4096, 64, 4096, 10)))
    small = asked.for_parity()
    assert (small.model.widths, small.batch_size) == ((784, 128, 64, 128, 10), 128)
    assert small.optimizer == asked.optimizer
    fast = dataclasses.replace(DIGITS, optimizer=dataclasses.replace(DIGITS.optimizer, learning_rate=3.0, beta1=0.5))
    assert fast.for_parity().optimizer == dataclasses.replace(fast.optimizer, learning_rate=1e-2)


# Targets.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "has no bound: give at_least, at_most or both"),
        ({"at_least": math.nan}, "at_least is nan: expected a finite number"),
        ({"at_most": math.inf}, "at_most is inf"),
        ({"at_least": 0.9, "at_most": 0.8}, "accuracy >= 0.9 and <= 0.8 cannot be reached"),
        ({"at_least": 0.9, "margin": 0.0}, "margin is 0.0: expected a finite number > 0"),
        ({"at_least": 0.9, "margin": math.nan}, "margin is nan"),
    ],
)
def test_a_target_that_says_nothing_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: Target("accuracy", **change))


def test_a_targets_figure_must_be_there_and_be_finite() -> None:
    target = Target("accuracy", at_least=0.9)
    assert target.value_in({"loss": 1.0, "accuracy": 0.5}) == 0.5
    assert refused(lambda: target.value_in({"loss": 1.0})) == (
        "metrics() returned no 'accuracy', which the target is about; it has: loss"
    )
    for value in (math.nan, math.inf, None, "0.9", np.float32(0.9)):
        assert "accuracy in what metrics() returned is" in refused(lambda: target.value_in({"accuracy": value}))  # type: ignore[dict-item]  # noqa: B023


@pytest.mark.parametrize(
    "change", [{"blocks": 9}, {"block_s": -1.0}, {"warmup_steps": -1}, {"rounds": 0}, {"seeds": 10**6}]
)
def test_a_preset_that_measures_nothing_or_for_ever_is_refused(change: dict[str, int]) -> None:
    assert next(iter(change)) in refused(lambda: dataclasses.replace(preset("smoke"), **change))


@pytest.mark.parametrize(
    ("target", "reached", "missed", "text"),
    [
        (Target("accuracy", at_least=0.9), 0.9, 0.89, "accuracy >= 0.9"),
        (Target("loss", at_most=2.0), 2.0, 2.1, "loss <= 2"),
        (Target("loss", at_least=1.0, at_most=2.0), 1.5, 0.5, "loss >= 1 and <= 2"),
    ],
)
def test_a_target_is_reached_at_its_bound_and_never_by_no_number(
    target: Target, reached: float, missed: float, text: str
) -> None:
    assert target.reached(reached)
    assert not target.reached(missed)
    assert not target.reached(float("nan"))
    assert str(target) == text
