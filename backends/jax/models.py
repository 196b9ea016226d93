"""What a model is in this backend: a Flax nnx module whose attribute paths are the canonical names."""

import importlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from backends.api import Unsupported

State = tuple[jax.Array, ...]


class Model(nnx.Module):
    """Every model is called as `model(inputs, state, training) -> (logits, state)`: logits of the labels' shape with one more
    axis, and the recurrent state after the batch, which starts from `initial_state`.
    """

    def initial_state(self, batch_size: int) -> State:
        """A zero recurrent state; a feed-forward model's is the empty tuple."""
        return ()


MODULES: Mapping[str, str] = {
    "MlpConfig": "backends.jax.mlp",
    "BertConfig": "backends.jax.bert",
    "GruLmConfig": "backends.jax.gru",
}
"""Type of the task's `model` field -> module with a `build` function; imported only when a session needs it."""


def build(config: Any, **options: Any) -> Model:
    """The model for a task's configuration; Unsupported if this backend has none.

    `options` are those of Flax's layers: dtype, which they compute in, param_dtype and rngs.
    """
    module = MODULES.get(type(config).__name__)
    if module is None:
        raise Unsupported(f"the JAX backend has no model for {type(config).__name__}")
    model: Model = importlib.import_module(module).build(config, **options)
    return model
