"""The language model of tasks/gru_lm.py in Flax nnx.

The cell is written out: flax.nnx.GRUCell has no hidden-side bias, and is another function than torch's and Keras's GRU.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from backends.jax.models import Model, State
from tasks.gru_lm import GruLmConfig

UNROLL = 1


class Gru(nnx.Module):
    """One layer, time first: a single matrix product for all inputs, then a scan over the steps."""

    def __init__(self, width: int, hidden: int, **options: Any) -> None:
        self.input = nnx.Linear(width, 3 * hidden, **options)
        self.hidden = nnx.Linear(hidden, 3 * hidden, **options)

    def __call__(self, steps: jax.Array, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[T, B, D], [B, H] -> the state after each step [T, B, H], and after the last [B, H]."""
        kernel, bias = (part[...].astype(self.hidden.dtype) for part in (self.hidden.kernel, self.hidden.bias))

        def cell(hidden: jax.Array, projected: jax.Array) -> tuple[jax.Array, jax.Array]:
            i_r, i_z, i_n = jnp.split(projected, 3, axis=-1)  # [B, H]
            h_r, h_z, h_n = jnp.split(hidden @ kernel + bias, 3, axis=-1)
            r = nnx.sigmoid(i_r + h_r)
            z = nnx.sigmoid(i_z + h_z)
            n = jnp.tanh(i_n + r * h_n)
            hidden = (1 - z) * n + z * hidden
            return hidden, hidden

        last, outputs = jax.lax.scan(cell, hidden, self.input(steps), unroll=UNROLL)
        return outputs, last


class GruLm(Model):
    """Embedding, GRU layers with dropout between them, and a linear layer to the vocabulary."""

    def __init__(self, config: GruLmConfig, **options: Any) -> None:
        self.config, self.dtype = config, options["dtype"]
        self.embedding = nnx.Embed(config.vocabulary, config.embedding, **options)
        for i in range(config.layers):
            width = config.hidden if i else config.embedding
            setattr(self, f"gru_{i}", Gru(width, config.hidden, **options))
        self.dropout = nnx.Dropout(config.dropout, rngs=options["rngs"])
        self.output = nnx.Linear(config.hidden, config.vocabulary, **options)

    def __call__(self, inputs: Mapping[str, jax.Array], state: State, training: bool) -> tuple[jax.Array, State]:
        # Ids and features are turned, which costs nothing beside turning the projected gates of every step.
        steps = self.embedding(inputs["tokens"].T)  # [T, B, D]
        new_state = []
        for i in range(self.config.layers):
            steps, last = getattr(self, f"gru_{i}")(steps, state[i])  # [T, B, H], [B, H]
            new_state.append(last)
            if i < self.config.layers - 1:
                steps = self.dropout(steps, deterministic=not training)
        return self.output(steps.swapaxes(0, 1)), tuple(new_state)  # [B, T, V]

    def initial_state(self, batch_size: int) -> State:
        """Zeros, [B, H] for each layer."""
        return tuple(jnp.zeros((batch_size, self.config.hidden), self.dtype) for _ in range(self.config.layers))


build = GruLm
