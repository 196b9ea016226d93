"""The GRU language model with Keras's own recurrent layers under `compile`, on the backend that KERAS_BACKEND names.

`train_on_batch` makes the step that `fit` makes, a batch at a time, and waits for its loss.
"""

import keras

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
model.compile(
    optimizer=keras.optimizers.Adam(1e-3, global_clipnorm=preset.task.optimizer.clip_norm),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)


def step(batch: tuple) -> None:
    model.train_on_batch(*batch)


pairs = [(batch.inputs["tokens"], batch.labels) for batch in batches]
print_step_seconds(step, pairs, preset=preset, wait=lambda: None)
