"""The fine-tuning loop with KerasHub's own BERT, compiled by Keras as `fit` compiles it.

keras_hub.models.BertTextClassifier is another function: its feed-forward layers have the tanh approximation of GELU.
"""

import keras
import keras_hub

from bench.checks.handwritten.window import BLOCK_STEPS, preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
spec, sizes = preset.task.optimizer, preset.task.model
keras.utils.set_random_seed(0)
backbone = keras_hub.models.BertBackbone(
    vocabulary_size=sizes.vocabulary,
    num_layers=sizes.layers,
    num_heads=sizes.heads,
    hidden_dim=sizes.hidden,
    intermediate_dim=sizes.intermediate,
    dropout=sizes.hidden_dropout,
    max_sequence_length=sizes.positions,
    num_segments=sizes.token_types,
)
model = keras_hub.models.BertTextClassifier(backbone, num_classes=2, dropout=sizes.classifier_dropout)
model.compile(
    optimizer=keras.optimizers.AdamW(
        keras.optimizers.schedules.PolynomialDecay(spec.learning_rate, spec.decay_steps, end_learning_rate=0.0),
        weight_decay=spec.weight_decay,
        global_clipnorm=spec.clip_norm,
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)


def step(batch: tuple) -> None:
    inputs, labels = batch
    model.train_on_batch(inputs, labels)


examples = [
    (
        {
            "token_ids": batch.inputs["tokens"],
            "padding_mask": batch.inputs["mask"] == 1,
            "segment_ids": 0 * batch.inputs["tokens"],
        },
        batch.labels,
    )
    for batch in batches
]
print_step_seconds(step, examples, warmup=preset.warmup_steps, block=BLOCK_STEPS, wait=lambda: None)
