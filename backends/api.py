"""What a backend must offer. A module with `versions` and `open_session` is a backend; there is no base class."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, Protocol, TypedDict

if TYPE_CHECKING:  # NumPy, which the help of the command line can do without
    from backends.operations import Operation
    from tasks.spec import Array, Batch, Examples, Params, Task

DEFAULT_MODE = "default"
"""The mode that every backend has: what the framework's own tutorial writes."""

NO_TF32 = "tf32 is a mode of a GPU's tensor cores, and this is a CPU: ask for float32"


class BackendMissing(RuntimeError):
    """The framework is not installed; the message has the command that installs it."""


class Unsupported(RuntimeError):
    """The backend cannot do what was asked (no such device, no such model, no such precision), and says why."""


@dataclass(frozen=True)
class Entry:
    """How a backend is found and what its process needs before the framework is imported."""

    module: str  # is imported in a process of this backend, framework and all; has the functions of Backend
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
        """The command that makes this backend available: from a clone, or where the package alone is installed."""
        if (Path(__file__).parents[1] / "constraints.txt").is_file():
            return f'pip install -c constraints.txt -e ".[{self.extra}]"'
        return f'pip install "framework-bench[{self.extra}]"'


@dataclass(frozen=True)
class Options:
    """How a session computes. Nothing here changes what is computed."""

    device: str = "cpu"  # "cpu" or "gpu"
    precision: str = "float32"  # one of backends.PRECISIONS
    seed: int = 0  # of the dropout masks
    mode: str = DEFAULT_MODE  # one of the backend's MODES, or several joined by "+"
    processes: int = 1  # that train the model together, each on its rows of every batch
    rank: int = 0  # of this one among them
    addresses: tuple[str, ...] = ()  # "host:port" of each rank, where there are several

    @property
    def masks_seed(self) -> int:
        """The seed of this process's dropout masks: those of two ranks have nothing in common, whatever the seeds."""
        if self.rank == 0:
            return self.seed
        import numpy as np

        return int(np.random.SeedSequence((self.seed, self.rank)).generate_state(1)[0])  # 32 bits: NumPy takes no more


def switches(mode: str, modes: Mapping[str, str]) -> frozenset[str]:
    """The names that a mode joins, none for `default`; Unsupported for one that is not in `modes`."""
    names = frozenset(() if mode == DEFAULT_MODE else mode.split("+"))
    if unknown := sorted(names - {name for name in modes if name != DEFAULT_MODE}):
        raise Unsupported(f"there is no mode {unknown[0]!r}; the modes are: {', '.join(modes)}")
    return names


def without(mode: str, name: str) -> str:
    """The mode without one of the names that it joins; `default` where that was all."""
    return "+".join(part for part in mode.split("+") if part != name) or DEFAULT_MODE


def only_modes(options: Options, allowed: Collection[str]) -> None:
    """Unsupported for a mode that was not shown to compute the same in several processes."""
    if options.processes > 1 and (others := sorted(set(options.mode.split("+")) - {DEFAULT_MODE, *allowed})):
        ways = f"; these do: {', '.join(allowed)}" if allowed else ""
        raise Unsupported(f"{', '.join(others)} does not go with several processes{ways}")


def mode_of(on: Collection[str], modes: Iterable[str]) -> str:
    """The mode in which these are on: their names in the order of `modes`, joined."""
    return "+".join(name for name in modes if name in on) or DEFAULT_MODE


class Settings(TypedDict):
    """What is in force in a session, as the framework tells it.

    These and any others that a backend can tell under names of its own; all values are str, int, float, bool or None.
    """

    device: str  # "cpu" or "gpu"
    precision: str  # one of backends.PRECISIONS, or what was found in its place
    mode: str  # as in Options, or what was found in its place
    compile: str  # what turns the step into a program: "eager", "torch.compile", "tf.function, XLA", ...
    kernels: NotRequired[str | None]  # of a training step, dropout on; None before the first one
    threads: NotRequired[int | None]  # of one operation; None where the framework takes all cores that it may use


class DeviceMemory(NamedTuple):
    """The framework allocator's own peaks on an accelerator since the session was opened, in bytes."""

    peak_allocated: int
    peak_reserved: int | None  # None where the framework does not tell


