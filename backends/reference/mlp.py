"""The multi-layer perceptron of tasks/mnist_mlp.py in NumPy."""

from typing import Any

import autograd.numpy as np

from backends.reference.models import Drop, Model, State, Values
from tasks.mnist_mlp import MlpConfig


def forward(config: MlpConfig, params: Values, inputs: Values, state: State, drop: Drop) -> tuple[Any, State]:
    """image [B, 784] -> logits [B, 10]; there is no dropout."""
    hidden = inputs["image"]  # [B, in]
    layers = len(config.widths) - 1
    for layer in range(layers):
        hidden = hidden @ params[f"dense_{layer}/kernel"] + params[f"dense_{layer}/bias"]  # [B, out]
        if layer < layers - 1:
            hidden = np.maximum(hidden, 0)
    return hidden, state


MODEL = Model(forward)
