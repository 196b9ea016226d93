"""A session in NumPy float64: slow, transparent, and the judge of all others."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad

from backends.api import DeviceMemory, Options, Settings, switches
from backends.reference import MODES
from backends.reference.adamw import adamw
from backends.reference.models import Drop, build, dropout, keep_all
from tasks.spec import Array, Batch, Params, Task

COPIES = 64  # of a batch that are computed at once in `draw_losses`


def versions() -> Mapping[str, str]:
    """NumPy and autograd."""
    return {name: version(name) for name in ("numpy", "autograd")}


def open_session(task: Task, params: Params, options: Options) -> "ReferenceSession":
    """A session for any task that has a forward pass here."""
    switches(options.mode, MODES)
    return ReferenceSession(task, params, seed=options.seed)


def draw_losses(task: Task, params: Params, batch: Batch, *, count: int, rng: np.random.Generator) -> Array:
    """The training loss of one batch under `count` independent draws of all dropout masks, float64[count].

    What as many training steps at a learning rate of 0 would report, from zero recurrent state. Copies of the batch side by
    side are one large batch, in which every copy has masks of its own: far faster than one step for each.
    """
    session = ReferenceSession(task, params)
    session.drop = dropout(rng)
    batch = session.put(batch)
    size = len(batch.labels)
    drawn: list[Array] = []
    for start in range(0, count, COPIES):
        copies = min(COPIES, count - start)
        inputs = {name: np.concatenate([value] * copies) for name, value in batch.inputs.items()}
        losses = session.losses(
            session.forward(session.values, inputs, None)[0], np.concatenate([batch.labels] * copies)
        )
        weighted = np.reshape(losses, (copies, size, -1)) * np.reshape(batch.weights, (size, -1))
        drawn.append(np.sum(weighted, axis=(1, 2)) / np.sum(batch.weights))
    return np.concatenate(drawn)


class ReferenceSession:
    """Implements backends.api.Session; a handle is the value itself."""

    def __init__(self, task: Task, params: Params, *, seed: int = 0) -> None:
        self.task = task
        self.drop_in_training = dropout(np.random.default_rng(seed))
        self.drop: Drop = keep_all  # what `forward` does where the model has dropout
        self.model = build(task.model)
        self.values: dict[str, Array] = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in self.values.items()}
        self.updates = 0
        self.state: Any = None

    # The parts of a step, one method each.

    def forward(self, params: Mapping[str, Any], inputs: Mapping[str, Array], state: Any) -> tuple[Any, Any]:
        """(logits, new recurrent state)."""
        if state is None:
            state = self.model.initial_state(self.task.model, len(next(iter(inputs.values()))))
        return self.model.forward(self.task.model, params, inputs, state, self.drop)

    def losses(self, logits: Any, labels: Array) -> Any:
        """Cross-entropy of every position, in nats, of the labels' shape."""
        peak = anp.max(logits, axis=-1, keepdims=True)
        log_sum = anp.log(anp.sum(anp.exp(logits - peak), axis=-1)) + peak[..., 0]
        classes = logits.shape[-1]
        chosen = anp.reshape(logits, (-1, classes))[anp.arange(labels.size), labels.reshape(-1)]
        return log_sum - anp.reshape(chosen, labels.shape)

    def mean_loss(self, losses: Any, weights: Array) -> Any:
        """The loss of tasks/spec.py."""
        return anp.sum(losses * weights) / anp.sum(weights)

    def loss_and_gradients(self, batch: Batch, state: Any) -> tuple[float, dict[str, Array], Any]:
        """Loss, gradients under canonical names, and the recurrent state after the batch, with dropout."""
        carried: list[Any] = []
        self.drop = self.drop_in_training

        def loss(params: Mapping[str, Any]) -> Any:
            logits, new_state = self.forward(params, batch.inputs, state)
            carried[:] = [new_state]
            return self.mean_loss(self.losses(logits, batch.labels), batch.weights)

        value, gradients = value_and_grad(loss)(self.values)
        # The state leaves the graph here: back-propagation is truncated at the window.
        return float(value), dict(gradients), _unboxed(carried[0])

    def update(self, gradients: Mapping[str, Array]) -> None:
        """One AdamW update in place."""
        self.updates += 1
        self.values, self.moments = adamw(
            self.task.optimizer, values=self.values, gradients=gradients, moments=self.moments, update=self.updates
        )

    # The session.

    def prepare(self, batch: Batch) -> Batch:
        return batch._replace(inputs=_in_double(batch.inputs), weights=batch.weights.astype(np.float64))

    def put(self, prepared: Batch) -> Batch:
        return prepared

    def train_step(self, batch: Batch) -> float:
        loss, gradients, self.state = self.loss_and_gradients(batch, self.state)
        self.update(gradients)
        return loss

    def eval_step(self, batch: Batch) -> tuple[Array, Array]:
        self.drop = keep_all
        logits, self.state = self.forward(self.values, batch.inputs, self.state)
        return self.losses(logits, batch.labels), np.argmax(logits, axis=-1)

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        self.drop = keep_all
        logits: Array = self.forward(self.values, _in_double(inputs), None)[0]
        return logits

    def gradients(self, batch: Batch) -> Params:
        return self.loss_and_gradients(batch, None)[1]

    def reset_state(self) -> None:
        self.state = None

    def fetch(self, value: Any) -> Array:
        return np.asarray(value)

    def wait(self) -> None:
        """NumPy has finished when it returns."""

    def params(self) -> Params:
        return dict(self.values)

    def matmul(self, left: Array, right: Array, *, times: int) -> Array:
        product: Array = left.astype(np.float64)
        for _ in range(times):
            product = product @ right
        return product

    def compilations(self) -> int | None:
        return None

    def device_memory(self) -> DeviceMemory | None:
        return None

    def settings(self) -> Settings:
        return {"device": "cpu", "precision": "float64", "mode": "default", "compile": "none", "kernels": "NumPy"}


def _in_double(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in inputs.items()}


def _unboxed(state: Any) -> Any:
    """The plain arrays inside autograd's boxes, in the same nesting of tuples."""
    if isinstance(state, tuple):
        return tuple(_unboxed(part) for part in state)
    return getattr(state, "_value", state)