class Session(Protocol):
    """One model, its optimizer state and any carried recurrent state, on one device.

    Calls that return `Any` return handles on the device without waiting for it; `fetch` and `wait` wait.

    With `Options.processes` above 1 there is a session in each of them, and bench/worker/ranks.py makes the calls of `prepare`,
    `put`, `train_step`, `gradients`, `reset_state`, `wait` and of `fetch` on a training loss in all of them, in the same order.
    `prepare` is then given the process's own rows, whose `total` is the weight of the whole batch: by that the weights are
    divided, losses and gradients are summed over the processes, and what is returned is that of the whole batch. All other
    calls are made in rank 0 alone, with whole batches, and must wait for no other process.
    """

    def prepare(self, batch: Batch) -> Any:
        """What the framework's own loader would hand over: its tensors in the host's memory, in the types that a step reads.

        It is before the clock, and does all that is not a transfer: casts of values and labels, page-locking, and the weights
        divided by their sum. Those of a batch without padding are one tensor, put on the device once. Tensors may share the
        host batch's memory, which a step leaves as it is.
        """
        ...

    def put(self, prepared: Any) -> Any:
        """The transfer of a batch from `prepare` to the device, and nothing else; it belongs to a step.

        On a GPU: PyTorch copies from page-locked memory without waiting, TensorFlow with `tf.identity` on the device, JAX with
        `jax.device_put`. On a CPU the step reads what `prepare` made where it lies: nothing is copied, in any of the three.
        """
        ...

    def train_step(self, batch: Any) -> Any:
        """One optimizer update on a batch from `put`; returns its loss (a scalar handle) without waiting."""
        ...

    def eval_step(self, batch: Any) -> tuple[Any, Any]:
        """(losses, predictions), each of the labels' shape, dropout off; parameters stay as they are."""
        ...

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        """The logits of a batch's inputs, dropout off, from zero recurrent state; changes nothing.

        From the host's arrays to the host's array, [*labels.shape, classes]: what a user calls who serves the model. A
        framework that compiles does so for each shape. `run --measure inference` times it, and the ladder compares it.
        """
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
        """The current parameters under canonical names and layouts, fetched anew by each call: the barrier's check times it."""
        ...

    def matmul(self, left: Array, right: Array, *, times: int) -> Any:
        """A handle of left @ right @ right ..., `times` products one after the other, as the model's own are computed.

        Square float32 matrices go in. For the probe of the precision and of the matrix rate; it changes nothing.
        """
        ...

    def compilations(self) -> int | None:
        """How often something was traced or compiled in this process so far; None if nothing ever is.

        A difference over the timed window makes the record invalid. RuntimeError if a step was compiled and not counted: the
        framework no longer tells, and a count that stands still would prove nothing.
        """
        ...

    def device_memory(self) -> DeviceMemory | None:
        """The allocator's peaks; None on a CPU, where no framework keeps them."""
        ...

    def settings(self) -> Settings:
        """What is in force, read back from the framework; no option is echoed. It leaves the training as it is."""
        ...


STEPS_PER_CALL = 8
"""How many training steps a mode with several of them takes in one call: the same in every backend."""


class Several(Protocol):
    """What a session offers beside in a mode with several training steps in one call; bench/worker/several.py calls it."""

    steps_per_call: int  # STEPS_PER_CALL, or 1 in the other modes

    def train_steps(self, batches: Sequence[Any], resets: Sequence[bool]) -> Any:
        """`steps_per_call` updates, one after the other, on batches of one shape from `put`; a handle of their losses, [steps].

        `resets` says before which of them the carried recurrent state is put back to zero.
        """
        ...


class Exchanges(Protocol):
    """What a session of several processes may offer beside. Where a framework does not tell, the figure is left out."""

    def exchange_s(self) -> float | None:
        """Seconds that the exchange of one step's gradients took in this process, waiting included, of a late step."""
        ...


class Explained(Protocol):
    """What a session may offer beside, for `framework-bench explain`. What it lacks, the explanation lacks."""

    def training_loss(self, batch: Any) -> Any:
        """The forward pass of a training step, dropout on, from zero recurrent state: a handle. Only dropout's masks go on."""
        ...

    def training_gradient(self, batch: Any) -> Any:
        """The same with the backward pass."""
        ...

    def optimizer_state(self) -> Iterable[Array]:
        """The arrays that the optimizer keeps beside the parameters."""
        ...

    def profile(self, run: Callable[[], None], folder: Path) -> list[Operation]:
        """What the framework's own profiler saw of `run`, which takes training steps; its files are left in the folder."""
        ...


class Loads(Protocol):
    """What a session may offer beside, for `run --measure loading`. What lacks it is not measured, and says so."""

    def loader(self, examples: Examples, *, seed: int) -> Iterable[Any]:
        """The framework's own loader over arrays in the host's memory, as its users write it.

        Each iteration is a pass over the examples, in a new order if they are shuffled, and yields what `put` takes: what
        `prepare` makes of the task's batches, the last one of a pass padded as theirs is. `settings` tells of it as "loader".
        """
        ...

    def on_host(self, prepared: Any) -> Batch:
        """The arrays of a batch from `prepare` or from the loader, in the types that they have there; for their comparison."""
        ...


class Backend(Protocol):
    """A module that implements the tasks in one framework."""

    def versions(self) -> Mapping[str, str]:
        """Distribution name -> version of everything that decides what is computed."""
        ...

    def open_session(self, task: Task, params: Params, options: Options) -> Session:
        """Builds the model with these initial parameters; Unsupported if it cannot."""
        ...
