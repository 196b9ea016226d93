"""The fine-tuning loop as a Keras user writes it, in a `tf.function`.

Keras has no BERT: the model is the backend's own, everything around it is Keras's. Not compiled with XLA, whose matrix
products take longer on a CPU.
"""

import keras
import tensorflow as tf

from backends.tensorflow.bert import build
from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
spec = preset.task.optimizer
keras.utils.set_random_seed(0)
model = build(preset.task.model).keras
optimizer = keras.optimizers.AdamW(
    keras.optimizers.schedules.PolynomialDecay(spec.learning_rate, spec.decay_steps, end_learning_rate=0.0),
    weight_decay=spec.weight_decay,
    global_clipnorm=spec.clip_norm,
)
optimizer.exclude_from_weight_decay([variable for variable in model.trainable_variables if len(variable.shape) < 2])
optimizer.build(model.trainable_variables)
loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def train(tokens: tf.Tensor, mask: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        loss = loss_function(labels, model((tokens, mask), training=True))
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


def step(batch: tuple) -> None:
    train(*map(tf.convert_to_tensor, batch))


examples = [(batch.inputs["tokens"], batch.inputs["mask"] == 1, batch.labels) for batch in batches]
print_step_seconds(step, examples, preset=preset, wait=tf.test.experimental.sync_devices)
