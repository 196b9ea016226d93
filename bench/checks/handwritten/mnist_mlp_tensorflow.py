"""The MLP's training loop as a Keras user writes it: a compiled `tf.function` around model, tape and optimizer."""

import keras
import tensorflow as tf

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)])
optimizer = keras.optimizers.Adam(1e-3)
optimizer.build(model.trainable_variables)
loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function(jit_compile=True)  # as `model.fit` does by default
def train(image: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        loss = loss_function(label, model(image, training=True))
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


def step(batch: tuple) -> None:
    train(tf.convert_to_tensor(batch[0]), tf.convert_to_tensor(batch[1]))


pairs = [(batch.inputs["image"], batch.labels) for batch in batches]
print_step_seconds(step, pairs, preset=preset, wait=tf.test.experimental.sync_devices)
