"""Loss, step, evaluation, synchronisation and memory in JAX, once for all tasks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from backends.api import (
    NO_TF32,
    STEPS_PER_CALL,
    DeviceMemory,
    Options,
    Settings,
    Unsupported,
    mode_of,
    only_modes,
    switches,
)  # fmt: skip
from backends.jax import MODES, OF_SEVERAL_PROCESSES, distributed
from backends.jax.models import Model, State, build
from backends.operations import Operation
from tasks import batching
from tasks.spec import AdamW, Array, Batch, Examples, Params, Task

MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "highest", "float64": "highest"}
"""Precision -> JAX's matmul precision, of products of float32 matrices. bfloat16 is Flax's `dtype` of the layers, whose
`param_dtype` stays float32 (https://flax.readthedocs.io/en/stable/guides/flax_basics.html)."""

KEYS = "threefry2x32"
"""JAX's own implementation of the dropout keys."""

DETERMINISM = ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops")
"""XLA's flags; JAX has no other account of them than the environment."""

_COMPILED: list[str] = []
"""An entry for every program that XLA has compiled in this process."""

jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _COMPILED.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
)


def versions() -> Mapping[str, str]:
    """JAX, its compiled part, Flax and optax."""
    return {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}


def open_session(task: Task, params: Params, options: Options) -> "JaxSession":
    """Builds the module with `params` as its weights on the device."""
    if options.precision not in MATMUL:
        raise Unsupported(f"the JAX backend computes in {', '.join(MATMUL)}, not {options.precision}")
    on = switches(options.mode, MODES)
    if options.precision == "tf32" and options.device != "gpu":
        raise Unsupported(NO_TF32)
    only_modes(options, OF_SEVERAL_PROCESSES)
    if options.processes > 1:
        distributed.join(options)
    if "grain" in on and find_spec("grain") is None:
        raise Unsupported('grain is not installed; add it with: pip install "framework-bench[jax,grain]"')
    try:
        device = jax.local_devices(backend=options.device)[0]
    except RuntimeError as error:
        raise Unsupported(f'JAX sees no {options.device}; for CUDA: pip install "jax[cuda13]" ({error})') from error
    jax.config.update("jax_enable_x64", options.precision == "float64")
    # float32 means IEEE float32: JAX's own default on a GPU is TF32.
    jax.config.update("jax_default_matmul_precision", MATMUL[options.precision])
    jax.config.update("jax_default_prng_impl", "rbg" if "rbg" in on else KEYS)
    with jax.default_device(device):
        return JaxSession(task, params, options, device)


class DeviceBatch(NamedTuple):
    """The arguments of a compiled call that make up a batch."""

    inputs: Mapping[str, Any]
    labels: Any  # int32[B] or int32[B, T]
    weights: Any  # of the labels' shape, divided by their sum, which of a part of a batch is the whole one's


