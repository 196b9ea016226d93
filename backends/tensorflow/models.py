"""The models as Keras models whose variables' paths are the canonical names.

A model maps {inputs, state} to (logits, state); a feed-forward model's state is the empty tuple.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tasks.mnist_mlp import MlpConfig
from tasks.spec import Array

State = tuple[tf.Tensor, ...]


class Leaf(NamedTuple):
    """One parameter's `variable.path` and the conversions between its two layouts."""

    native: str
    to_native: Callable[[Array], Array] = np.asarray
    to_canonical: Callable[[Array], Array] = np.asarray


class Model(NamedTuple):
    """A Keras model, how it is called, and where each canonical parameter lives in it."""

    keras: keras.Model
    apply: Callable[[Mapping[str, tf.Tensor], State, bool], tuple[tf.Tensor, State]]
    initial_state: Callable[[int], State]
    layout: Mapping[str, Leaf]


def mlp(config: MlpConfig) -> Model:
    """Equations in tasks/mnist_mlp.py."""
    image = keras.Input((config.widths[0],), name="image")
    hidden = image  # [B, 784]
    *widths, classes = config.widths[1:]
    for i, width in enumerate(widths):
        hidden = keras.layers.Dense(width, activation="relu", name=f"dense_{i}")(hidden)  # [B, 128]
    logits = keras.layers.Dense(classes, name=f"dense_{len(widths)}")(hidden)  # [B, 10]
    model = keras.Model(image, logits)
    return Model(
        model,
        apply=lambda inputs, state, training: (model(inputs["image"], training=training), state),
        initial_state=lambda batch_size: (),
        layout={variable.path: Leaf(variable.path) for variable in model.trainable_variables},
    )


MODELS: Mapping[type, Callable[[Any], Model]] = {
    MlpConfig: mlp,
}
