"""The terms in which a task is written down: parameters, batches, the optimizer, and the hash of it all.

A task says WHAT is trained, in NumPy. It names no framework; every backend receives the same arrays and returns its
results under the same names and layouts. All tasks minimise the same loss, the weighted softmax cross-entropy

    L = sum_i w_i * (logsumexp(z_i) - z_i[y_i]) / sum_i w_i

over every position i of the batch, where w_i = 0 marks padding that counts for nothing.
"""

import hashlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Params = Mapping[str, Array]
"""Canonical parameters: "dense_0/kernel" -> float32[in, out]. The names and layouts are Flax's, and are the contract."""


MAX_PARAMETERS = 2_000_000_000
"""Of a model: in float32, with gradients and Adam's two moments, 32 GB; BERT-large has 340 million."""
MAX_SIZE = 1_000_000_000  # of any one dimension, batch or window: what is larger is a slip of the finger
MAX_LAYERS = 1_000
MAX_STEPS = 100_000_000  # updates of a training
MAX_VALIDATIONS = 100
MAX_BLOCKS = 1_000_000
MAX_BLOCK_S = 600.0
MAX_PROCESSES = 10_000  # of one kind, per backend


class SpecError(ValueError):
    """A task, preset or data set cannot be used as asked. The message says what was expected and what to do next."""


def check_whole(name: str, value: object, *, least: int = 1, most: int = MAX_SIZE) -> None:
    """Raises SpecError unless `value` is a plain int in least..most."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SpecError(f"{name} is {shown(value)}: expected a whole number of {least:,} or more")
    if value > most:
        raise SpecError(f"{name} is {shown(value)}: expected a whole number of {most:,} or less")


def check_real(
    name: str, value: object, *, above: float | None = None, least: float | None = None, below: float | None = None
) -> None:
    """Raises SpecError unless `value` is a plain, finite number within the bounds: above < value < below, least <= value."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        inside = (above is None or value > above) and (least is None or value >= least)
        if inside and (below is None or value < below):
            return
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">", above), (">=", least), ("<", below)) if bound is not None]
    raise SpecError(f"{name} is {shown(value)}: expected a finite number {' and '.join(bounds)}".rstrip())


def check_parameters(count: int) -> None:
    """Raises SpecError for a model of so many parameters that it would fit nowhere."""
    if count > MAX_PARAMETERS:
        raise SpecError(
            f"the model would have {count:,} parameters: expected {MAX_PARAMETERS:,} or less (32 GB in float32, with "
            "gradients and Adam's moments); make it smaller"
        )


def check_batch(batch_size: int, examples: int, what: str) -> None:
    """Raises SpecError for a batch that is larger than the training set: most of each step would be padding."""
    if batch_size > examples:
        raise SpecError(
            f"batch_size is {batch_size:,}: larger than the training set of {examples:,} {what}; set it to {examples:,} "
            "or less"
        )


def shown(value: object, most: int = 60) -> str:
    """A value as a message quotes it: on one line, and never longer than a reader's patience."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


class Batch(NamedTuple):
    """One step's worth of examples, always of the same shapes, so that no backend compiles twice."""

    inputs: Mapping[
        str, Array
    ]  # {"image": float32[B, 784]} or {"tokens": int32[B, T]} or {"tokens", "mask": int32[B, T]}
    labels: Array  # int32[B] or int32[B, T]
    weights: Array  # float32, the labels' shape; 0 is padding
    starts_sequence: bool = False  # True: the carried recurrent state is zeroed before this batch
    total: float | None = None  # of a part of a batch: the sum of the weights of the whole one

    @property
    def items(self) -> int:
        """Number of positions that count: images, sentences or non-padding tokens."""
        return int(np.count_nonzero(self.weights))