class Programs:
    """A model's training step and evaluation: pure functions of its weights and of the rest (lists of leaves, which cross into
    a compiled call faster than Flax states), and what JAX compiles of them."""

    def __init__(
        self, model: Any, optimizer: AdamW, precision: str, *, flat: bool, places: distributed.Places | None
    ) -> None:
        self.dtype = np.dtype("float64" if precision == "float64" else "float32")
        computing = jnp.bfloat16 if precision == "bfloat16" else self.dtype

        def new(key: jax.Array) -> Model:
            return build(model, dtype=computing, param_dtype=self.dtype, rngs=nnx.Rngs(key))

        # The weights are given, so that only their shapes are asked for; the rest (the dropout keys) is made.
        shapes = nnx.eval_shape(new, jax.random.key(0))
        self._graph, weights, rest = nnx.split(shapes, nnx.Param, ...)
        self.names = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(weights)]
        self.shapes, self._structure = jax.tree.flatten(weights)
        _, self._rest_structure = jax.tree.flatten(rest)
        self.initial_state = shapes.initial_state
        self.transform = _transform(optimizer, flat=flat)
        self._gradient = jax.value_and_grad(self._loss, has_aux=True)
        trained, copies = None, None  # where results lie: with the arguments
        if places is not None:
            copies, rows = places
            trained = (copies, copies, copies, copies, rows)
            self._gradient = distributed.summed(self._gradient, places)
        self.rest = jax.jit(lambda key: jax.tree.leaves(nnx.state(new(key), nnx.Not(nnx.Param))))
        self.copied = jax.jit(lambda tree: tree, out_shardings=copies)
        self.train = jax.jit(self._train, donate_argnums=(0, 1, 2, 3), out_shardings=trained)
        self.train_several = jax.jit(self._train_several, donate_argnums=(0, 1, 2, 3))
        self.several_traced = False
        self.evaluate = jax.jit(self._evaluate)
        self.predict = jax.jit(self._predict)
        self.differentiate = jax.jit(lambda *arguments: self._gradient(*arguments)[1])
        self.forward = jax.jit(self._loss)
        self.forward_and_backward = jax.jit(jax.value_and_grad(self._loss, has_aux=True))

    def merge(self, weights: list[jax.Array], rest: list[jax.Array]) -> Any:
        states = jax.tree.unflatten(self._structure, weights), jax.tree.unflatten(self._rest_structure, rest)
        return nnx.merge(self._graph, *states, copy=True)  # a copy may count its dropout keys inside the gradient

    def _apply(
        self, model: Any, inputs: Mapping[str, jax.Array], state: State, *, training: bool
    ) -> tuple[jax.Array, State]:
        logits, state = model(inputs, state, training=training)
        return logits.astype(self.dtype), state  # the loss is taken in the parameters' precision

    def _loss(
        self, weights: list[jax.Array], rest: list[jax.Array], state: State, batch: DeviceBatch
    ) -> tuple[jax.Array, tuple[list[jax.Array], State]]:
        model = self.merge(weights, rest)
        logits, state = self._apply(model, batch.inputs, state, training=True)
        loss = jnp.sum(_losses(logits, batch.labels) * batch.weights)
        _, _, rest = nnx.split(model, nnx.Param, ...)
        return loss, (jax.tree.leaves(rest), state)

    def _train(
        self, weights: list[jax.Array], optimizer: Any, rest: list[jax.Array], state: State, batch: DeviceBatch
    ) -> tuple[jax.Array, list[jax.Array], Any, list[jax.Array], State]:
        (loss, (rest, state)), gradients = self._gradient(weights, rest, state, batch)
        weights, optimizer = self._updated(weights, optimizer, gradients)
        return loss, weights, optimizer, rest, state

    def _train_several(
        self,
        weights: list[jax.Array],
        optimizer: Any,
        rest: list[jax.Array],
        state: State,
        batches: tuple[DeviceBatch, ...],
        resets: jax.Array,
    ) -> tuple[jax.Array, list[jax.Array], Any, list[jax.Array], State]:
        self.several_traced = True
        losses = []
        # Written out: a scan would first copy the batches into one array, and then each out of it.
        for batch, reset in zip(batches, resets, strict=True):
            state = jax.tree.map(lambda part, reset=reset: jnp.where(reset, jnp.zeros_like(part), part), state)
            loss, weights, optimizer, rest, state = self._train(weights, optimizer, rest, state, batch)
            losses.append(loss)
        return jnp.stack(losses), weights, optimizer, rest, state

    @jax.named_scope("optimizer")  # a profile tells it from the rest
    def _updated(
        self, weights: list[jax.Array], optimizer: Any, gradients: list[jax.Array]
    ) -> tuple[list[jax.Array], Any]:
        updates, optimizer = self.transform.update(gradients, optimizer, weights)
        return optax.apply_updates(weights, updates), optimizer

    def _evaluate(
        self, weights: list[jax.Array], rest: list[jax.Array], state: State, batch: DeviceBatch
    ) -> tuple[jax.Array, jax.Array, State]:
        logits, state = self._apply(self.merge(weights, rest), batch.inputs, state, training=False)
        return _losses(logits, batch.labels), jnp.argmax(logits, axis=-1), state

    def _predict(self, weights: list[jax.Array], rest: list[jax.Array], inputs: Mapping[str, jax.Array]) -> jax.Array:
        state = self.initial_state(len(next(iter(inputs.values()))))
        return self._apply(self.merge(weights, rest), inputs, state, training=False)[0]


