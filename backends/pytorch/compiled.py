"""torch.compile: the mode `compile` of this backend. Importing it imports torch's compiler, which the other modes do without.

A C++ compiler is needed on a CPU.
"""

import os
import tempfile
from typing import Any

import torch
import torch._dynamo as dynamo

from backends.api import Unsupported
from backends.pytorch.models import Model

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Names the folder where torch.compile keeps its programs from one process to the next."""

_fresh_cache: tempfile.TemporaryDirectory[str] | None = None

_COMPILED: list[Any] = []
"""An entry for every graph, forward or backward, that torch.compile has compiled in this process."""

dynamo.on_compile_start(_COMPILED.append)


def compiled(model: Model, device: torch.device) -> torch.nn.Module:
    """torch.compile(model); Unsupported without the compiler that it calls. Compilation itself waits for the first step."""
    if device.type == "cpu":
        _find_cpp_compiler()
    _start_without_cache()
    # A module of more programs than this runs eagerly, with no more than a warning; and to torch.compile the ladder's
    # sessions, of several sizes and precisions, are all one module.
    dynamo.config.recompile_limit = 64
    dynamo.config.fail_on_recompile_limit_hit = True
    # Shapes are fixed in what is timed. The ladder changes sizes, and would be given programs of any size to prove.
    module: torch.nn.Module = torch.compile(model, dynamic=False)
    return module


def compilations(*, called: bool) -> int:
    """How many graphs torch.compile has compiled in this process; RuntimeError if none though a module was called."""
    if called and not _COMPILED:
        raise RuntimeError(
            "torch.compile reported no compilation although its module ran: recompilations cannot be seen"
        )
    return len(_COMPILED)


def is_compiled(module: torch.nn.Module, *, called: bool) -> bool:
    """Whether torch.compile stands behind a module: by its type and, once it was called, by what was compiled."""
    return isinstance(module, dynamo.OptimizedModule) and bool(_COMPILED or not called)


def cache() -> str:
    """Whether the programs of an earlier process could be used."""
    return "none" if _fresh_cache else f"kept ({CACHE_VARIABLE} is set)"


def _find_cpp_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler  # what a compilation will ask
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Unsupported("torch.compile needs a C++ compiler on a CPU; add it with: apt-get install g++") from error


def _start_without_cache() -> None:
    """An empty cache for this process, unless a folder is named: a first step is then as long as a user's first one.

    Importing torch's compiler names one itself, which is not a choice of the user's: torchinductor_<user> among the temporary
    files.
    """
    global _fresh_cache
    torchs_own = os.path.join(tempfile.gettempdir(), "torchinductor_")
    if os.environ.get(CACHE_VARIABLE, torchs_own).startswith(torchs_own):
        _fresh_cache = tempfile.TemporaryDirectory(prefix="torch-compile-", ignore_cleanup_errors=True)
        os.environ[CACHE_VARIABLE] = _fresh_cache.name
