"""The tasks that can be trained, by name. Importing this module imports nothing else, not even NumPy."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.spec import Preset

TASKS: Mapping[str, str] = {
    "mnist_mlp": "tasks.mnist_mlp",
    "gru_lm": "tasks.gru_lm",
    "bert_sentiment": "tasks.bert_sentiment",
}

PRESETS = ("smoke", "quick", "standard", "full")
"""The presets that every task has, from seconds to the published size."""


def load(name: str, preset: str, *, data_dir: Path | None = None) -> "Preset":
    """A task at a preset; `name` is one of TASKS or a dotted module with a function `preset(name, data_dir)`.

    Raises KeyError for an unknown preset and tasks.spec.SpecError where the data cannot be had.
    """
    module = importlib.import_module(TASKS.get(name, name))
    if not hasattr(module, "preset"):
        from tasks.spec import SpecError

        raise SpecError(f"--task {name}: the module has no function `preset(name, data_dir)`")
    chosen: Preset = module.preset(preset, data_dir)
    return chosen
