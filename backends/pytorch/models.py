"""What a model is in this backend: a `torch.nn.Module` that knows where each canonical parameter lives in it.

Every module's `forward(inputs, state) -> (logits, state)` takes the recurrent state that `initial_state` starts from; a
feed-forward model's state is the empty tuple.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from backends.api import Unsupported
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


MODULES: Mapping[str, str] = {
    "MlpConfig": "backends.pytorch.mlp",
    "BertConfig": "backends.pytorch.bert",
    "GruLmConfig": "backends.pytorch.gru",
}
"""Type of the task's `model` field -> module with a `build` function; imported only when a session needs it."""


def build(config: Any) -> Model:
    """The model for a task's configuration; Unsupported if this backend has none."""
    module = MODULES.get(type(config).__name__)
    if module is None:
        raise Unsupported(f"the PyTorch backend has no model for {type(config).__name__}")
    model: Model = importlib.import_module(module).build(config)
    return model
