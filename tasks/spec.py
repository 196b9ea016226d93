"""The terms in which a task is written down: parameters, batches, the optimizer, and the hash of it all.

A task says WHAT is trained, in NumPy. It names no framework; every backend receives the same arrays and returns its
results under the same names and layouts. All tasks minimise the same loss, the weighted softmax cross-entropy

    L = sum_i w_i * (logsumexp(z_i) - z_i[y_i]) / sum_i w_i

over every position i of the batch, where w_i = 0 marks padding that counts for nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Params = Mapping[str, Array]
"""Canonical parameters: "dense_0/kernel" -> float32[in, out]. The names and layouts are Flax's, and are the contract."""


class SpecError(ValueError):
    """A task, preset or data set cannot be used as asked. The message says what was expected and what to do next."""


class Batch(NamedTuple):
    """One step's worth of examples, always of the same shapes, so that no backend compiles twice."""

    inputs: Mapping[
        str, Array
    ]  # {"image": float32[B, 784]} or {"tokens": int32[B, T]} or {"tokens", "mask": int32[B, T]}
    labels: Array  # int32[B] or int32[B, T]
    weights: Array  # float32, the labels' shape; 0 is padding
    starts_sequence: bool = False  # True: the carried recurrent state is zeroed before this batch

    @property
    def items(self) -> int:
        """Number of positions that count: images, sentences or non-padding tokens."""
        return int(np.count_nonzero(self.weights))


class DropoutSite(NamedTuple):
    """One place of dropout, and weights with which it alone decides the loss among all places of its rate."""

    name: str
    rate: str  # the field of `model` that has the probability
    params: Params


class Evaluation(NamedTuple):
    """What a model said about a whole held-out set, padding already removed."""

    losses: Array  # float64[N], nats
    predictions: Array  # int64[N], the class of the largest logit
    labels: Array  # int64[N]


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101).

    With g the gradient of the batch, t = 1, 2, ... the number of this update, and every operation elementwise:

        g  <- g * min(1, clip_norm / ||g||)              over all parameters together; absent if clip_norm is None
        m  <- beta1 * m + (1 - beta1) * g
        v  <- beta2 * v + (1 - beta2) * g^2
        p  <- p - lr(t) * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) - lr(t) * weight_decay * p

    eps is added after the bias correction (as in Kingma & Ba's Algorithm 1, https://arxiv.org/abs/1412.6980; Keras adds
    it before). Weight decay applies to parameters of two or more dimensions: matrices, not biases or scales. With
    weight_decay = 0 this is Adam.

        lr(t) = learning_rate * min(1, t / warmup_steps) * min(1, (decay_steps - t + 1) / (decay_steps - warmup_steps))

    never below 0; the first factor is absent for warmup_steps = 0, the second for decay_steps = None.
    """

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
    clip_norm: float | None = None
    warmup_steps: int = 0
    decay_steps: int | None = None

    def learning_rate_at(self, update: int) -> float:
        """The learning rate of update number `update`, counted from 1."""
        factor = 1.0
        if self.warmup_steps:
            factor = min(factor, update / self.warmup_steps)
        if self.decay_steps is not None:
            remaining = (self.decay_steps - update + 1) / (self.decay_steps - self.warmup_steps)
            factor = min(factor, max(0.0, remaining))
        return self.learning_rate * factor

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes during training."""
        return self.warmup_steps > 0 or self.decay_steps is not None

    @staticmethod
    def decays(value: Any) -> bool:
        """Whether weight decay applies to this parameter (anything with a `shape`)."""
        return len(value.shape) >= 2


@dataclass(frozen=True)
class Data:
    """Which data a task reads, as a table names it."""

    name: str
    description: str  # one sentence for the reader of a table: what it is, how many examples
    sha256: str  # of the arrays that training and evaluation see


@dataclass(frozen=True)
class Target:
    """The quality that a cell must reach before its speed is ranked."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    margin: float | None = None  # means of two backends that are no further apart are equivalent

    def reached(self, value: float) -> bool:
        """Whether `value` is inside the target; NaN never is.

        The far bound is as much a part of it: what learns too well has seen the answers.
        """
        low = self.at_least is None or value >= self.at_least
        high = self.at_most is None or value <= self.at_most
        return low and high and value == value

    def __str__(self) -> str:
        bounds = [
            f"{sign} {bound:g}" for sign, bound in ((">=", self.at_least), ("<=", self.at_most)) if bound is not None
        ]
        return f"{self.metric} {' and '.join(bounds)}"


class Task(Protocol):
    """What is trained. Frozen dataclasses satisfy it; there is no base class."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str:
        """What is counted per second: "images", "tokens" or "sentences"."""
        ...

    @property
    def model(self) -> Any:
        """A frozen dataclass of sizes; its type selects the model in a backend."""
        ...

    @property
    def optimizer(self) -> AdamW: ...
    @property
    def data(self) -> Data: ...
    @property
    def train_steps(self) -> int:
        """Optimizer updates in the budget after which quality is judged."""
        ...

    def init_params(self, seed: int) -> Params:
        """Initial parameters under canonical names, float32, from NumPy's PCG64 with this seed."""
        ...

    def train_batches(self, seed: int) -> Iterator[Batch]:
        """Endless shuffled batches of fixed shapes; the same ones for every backend."""
        ...

    def eval_batches(self) -> Iterator[Batch]:
        """The whole held-out set once, in order; the last batch padded with weight 0."""
        ...

    def metrics(self, evaluation: Evaluation) -> dict[str, float]:
        """The quality figures of one evaluation, in one NumPy implementation for all frameworks."""
        ...

    def for_parity(self) -> "Task":
        """The same model code at a size at which float64 NumPy takes seconds, dropout 0.

        Three optional members: `step_flops`, an int, the floating-point operations of the model's matrix products in one
        training step; `tokens(batch)`, the tokens of a batch that are not padding, where items are something else; and
        `dropout_sites(params)`, a list of DropoutSite: without it, each field of `model` that is named "dropout" or
        "..._dropout" is one site.
        """
        ...


@dataclass(frozen=True)
class Preset:
    """A task at a declared size, and how long it is measured."""

    task: Task
    warmup_steps: int  # steps before the window, the same for every backend; the first one compiles
    block_steps: int  # steps between two barriers
    blocks: int  # blocks in the window, at least 10; more are added until the window lasts a second
    rounds: int  # speed processes per backend
    seeds: int  # quality processes per backend
    target: Target


def describe(value: Any) -> Any:
    """A spec as plain JSON values: a dataclass becomes its fields, except those marked metadata={"spec": False}."""
    if is_dataclass(value) and not isinstance(value, type):
        described = {f.name: describe(getattr(value, f.name)) for f in fields(value) if f.metadata.get("spec", True)}
        return {"type": type(value).__name__, **described}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a spec holds plain values and dataclasses, not {type(value).__name__}: {value!r}")


def describe_task(task: Task) -> dict[str, Any]:
    """Everything that decides what a task computes: its fields, its budget and the hash of its data."""
    spec: dict[str, Any] = describe(task)
    return {"task": task.name, **spec, "train_steps": task.train_steps, "data": describe(task.data)}


def hash_json(value: Any) -> str:
    """sha256 of a JSON value in one canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_arrays(*arrays: Array) -> str:
    """sha256 over dtype, shape and bytes of each array, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


DataDir = Path | None
"""A folder that holds data sets as their publishers ship them, or None for the cache and the mirrors."""
