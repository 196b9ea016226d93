"""BERT of tasks/bert.py in Keras."""

import math

import keras
import tensorflow as tf

from backends.api import DEFAULT_MODE
from backends.tensorflow.models import Leaf, Model, dense, embedding
from tasks.bert import CLASSES, BertConfig

KERAS_NAMES = {"embedding": "embeddings", "scale": "gamma"}


class Embeddings(keras.layers.Layer):
    """Word, position and token type 0, summed and normalised."""

    def __init__(self, config: BertConfig, **options: object) -> None:
        super().__init__(**options)
        self.word = embedding(config.vocabulary, config.hidden, name="word")
        self.position = embedding(config.positions, config.hidden, name="position")
        self.token_type = embedding(config.token_types, config.hidden, name="token_type")
        self.norm = keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, name="norm")
        self.dropout = keras.layers.Dropout(config.hidden_dropout)

    def build(self, shape: tuple[int | None, ...]) -> None:
        for table in (self.word, self.position, self.token_type):
            table.build(shape)
        self.norm.build((*shape, self.word.output_dim))

    def call(self, tokens: tf.Tensor, training: bool = False) -> tf.Tensor:
        positions = self.position.embeddings[: tf.shape(tokens)[1]]  # [T, H]
        summed = self.word(tokens) + positions + self.token_type.embeddings[0]
        return self.dropout(self.norm(summed), training=training)  # [B, T, H]


class Attention(keras.layers.Layer):
    """Self-attention of A heads."""

    def __init__(self, config: BertConfig, **options: object) -> None:
        super().__init__(**options)
        self.heads, self.width = config.heads, config.hidden // config.heads
        for name in ("query", "key", "value", "output"):
            setattr(self, f"{name}_dense", dense(config.hidden, name=name))
        self.dropout = keras.layers.Dropout(config.attention_dropout)

    def build(self, hidden_shape: tuple[int | None, ...], visible_shape: tuple[int | None, ...]) -> None:
        for layer in (self.query_dense, self.key_dense, self.value_dense, self.output_dense):
            layer.build(hidden_shape)

    def call(self, hidden: tf.Tensor, visible: tf.Tensor, training: bool = False) -> tf.Tensor:
        query = self._split(self.query_dense(hidden) / math.sqrt(self.width))
        key, value = self._split(self.key_dense(hidden)), self._split(self.value_dense(hidden))
        scores = tf.matmul(query, key, transpose_b=True)  # [B, A, T, T]
        scores = tf.where(visible[:, None, None, :], scores, scores.dtype.min)
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, self.variable_dtype)), scores.dtype)  # in bfloat16, not the sum
        weights = self.dropout(weights, training=training)
        attended = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))  # [B, T, A, D]
        return self.output_dense(tf.reshape(attended, tf.shape(hidden)))  # [B, T, H]

    def _split(self, hidden: tf.Tensor) -> tf.Tensor:
        batch, length = tf.unstack(tf.shape(hidden)[:2])
        return tf.transpose(tf.reshape(hidden, (batch, length, self.heads, self.width)), (0, 2, 1, 3))  # [B, A, T, D]


class EncoderLayer(keras.layers.Layer):
    """Attention and a two-layer perceptron, each with a residual sum that is normalised afterwards."""

    def __init__(self, config: BertConfig, **options: object) -> None:
        super().__init__(**options)
        self.attention = Attention(config, name="attention")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, name="attention_norm")
        self.intermediate = dense(config.intermediate, name="intermediate")
        self.output_dense = dense(config.hidden, name="output")
        self.output_norm = keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, name="output_norm")
        self.dropout = keras.layers.Dropout(config.hidden_dropout)

    def build(self, hidden_shape: tuple[int | None, ...], visible_shape: tuple[int | None, ...]) -> None:
        self.attention.build(hidden_shape, visible_shape)
        self.intermediate.build(hidden_shape)
        self.output_dense.build((*hidden_shape[:-1], self.intermediate.units))
        for norm in (self.attention_norm, self.output_norm):
            norm.build(hidden_shape)

    def call(self, hidden: tf.Tensor, visible: tf.Tensor, training: bool = False) -> tf.Tensor:
        attended = self.attention(hidden, visible, training=training)
        hidden = self.attention_norm(hidden + self.dropout(attended, training=training))
        inner = _gelu(self.intermediate(hidden))  # [B, T, I]
        return self.output_norm(hidden + self.dropout(self.output_dense(inner), training=training))


def _gelu(value: tf.Tensor) -> tf.Tensor:
    # tf.nn.gelu rounds the square root of 2 to single precision even for a double.
    return 0.5 * value * (1 + tf.math.erf(value * math.sqrt(0.5)))


def build(config: BertConfig, mode: str = DEFAULT_MODE) -> Model:
    """Embeddings, encoder, pooler and classifier; the variables' paths are the canonical names up to Keras's own words."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = keras.Input((None,), dtype="bool", name="mask")
    hidden = Embeddings(config, name="embeddings")(tokens)  # [B, T, H]
    for i in range(config.layers):
        hidden = EncoderLayer(config, name=f"layer_{i}")(hidden, mask)
    pooled = dense(config.hidden, activation="tanh", name="pooler")(hidden[:, 0])  # [B, H]
    pooled = keras.layers.Dropout(config.classifier_dropout)(pooled)
    logits = dense(CLASSES, name="classifier")(pooled)  # [B, 2]
    model = keras.Model((tokens, mask), logits)
    return Model(
        model,
        apply=lambda inputs, state, training: (
            model((inputs["tokens"], inputs["mask"] == 1), training=training),
            state,
        ),
        initial_state=lambda batch_size: (),
        layout={name: Leaf(_path(name)) for name in config.shapes()},
        # On a CPU, XLA's matrix products were measured to take 1.4 times as long as TensorFlow's own (oneDNN).
        xla=bool(tf.config.list_physical_devices("GPU")),
    )


def _path(canonical: str) -> str:
    """The variable's path in Keras, whose layer norms have gamma and beta and whose embeddings are plural."""
    *modules, leaf = canonical.split("/")
    if modules[-1].endswith("norm") and leaf == "bias":
        leaf = "beta"
    return "/".join([*modules, KERAS_NAMES.get(leaf, leaf)])
