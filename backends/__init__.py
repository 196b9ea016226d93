"""The backends that can be compared, by name. Importing this module imports no framework."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.api import Backend


PRECISIONS: Mapping[str, str] = {
    "float32": "IEEE single precision in every backend",
    "tf32": "float32 with TensorFloat-32 in matrix products (GPU only)",
    "bfloat16": "mixed: layers in bfloat16; parameters, optimizer and loss in float32",
    "float64": "double",
}
"""The precisions that can be asked for -> what each means."""


class BackendMissing(RuntimeError):
    """The framework is not installed; the message has the command that installs it."""


@dataclass(frozen=True)
class Entry:
    """How a backend is found and what its process needs before the framework is imported."""

    module: str
    needs: tuple[str, ...] = ()  # importable names; all must be installed
    extra: str = ""  # the extra of this distribution that installs them
    brings: tuple[str, ...] = ()  # importable names of its dependencies that the harness has a use for too
    distributions: tuple[str, ...] = ()  # whose versions decide what is computed
    env: Mapping[str, str] = field(default_factory=dict)  # in every process of this backend
    env_cpu: Mapping[str, str] = field(default_factory=dict)  # added when the device is the CPU
    env_memory: Mapping[str, str] = field(default_factory=dict)  # added when memory is measured: no preallocation

    def missing(self) -> list[str]:
        """The needed modules that this interpreter cannot find."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    @property
    def install_command(self) -> str:
        """The command that makes this backend available, from a clone."""
        return f'pip install -c constraints.txt -e ".[{self.extra}]"'


BACKENDS: Mapping[str, Entry] = {
    "pytorch": Entry(
        module="backends.pytorch",
        needs=("torch",),
        extra="pytorch",
        distributions=("torch", "transformers"),
    ),
    "tensorflow": Entry(
        module="backends.tensorflow",
        needs=("tensorflow", "keras"),
        extra="tensorflow",
        distributions=("tensorflow", "keras"),
        env={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
        env_memory={"TF_FORCE_GPU_ALLOW_GROWTH": "true"},
    ),
    "jax": Entry(
        module="backends.jax",
        needs=("jax", "flax", "optax"),
        extra="jax",
        brings=("scipy",),
        distributions=("jax", "jaxlib", "flax", "optax"),
        env_cpu={"JAX_PLATFORMS": "cpu"},
        env_memory={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    ),
}

REFERENCE = Entry(
    module="backends.reference", needs=("numpy", "autograd", "scipy"), distributions=("numpy", "autograd")
)
"""The arbiter of parity. It is not among BACKENDS because it is never timed."""


def find(name: str) -> Entry:
    """The entry of a backend, or one for a dotted module name (`mypackage.mybackend`); KeyError for neither."""
    if name == "reference":
        return REFERENCE
    if "." in name:
        return Entry(module=name)
    return BACKENDS[name]


def load(name: str) -> "Backend":
    """Imports a backend, and with it its framework. BackendMissing names what is absent and the command that adds it."""
    entry = find(name)
    missing = entry.missing()
    if missing:
        raise BackendMissing(f"{', '.join(missing)} not installed; add it with: {entry.install_command}")
    backend: Backend = importlib.import_module(entry.module)
    return backend