@cache
def programs(
    model: Any, optimizer: AdamW, precision: str, mode: str, places: distributed.Places | None = None
) -> Programs:
    """Those of a model and an optimizer, the same for all sessions of a process: JAX compiles a function once."""
    return Programs(model, optimizer, precision, flat="flat" in switches(mode, MODES), places=places)


class JaxSession:
    """Implements backends.api.Session.

    The weights, the optimizer state, the dropout keys and the carried state live here between calls of pure functions.
    """

    def __init__(self, task: Task, params: Params, options: Options, device: jax.Device) -> None:
        self._device = device
        # Of several processes: where the arrays lie that they have together.
        self._places = distributed.places(device.platform) if options.processes > 1 else None
        self._programs = programs(task.model, task.optimizer, options.precision, options.mode, self._places)
        self._dtype = self._programs.dtype
        self.steps_per_call = STEPS_PER_CALL if "multi-step" in switches(options.mode, MODES) else 1
        # `default_device` binds nothing: all that a call is given is committed, or it would run on JAX's first device.
        self._rest = self._commit(self._programs.rest(jax.random.key(options.seed)))
        self._weights = self._load(params)
        self._optimizer = self._commit(self._programs.transform.init(self._weights))
        self._own_rest = self._rest  # for what trains nothing, and draws no masks
        if self._places is not None:  # copied once more: what a step donates must be nobody else's memory
            self._rest, self._weights, self._optimizer = self._programs.copied(
                distributed.copied((self._rest, self._weights, self._optimizer), self._places)
            )
        self._state: State | None = None
        self._unpadded: jax.Array | None = None  # the weights of a batch without padding
        self._example: DeviceBatch | None = None  # the last one trained on, to ask the step what it is made of
        self._grain = "grain" in switches(options.mode, MODES)
        self._loader: Loader | None = None

    def prepare(self, batch: Batch) -> DeviceBatch:
        inputs = {name: self._cast(value) for name, value in batch.inputs.items()}
        prepared = DeviceBatch(inputs, batch.labels, self._normalised(batch.weights, batch.total))
        if self._places is not None and batch.total is not None:
            return distributed.of_rows(prepared, self._places)
        # For a GPU the host's tensors are NumPy's; on a CPU they are JAX's.
        return self._commit(prepared) if self._device.platform == "cpu" else prepared

    def loader(self, examples: Examples, *, seed: int) -> "Loader":
        self._loader = (GrainLoader if self._grain else Loader)(self, examples, seed)
        return self._loader

    def on_host(self, prepared: DeviceBatch) -> Batch:
        return Batch(*jax.tree.map(np.asarray, prepared))

    def put(self, prepared: DeviceBatch) -> DeviceBatch:
        return prepared if self._device.platform == "cpu" or self._places is not None else self._commit(prepared)

    def train_step(self, batch: DeviceBatch) -> jax.Array:
        self._example = batch
        loss, self._weights, self._optimizer, self._rest, self._state = self._programs.train(
            self._weights, self._optimizer, self._rest, self._carried(batch), batch
        )
        return loss

    def train_steps(self, batches: Sequence[DeviceBatch], resets: Sequence[bool]) -> jax.Array:
        self._example = batches[-1]
        losses, self._weights, self._optimizer, self._rest, self._state = self._programs.train_several(
            self._weights, self._optimizer, self._rest, self._carried(batches[0]), tuple(batches), np.array(resets)
        )
        return losses

    def eval_step(self, batch: DeviceBatch) -> tuple[jax.Array, jax.Array]:
        weights, rest = self._alone()
        losses, predictions, self._state = self._programs.evaluate(weights, rest, self._carried(batch), batch)
        return losses, predictions

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        on_host = {name: self._cast(value) for name, value in inputs.items()}
        return self.fetch(self._programs.predict(*self._alone(), on_host))

    def gradients(self, batch: DeviceBatch) -> Params:
        gradients = self._programs.differentiate(self._weights, self._rest, self._zero_state(batch), batch)
        return self._canonical(gradients)

    # Both go on from the dropout keys that the last call left: calls that hang on nothing JAX would run at once.

    def training_loss(self, batch: DeviceBatch) -> jax.Array:
        loss, (self._rest, _) = self._programs.forward(self._weights, self._rest, self._zero_state(batch), batch)
        return loss

    def training_gradient(self, batch: DeviceBatch) -> jax.Array:
        (loss, (self._rest, _)), _ = self._programs.forward_and_backward(
            self._weights, self._rest, self._zero_state(batch), batch
        )
        return loss

    def optimizer_state(self) -> Iterator[Array]:
        yield from map(self.fetch, jax.tree.leaves(self._optimizer))

    def profile(self, run: Callable[[], None], folder: Path) -> list[Operation]:
        from backends.jax.profiling import profiled

        assert self._example is not None  # it has trained
        arguments = (self._weights, self._optimizer, self._rest, self._zero_state(self._example), self._example)
        return profiled(run, folder, program=self._programs.train.lower(*arguments).compile().as_text() or "")

    def reset_state(self) -> None:
        self._state = None

    def fetch(self, value: jax.Array) -> Array:
        # NumPy has no bfloat16 of its own.
        return np.asarray(value, np.float32 if value.dtype == jnp.bfloat16 else None)

    def wait(self) -> None:
        jax.block_until_ready((self._weights, self._optimizer, self._rest, self._state))

    def params(self) -> Params:
        # A JAX array keeps what was once fetched of it: of a copy, each call fetches anew.
        return self._canonical(jax.device_put(self._alone()[0], self._device, may_alias=False))

    def matmul(self, left: Array, right: Array, *, times: int) -> jax.Array:
        with jax.default_device(self._device):
            product, factor = self._commit([jnp.asarray(value, self._layers_dtype()) for value in (left, right)])
            for _ in range(times):
                product = product @ factor
            return product

    def compilations(self) -> int | None:
        if self._example is not None and not _COMPILED:
            raise RuntimeError(
                "JAX reported no compilation although a step was compiled: recompilations cannot be seen"
            )
        return len(_COMPILED)

    def device_memory(self) -> DeviceMemory | None:
        if self._device.platform == "cpu":
            return None  # JAX keeps no figures there
        statistics = self._device.memory_stats()
        return DeviceMemory(statistics["peak_bytes_in_use"], None)

    def settings(self) -> Settings:
        flags = set(os.environ.get("XLA_FLAGS", "").split())
        return {
            "device": "cpu" if self._alone()[0][0].device.platform == "cpu" else "gpu",
            "device name": self._device.device_kind if self._device.platform != "cpu" else None,
            "precision": self._precision(),
            "parameters": str(self._weights[0].dtype),
            "matmul precision": jax.config.jax_default_matmul_precision,
            **{flag: bool({f"--{flag}", f"--{flag}=true"} & flags) for flag in DETERMINISM},
            "mode": self._mode(),
            "compile": "jax.jit, XLA",
            "optimizer": "optax.adamw",
            "kernels": self._kernels(),
            **({"loader": self._loader.described} if self._loader else {}),
            **(distributed.settings(self._weights[0]) if self._places is not None else {}),
        }

    def _mode(self) -> str:
        """Read back: from the dropout keys (in a model without dropout, from what keys would be made of), from the optimizer's
        state, from whether a program of several steps was traced, which before the first step is still to come, and from the
        loader, which is what was asked for until there is one."""
        keys = {
            str(jax.random.key_impl(leaf)) for leaf in self._rest if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        }
        found = "/".join(sorted(keys)) or jax.config.jax_default_prng_impl
        if found not in (KEYS, "rbg"):
            return found
        (adam,) = (part for part in jax.tree.leaves(self._optimizer, is_leaf=_is_adam) if _is_adam(part))
        several = self.steps_per_call > 1 and (self._example is None or self._programs.several_traced)
        on = {"rbg": found == "rbg", "flat": isinstance(adam.mu, jax.Array), "multi-step": several}
        on["grain"] = self._grain if self._loader is None else isinstance(self._loader, GrainLoader)
        return mode_of([name for name, is_on in on.items() if is_on], MODES)

    def _precision(self) -> str:
        """Read back from the layers and the flag."""
        found = self._layers_dtype()
        if found != "float32" or self._device.platform == "cpu":
            return found
        matmul = jax.config.jax_default_matmul_precision
        return {"highest": "float32", "tensorfloat32": "tf32"}.get(matmul, f"float32 with matmul precision {matmul}")

    def _layers_dtype(self) -> str:
        """What the linear layers compute in, by their own account; several, if they disagree."""
        layers = (part for _, part in nnx.iter_graph(self._programs.merge(*self._alone())))
        return "/".join(sorted({jnp.dtype(part.dtype).name for part in layers if isinstance(part, nnx.Linear)}))

    def _kernels(self) -> str | None:
        """Read from the traced training step, dropout and all; None before the first one."""
        if self._example is None:
            return None
        state = self._zero_state(self._example)
        traced = self._programs.train.trace(self._weights, self._optimizer, self._rest, state, self._example)
        scans = {
            f"lax.scan over {equation.params['length']} steps, unroll {equation.params['unroll']}"
            for equation in _equations(traced.jaxpr.jaxpr)
            if equation.primitive.name == "scan"
        }
        return ", ".join(["XLA", *sorted(scans)])

    def _alone(self) -> tuple[list[jax.Array], list[jax.Array]]:
        """The weights and the rest as this process has them for itself."""
        if self._places is None:
            return self._weights, self._rest
        return distributed.own(self._weights), self._own_rest

    def _commit(self, tree: Any) -> Any:
        """The arrays on this session's device, bound to it: what is computed from them is computed there."""
        return jax.device_put(tree, self._device)

    def _normalised(self, weights: Array, total: float | None = None) -> Any:
        if total is not None:  # a part of a batch, whose weights go with it to where its rows lie
            return self._cast(weights / np.float64(total))
        if not weights.all():
            return self._cast(weights / weights.sum(dtype="float64"))
        if self._unpadded is None or self._unpadded.shape != weights.shape:
            self._unpadded = self._commit(np.full(weights.shape, 1 / weights.size, self._dtype))
        return self._unpadded

    def _cast(self, value: Array) -> Array:
        return value.astype(self._dtype, copy=False) if value.dtype.kind == "f" else value

    def _carried(self, batch: DeviceBatch) -> State:
        return self._zero_state(batch) if self._state is None else self._state

    def _zero_state(self, batch: DeviceBatch) -> State:
        with jax.default_device(self._device):
            rows = batch.labels.shape[0]
            if (
                self._places is not None
                and isinstance(batch.labels, jax.Array)
                and not batch.labels.is_fully_addressable
            ):
                part = jax.tree.map(np.asarray, self._programs.initial_state(rows // jax.process_count()))
                zeros: State = distributed.of_rows(part, self._places)
                return zeros
            state: State = self._commit(self._programs.initial_state(rows))
            return state

    def _load(self, params: Params) -> list[jax.Array]:
        names = self._programs.names
        if set(params) != set(names):
            raise ValueError(f"parameters and model disagree on {sorted(set(params) ^ set(names))}")
        for name, leaf in zip(names, self._programs.shapes, strict=True):
            if params[name].shape != leaf.shape:
                raise ValueError(f"{name} is {params[name].shape}, the model has {leaf.shape}")
        # jnp.array copies: donated buffers must not be the caller's memory.
        return self._commit([jnp.array(params[name], dtype=self._dtype) for name in names])

    def _canonical(self, leaves: list[jax.Array]) -> Params:
        leaves = [leaf if leaf.is_fully_addressable else leaf.addressable_data(0) for leaf in leaves]
        if self._device.platform != "cpu":
            # JAX keeps what it fetches of an array on a GPU: a second reading would take no time.
            leaves = jax.device_put(leaves, jax.devices("cpu")[0])
        # A copy: the next step donates these buffers.
        return {name: np.array(leaf) for name, leaf in zip(self._programs.names, leaves, strict=True)}


class Loader:
    """NumPy's rows by a permutation of an epoch: JAX has no loader, and Flax's examples load arrays in this way
    (https://github.com/google/flax/blob/main/examples/mnist/train.py)."""

    def __init__(self, session: JaxSession, examples: Examples, seed: int) -> None:
        self._session, self._examples, self._rng = session, examples, np.random.default_rng(seed)
        self.described = f"NumPy, rows by {'a permutation' if examples.shuffled else 'their order'}"

    def __iter__(self) -> Iterator[DeviceBatch]:
        inputs, labels, batch_size, shuffled = self._examples
        order = self._rng.permutation(len(labels)) if shuffled else np.arange(len(labels))
        batches = batching.one_pass(inputs, labels, order=order, batch_size=batch_size)
        yield from map(self._session.prepare, batches)


class GrainLoader(Loader):
    """Grain's, pass after pass."""

    def __init__(self, session: JaxSession, examples: Examples, seed: int) -> None:
        super().__init__(session, examples, seed)
        steps = ["MapDataset", *(["shuffle"] if examples.shuffled else []), "batch", "to_iter_dataset"]
        self.described = f"grain {version('grain')}: {', '.join(steps)}"

    def __iter__(self) -> Iterator[DeviceBatch]:
        from backends.jax import grain_loading  # with Grain, which a step does without

        seed = int(self._rng.integers(2**31))
        yield from map(self._session.prepare, grain_loading.batches(self._examples, seed=seed))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _equations(getattr(inner, "jaxpr", inner))


def _is_adam(part: Any) -> bool:
    return isinstance(part, optax.ScaleByAdamState)


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of every position, of the labels' shape."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _transform(spec: AdamW, *, flat: bool) -> optax.GradientTransformation:
    def schedule(updates_done: jax.Array) -> jax.Array:
        update = updates_done.astype(jnp.result_type(float)) + 1
        factor = jnp.ones_like(update)
        if spec.warmup_steps:
            factor = jnp.minimum(factor, update / spec.warmup_steps)
        if spec.decay_steps is not None:
            remaining = (spec.decay_steps - update + 1) / (spec.decay_steps - spec.warmup_steps)
            factor = jnp.minimum(factor, jnp.maximum(remaining, 0))
        return spec.learning_rate * factor

    def decays(weights: list[jax.Array]) -> list[bool]:
        return [spec.decays(weight) for weight in weights]

    rate = schedule if spec.scheduled else spec.learning_rate
    adamw = optax.adamw(
        rate, b1=spec.beta1, b2=spec.beta2, eps=spec.eps, weight_decay=spec.weight_decay, mask=decays,
    )  # fmt: skip
    if flat:  # its parts: which weights decay is asked of each of them, and not of the one vector
        adam = optax.scale_by_adam(b1=spec.beta1, b2=spec.beta2, eps=spec.eps)
        adamw = optax.chain(
            optax.flatten(adam),
            optax.add_decayed_weights(spec.weight_decay, decays),
            optax.scale_by_learning_rate(rate),
        )
    return adamw if spec.clip_norm is None else optax.chain(optax.clip_by_global_norm(spec.clip_norm), adamw)
