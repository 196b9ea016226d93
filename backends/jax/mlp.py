"""The multi-layer perceptron of tasks/mnist_mlp.py in Flax nnx."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from backends.jax.models import Model, State
from tasks.mnist_mlp import MlpConfig


class Mlp(Model):
    """Linear layers with ReLU between them."""

    def __init__(self, config: MlpConfig, **options: Any) -> None:
        self.depth = len(config.widths) - 1
        for i in range(self.depth):
            setattr(self, f"dense_{i}", nnx.Linear(config.widths[i], config.widths[i + 1], **options))

    def __call__(self, inputs: Mapping[str, jax.Array], state: State, training: bool) -> tuple[jax.Array, State]:
        hidden = inputs["image"]  # [B, 784]
        for i in range(self.depth - 1):
            hidden = jnp.maximum(getattr(self, f"dense_{i}")(hidden), 0)  # [B, 128]
        return getattr(self, f"dense_{self.depth - 1}")(hidden), state  # [B, 10]


build = Mlp
