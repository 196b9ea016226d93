"""The GRU language model's training loop with Flax's own recurrent layers in one `nnx.jit`.

flax.nnx.GRUCell has no hidden-side bias: this is the loop that a user of its layers has, not the same function.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
sizes, batch_size = preset.task.model, batches[0].labels.shape[0]


class LanguageModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(sizes.vocabulary, sizes.embedding, rngs=rngs)
        widths = [sizes.embedding] + [sizes.hidden] * sizes.layers
        cells = [nnx.GRUCell(widths[i], sizes.hidden, rngs=rngs) for i in range(sizes.layers)]
        self.layers = nnx.List([nnx.RNN(cell, return_carry=True) for cell in cells])
        self.dropout = nnx.Dropout(sizes.dropout, rngs=rngs)
        self.output = nnx.Linear(sizes.hidden, sizes.vocabulary, rngs=rngs)

    def __call__(self, tokens: jax.Array, state: list) -> tuple[jax.Array, list]:
        features, new_state = self.embedding(tokens), []
        for layer, hidden in zip(self.layers, state, strict=True):
            if new_state:
                features = self.dropout(features)
            hidden, features = layer(features, initial_carry=hidden)
            new_state.append(hidden)
        return self.output(features), new_state


model = LanguageModel(nnx.Rngs(0))
transform = optax.chain(optax.clip_by_global_norm(preset.task.optimizer.clip_norm), optax.adam(1e-3))
optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
state = [jnp.zeros((batch_size, sizes.hidden)) for _ in range(sizes.layers)]


@nnx.jit
def train(model: nnx.Module, optimizer: nnx.Optimizer, tokens: jax.Array, labels: jax.Array, state: list) -> tuple:
    def loss_function(model: nnx.Module) -> tuple:
        logits, new_state = model(tokens, state)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new_state

    (loss, new_state), gradients = nnx.value_and_grad(loss_function, has_aux=True)(model)
    optimizer.update(model, gradients)
    return loss, new_state


def step(batch: tuple) -> None:
    global state
    _, state = train(model, optimizer, *batch, state)


pairs = [(batch.inputs["tokens"], batch.labels) for batch in batches]
print_step_seconds(
    step,
    pairs,
    preset=preset,
    wait=lambda: jax.block_until_ready(nnx.state(model)),
)
