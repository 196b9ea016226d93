"""The fine-tuning loop with KerasHub's BERT under `compile`, on the backend that KERAS_BACKEND names.

Its GELU is the tanh approximation, and all its dropouts have one rate. `train_on_batch` makes the step that `fit` makes, a
batch at a time, and waits for its loss.
"""

import keras
import keras_hub
import numpy as np

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
sizes, spec = preset.task.model, preset.task.optimizer
keras.utils.set_random_seed(0)
backbone = keras_hub.models.BertBackbone(
    vocabulary_size=sizes.vocabulary, num_layers=sizes.layers, num_heads=sizes.heads, hidden_dim=sizes.hidden,
    intermediate_dim=sizes.intermediate, dropout=sizes.hidden_dropout, max_sequence_length=sizes.positions,
    num_segments=sizes.token_types,
)  # fmt: skip
model = keras_hub.models.BertTextClassifier(backbone, num_classes=2, dropout=sizes.classifier_dropout)
optimizer = keras.optimizers.AdamW(
    keras.optimizers.schedules.PolynomialDecay(spec.learning_rate, spec.decay_steps, end_learning_rate=0.0),
    weight_decay=spec.weight_decay,
    global_clipnorm=spec.clip_norm,
)
optimizer.exclude_from_weight_decay([variable for variable in model.trainable_variables if len(variable.shape) < 2])
model.compile(
    optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[]
)  # fmt: skip


def step(batch: tuple) -> None:
    model.train_on_batch(*batch)


examples = [
    (
        {
            "token_ids": batch.inputs["tokens"],
            "segment_ids": np.zeros_like(batch.inputs["tokens"]),
            "padding_mask": batch.inputs["mask"],
        },
        batch.labels,
    )
    for batch in batches
]
print_step_seconds(step, examples, preset=preset, wait=lambda: None)