class Examples(NamedTuple):
    """A training set as arrays, row by row, from which a framework's own loader makes the task's batches."""

    inputs: Mapping[str, Array]  # [N, ...] each
    labels: Array  # [N, ...]
    batch_size: int
    shuffled: bool = True  # False: a pass is in order, and the carried recurrent state is zeroed before its first batch


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

    def __post_init__(self) -> None:
        check_real("learning_rate", self.learning_rate, above=0)
        check_real("beta1", self.beta1, least=0, below=1)
        check_real("beta2", self.beta2, least=0, below=1)
        check_real("eps", self.eps, least=0)
        check_real("weight_decay", self.weight_decay, least=0)
        if self.clip_norm is not None:
            check_real("clip_norm", self.clip_norm, above=0)
        check_whole("warmup_steps", self.warmup_steps, least=0, most=MAX_STEPS)
        if self.decay_steps is not None:
            check_whole("decay_steps", self.decay_steps, most=MAX_STEPS)
            if self.warmup_steps >= self.decay_steps:
                raise SpecError(
                    f"warmup_steps is {self.warmup_steps:,}: expected fewer than the {self.decay_steps:,} decay_steps, "
                    "at whose end the learning rate is 0"
                )

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

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise SpecError(f"the target for {self.metric} has no bound: give at_least, at_most or both")
        for name, bound in (("at_least", self.at_least), ("at_most", self.at_most)):
            if bound is not None:
                check_real(f"the target's {name}", bound)
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise SpecError(f"the target {self} cannot be reached: at_least is above at_most")
        if self.margin is not None:
            check_real("the target's margin", self.margin, above=0)

    def value_in(self, metrics: Mapping[str, float]) -> float:
        """The figure that the target is about; SpecError where a task's metrics lack it or it is no finite number."""
        if self.metric not in metrics:
            raise SpecError(
                f"metrics() returned no {self.metric!r}, which the target is about; it has: {', '.join(metrics) or 'nothing'}"
            )
        check_real(f"{self.metric} in what metrics() returned", metrics[self.metric])
        return metrics[self.metric]

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

        Optional members: `step_flops`, an int, the floating-point operations of the model's matrix products in one training
        step; `tokens(batch)`, the tokens of a batch that are not padding, where items are something else;
        `dropout_sites(params)`, a list of DropoutSite: without it, each field of `model` that is named "dropout" or
        "..._dropout" is one site; `trimmed(batch)`, the same batch with less padding, and `batch_flops(batch)`, what a training
        step on it takes; `training_examples()`, the arrays that a framework's own loader is given.
        """
        ...


def missing_members(task: object) -> list[str]:
    """The required members of Task that an object lacks; none of them is evaluated, so that no data is read."""
    required = [name for name in vars(Task) if not name.startswith("_")]
    return [name for name in required if inspect.getattr_static(task, name, None) is None]


@dataclass(frozen=True)
class Preset:
    """A task at a declared size, and how long it is measured."""

    task: Task
    warmup_steps: int  # steps before the window, the same for every backend; the first one compiles
    blocks: int  # blocks in the window at the least, 10 or more, with a barrier at the end of each
    rounds: int  # speed processes per arm
    seeds: int  # quality processes per arm
    target: Target
    most_blocks: int = 60  # where blocks scatter, and arms take turns
    block_s: float = 0.2  # about how long a block lasts; a few steps, where one step is longer
    warmup_s: float = 1.0  # the warm-up lasts at least so long
    validations: int = (
        0  # evaluations of the held-out set during a training, evenly spread; the one at its end is another
    )

    def __post_init__(self) -> None:
        check_whole("warmup_steps", self.warmup_steps, least=0, most=MAX_STEPS)
        check_whole("blocks", self.blocks, least=10, most=MAX_BLOCKS)
        check_whole("most_blocks", self.most_blocks, most=MAX_BLOCKS)
        check_whole("validations", self.validations, least=0, most=MAX_VALIDATIONS)
        check_whole("rounds", self.rounds, most=MAX_PROCESSES)
        check_whole("seeds", self.seeds, most=MAX_PROCESSES)
        for name, value in (("block_s", self.block_s), ("warmup_s", self.warmup_s)):
            if not 0 <= value <= MAX_BLOCK_S:
                raise SpecError(f"{name} is {value}: expected seconds from 0 to {MAX_BLOCK_S:g}")


def describe(value: Any, where: str = "") -> Any:
    """A spec as plain JSON values: a dataclass becomes its fields, except those marked metadata={"spec": False}.

    Raises SpecError for anything else, naming the field: `where` is the dotted path of `value`.
    """
    if is_dataclass(value) and not isinstance(value, type):
        chosen = [f.name for f in fields(value) if f.metadata.get("spec", True)]
        described = {name: describe(getattr(value, name), f"{where}.{name}") for name in chosen}
        return {"type": type(value).__name__, **described}
    if isinstance(value, Mapping):
        return {str(key): describe(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{_field(where)} is {value!r}: expected a finite number")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise SpecError(
        f"{_field(where)} is {shown(value)}, a {type(value).__name__}: a spec holds plain values and dataclasses; "
        'exclude it with field(metadata={"spec": False}), or hold its hash'
    )


def _field(where: str) -> str:
    return f"the task's field {where[1:]}" if where else "the task"


def describe_task(task: Task) -> dict[str, Any]:
    """Everything that decides what a task computes: its fields, its budget and the hash of its data. Raises SpecError."""
    spec: dict[str, Any] = describe(task)
    check_whole("train_steps", task.train_steps, most=MAX_STEPS)
    return {"task": task.name, **spec, "train_steps": task.train_steps, "data": describe(task.data, ".data")}


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
