"""The GRU language model's training loop as a Keras user writes it: stateful layers in a `tf.function`.

Not compiled with XLA, which takes longer for this step on a CPU and cannot contain cuDNN's kernels.
"""

import keras
import tensorflow as tf

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
sizes, (batch_size, window) = preset.task.model, batches[0].labels.shape
keras.utils.set_random_seed(0)
tokens = keras.Input((window,), batch_size=batch_size, dtype="int32")
features = keras.layers.Embedding(sizes.vocabulary, sizes.embedding)(tokens)
for layer in range(sizes.layers):
    if layer:
        features = keras.layers.Dropout(sizes.dropout)(features)
    features = keras.layers.GRU(sizes.hidden, return_sequences=True, stateful=True)(features)
model = keras.Model(tokens, keras.layers.Dense(sizes.vocabulary)(features))
optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=preset.task.optimizer.clip_norm)
optimizer.build(model.trainable_variables)
loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def train(tokens: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        loss = loss_function(labels, model(tokens, training=True))
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


def step(batch: tuple) -> None:
    train(*map(tf.convert_to_tensor, batch))


pairs = [(batch.inputs["tokens"], batch.labels) for batch in batches]
print_step_seconds(step, pairs, preset=preset, wait=tf.test.experimental.sync_devices)
