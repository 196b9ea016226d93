"""The language model of tasks/gru_lm.py in NumPy."""

from typing import Any

import autograd.numpy as np

from backends.reference.models import Drop, Model, State, Values
from tasks.gru_lm import GruLmConfig


def forward(config: GruLmConfig, params: Values, inputs: Values, state: State, drop: Drop) -> tuple[Any, State]:
    """tokens int[B, T], state of `layers` times [B, H] -> logits [B, T, V], the state after the window."""
    tokens = inputs["tokens"]
    steps = [params["embedding/embedding"][tokens[:, t]] for t in range(tokens.shape[1])]  # T times [B, D]
    new_state = []
    for layer in range(config.layers):
        hidden, outputs = state[layer], []  # [B, H]
        for x in steps:
            hidden = cell(params, f"gru_{layer}", x, hidden)
            outputs.append(hidden)
        new_state.append(hidden)
        steps = outputs if layer == config.layers - 1 else [drop(output, config.dropout) for output in outputs]
    features = np.stack(steps, axis=1)  # [B, T, H]
    return features @ params["output/kernel"] + params["output/bias"], tuple(new_state)


def cell(params: Values, name: str, x: Any, hidden: Any) -> Any:
    """One step of one layer: x [B, D], hidden [B, H] -> the new hidden state [B, H]."""
    i_r, i_z, i_n = _thirds(x @ params[f"{name}/input/kernel"] + params[f"{name}/input/bias"])
    h_r, h_z, h_n = _thirds(hidden @ params[f"{name}/hidden/kernel"] + params[f"{name}/hidden/bias"])
    r = logistic(i_r + h_r)
    z = logistic(i_z + h_z)
    n = np.tanh(i_n + r * h_n)
    return (1 - z) * n + z * hidden


def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)), without overflow."""
    return (1 + np.tanh(x / 2)) / 2


def initial_state(config: GruLmConfig, batch_size: int) -> State:
    """Zeros, [B, H] for each layer."""
    return tuple(np.zeros((batch_size, config.hidden)) for _ in range(config.layers))


def _thirds(gates: Any) -> tuple[Any, Any, Any]:
    size = gates.shape[-1] // 3
    return gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]


MODEL = Model(forward, initial_state)
