"""The models as `torch.nn.Module`s, and where each canonical parameter lives in them.

Every module's `forward(inputs, state) -> (logits, state)` takes the recurrent state that `initial_state` starts from; a
feed-forward model's state is the empty tuple.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tasks.mnist_mlp import MlpConfig
from tasks.spec import Array

State = tuple[torch.Tensor, ...]


class Leaf(NamedTuple):
    """One parameter's name in `module.named_parameters()` and the conversions between its two layouts."""

    native: str
    to_native: Callable[[Array], Array] = np.asarray
    to_canonical: Callable[[Array], Array] = np.asarray


class Model(nn.Module):
    """A module with the map from canonical names to its own."""

    layout: Mapping[str, Leaf]

    def initial_state(self, batch_size: int, like: torch.Tensor) -> State:
        """A zero recurrent state with the device and dtype of `like`."""
        return ()


class Mlp(Model):
    """Equations in tasks/mnist_mlp.py."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        widths = config.widths
        layers = len(widths) - 1
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(layers))
        self.layout = {}
        for i in range(layers):
            self.layout[f"dense_{i}/kernel"] = Leaf(f"layers.{i}.weight", np.transpose, np.transpose)  # [in, out] <-> [out, in]
            self.layout[f"dense_{i}/bias"] = Leaf(f"layers.{i}.bias")

    def forward(self, inputs: Mapping[str, torch.Tensor], state: State) -> tuple[torch.Tensor, State]:
        hidden = inputs["image"]  # [B, 784]
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))  # [B, 128]
        return self.layers[-1](hidden), state  # [B, 10]


MODELS: Mapping[type, Callable[[Any], Model]] = {
    MlpConfig: Mlp,
}
