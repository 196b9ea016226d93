"""The forward passes in NumPy, written to be read next to the equations in `tasks/`.

A model is a pair of functions over canonical parameters:
`forward(config, params, inputs, state) -> (logits, state)` and `initial_state(config, batch_size) -> state`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import autograd.numpy as np

from tasks.mnist_mlp import MlpConfig

Values = Mapping[str, Any]  # arrays, or autograd's boxes around them
State = Any


class Model(NamedTuple):
    """One forward pass and the recurrent state that it starts from."""

    forward: Callable[[Any, Values, Values, State], tuple[Any, State]]
    initial_state: Callable[[Any, int], State]


def stateless(config: Any, batch_size: int) -> State:
    """A feed-forward model carries nothing from batch to batch."""
    return ()


def mlp(config: MlpConfig, params: Values, inputs: Values, state: State) -> tuple[Any, State]:
    """Equations in tasks/mnist_mlp.py. image [B, 784] -> logits [B, 10]."""
    hidden = inputs["image"]  # [B, in]
    layers = len(config.widths) - 1
    for layer in range(layers):
        hidden = hidden @ params[f"dense_{layer}/kernel"] + params[f"dense_{layer}/bias"]  # [B, out]
        if layer < layers - 1:
            hidden = np.maximum(hidden, 0)
    return hidden, state


MODELS: Mapping[type, Model] = {
    MlpConfig: Model(mlp, stateless),
}
