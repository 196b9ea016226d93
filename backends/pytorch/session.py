"""Loss, step, evaluation, synchronisation and memory in PyTorch, once for all tasks."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from backends.api import NO_TF32, DeviceMemory, Options, Settings, Unsupported, mode_of, only_modes, switches
from backends.operations import Operation
from backends.pytorch import MODES, OF_SEVERAL_PROCESSES, distributed
from backends.pytorch.graphed import Graphed
from backends.pytorch.models import Model, State, build
from tasks.spec import AdamW, Array, Batch, Examples, Params, Task

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""Precision -> type of the parameters, the optimizer's state and the loss. bfloat16 is torch.autocast's, which chooses the
type of each operation of the model (https://docs.pytorch.org/docs/stable/amp.html)."""

FUSED = {"CudnnRnn": "cuDNN RNN", "MkldnnRnn": "oneDNN RNN", "ScaledDotProduct": "fused attention"}
"""Start of an autograd node's name -> the kernel that it stands for."""


def versions() -> Mapping[str, str]:
    """PyTorch's version, with the CUDA version that it was built for, and transformers'."""
    installed = {"torch": version("torch"), "torch cuda": torch.version.cuda or "none"}
    with contextlib.suppress(PackageNotFoundError):  # only BERT needs it
        installed["transformers"] = version("transformers")
    return installed


def open_session(task: Task, params: Params, options: Options) -> "TorchSession":
    """Builds the module, loads `params` into it and puts it on the device."""
    if options.precision not in DTYPES:
        raise Unsupported(f"the PyTorch backend computes in {', '.join(DTYPES)}, not {options.precision}")
    on = switches(options.mode, MODES)
    if options.device == "gpu" and not torch.cuda.is_available():
        raise Unsupported("PyTorch sees no GPU: torch.cuda.is_available() is False; install a CUDA build of torch")
    if options.precision == "tf32" and options.device != "gpu":
        raise Unsupported(NO_TF32)
    # float32 means IEEE float32: PyTorch's own default lets cuDNN's recurrent kernels use TF32.
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    if options.device == "cpu" and "cuda-graph" in on:
        raise Unsupported("cuda-graph is a mode of a GPU: what it saves is the time to start kernels there")
    if options.device == "gpu" and "flush-denormal" in on:
        raise Unsupported("flush-denormal is a mode of a CPU's arithmetic; on a GPU it would change nothing")
    # Before the first operation: the threads that it starts inherit the setting.
    if not torch.set_flush_denormal("flush-denormal" in on) and "flush-denormal" in on:
        raise Unsupported("flush-denormal: this processor cannot flush denormal numbers to 0")
    only_modes(options, OF_SEVERAL_PROCESSES)
    torch.manual_seed(options.masks_seed)
    if options.processes > 1:
        distributed.join(options)
    return TorchSession(task, params, options)


class DeviceBatch(NamedTuple):
    """A batch, in the host's memory or on the device."""

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor  # int64[B] or int64[B, T]
    weights: torch.Tensor | None  # of the labels' shape, divided by their sum (_normalised); None: the plain mean


