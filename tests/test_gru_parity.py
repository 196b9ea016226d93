"""The language model computes the same thing everywhere, and faults of the kind that recurrent models have are caught."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import autograd.numpy as anp
import numpy as np
import pytest

import backends
import tasks
from backends.api import Options
from backends.reference import gru
from backends.reference.models import Model
from backends.reference.session import ReferenceSession
from bench.worker import loop, parity
from tasks.gru_lm import PARITY_CLIP_NORM, GruLm
from tasks.spec import Array, Batch, Params, Task
from tests.children.gru_in_one_framework import SAMPLED, small_task
from tests.drawing import Subject

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # whole ladders

FRAMEWORKS = ("pytorch", "tensorflow", "jax")
EMBEDDING = "embedding/embedding"


def the_task() -> GruLm:
    task = tasks.load("gru_lm", "smoke").task
    assert isinstance(task, GruLm)
    return task


# The frameworks, one process each.


@cache
def ran(name: str) -> dict[str, Any]:
    """What tests.children.gru_in_one_framework prints for a backend."""
    missing = backends.find(name).missing()
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; add it with: {backends.find(name).install_command}")
    entry = backends.find(name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.children.gru_in_one_framework", name],
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
def test_the_same_parameters_write_the_same_words(name: str) -> None:
    words = ran(name)["words"]
    assert len(words) == SAMPLED
    assert len(set(words)) > 5, "a text of one word would prove little"
    assert words == ran("reference")["words"]
    assert words == ran(name)["again"], "sampling starts from a state of zero, whatever came before"


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("pytorch", "ATen"), ("tensorflow", "TensorFlow, while loop"), ("jax", "lax.scan over 7 steps")],
)
def test_the_kernels_of_a_cpu_are_named(name: str, kernels: str) -> None:
    assert kernels in ran(name)["kernels"]


# The faults, planted in the reference.


def caught_at(session: Callable[..., ReferenceSession]) -> str:
    """The name of the rung at which the ladder ends, or "top"; dropout and the full size are tested elsewhere."""
    ladder = parity.climb(Subject(session), the_task(), Options(precision="float64"), timed=False)
    return "top" if ladder.passed else ladder.rungs[-1].name


def with_cell(cell: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., ReferenceSession]:
    """Sessions whose forward pass uses another cell; the arbiter's is left alone."""

    def forward(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(gru, "cell", cell)
            return gru.forward(*arguments)

    class Session(ReferenceSession):
        def __init__(self, task: Task, params: Params, *, seed: int) -> None:
            super().__init__(task, params, seed=seed)
            self.model = Model(forward, gru.initial_state)

    return Session


def gates(params: Any, name: str, x: Any, hidden: Any) -> tuple[Any, ...]:
    """i_r, i_z, i_n, h_r, h_z, h_n of tasks/gru_lm.py."""
    from_input = x @ params[f"{name}/input/kernel"] + params[f"{name}/input/bias"]
    from_hidden = hidden @ params[f"{name}/hidden/kernel"] + params[f"{name}/hidden/bias"]
    return (*gru._thirds(from_input), *gru._thirds(from_hidden))


def missing_hidden_bias(params: Any, name: str, x: Any, hidden: Any) -> Any:
    without = {**{key: params[key] for key in params}, f"{name}/hidden/bias": params[f"{name}/hidden/bias"] * 0}
    return TRUE_CELL(without, name, x, hidden)


def swapped_gates(params: Any, name: str, x: Any, hidden: Any) -> Any:
    i_z, i_r, i_n, h_z, h_r, h_n = gates(params, name, x, hidden)
    r, z = gru.logistic(i_r + h_r), gru.logistic(i_z + h_z)
    return (1 - z) * anp.tanh(i_n + r * h_n) + z * hidden


def update_gate_the_other_way_round(params: Any, name: str, x: Any, hidden: Any) -> Any:
    i_r, i_z, i_n, h_r, h_z, h_n = gates(params, name, x, hidden)
    r, z = gru.logistic(i_r + h_r), gru.logistic(i_z + h_z)
    return z * anp.tanh(i_n + r * h_n) + (1 - z) * hidden


def reset_before_the_product(params: Any, name: str, x: Any, hidden: Any) -> Any:
    i_r, i_z, i_n, h_r, h_z, _ = gates(params, name, x, hidden)
    r, z = gru.logistic(i_r + h_r), gru.logistic(i_z + h_z)
    *_, h_n = gates(params, name, x, r * hidden)
    return (1 - z) * anp.tanh(i_n + h_n) + z * hidden


TRUE_CELL = gru.cell


@pytest.mark.parametrize(
    "cell", [missing_hidden_bias, swapped_gates, update_gate_the_other_way_round, reset_before_the_product]
)
def test_another_cell_is_caught_by_its_logits(cell: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught_at(with_cell(cell, monkeypatch)) == "forward"


def test_the_planting_itself_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught_at(with_cell(TRUE_CELL, monkeypatch)) == "top"


class StateNotCarried(ReferenceSession):
    def train_step(self, batch: Batch) -> float:
        self.state = None
        return super().train_step(batch)


class StateNotReset(ReferenceSession):
    """Carries the state over the end of an epoch too."""

    def reset_state(self) -> None:
        pass


class NoClipping(ReferenceSession):
    """What clipping after the update amounts to."""

    def update(self, gradients: Mapping[str, Array]) -> None:
        optimizer, self.task = self.task.optimizer, Unclipped(self.task)  # type: ignore[assignment]
        assert optimizer.clip_norm is not None
        super().update(gradients)


class Unclipped:
    """A task whose optimizer does not clip."""

    def __init__(self, task: Task) -> None:
        self.model = task.model
        self.optimizer = type(task.optimizer)(**{**vars(task.optimizer), "clip_norm": None})


class ClippedByValue(ReferenceSession):
    """Every gradient's own norm is clipped, not that of all together."""

    def update(self, gradients: Mapping[str, Array]) -> None:
        limit = self.task.optimizer.clip_norm
        assert limit is not None
        super().update({k: g * min(1.0, limit / float(np.linalg.norm(g))) for k, g in gradients.items()})


class SquaresBeforeTheSum(ReferenceSession):
    """A row of the embedding that occurs k times: the second moment sums k squares instead of squaring the sum."""

    def train_step(self, batch: Batch) -> float:
        tokens = batch.inputs["tokens"]
        # One row for each occurrence makes their gradients visible one by one.
        rows = ReferenceSession(self.task, {**self.values, EMBEDDING: self.values[EMBEDDING][tokens.reshape(-1)]})
        each = np.arange(tokens.size).reshape(tokens.shape)
        _, gradients, _ = rows.loss_and_gradients(batch._replace(inputs={"tokens": each}), self.state)
        self.squares = np.zeros_like(self.values[EMBEDDING])
        np.add.at(self.squares, tokens.reshape(-1), gradients[EMBEDDING] ** 2)
        return super().train_step(batch)

    def update(self, gradients: Mapping[str, Array]) -> None:
        spec, value, (_, second) = self.task.optimizer, self.values[EMBEDDING], self.moments[EMBEDDING]
        super().update(gradients)
        norm = np.sqrt(sum(float(np.sum(gradient**2)) for gradient in gradients.values()))
        scale = min(1.0, (spec.clip_norm or np.inf) / norm)
        first = self.moments[EMBEDDING][0]
        second = spec.beta2 * second + (1 - spec.beta2) * self.squares * scale**2
        t = self.updates
        direction = first / (1 - spec.beta1**t) / (np.sqrt(second / (1 - spec.beta2**t)) + spec.eps)
        self.values[EMBEDDING] = value - spec.learning_rate * direction
        self.moments[EMBEDDING] = (first, second)


class DropoutInEvaluation(ReferenceSession):
    def eval_step(self, batch: Batch) -> tuple[Array, Array]:
        kept = self.values
        mask = np.random.default_rng(0).random(kept[EMBEDDING].shape) >= 0.1
        self.values = {**kept, EMBEDDING: kept[EMBEDDING] * mask / 0.9}
        result = super().eval_step(batch)
        self.values = kept
        return result


class LastBatchDropped(ReferenceSession):
    """An incomplete batch of the held-out text is not looked at."""

    def eval_step(self, batch: Batch) -> tuple[Array, Array]:
        if not np.all(batch.weights):
            return np.zeros(batch.labels.shape), np.zeros(batch.labels.shape, np.int64)
        return super().eval_step(batch)


class StateNotCarriedInEvaluation(ReferenceSession):
    def eval_step(self, batch: Batch) -> tuple[Array, Array]:
        self.state = None
        return super().eval_step(batch)


@pytest.mark.parametrize(
    ("session", "rung"),
    [
        (NoClipping, "one update"),
        (ClippedByValue, "one update"),
        (SquaresBeforeTheSum, "one update"),
        (StateNotCarried, "trajectory"),
        (StateNotReset, "trajectory"),
        (DropoutInEvaluation, "evaluation"),
        (LastBatchDropped, "evaluation"),
        (StateNotCarriedInEvaluation, "evaluation"),
    ],
)
def test_a_fault_of_the_step_is_caught_at_its_rung(session: type[ReferenceSession], rung: str) -> None:
    assert caught_at(session) == rung


def test_the_reference_itself_reaches_the_top() -> None:
    assert caught_at(ReferenceSession) == "top"


def test_clipping_is_at_work_in_every_step_of_the_trajectory() -> None:
    task = the_task().for_parity()
    session = ReferenceSession(task, parity.with_noise_on_vectors(task.init_params(0)))
    for batch in islice(task.train_batches(1), parity.TRAJECTORY_STEPS):
        gradients = session.gradients(loop.put(session, batch))
        assert np.sqrt(sum(float(np.sum(gradient**2)) for gradient in gradients.values())) > PARITY_CLIP_NORM
        loop.step(session, batch)


def test_the_small_task_learns() -> None:
    task = small_task()
    session = ReferenceSession(task, task.init_params(0))
    losses = [float(loop.step(session, batch)) for batch in islice(task.train_batches(0), 60)]
    assert np.mean(losses[-12:]) < np.mean(losses[:12]) - 0.4
