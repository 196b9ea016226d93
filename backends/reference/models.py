"""What a model is in this backend: two functions over canonical parameters, to be read next to the task's equations."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backends.api import Unsupported

Values = Mapping[str, Any]  # arrays, or autograd's boxes around them
State = Any


def stateless(config: Any, batch_size: int) -> State:
    """A feed-forward model carries nothing from batch to batch."""
    return ()


class Model(NamedTuple):
    """`forward(config, params, inputs, state) -> (logits, state)`, and the state that it starts from."""

    forward: Callable[[Any, Values, Values, State], tuple[Any, State]]
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
