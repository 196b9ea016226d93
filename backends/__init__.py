"""The backends that can be compared, by name. Importing this module imports no framework.

A backend is a package here, or a module of your own under its dotted name. Its `ENTRY` says how its process starts and its
`MODES` how it can be used; both are read without importing the framework.
"""

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import huge_pages
from backends.api import DEFAULT_MODE, BackendMissing, Entry, mode_of, without

if TYPE_CHECKING:
    from backends.api import Backend

__all__ = [
    "BACKENDS", "OF_EVERY_BACKEND", "PRECISIONS", "REFERENCE", "TRIM", "TUNED", "BackendMissing", "Entry", "find", "load",
    "mode_for", "mode_of_inference", "mode_on_cpu", "modes", "package",
]  # fmt: skip

PRECISIONS: Mapping[str, str] = {
    "float32": "IEEE single precision in every backend",
    "tf32": "float32 with TensorFloat-32 in matrix products (GPU only)",
    "bfloat16": "mixed: layers in bfloat16; parameters, optimizer and loss in float32",
    "float64": "double",
}
"""The precisions that can be asked for -> what each means."""

NAMES = (
    "pytorch",
    "tensorflow",
    "jax",
)
"""The packages in this folder that are compared when none is named."""

BACKENDS: Mapping[str, Entry] = {name: importlib.import_module(f"backends.{name}").ENTRY for name in NAMES}

REFERENCE: Entry = importlib.import_module("backends.reference").ENTRY
"""The arbiter of parity. It is not among BACKENDS because it is never timed."""


def find(name: str) -> Entry:
    """The entry of a backend, built-in or under a dotted name (`mypackage.mybackend`); KeyError for neither.

    A module of your own may have an `ENTRY`, an `Entry(...)` of literals; without one it needs and brings nothing.
    """
    if name == "reference":
        return REFERENCE
    if "." not in name:
        return BACKENDS[name]
    call = _assigned(name, "ENTRY")
    if call is None:
        return Entry(module=name)
    if not isinstance(call, ast.Call) or call.args or ast.unparse(call.func).rpartition(".")[2] != "Entry":
        raise ValueError(f"{name}.ENTRY: expected Entry(...) with keyword arguments")
    return Entry(
        **{"module": name, **{str(keyword.arg): _literal(name, "ENTRY", keyword.value) for keyword in call.keywords}}
    )


TRIM = "trim"
"""The mode of every backend in which batches are cut; bench/worker/trimmed.py does it."""

OF_EVERY_BACKEND = (TRIM, huge_pages.MODE)
"""Modes that the harness adds to a backend's own (bench/worker/trimmed.py, bench/worker/pages.py)."""

TUNED = "tuned"
"""The mode that stands for a backend's own `TUNED`: device -> task -> the fastest mode that was measured."""


def modes(name: str) -> Mapping[str, str]:
    """The modes of a backend -> what each does; KeyError for a name that is no backend's.

    Its own `MODES`, and those of every backend. They can be joined, as in `compile+trim`. A module of your own may have
    `MODES` and `TUNED`, dicts of literals; without the first there is only "default" beside those of every backend.
    """
    found = _declared(name, "MODES") or {DEFAULT_MODE: "the only one"}
    cut = (
        "batches cut to their longest sentence, rounded up to a quarter of the longest possible; for tasks with padding "
        "(https://huggingface.co/docs/transformers/pad_truncation)"
    )
    best = _declared(name, TUNED.upper()) or {}
    told = "; ".join(f"{task} on a {device.upper()}: {mode}" for device in best for task, mode in best[device].items())
    pages = (
        "glibc's malloc keeps what a step frees, and has it in pages of 2 MiB instead of 4 KiB: GLIBC_TUNABLES; on a CPU "
        "(https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html)"
    )
    return {**found, TRIM: cut, huge_pages.MODE: pages} | (
        {TUNED: f"the fastest of them, as measured: {told}"} if told else {}
    )


def mode_on_cpu(name: str, mode: str) -> str:
    """The mode without the parts that the backend's `GPU_ONLY`, a tuple of literals, names: what a CPU can prove of it."""
    return _without(name, mode, "GPU_ONLY")


def mode_of_inference(name: str, mode: str) -> str:
    """The mode without the parts that the backend's `TRAINING_ONLY`, a tuple of literals, names: `predict` ignores them."""
    return _without(name, mode, "TRAINING_ONLY")


def _without(name: str, mode: str, variable: str) -> str:
    return mode_of(set(mode.split("+")) - set(_declared(name, variable)), modes(name))


def mode_for(name: str, mode: str, *, task: str, device: str, processes: int = 1) -> str:
    """What a mode is for a task on a device, its parts in the order of `modes`: `tuned` depends on both.

    It is without `huge-pages` on a machine that has none, and in several processes without what the backend's
    `OF_SEVERAL_PROCESSES`, a tuple of literals, does not name; `trim` goes with any number.
    """
    if mode == TUNED:
        mode = _declared(name, TUNED.upper()).get(device, {}).get(task, DEFAULT_MODE)
        mode = without(mode, huge_pages.MODE) if huge_pages.missing() else mode
        if processes > 1:
            mode = mode_of({*mode.split("+")} & {TRIM, *_declared(name, "OF_SEVERAL_PROCESSES")}, modes(name))
    return mode_of(mode.split("+"), modes(name)) if mode != DEFAULT_MODE else mode


def _declared(name: str, variable: str) -> Any:
    """What a backend's package or module declares; empty where it does not."""
    if "." not in name:
        find(name)
        return getattr(importlib.import_module(package(name)), variable, {})
    literal = _assigned(name, variable)
    return {} if literal is None else _literal(name, variable, literal)


def package(name: str) -> str:
    """The importable name of the package or module that holds a backend's files, its `ENTRY` and its `MODES`."""
    return name if "." in name else f"backends.{name}"


def load(name: str) -> "Backend":
    """Imports a backend, and with it its framework. BackendMissing names what is absent and the command that adds it."""
    entry = find(name)
    missing = entry.missing()
    if missing:
        raise BackendMissing(f"{', '.join(missing)} not installed; add it with: {entry.install_command}")
    backend: Backend = importlib.import_module(entry.module)
    return backend


def _assigned(module: str, variable: str) -> ast.expr | None:
    """What a module assigns to a variable, from its source: importing it could import a framework into this process."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None  # `load` will say so
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
                return node.value
    return None


def _literal(module: str, variable: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise ValueError(f"{module}.{variable} is read without importing the module: write it with literals") from error