class TorchSession:
    """Implements backends.api.Session."""

    def __init__(self, task: Task, params: Params, options: Options) -> None:
        self._device = torch.device("cuda" if options.device == "gpu" else "cpu")
        self._on_gpu = options.device == "gpu"
        self._dtype = DTYPES[options.precision]
        self._host_dtype = np.dtype(_name(self._dtype))
        self._autocast = torch.autocast(self._device.type, torch.bfloat16) if options.precision == "bfloat16" else None
        self._clip_norm = task.optimizer.clip_norm
        self._loading = switches(options.mode, MODES) & {"batch-sampler", "workers"}
        self._loader: Any = None  # torch's, once there is one
        with torch.device("meta"):  # the weights are given: nothing is drawn or allocated for them
            self._model: Model = build(task.model)
        self._load(params)
        self._net: torch.nn.Module = self._model  # what is called
        self._compiler: ModuleType | None = None
        if "compile" in switches(options.mode, MODES):
            from backends.pytorch import compiled  # with torch's compiler, which eager mode does without

            self._compiler, self._net = compiled, compiled.compiled(self._model, self._device)
        self._processes = options.processes
        self._together = distributed.wrapped(self._net, self._device) if options.processes > 1 else self._net
        self._called = False
        self._parameters = list(self._model.parameters())
        on_graph = "cuda-graph" in switches(options.mode, MODES)
        steps = (self._update, self._backward, self._forward_loss)
        self._graphs = [Graphed(step) for step in steps] if on_graph else []
        self._step, self._gradient, self._only_forward = self._graphs or steps
        self._optimizer = _optimizer(task.optimizer, self._parameters, capturable=on_graph)
        self._schedule = (
            torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda done: _rate_factor(task.optimizer, done))
            if task.optimizer.scheduled
            else None
        )
        self._state: State | None = None
        self._weighted = on_graph  # it reads the weights of every batch, padded or not
        self._alike: torch.Tensor | None = None  # those of a batch without padding
        self._example: DeviceBatch | None = None  # the last one trained on, to ask the model which kernels it runs
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def prepare(self, batch: Batch) -> DeviceBatch:
        inputs = {name: self._on_host(self._cast(value)) for name, value in batch.inputs.items()}
        return DeviceBatch(
            inputs, self._on_host(batch.labels.astype(np.int64)), self._normalised(batch.weights, batch.total)
        )

    def loader(self, examples: Examples, *, seed: int) -> "Loader":
        from backends.pytorch import loading  # with torch's loader, which a step does without

        host = [self._cast(value) for value in examples.inputs.values()] + [examples.labels.astype(np.int64)]
        self._loader = loading.data_loader(
            [torch.from_numpy(value) for value in host], batch_size=examples.batch_size, shuffled=examples.shuffled, seed=seed,
            at_once="batch-sampler" in self._loading, workers=loading.WORKERS if "workers" in self._loading else 0,
            pinned=self._on_gpu,
        )  # fmt: skip
        return Loader(self, self._loader, examples)

    def on_host(self, prepared: DeviceBatch) -> Batch:
        inputs = {name: self.fetch(value) for name, value in prepared.inputs.items()}
        labels = self.fetch(prepared.labels)
        alike = np.full(labels.shape, 1 / labels.size, self._host_dtype)
        return Batch(inputs, labels, alike if prepared.weights is None else self.fetch(prepared.weights))

    def put(self, prepared: DeviceBatch) -> DeviceBatch:
        if not self._on_gpu:
            return prepared
        inputs = {name: self._to_device(value) for name, value in prepared.inputs.items()}
        weights = None if prepared.weights is None else self._to_device(prepared.weights)
        return DeviceBatch(inputs, self._to_device(prepared.labels), weights)

    def train_step(self, batch: DeviceBatch) -> torch.Tensor | distributed.Part:
        self._example = batch
        loss, self._state = self._step(batch, self._carried(batch))
        if self._schedule is not None:
            self._schedule.step()
        return loss if self._processes == 1 else distributed.Part(loss)

    @torch.no_grad()
    def eval_step(self, batch: DeviceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        self._switch(training=False)
        logits, self._state = self._forward(self._net, batch.inputs, self._carried(batch))
        return _losses(logits, batch.labels), logits.argmax(-1)

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, Array]) -> Array:
        self._switch(training=False)
        on_device = {name: torch.from_numpy(self._cast(value)).to(self._device) for name, value in inputs.items()}
        return self.fetch(self._forward(self._net, on_device, self._zero_state(len(next(iter(inputs.values())))))[0])

    def gradients(self, batch: DeviceBatch) -> Params:
        names = [name for name, _ in self._model.named_parameters()]
        if self._processes > 1:  # those that DistributedDataParallel leaves in the parameters
            self._backward(batch, self._zero_state(len(batch.labels)))
            return self._canonical({name: parameter.grad for name, parameter in self._model.named_parameters()})
        self._switch(training=True)
        logits, _ = self._forward(self._net, batch.inputs, self._zero_state(len(batch.labels)))
        gradients = torch.autograd.grad(_loss(logits, batch), self._parameters)
        return self._canonical(dict(zip(names, gradients, strict=True)))

    def training_loss(self, batch: DeviceBatch) -> torch.Tensor:
        return self._only_forward(batch, self._zero_state(len(batch.labels)))[0]

    def training_gradient(self, batch: DeviceBatch) -> torch.Tensor:
        return self._gradient(batch, self._zero_state(len(batch.labels)))[0]

    def optimizer_state(self) -> Iterator[Array]:
        for state in self._optimizer.state.values():
            yield from (self.fetch(value) for value in state.values())

    def profile(self, run: Callable[[], None], folder: Path) -> list[Operation]:
        from backends.pytorch.profiling import profiled  # with torch's profiler, which a step does without

        return profiled(run, folder, on_gpu=self._on_gpu)

    def reset_state(self) -> None:
        self._state = None

    def fetch(self, value: torch.Tensor | distributed.Part) -> Array:
        value = (distributed.mean(value) if isinstance(value, distributed.Part) else value).detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16

    def wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        # Eager PyTorch on the CPU has finished when the call returns.

    def exchange_s(self) -> float | None:
        return distributed.exchange_s(self._together)

    def params(self) -> Params:
        return self._canonical(dict(self._model.named_parameters()))

    @torch.no_grad()
    def matmul(self, left: Array, right: Array, *, times: int) -> torch.Tensor:
        with self._autocast or contextlib.nullcontext():
            # Converted once: autocast would convert the factor anew for every product.
            dtype = self._layers_dtype()
            product, factor = (torch.from_numpy(self._cast(value)).to(self._device, dtype) for value in (left, right))
            for _ in range(times):
                product = product @ factor
        return product

    def compilations(self) -> int | None:
        if not (self._compiler or self._graphs):
            return None  # eager
        compiled = self._compiler.compilations(called=self._called) if self._compiler else 0
        return compiled + sum(graph.captures for graph in self._graphs)

    def device_memory(self) -> DeviceMemory | None:
        if not self._on_gpu:
            return None
        return DeviceMemory(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())

    def settings(self) -> Settings:
        return {
            "device": "gpu" if self._on_gpu else "cpu",
            "device name": torch.cuda.get_device_name() if self._on_gpu else None,
            "precision": self._precision(),
            "parameters": _name(self._parameters[0].dtype),
            "float32 matmul": torch.get_float32_matmul_precision(),
            "cuDNN TF32": torch.backends.cudnn.allow_tf32,
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "cuDNN deterministic": torch.backends.cudnn.deterministic,
            "cuDNN benchmark": torch.backends.cudnn.benchmark,
            "mode": self._mode(),
            "compile": ("torch.compile" if self._is_compiled() else "eager")
            + (", CUDA graph" if self._is_graph() else ""),
            "compile cache": self._compiler.cache() if self._compiler else None,
            "optimizer": "torch.optim.AdamW, fused",
            "threads": torch.get_num_threads(),
            "kernels": self._kernels(),
            **self._loader_settings(),
            **(distributed.settings(self._together) if self._processes > 1 else {}),
        }

    def _loader_settings(self) -> dict[str, str]:
        if self._loader is None:
            return {}
        from backends.pytorch import loading

        return {"loader": loading.describe(self._loader)}

    def _mode(self) -> str:
        """Read back: from what stands behind the module, from a number that is denormal, and from the loader, which is what
        was asked for until there is one."""
        flushed = not bool(torch.full((1,), 1e-30).mul_(1e-10))
        on = {"compile": self._is_compiled(), "cuda-graph": self._is_graph(), "flush-denormal": flushed}
        on |= dict.fromkeys(self._loading, True)
        if self._loader is not None:
            on |= {"batch-sampler": self._loader.batch_size is None, "workers": self._loader.num_workers > 0}
        return mode_of([name for name, found in on.items() if found], MODES)

    def _is_compiled(self) -> bool:
        return self._compiler is not None and self._compiler.is_compiled(self._net, called=self._called)

    def _is_graph(self) -> bool:
        return bool(self._graphs) and all(graph.in_force for graph in self._graphs)

    def _precision(self) -> str:
        """Read back from autocast, the parameters and the flags, as a step finds them."""
        with self._autocast or contextlib.nullcontext():
            found = _name(self._layers_dtype())
        if found != "float32":
            return found
        allowed = {torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32}
        return {(False,): "float32", (True,): "tf32"}.get(tuple(allowed), "tf32 in a part of the kernels")

    def _layers_dtype(self) -> torch.dtype:
        """What matrix products are computed in here, by autocast's own account."""
        device = self._device.type
        enabled = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if enabled else self._parameters[0].dtype

    def _kernels(self) -> str | None:
        """Read from the graph that autograd records of a training step's forward pass; None before the first step."""
        if self._example is None:
            return None
        self._switch(training=True)  # with dropout on, attention may run another kernel than without
        with torch.random.fork_rng([self._device] if self._on_gpu else []):  # the training's own masks stay as they are
            logits, _ = self._forward(self._net, self._example.inputs, self._zero_state(len(self._example.labels)))
        names = [type(node).__name__ for node in _nodes(logits.grad_fn)]
        found = {kernel for start, kernel in FUSED.items() if any(name.startswith(start) for name in names)}
        if graphs := sum(name.startswith("CompiledFunction") for name in names):
            found.add(f"TorchInductor, {graphs} graph{'s' if graphs > 1 else ''}")
        if not found & set(FUSED.values()):
            found.add(f"ATen, {len(names) - graphs:,} operators in the forward graph")
        return ", ".join(sorted(found))

    def _forward(
        self, net: torch.nn.Module, inputs: Mapping[str, torch.Tensor], state: State
    ) -> tuple[torch.Tensor, State]:
        self._called = True
        if self._autocast is None:
            logits, state = net(inputs, state)
            return logits, state
        with self._autocast:
            logits, state = net(inputs, state)
        return logits.float(), state  # the loss is taken in the parameters' precision

    def _update(self, batch: DeviceBatch, state: State) -> tuple[torch.Tensor, State]:
        """A whole step but for the learning rate's schedule, which is the host's."""
        loss, state = self._backward(batch, state)
        if self._clip_norm is not None:
            _clip(self._parameters, self._clip_norm)
        self._optimizer.step()
        return loss, state

    def _forward_loss(self, batch: DeviceBatch, state: State) -> tuple[torch.Tensor, State]:
        self._switch(training=True)
        logits, state = self._forward(self._net, batch.inputs, state)
        return _loss(logits, batch).detach(), state

    def _backward(self, batch: DeviceBatch, state: State) -> tuple[torch.Tensor, State]:
        """The loss and the state after the batch; the gradients are left in the parameters."""
        self._switch(training=True)
        self._optimizer.zero_grad(set_to_none=True)
        logits, state = self._forward(self._together, batch.inputs, state)
        state = tuple(part.detach() for part in state)  # back-propagation is truncated at the window
        loss = _loss(logits, batch)
        loss.backward()
        return loss.detach(), state

    def _switch(self, *, training: bool) -> None:
        """Turns dropout on or off; torch's call walks through every module."""
        if self._model.training != training:
            self._model.train(training)

    def _on_host(self, value: Array) -> torch.Tensor:
        tensor = torch.from_numpy(value)
        return tensor.pin_memory() if self._on_gpu else tensor

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)  # the tensor itself where it is there already

    def _normalised(self, weights: Array, total: float | None = None) -> torch.Tensor | None:
        """Divided by their sum, that of the whole batch where this is a part of one.

        None where the loss is the plain mean, which takes two operations less.

        A part's weigh as much more as there are processes: DistributedDataParallel takes the mean of their gradients, where the
        whole batch's is the sum.
        """
        total = (total or float(weights.sum(dtype="float64"))) / self._processes
        if total != weights.size or not np.all(weights == 1):
            return self._on_host(self._cast(weights / np.float64(total)))  # in double until it is cast
        if self._weighted and (self._alike is None or self._alike.shape != weights.shape):
            self._alike = torch.full(weights.shape, 1 / total, dtype=self._dtype, device=self._device)
        return self._alike

    def _cast(self, value: Array) -> Array:
        return value.astype(self._host_dtype, copy=False) if value.dtype.kind == "f" else value

    def _carried(self, batch: DeviceBatch) -> State:
        return self._zero_state(len(batch.labels)) if self._state is None else self._state

    def _zero_state(self, batch_size: int) -> State:
        return self._model.initial_state(batch_size, like=self._parameters[0])

    @torch.no_grad()
    def _load(self, params: Params) -> None:
        layout = self._model.layout
        if set(params) != set(layout):
            raise ValueError(f"parameters and model disagree on {sorted(set(params) ^ set(layout))}")
        native = {leaf.native: leaf.to_native(params[name]) for name, leaf in layout.items()}
        # A copy in torch's own order of memory: updates must not reach the caller's arrays.
        state = {name: torch.from_numpy(np.array(value, self._host_dtype, order="C")) for name, value in native.items()}
        self._model.load_state_dict(
            state, assign=True
        )  # the way past initial weights, of the tutorial on loading modules
        self._model.to(self._device)

    def _canonical(self, tensors: Mapping[str, torch.Tensor]) -> Params:
        layout = self._model.layout
        # A copy: on the CPU, `numpy()` would show the live weights.
        return {name: np.array(leaf.to_canonical(self.fetch(tensors[leaf.native]))) for name, leaf in layout.items()}


