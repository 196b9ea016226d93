"""What a backend must offer. A module with `versions` and `open_session` is a backend; there is no base class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tasks.spec import Array, Batch, Params, Task

NO_TF32 = "tf32 is a mode of a GPU's tensor cores, and this is a CPU: ask for float32"


class Unsupported(RuntimeError):
    """The backend cannot do what was asked (no such device, no such model, no such precision), and says why."""


@dataclass(frozen=True)
class Options:
    """How a session computes. Nothing here changes what is computed."""

    device: str = "cpu"  # "cpu" or "gpu"
    precision: str = "float32"  # one of backends.PRECISIONS
    seed: int = 0  # of the dropout masks


class DeviceMemory(NamedTuple):
    """The framework allocator's own peaks on an accelerator since the session was opened, in bytes."""

    peak_allocated: int
    peak_reserved: int | None  # None where the framework does not tell


class Session(Protocol):
    """One model, its optimizer state and any carried recurrent state, on one device.

    Calls that return `Any` return handles on the device without waiting for it; `fetch` and `wait` wait.
    """

    def put(self, batch: Batch) -> Any:
        """Copies a batch to the device."""
        ...

    def train_step(self, batch: Any) -> Any:
        """One optimizer update on a batch from `put`; returns its loss (a scalar handle) without waiting."""
        ...

    def eval_step(self, batch: Any) -> tuple[Any, Any]:
        """(losses, predictions), each of the labels' shape, dropout off; parameters stay as they are."""
        ...

    def logits(self, batch: Any) -> Array:
        """[*labels.shape, classes], dropout off, from zero recurrent state; changes nothing. For parity."""
        ...

    def gradients(self, batch: Any) -> Params:
        """Unclipped gradients of the loss, canonical names, from zero recurrent state; changes nothing. For parity."""
        ...

    def reset_state(self) -> None:
        """Puts the carried recurrent state back to zero."""
        ...

    def fetch(self, value: Any) -> Array:
        """A handle's value on the host, bfloat16 as float32; waits for it."""
        ...

    def wait(self) -> None:
        """Returns when every submitted update is done: weights, optimizer state and carried state."""
        ...

    def params(self) -> Params:
        """The current parameters under canonical names and layouts."""
        ...

    def matmul(self, left: Array, right: Array, *, times: int) -> Any:
        """A handle of left @ right @ right ..., `times` products one after the other, as the model's own are computed.

        Square float32 matrices go in. For the probe of the precision and of the matrix rate; it changes nothing.
        """
        ...

    def compilations(self) -> int | None:
        """How often something was traced or compiled since the session was opened; None if nothing ever is.

        A difference over the timed window makes the record invalid.
        """
        ...

    def device_memory(self) -> DeviceMemory | None:
        """The allocator's peaks; None on a CPU, where no framework keeps them."""
        ...

    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        """What is in force, read back: device, precision, threads, compile mode, kernels, determinism."""
        ...


class Backend(Protocol):
    """A module that implements the tasks in one framework."""

    def versions(self) -> Mapping[str, str]:
        """Distribution name -> version of everything that decides what is computed."""
        ...

    def open_session(self, task: Task, params: Params, options: Options) -> Session:
        """Builds the model with these initial parameters; Unsupported if it cannot."""
        ...
