"""BERT of tasks/bert.py in NumPy, equation by equation."""

from typing import Any

import autograd.numpy as np
from autograd.scipy.special import erf

from backends.reference.models import Drop, Model, State, Values
from tasks.bert import BertConfig


def forward(config: BertConfig, params: Values, inputs: Values, state: State, drop: Drop) -> tuple[Any, State]:
    """tokens, mask int[B, T] -> logits [B, 2]."""
    hidden = layer_norm(config, params, "embeddings/norm", embeddings(params, inputs["tokens"]))  # [B, T, H]
    hidden = drop(hidden, config.hidden_dropout)
    for i in range(config.layers):
        attended = attention(config, params, i, hidden, inputs["mask"], drop)  # [B, T, H]
        attended = drop(dense(params, f"layer_{i}/attention/output", attended), config.hidden_dropout)
        hidden = layer_norm(config, params, f"layer_{i}/attention_norm", hidden + attended)
        inner = gelu(dense(params, f"layer_{i}/intermediate", hidden))  # [B, T, I]
        outer = drop(dense(params, f"layer_{i}/output", inner), config.hidden_dropout)  # [B, T, H]
        hidden = layer_norm(config, params, f"layer_{i}/output_norm", hidden + outer)
    return dense(params, "classifier", drop(pooled(params, hidden), config.classifier_dropout)), state


def embeddings(params: Values, tokens: Any) -> Any:
    """[B, T] -> [B, T, H]: word + position + token type 0."""
    word = params["embeddings/word/embedding"][tokens]
    position = params["embeddings/position/embedding"][: tokens.shape[1]]
    return word + position + params["embeddings/token_type/embedding"][0]


def attention(config: BertConfig, params: Values, layer: int, hidden: Any, mask: Any, drop: Drop) -> Any:
    """[B, T, H] -> [B, T, H], before the output projection."""
    query, key, value = (
        split_heads(config, dense(params, f"layer_{layer}/attention/{name}", hidden))
        for name in ("query", "key", "value")
    )  # [B, A, T, D]
    scores = query @ np.swapaxes(key, -1, -2) / np.sqrt(config.hidden // config.heads)  # [B, A, T, T]
    scores = np.where(mask[:, None, None, :] == 1, scores, -np.inf)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights = drop(weights / np.sum(weights, axis=-1, keepdims=True), config.attention_dropout)
    return np.reshape(np.swapaxes(weights @ value, 1, 2), hidden.shape)


def split_heads(config: BertConfig, hidden: Any) -> Any:
    """[B, T, H] -> [B, A, T, D]."""
    batch, length, width = hidden.shape
    return np.swapaxes(np.reshape(hidden, (batch, length, config.heads, width // config.heads)), 1, 2)


def pooled(params: Values, hidden: Any) -> Any:
    """[B, T, H] -> [B, H], from the token [CLS]."""
    return np.tanh(dense(params, "pooler", hidden[:, 0]))


def dense(params: Values, name: str, value: Any) -> Any:
    """[..., in] -> [..., out], as one product of two matrices: NumPy takes several times as long for a stack of them."""
    kernel = params[f"{name}/kernel"]
    product = np.reshape(value, (-1, kernel.shape[0])) @ kernel
    return np.reshape(product, (*value.shape[:-1], kernel.shape[1])) + params[f"{name}/bias"]


def layer_norm(config: BertConfig, params: Values, name: str, value: Any) -> Any:
    """Over the last axis; the variance is the mean of squared deviations."""
    centered = value - np.mean(value, axis=-1, keepdims=True)
    variance = np.mean(np.square(centered), axis=-1, keepdims=True)
    normal = centered / np.sqrt(variance + config.layer_norm_eps)
    return normal * params[f"{name}/scale"] + params[f"{name}/bias"]


def gelu(value: Any) -> Any:
    """The exact one, with erf."""
    return value * (1 + erf(value / np.sqrt(2))) / 2


MODEL = Model(forward)
