"""The language model of tasks/gru_lm.py in Keras."""

import keras
import numpy as np
import tensorflow as tf

from backends.api import DEFAULT_MODE
from backends.tensorflow.models import Leaf, Model, dense, embedding
from tasks.gru_lm import GruLmConfig
from tasks.spec import Array


def build(config: GruLmConfig, mode: str = DEFAULT_MODE) -> Model:
    """keras.layers.GRU in the form that cuDNN can compute; states go in and come out as tensors."""
    computing = keras.config.dtype_policy().compute_dtype  # of the carried state too
    # Keras takes cuDNN wherever TensorFlow sees a GPU, even for a model that is built on the CPU beside it.
    # XLA cannot contain cuDNN's kernels.
    use_cudnn = "auto" if "GPU" in tf.zeros(()).device and mode != "xla" else False
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    state = [keras.Input((config.hidden,), dtype=computing, name=f"state_{i}") for i in range(config.layers)]
    steps = embedding(config.vocabulary, config.embedding, name="embedding")(tokens)  # [B, T, D]
    new_state = []
    for i in range(config.layers):
        layer = keras.layers.GRU(
            config.hidden,
            reset_after=True,
            return_sequences=True,
            return_state=True,
            use_cudnn=use_cudnn,
            kernel_initializer="zeros",
            recurrent_initializer="zeros",
            name=f"gru_{i}",
        )
        steps, final = layer(steps, initial_state=state[i])  # [B, T, H], [B, H]
        new_state.append(final)
        if i < config.layers - 1:
            steps = keras.layers.Dropout(config.dropout, name=f"dropout_{i}")(steps)
    logits = dense(config.vocabulary, name="output")(steps)  # [B, T, V]
    model = keras.Model([tokens, *state], [logits, *new_state])

    layout = {"embedding/embedding": Leaf("embedding/embeddings")}
    for i in range(config.layers):
        cell = f"gru_{i}/gru_cell"
        layout[f"gru_{i}/input/kernel"] = Leaf(f"{cell}/kernel", swap_gates, swap_gates)
        layout[f"gru_{i}/hidden/kernel"] = Leaf(f"{cell}/recurrent_kernel", swap_gates, swap_gates)
        # Keras keeps both biases in one variable [2, 3H].
        layout[f"gru_{i}/input/bias"] = Leaf(f"{cell}/bias", swap_gates, swap_gates, row=0)
        layout[f"gru_{i}/hidden/bias"] = Leaf(f"{cell}/bias", swap_gates, swap_gates, row=1)
    layout["output/kernel"] = Leaf("output/kernel")
    layout["output/bias"] = Leaf("output/bias")

    def apply(inputs, state, training):  # type: ignore[no-untyped-def]  # Model.apply has the types
        logits, *new_state = model([inputs["tokens"], *state], training=training)
        return logits, tuple(new_state)

    def initial_state(batch_size: int) -> tuple[tf.Tensor, ...]:
        return tuple(tf.zeros((batch_size, config.hidden), computing) for _ in range(config.layers))

    # On a GPU this is cuDNN, which XLA cannot contain; on a CPU XLA takes 1.4 times as long for a published step.
    return Model(model, apply=apply, initial_state=initial_state, layout=layout, xla=False)


def swap_gates(values: Array) -> Array:
    """r, z, n <-> z, r, n along the last axis."""
    first, second, third = np.split(values, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)
