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

DATA_SETS: Mapping[tuple[str, str], str] = {
    ("mnist_mlp", "standard"): "mnist",
    ("mnist_mlp", "full"): "mnist",
    ("gru_lm", "standard"): "wikitext-2",
    ("gru_lm", "full"): "wikitext-2",
    ("bert_sentiment", "standard"): "sst2",
    ("bert_sentiment", "full"): "sst2",
}
"""(task, preset) -> the data set that it reads; a preset that is not here needs none."""

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