class Loader:
    """A DataLoader whose tuples become batches of one shape."""

    def __init__(self, session: TorchSession, source: Any, examples: Examples) -> None:
        self._session, self._source = session, source
        self._names, self._size = tuple(examples.inputs), examples.batch_size
        self._weights = np.ones((self._size, *examples.labels.shape[1:]), np.float32)
        self._unpadded = session._normalised(self._weights)

    def __iter__(self) -> Iterator[DeviceBatch]:
        for tensors in self._source:
            count = len(tensors[-1])
            if count == self._size:
                *inputs, labels = tensors
                yield DeviceBatch(dict(zip(self._names, inputs, strict=True)), labels, self._unpadded)
            else:
                yield self._padded(tensors, count)

    def _padded(self, tensors: Sequence[torch.Tensor], count: int) -> DeviceBatch:
        """The first row again in the place of those that are missing, of weight 0."""
        rows = torch.arange(self._size)
        rows[count:] = 0
        *inputs, labels = (tensor[rows] for tensor in tensors)
        weights = self._weights.copy()
        weights[count:] = 0
        return DeviceBatch(dict(zip(self._names, inputs, strict=True)), labels, self._session._normalised(weights))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _nodes(last: Any) -> set[Any]:
    """All nodes of the autograd graph that ends in `last`."""
    found, pending = set(), [last]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending += [previous for previous, _ in node.next_functions]
    return found


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every position, of the labels' shape."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)


