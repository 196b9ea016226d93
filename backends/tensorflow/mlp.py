"""The multi-layer perceptron of tasks/mnist_mlp.py in Keras."""

import keras

from backends.api import DEFAULT_MODE
from backends.tensorflow.models import Leaf, Model, dense
from tasks.mnist_mlp import MlpConfig


def build(config: MlpConfig, mode: str = DEFAULT_MODE) -> Model:
    """Dense layers with ReLU between them; the variables' paths are the canonical names."""
    image = keras.Input((config.widths[0],), name="image")
    hidden = image  # [B, 784]
    *widths, classes = config.widths[1:]
    for i, width in enumerate(widths):
        hidden = dense(width, activation="relu", name=f"dense_{i}")(hidden)  # [B, 128]
    logits = dense(classes, name=f"dense_{len(widths)}")(hidden)  # [B, 10]
    model = keras.Model(image, logits)
    return Model(
        model,
        apply=lambda inputs, state, training: (model(inputs["image"], training=training), state),
        initial_state=lambda batch_size: (),
        layout={variable.path: Leaf(variable.path) for variable in model.trainable_variables},
    )
