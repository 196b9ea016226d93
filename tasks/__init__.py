"""The tasks that can be trained, by name. Importing this module imports nothing else, not even NumPy."""

import importlib
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
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


def load(name: str, preset: str, *, data_dir: Path | None = None, changes: Mapping[str, str] | None = None) -> "Preset":
    """A task at a preset; `name` is one of TASKS or a dotted module with a function `preset(name, data_dir)`.

    `changes` are other values of the task's fields, as text (tasks.overrides). Raises ModuleNotFoundError for a name that is
    no module, and tasks.spec.SpecError, in one line, where the task, its preset, its data or a change cannot be had.
    """
    module = _imported(name)
    from tasks import overrides
    from tasks.spec import Preset, SpecError, missing_members

    if not hasattr(module, "preset"):
        raise SpecError(f"--task {name}: the module has no function `preset(name, data_dir)`")
    try:
        chosen = module.preset(preset, data_dir)
    except SpecError:
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (preset,):
            raise SpecError(f"--task {name}: it has no preset {preset!r}") from error
        raise SpecError(f"--task {name}: preset({preset!r}) raised {_said(error)}") from error
    if not isinstance(chosen, Preset):
        raise SpecError(
            f"--task {name}: preset({preset!r}) returned a {type(chosen).__name__}, expected a tasks.spec.Preset"
        )
    if missing := missing_members(chosen.task):
        kind = type(chosen.task).__name__
        raise SpecError(f"--task {name}: {kind} has no {', '.join(missing)}; see the class Task in tasks/spec.py")
    return overrides.apply(chosen, changes or {})


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(TASKS.get(name, name))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        from tasks.spec import SpecError

        raise SpecError(f"--task {name}: the module cannot be imported: {_said(error)}") from error


def _said(error: Exception) -> str:
    """An exception as one line: its type, the first line of what it says, and where it was raised."""
    first = str(error).strip().partition("\n")[0][:200]
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"{type(error).__name__}{': ' if first else ''}{first} ({where})"
