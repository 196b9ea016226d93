"""The MLP's training loop as a JAX user writes it: one jitted step over a Flax nnx model's state and optax."""

import jax
import numpy as np
import optax
from flax import nnx

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()


class Mlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(784, 128, rngs=rngs)
        self.output = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.output(nnx.relu(self.hidden(image)))


graph, weights = nnx.split(Mlp(nnx.Rngs(0)))
leaves, structure = jax.tree.flatten(weights)
transform = optax.adam(1e-3)
state = (leaves, transform.init(leaves))


def loss_function(leaves: list, image: jax.Array, label: jax.Array) -> jax.Array:
    model = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
    return optax.softmax_cross_entropy_with_integer_labels(model(image), label).mean()


@jax.jit(donate_argnums=0)
def train(state: tuple, image: jax.Array, label: jax.Array) -> tuple:
    leaves, optimizer = state
    loss, gradients = jax.value_and_grad(loss_function)(leaves, image, label)
    updates, optimizer = transform.update(gradients, optimizer)
    return (optax.apply_updates(leaves, updates), optimizer), loss


def step(batch: tuple[np.ndarray, np.ndarray]) -> None:
    global state
    state, _ = train(state, *batch)


pairs = [(batch.inputs["image"], batch.labels) for batch in batches]
print_step_seconds(step, pairs, preset=preset, wait=lambda: jax.block_until_ready(state))
