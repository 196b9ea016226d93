"""The fine-tuning loop as a user of Flax nnx writes it.

Flax has no BERT: the model is the backend's own, everything around it is Flax's and optax's.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from backends.jax.bert import build
from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
spec = preset.task.optimizer
model = build(preset.task.model, dtype=jnp.float32, rngs=nnx.Rngs(0))
rise = optax.linear_schedule(0.0, spec.learning_rate, spec.warmup_steps)
fall = optax.linear_schedule(spec.learning_rate, 0.0, spec.decay_steps - spec.warmup_steps)
schedule = optax.join_schedules([rise, fall], [spec.warmup_steps])
transform = optax.chain(
    optax.clip_by_global_norm(spec.clip_norm),
    optax.adamw(
        schedule,
        weight_decay=spec.weight_decay,
        mask=lambda weights: jax.tree.map(lambda weight: weight.ndim >= 2, weights),
    ),
)
optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)


@nnx.jit
def train(
    model: nnx.Module, optimizer: nnx.Optimizer, tokens: jax.Array, mask: jax.Array, labels: jax.Array
) -> jax.Array:
    def loss_function(model: nnx.Module) -> jax.Array:
        logits, _ = model({"tokens": tokens, "mask": mask}, (), training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = nnx.value_and_grad(loss_function)(model)
    optimizer.update(model, gradients)
    return loss


def step(batch: tuple) -> None:
    train(model, optimizer, *batch)


examples = [(batch.inputs["tokens"], batch.inputs["mask"], batch.labels) for batch in batches]
print_step_seconds(
    step,
    examples,
    preset=preset,
    wait=lambda: jax.block_until_ready(nnx.state(model)),
)
