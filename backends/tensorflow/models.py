"""What a model is in this backend: a Keras model, and where each canonical parameter lives in it.

It maps inputs and state to (logits, state); a feed-forward model's state is the empty tuple.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from backends.api import DEFAULT_MODE, Unsupported
from tasks.spec import Array

State = tuple[tf.Tensor, ...]


class Leaf(NamedTuple):
    """One parameter's `variable.path` and the conversions between its two layouts."""

    native: str
    to_native: Callable[[Array], Array] = np.asarray
    to_canonical: Callable[[Array], Array] = np.asarray
    row: int | None = None  # of a variable that stacks several canonical parameters along its first axis


class Model(NamedTuple):
    """A Keras model, how it is called, and where each canonical parameter lives in it."""

    keras: keras.Model
    apply: Callable[[Mapping[str, tf.Tensor], State, bool], tuple[tf.Tensor, State]]
    initial_state: Callable[[int], State]
    layout: Mapping[str, Leaf]
    xla: bool = (
        True  # in the default mode; False where XLA's code was measured to be slower than TensorFlow's own kernels
    )


# The weights are given: layers that are made of these draw none to throw away.
dense = partial(keras.layers.Dense, kernel_initializer="zeros")
embedding = partial(keras.layers.Embedding, embeddings_initializer="zeros")


MODULES: Mapping[str, str] = {
    "MlpConfig": "backends.tensorflow.mlp",
    "BertConfig": "backends.tensorflow.bert",
    "GruLmConfig": "backends.tensorflow.gru",
}
"""Type of the task's `model` field -> module with a `build` function; imported only when a session needs it."""


def build(config: Any, mode: str = DEFAULT_MODE) -> Model:
    """The model for a task's configuration in one of this backend's MODES; Unsupported if this backend has none."""
    module = MODULES.get(type(config).__name__)
    if module is None:
        raise Unsupported(f"the TensorFlow backend has no model for {type(config).__name__}")
    model: Model = importlib.import_module(module).build(config, mode)
    return model
