"""What a model is in this backend: two functions over canonical parameters, to be read next to the task's equations."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from backends.api import Unsupported

Values = Mapping[str, Any]  # arrays, or autograd's boxes around them
State = Any
Drop = Callable[[Any, float], Any]
"""(value, rate) -> the value after dropout; `keep_all` outside training."""


def keep_all(value: Any, rate: float) -> Any:
    """No dropout: evaluation."""
    return value


def dropout(rng: np.random.Generator) -> Drop:
    """Inverted dropout (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html).

    Each element is 0 with probability `rate`, independently of all others, and divided by 1 - rate otherwise. Every call
    draws a mask of its own.
    """

    def drop(value: Any, rate: float) -> Any:
        if rate == 0:
            return value
        kept = rng.random(value.shape) >= rate
        return value * (kept / (1 - rate))

    return drop


def stateless(config: Any, batch_size: int) -> State:
    """A feed-forward model carries nothing from batch to batch."""
    return ()


class Model(NamedTuple):
    """`forward(config, params, inputs, state, drop) -> (logits, state)`, and the state that it starts from."""

    forward: Callable[[Any, Values, Values, State, Drop], tuple[Any, State]]
    initial_state: Callable[[Any, int], State] = stateless


MODULES: Mapping[str, str] = {
    "MlpConfig": "backends.reference.mlp",
    "BertConfig": "backends.reference.bert",
    "GruLmConfig": "backends.reference.gru",
}
"""Type of the task's `model` field -> module with a `MODEL`; imported only when a session needs it."""


def build(config: Any) -> Model:
    """The model for a task's configuration; Unsupported if this backend has none."""
    module = MODULES.get(type(config).__name__)
    if module is None:
        raise Unsupported(f"the reference backend has no model for {type(config).__name__}")
    model: Model = importlib.import_module(module).MODEL
    return model
