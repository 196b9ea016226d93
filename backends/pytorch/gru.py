"""The language model of tasks/gru_lm.py in PyTorch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from backends.pytorch.models import Leaf, Model, State
from tasks.gru_lm import GruLmConfig


class GruLm(Model):
    """nn.Embedding, nn.GRU (cuDNN's on a GPU) and nn.Linear, time first, as nn.GRU has it by itself."""

    def __init__(self, config: GruLmConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        # nn.GRU warns of a dropout that a single layer has no place for.
        dropout = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.embedding, config.hidden, config.layers, dropout=dropout)
        self.output = nn.Linear(config.hidden, config.vocabulary)
        self.layout = {"embedding/embedding": Leaf("embedding.weight")}
        for i in range(config.layers):  # [in, 3H] <-> [3H, in]; the gates' order is r, z, n here too
            self.layout[f"gru_{i}/input/kernel"] = Leaf(f"gru.weight_ih_l{i}", np.transpose, np.transpose)
            self.layout[f"gru_{i}/input/bias"] = Leaf(f"gru.bias_ih_l{i}")
            self.layout[f"gru_{i}/hidden/kernel"] = Leaf(f"gru.weight_hh_l{i}", np.transpose, np.transpose)
            self.layout[f"gru_{i}/hidden/bias"] = Leaf(f"gru.bias_hh_l{i}")
        self.layout["output/kernel"] = Leaf("output.weight", np.transpose, np.transpose)
        self.layout["output/bias"] = Leaf("output.bias")

    def forward(self, inputs: Mapping[str, torch.Tensor], state: State) -> tuple[torch.Tensor, State]:
        embedded = self.embedding(inputs["tokens"].t())  # [T, B, D]
        features, hidden = self.gru(embedded, state[0])  # [T, B, H], [layers, B, H]
        return self.output(features.transpose(0, 1)), (hidden,)  # [B, T, V]

    def initial_state(self, batch_size: int, like: torch.Tensor) -> State:
        """Zeros, [layers, B, H]."""
        return (like.new_zeros(self.gru.num_layers, batch_size, self.gru.hidden_size),)


build = GruLm
