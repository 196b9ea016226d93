"""The models as Flax nnx modules whose attribute paths are the canonical names.

`module(inputs, state, training) -> (logits, state)`; a feed-forward model's state is the empty tuple.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tasks.mnist_mlp import MlpConfig

State = tuple[jax.Array, ...]


class Mlp(nnx.Module):
    """Equations in tasks/mnist_mlp.py."""

    def __init__(self, config: MlpConfig, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.depth = len(config.widths) - 1
        for i in range(self.depth):
            layer = nnx.Linear(config.widths[i], config.widths[i + 1], dtype=dtype, param_dtype=dtype, rngs=rngs)
            setattr(self, f"dense_{i}", layer)

    def initial_state(self, batch_size: int) -> State:
        return ()

    def __call__(self, inputs: Mapping[str, jax.Array], state: State, training: bool) -> tuple[jax.Array, State]:
        hidden = inputs["image"]  # [B, 784]
        for i in range(self.depth - 1):
            hidden = jnp.maximum(getattr(self, f"dense_{i}")(hidden), 0)  # [B, 128]
        return getattr(self, f"dense_{self.depth - 1}")(hidden), state  # [B, 10]


MODELS: Mapping[type, Callable[..., nnx.Module]] = {
    MlpConfig: Mlp,
}
