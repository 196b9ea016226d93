"""BERT of tasks/bert.py in Flax nnx.

Attention is written out: jax.nn.dot_product_attention has no dropout of the attention weights.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from backends.jax.models import Model, State
from tasks.bert import CLASSES, BertConfig


class Embeddings(nnx.Module):
    """Word, position and token type 0, summed and normalised."""

    def __init__(self, config: BertConfig, **options: Any) -> None:
        self.word = nnx.Embed(config.vocabulary, config.hidden, **options)
        self.position = nnx.Embed(config.positions, config.hidden, **options)
        self.token_type = nnx.Embed(config.token_types, config.hidden, **options)
        self.norm = _norm(config, **options)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        length = tokens.shape[1]
        summed = self.word(tokens)  # [B, T, H]
        position, first_type = self.position.embedding[...][:length], self.token_type.embedding[...][0]  # [T, H], [H]
        return self.norm(summed + position.astype(summed.dtype) + first_type.astype(summed.dtype))


class Attention(nnx.Module):
    """Self-attention of A heads."""

    def __init__(self, config: BertConfig, **options: Any) -> None:
        self.heads = config.heads
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nnx.Linear(config.hidden, config.hidden, **options))
        self.dropout = nnx.Dropout(config.attention_dropout)

    def __call__(self, hidden: jax.Array, mask: jax.Array, *, training: bool, rngs: nnx.Rngs) -> jax.Array:
        split = (*hidden.shape[:2], self.heads, hidden.shape[2] // self.heads)  # [B, T, A, D]
        query, key, value = (layer(hidden).reshape(split) for layer in (self.query, self.key, self.value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * split[-1] ** -0.5, key)  # [B, A, T, T]
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores.astype(self.query.param_dtype)).astype(scores.dtype)  # in bfloat16, not the sum
        weights = self.dropout(weights, deterministic=not training, rngs=rngs)
        attended = jnp.einsum("bhqk,bkhd->bqhd", weights, value)  # [B, T, A, D]
        return self.output(attended.reshape(hidden.shape))  # [B, T, H]


class Layer(nnx.Module):
    """Attention and a two-layer perceptron, each with a residual sum that is normalised afterwards."""

    def __init__(self, config: BertConfig, **options: Any) -> None:
        self.attention = Attention(config, **options)
        self.attention_norm = _norm(config, **options)
        self.intermediate = nnx.Linear(config.hidden, config.intermediate, **options)
        self.output = nnx.Linear(config.intermediate, config.hidden, **options)
        self.output_norm = _norm(config, **options)
        self.dropout = nnx.Dropout(config.hidden_dropout)

    def __call__(self, hidden: jax.Array, mask: jax.Array, *, training: bool, rngs: nnx.Rngs) -> jax.Array:
        attended = self.attention(hidden, mask, training=training, rngs=rngs)
        hidden = self.attention_norm(hidden + self.dropout(attended, deterministic=not training, rngs=rngs))
        inner = jax.nn.gelu(self.intermediate(hidden), approximate=False)  # [B, T, I]
        return self.output_norm(hidden + self.dropout(self.output(inner), deterministic=not training, rngs=rngs))


class Bert(Model):
    """Embeddings, encoder, pooler and classifier."""

    def __init__(self, config: BertConfig, **options: Any) -> None:
        self.depth = config.layers
        self.embeddings = Embeddings(config, **options)
        for i in range(config.layers):
            setattr(self, f"layer_{i}", Layer(config, **options))
        self.pooler = nnx.Linear(config.hidden, config.hidden, **options)
        self.classifier = nnx.Linear(config.hidden, CLASSES, **options)
        self.hidden_dropout = nnx.Dropout(config.hidden_dropout)
        self.classifier_dropout = nnx.Dropout(config.classifier_dropout)
        self.rngs = options["rngs"].fork()

    def __call__(self, inputs: Mapping[str, jax.Array], state: State, training: bool) -> tuple[jax.Array, State]:
        mode: dict[str, Any] = {"training": training, "rngs": self.rngs}
        mask = inputs["mask"] == 1
        hidden = self.hidden_dropout(self.embeddings(inputs["tokens"]), deterministic=not training, rngs=self.rngs)
        for i in range(self.depth):
            hidden = getattr(self, f"layer_{i}")(hidden, mask, **mode)  # [B, T, H]
        pooled = jnp.tanh(self.pooler(hidden[:, 0]))  # [B, H]
        pooled = self.classifier_dropout(pooled, deterministic=not training, rngs=self.rngs)
        return self.classifier(pooled), state  # [B, 2]


def _norm(config: BertConfig, **options: Any) -> nnx.LayerNorm:
    # Flax's fast variance, E[x^2] - E[x]^2, loses digits that a two-pass variance keeps.
    return nnx.LayerNorm(config.hidden, epsilon=config.layer_norm_eps, use_fast_variance=False, **options)


build = Bert
