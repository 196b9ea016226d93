"""The public implementations that the backends are held against, a line each."""

import importlib.util
from collections.abc import Mapping
from typing import NamedTuple


class Loop(NamedTuple):
    """A bare loop: a program of this folder."""

    task: str
    framework: str  # the backend that it is held against
    name: str  # of its row
    module: str
    apart: str = ""  # how its function is another one than the task's; empty where it is the same
    environment: Mapping[str, str] = {}
    needs: tuple[str, ...] = ()  # packages beside the framework's

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


IN_TENSORFLOW, IN_JAX = {"KERAS_BACKEND": "tensorflow"}, {"KERAS_BACKEND": "jax"}
TANH = "GELU by its tanh approximation"
NORM = "clips by a norm of single rows of an embedding's gradient"
"""Keras's optimizers on TensorFlow, where rows of one token are summed only after that."""

LOOPS = (
    Loop("mnist_mlp", "pytorch", "torch.nn", "mnist_mlp_pytorch"),
    Loop("mnist_mlp", "tensorflow", "Keras in tf.function", "mnist_mlp_tensorflow"),
    Loop("mnist_mlp", "jax", "Flax in jax.jit", "mnist_mlp_jax"),
    Loop("gru_lm", "pytorch", "torch.nn.GRU", "gru_lm_pytorch"),
    Loop("gru_lm", "tensorflow", "keras.layers.GRU in tf.function", "gru_lm_tensorflow", NORM),
    Loop(
        "gru_lm", "tensorflow", "keras.layers.GRU under compile", "gru_lm_in_keras", NORM, environment=IN_TENSORFLOW
    ),
    Loop("gru_lm", "jax", "flax.nnx.RNN in nnx.jit", "gru_lm_jax", "no bias on the hidden side of its cells"),
    Loop(
        "gru_lm", "jax", "keras.layers.GRU under compile", "gru_lm_in_keras", environment=IN_JAX, needs=("keras",)
    ),
    Loop("bert_sentiment", "pytorch", "transformers", "bert_sentiment_pytorch"),
    Loop("bert_sentiment", "pytorch", "transformers, torch.compile", "bert_sentiment_compiled_pytorch"),
    Loop("bert_sentiment", "tensorflow", "this model, a loop of Keras's users", "bert_sentiment_tensorflow", NORM),
    Loop(
        "bert_sentiment", "tensorflow", "KerasHub under compile", "bert_sentiment_in_keras", f"{TANH}; {NORM}",
        environment=IN_TENSORFLOW, needs=("keras_hub",),
    ),
    Loop("bert_sentiment", "jax", "this model, a loop of Flax's users", "bert_sentiment_jax"),
    Loop(
        "bert_sentiment", "jax", "KerasHub under compile", "bert_sentiment_in_keras", TANH,
        environment=IN_JAX, needs=("keras_hub",),
    ),
)  # fmt: skip
