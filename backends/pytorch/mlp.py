"""The multi-layer perceptron of tasks/mnist_mlp.py in PyTorch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from backends.pytorch.models import Leaf, Model, State
from tasks.mnist_mlp import MlpConfig


class Mlp(Model):
    """Linear layers with ReLU between them."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        widths = config.widths
        layers = len(widths) - 1
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(layers))
        self.layout = {}
        for i in range(layers):  # [in, out] <-> [out, in]
            self.layout[f"dense_{i}/kernel"] = Leaf(f"layers.{i}.weight", np.transpose, np.transpose)
            self.layout[f"dense_{i}/bias"] = Leaf(f"layers.{i}.bias")

    def forward(self, inputs: Mapping[str, torch.Tensor], state: State) -> tuple[torch.Tensor, State]:
        *layers, output = self.layers
        hidden = inputs["image"]  # [B, 784]
        for layer in layers:
            hidden = torch.relu(layer(hidden))  # [B, 128]
        return output(hidden), state  # [B, 10]


build = Mlp