def _loss(logits: torch.Tensor, batch: DeviceBatch) -> torch.Tensor:
    if batch.weights is None:
        return F.cross_entropy(logits.flatten(0, -2), batch.labels.flatten())
    return torch.dot(_losses(logits, batch.labels).flatten(), batch.weights.flatten())


def _clip(parameters: list[torch.Tensor], clip_norm: float) -> None:
    # torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; the specification divides by the norm.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, (clip_norm / norm).clamp(max=1.0))


def _optimizer(spec: AdamW, parameters: list[torch.Tensor], *, capturable: bool) -> torch.optim.Optimizer:
    # A group is an update of its own: one, unless weight decay tells parameters apart.
    decayed = [parameter for parameter in parameters if spec.weight_decay and spec.decays(parameter)]
    others = [parameter for parameter in parameters if not (spec.weight_decay and spec.decays(parameter))]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
    rate: float | torch.Tensor = spec.learning_rate
    if capturable and spec.scheduled:  # which reaches a graph only through the memory that it reads
        rate = parameters[0].new_tensor(rate, dtype=torch.float32)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=rate,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        fused=True,
        capturable=capturable,
    )


def _rate_factor(spec: AdamW, updates_done: Any) -> float:
    """LambdaLR's factor for the update that follows `updates_done` updates."""
    return spec.learning_rate_at(updates_done + 1) / spec.learning_rate
