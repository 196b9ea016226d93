"""BERT computes the same thing everywhere, and faults of the kind that transformers have are caught."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import autograd.numpy as anp
import numpy as np
import pytest

import backends
import tasks
from backends.api import Options
from backends.reference import bert
from backends.reference.models import Model
from backends.reference.session import ReferenceSession
from bench.records import files
from bench.worker import dropout, parity
from tasks import checkpoint
from tasks.bert_sentiment import BertSentiment
from tasks.spec import Batch, Params, Task
from tests.drawing import Subject

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # whole ladders

FRAMEWORKS = ("pytorch", "tensorflow", "jax")


def the_task() -> BertSentiment:
    task = tasks.load("bert_sentiment", "smoke").task
    assert isinstance(task, BertSentiment)
    return task


# The frameworks, one process each.


@cache
def ran(name: str, what: str) -> dict[str, Any]:
    """What tests.children.bert_in_one_framework prints for a backend."""
    entry = backends.find(name)
    missing = entry.missing()
    if name == "pytorch" and importlib.util.find_spec("transformers") is None:
        missing.append("transformers")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; add it with: {entry.install_command}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.children.bert_in_one_framework", name, what],
        env={**os.environ, **entry.env, **entry.env_cpu, "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_dropout_is_on_in_training_only_and_follows_the_seed(name: str) -> None:
    losses = ran(name, "dropout")
    training = losses["training, seed 0"]
    assert len(set(training)) == 3, "every step draws its own masks"
    assert training != losses["training, seed 1"]
    assert len({*losses["evaluation, seed 0"], *losses["evaluation, seed 1"]}) == 1


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("name", ["reference", "tensorflow", "jax"])
def test_a_real_checkpoint_gives_the_logits_of_transformers(name: str, precision: str, tolerance: float) -> None:
    if importlib.util.find_spec(checkpoint.PACKAGE.replace("-", "_")) is None:
        pytest.skip(f"no pretrained checkpoint here; add one with: {checkpoint.PACKAGE_HINT}")
    if name == "reference" and precision == "float32":
        pytest.skip("the reference computes in float64 only")
    theirs, ours = ran("pytorch", "checkpoint"), ran(name, "checkpoint")
    assert len(set(theirs["lengths"])) > 1, "sentences of different lengths, so that there is padding"
    expected, found = (np.array(result["logits"][precision]) for result in (theirs, ours))
    assert np.abs(found - expected).max() < tolerance
    assert np.ptp(expected) > 1e-3, "logits that differ"


# The faults, planted in the reference.


def caught_at(session: Callable[..., ReferenceSession]) -> str:
    """The name of the rung at which the ladder ends, or "top"; dropout and the full size are tested elsewhere."""
    ladder = parity.climb(Subject(session), the_task(), Options(precision="float64"), timed=False)
    files.encode(ladder)  # whatever was found, it can be written
    return "top" if ladder.passed else ladder.rungs[-1].name


def with_parts(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> Callable[..., ReferenceSession]:
    """Sessions whose forward pass has other parts; the arbiter's is left alone."""

    def forward(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            for name, part in parts.items():
                patch.setattr(bert, name, part)
            return bert.forward(*arguments)

    class Session(ReferenceSession):
        def __init__(self, task: Task, params: Params, *, seed: int) -> None:
            super().__init__(task, params, seed=seed)
            self.model = Model(forward)

    return Session


def test_the_sound_reference_reaches_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught_at(ReferenceSession) == "top"
    assert caught_at(with_parts(monkeypatch)) == "top"


def tanh_gelu(value: Any) -> Any:
    return value / 2 * (1 + anp.tanh(anp.sqrt(2 / anp.pi) * (value + 0.044715 * value**3)))


def relu(value: Any) -> Any:
    return anp.maximum(value, 0)


sound_norm, sound_attention, sound_embeddings = bert.layer_norm, bert.attention, bert.embeddings


def norm_with_another_eps(config: Any, params: Any, name: str, value: Any) -> Any:
    return sound_norm(replace(config, layer_norm_eps=1e-5), params, name, value)


def attention_without_mask(config: Any, params: Any, layer: int, hidden: Any, mask: Any, drop: Any) -> Any:
    return sound_attention(config, params, layer, hidden, anp.ones_like(mask), drop)


def attention_without_scaling(config: Any, params: Any, layer: int, hidden: Any, mask: Any, drop: Any) -> Any:
    name = f"layer_{layer}/attention/query"
    root = (config.hidden // config.heads) ** 0.5
    scaled = {
        **params,
        f"{name}/kernel": params[f"{name}/kernel"] * root,
        f"{name}/bias": params[f"{name}/bias"] * root,
    }
    return sound_attention(config, scaled, layer, hidden, mask, drop)


def embeddings_without_token_type(params: Any, tokens: Any) -> Any:
    return sound_embeddings(params, tokens) - params["embeddings/token_type/embedding"][0]


def embeddings_without_positions(params: Any, tokens: Any) -> Any:
    return sound_embeddings(params, tokens) - params["embeddings/position/embedding"][: tokens.shape[1]]


def mean_pooled(params: Any, hidden: Any) -> Any:
    return anp.tanh(bert.dense(params, "pooler", anp.mean(hidden, axis=1)))


def not_pooled(params: Any, hidden: Any) -> Any:
    return hidden[:, 0]


@pytest.mark.parametrize(
    "parts",
    [
        {"gelu": tanh_gelu},
        {"gelu": relu},
        {"layer_norm": norm_with_another_eps},
        {"attention": attention_without_mask},
        {"attention": attention_without_scaling},
        {"embeddings": embeddings_without_token_type},
        {"embeddings": embeddings_without_positions},
        {"pooled": not_pooled},
        {"pooled": mean_pooled},
    ],
    ids=lambda parts: next(iter(parts.values())).__name__,
)
def test_a_fault_of_the_model_is_caught_in_the_forward_pass(
    parts: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert caught_at(with_parts(monkeypatch, **parts)) == "forward"


class DropoutInEvaluation(ReferenceSession):
    """Dropout of the embeddings is on whenever the task has any."""

    def forward(self, params: Any, inputs: Any, state: Any) -> Any:
        rate = self.task.model.hidden_dropout
        table = params["embeddings/word/embedding"]
        kept = np.random.default_rng(0).random(table.shape) >= rate
        return super().forward({**params, "embeddings/word/embedding": table * kept / (1 - rate)}, inputs, state)


class DropoutInEvalStep(ReferenceSession):
    """The same, but only where quality is measured."""

    def eval_step(self, batch: Batch) -> Any:
        logits = self.predict(batch.inputs)
        keep = 1 - self.task.model.classifier_dropout
        return self.losses(logits * keep, batch.labels), np.argmax(logits, axis=-1)


@pytest.mark.parametrize("session", [DropoutInEvaluation, DropoutInEvalStep])
def test_dropout_left_on_in_evaluation_is_caught(session: type[ReferenceSession]) -> None:
    task, batch = the_task(), dropout.alike(next(the_task().train_batches(0)))
    subject, reference = (kind(task, task.init_params(0), seed=0) for kind in (session, ReferenceSession))
    found = dropout.evaluation(subject, reference, batch, tolerance=parity.TOLERANCES["float64"])
    assert not next(found).passed


class DecayOnBiases(ReferenceSession):
    """Weight decay on every parameter."""

    def update(self, gradients: Any) -> None:
        rate = self.task.optimizer.learning_rate_at(self.updates + 1) * self.task.optimizer.weight_decay
        extra = {name: rate * value for name, value in self.values.items() if value.ndim < 2}
        super().update(gradients)
        self.values = {name: value - extra.get(name, 0) for name, value in self.values.items()}


class NoDecay(ReferenceSession):
    """Weight decay forgotten."""

    def __init__(self, task: Task, params: Params, *, seed: int) -> None:
        super().__init__(task, params, seed=seed)
        assert isinstance(task, BertSentiment)
        self.task = replace(task, optimizer=replace(task.optimizer, weight_decay=0.0))


class WarmupOffByOne(ReferenceSession):
    """The learning rate of the update before: the first one is 0, or next to it, as a spec refuses 0."""

    def update(self, gradients: Any) -> None:
        assert isinstance(self.task, BertSentiment)
        sound, rate = self.task, self.task.optimizer.learning_rate_at(self.updates)
        constant = replace(sound.optimizer, learning_rate=rate or 1e-300, warmup_steps=0, decay_steps=None)
        self.task = replace(sound, optimizer=constant)
        super().update(gradients)
        self.task = sound


class NoClipping(ReferenceSession):
    """Gradients of any norm."""

    def __init__(self, task: Task, params: Params, *, seed: int) -> None:
        super().__init__(task, params, seed=seed)
        assert isinstance(task, BertSentiment)
        self.task = replace(task, optimizer=replace(task.optimizer, clip_norm=None))


@pytest.mark.parametrize("session", [DecayOnBiases, NoDecay, WarmupOffByOne, NoClipping])
def test_a_fault_of_the_optimizer_is_caught_at_the_update(
    session: Callable[..., ReferenceSession],
) -> None:
    assert caught_at(session) == "one update"


class NoDecayOfTheRate(ReferenceSession):
    """The learning rate stays at its peak after the warm-up."""

    def __init__(self, task: Task, params: Params, *, seed: int) -> None:
        super().__init__(task, params, seed=seed)
        assert isinstance(task, BertSentiment)
        self.task = replace(task, optimizer=replace(task.optimizer, decay_steps=None))


def test_a_schedule_without_its_end_is_caught_on_the_way() -> None:
    assert caught_at(NoDecayOfTheRate) == "trajectory"


class MeanOverPadding(ReferenceSession):
    """The loss divides by the batch size, padding included."""

    def mean_loss(self, losses: Any, weights: Any) -> Any:
        return anp.sum(losses * weights) / len(weights)


def test_a_mean_over_padding_is_caught_in_the_loss() -> None:
    assert caught_at(MeanOverPadding) == "loss"


class LastBatchDropped(ReferenceSession):
    """Evaluates no batch that is not full."""

    def eval_step(self, batch: Batch) -> Any:
        losses, predictions = super().eval_step(batch)
        return (losses if np.all(batch.weights) else np.zeros_like(losses)), predictions


def test_a_dropped_last_batch_is_caught_in_the_evaluation() -> None:
    assert caught_at(LastBatchDropped) == "evaluation"
