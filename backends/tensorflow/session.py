"""Loss, step, evaluation, synchronisation and memory in TensorFlow, once for all tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled  # tf.config has only the switch

from backends.api import (
    DEFAULT_MODE,
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
from backends.operations import Operation
from backends.tensorflow import MODES, OF_SEVERAL_PROCESSES, distributed
from backends.tensorflow.models import State, build
from tasks.spec import AdamW, Array, Batch, Examples, Params, Task

POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16", "float64": "float64"}
"""Precision -> Keras's policy for the layers: mixed_bfloat16 has variables in float32 and computes in bfloat16
(https://keras.io/api/mixed_precision/)."""


def versions() -> Mapping[str, str]:
    """TensorFlow and Keras."""
    return {name: version(name) for name in ("tensorflow", "keras")}


def open_session(task: Task, params: Params, options: Options) -> "TensorFlowSession":
    """Builds the Keras model on the device and assigns `params` to its variables."""
    if options.precision not in POLICIES:
        raise Unsupported(f"the TensorFlow backend computes in {', '.join(POLICIES)}, not {options.precision}")
    if {"xla", "no-xla"} <= switches(options.mode, MODES):
        raise Unsupported(f"{options.mode}: xla and no-xla exclude each other")
    if options.precision == "tf32" and options.device != "gpu":
        raise Unsupported(NO_TF32)
    if options.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise Unsupported('TensorFlow sees no GPU; install its CUDA libraries with: pip install "tensorflow[and-cuda]"')
    only_modes(options, OF_SEVERAL_PROCESSES)
    strategy = distributed.join(options) if options.processes > 1 else None
    # float32 means IEEE float32: TensorFlow's own default on a GPU is TF32.
    tf.config.experimental.enable_tensor_float_32_execution(options.precision == "tf32")
    keras.config.set_floatx("float64" if options.precision == "float64" else "float32")
    keras.config.set_dtype_policy(POLICIES[options.precision])
    keras.utils.set_random_seed(options.masks_seed)
    with tf.device("/GPU:0" if options.device == "gpu" else "/CPU:0"):
        return TensorFlowSession(task, params, options, strategy)


class AdamWithCorrectedEpsilon(keras.optimizers.AdamW):
    """Keras's AdamW with eps added after the bias correction of the second moment, as tasks.spec.AdamW has it."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        first, second = self._moments(variable)
        self.assign_add(first, (gradient - first) * (1 - self.beta_1))
        self.assign_add(second, (tf.square(gradient) - second) * (1 - self.beta_2))
        rate, epsilon = self._corrected(learning_rate, variable.dtype, self.beta_1, self.beta_2)
        self.assign_sub(variable, rate * first / (tf.sqrt(second) + epsilon))

    def _moments(self, variable: Any) -> tuple[Any, Any]:
        index = self._get_variable_index(variable)
        return self._momentums[index], self._velocities[index]

    def _corrected(self, learning_rate: Any, dtype: Any, beta_1: float, beta_2: float) -> tuple[tf.Tensor, tf.Tensor]:
        """Learning rate and eps that have both corrections in them, which are then made of scalars and not of every element.

        Kingma and Ba, 2015, the end of section 2 (https://arxiv.org/abs/1412.6980), with eps where the algorithm there has it.
        """
        # In double, as PyTorch has them: in single precision 1 - 0.999^t has lost half its digits at t = 1.
        update = tf.cast(self.iterations + 1, tf.float64)
        first, second = (1 - tf.pow(tf.constant(beta, tf.float64), update) for beta in (beta_1, beta_2))
        rate = tf.cast(learning_rate, tf.float64) * tf.sqrt(second) / first
        return tf.cast(rate, dtype), tf.cast(self.epsilon * tf.sqrt(second), dtype)


class FusedAdam(AdamWithCorrectedEpsilon):
    """The same update in one operation: https://www.tensorflow.org/api_docs/python/tf/raw_ops/ResourceApplyAdam."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        handles = [
            (one if isinstance(one, tf.Variable) else one.value).handle for one in (variable, *self._moments(variable))
        ]
        dtype = tf.as_dtype(variable.dtype)
        # As the operation has them, which takes 1 - beta of what it is given.
        betas = [dtype.as_numpy_dtype(beta) for beta in (self.beta_1, self.beta_2)]
        rate, epsilon = self._corrected(learning_rate, dtype, *map(float, betas))
        corrected = tf.zeros((), dtype)  # powers of beta, of which the operation would make corrections of its own
        tf.raw_ops.ResourceApplyAdam(
            var=handles[0], m=handles[1], v=handles[2], beta1_power=corrected, beta2_power=corrected, lr=rate, beta1=betas[0],
            beta2=betas[1], epsilon=epsilon, grad=gradient,
        )  # fmt: skip


class WarmupAndDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of tasks.spec.AdamW; `step` counts the updates already done."""

    def __init__(self, spec: AdamW) -> None:
        self.spec = spec

    def __call__(self, step: Any) -> tf.Tensor:
        spec = self.spec
        update = tf.cast(step, keras.config.floatx()) + 1
        factor = tf.ones_like(update)
        if spec.warmup_steps:
            factor = tf.minimum(factor, update / spec.warmup_steps)
        if spec.decay_steps is not None:
            remaining = (spec.decay_steps - update + 1) / (spec.decay_steps - spec.warmup_steps)
            factor = tf.minimum(factor, tf.maximum(remaining, 0))
        return spec.learning_rate * factor


DeviceBatch = tuple[tf.Tensor, ...]
"""The inputs in the order of their names, the labels (int32[B] or int32[B, T]) and the weights, of the labels' shape and
divided by their sum: a `tf.function` takes flat arguments faster than nested ones."""


class TensorFlowSession:
    """Implements backends.api.Session."""

    def __init__(
        self, task: Task, params: Params, options: Options, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        self._strategy = strategy  # of several processes
        self._device = "/GPU:0" if options.device == "gpu" else "/CPU:0"
        self._dtype = np.dtype(keras.config.floatx())
        on = switches(options.mode, MODES)
        self.steps_per_call = STEPS_PER_CALL if "steps-per-execution" in on else 1
        self._asked = mode_of(on & {"xla", "no-xla"}, MODES)  # which compiler
        self._model = build(task.model, self._asked)
        self._variables = self._model.keras.trainable_variables
        self._load(params)
        self._optimizer = _optimizer(
            task.optimizer, self._variables, undecayed=self._undecayed(task.optimizer, params), fused="fused-adam" in on
        )
        self._inputs: tuple[str, ...] = ()
        self._state: State | None = None
        self._unpadded: tuple[float, tf.Tensor] | None = None  # the weights of a batch without padding, and their total
        self._example: DeviceBatch | None = None  # the last one trained on, to find the graph that it ran through
        self._loader: Loader | None = None
        self._jit = {DEFAULT_MODE: self._model.xla, "xla": True, "no-xla": False}  # mode -> jit_compile
        jit = self._jit[self._asked]
        if unable := [layer.name for layer in self._model.keras.layers if jit and not layer.supports_jit]:
            raise Unsupported(f"XLA cannot compile {', '.join(unable)}: Keras says so in the layer's `supports_jit`")
        self._train = tf.function(self._train_graph, jit_compile=jit)
        self._differentiate = tf.function(self._gradients_graph, jit_compile=jit)
        if (
            strategy is not None
        ):  # whose sum XLA cannot contain on a CPU: what is before and after it are programs of their own
            self._of_rows = tf.function(self._loss_and_gradients, jit_compile=jit)
            self._update = tf.function(self._update_graph, jit_compile=jit)
            self._train = tf.function(self._train_together_graph)
            self._differentiate = tf.function(self._gradients_together_graph)
        self._train_several = tf.function(self._several_graph, jit_compile=jit)
        self._evaluate = tf.function(self._evaluate_graph, jit_compile=jit)
        self._predict = tf.function(self._predict_graph, jit_compile=jit)
        self._forward = tf.function(self._loss_graph, jit_compile=jit)
        if options.device == "gpu":
            tf.config.experimental.reset_memory_stats("GPU:0")

    def prepare(self, batch: Batch) -> DeviceBatch:
        self._inputs = tuple(batch.inputs)
        with tf.device("/CPU:0"):
            tensors = map(self._tensor, (*batch.inputs.values(), batch.labels))
            return (*tensors, self._normalised(batch.weights, batch.total))

    def loader(self, examples: Examples, *, seed: int) -> "Loader":
        self._inputs = tuple(examples.inputs)
        self._loader = Loader(self, examples, seed)
        return self._loader

    def on_host(self, prepared: DeviceBatch) -> Batch:
        *inputs, labels, weights = map(self.fetch, prepared)
        return Batch(dict(zip(self._inputs, inputs, strict=True)), labels, weights)

    def put(self, prepared: DeviceBatch) -> DeviceBatch:
        if self._device == "/CPU:0":
            return prepared
        with tf.device(self._device):
            return tuple(map(tf.identity, prepared))

    def train_step(self, batch: DeviceBatch) -> tf.Tensor:
        self._example = batch
        loss, self._state = self._train(*batch, *self._carried(batch))
        return loss

    def train_steps(self, batches: Sequence[DeviceBatch], resets: Sequence[bool]) -> tf.Tensor:
        self._example = batches[-1]
        losses, self._state = self._train_several(tuple(batches), tf.constant(resets), self._carried(batches[0]))
        return losses

    def eval_step(self, batch: DeviceBatch) -> tuple[tf.Tensor, tf.Tensor]:
        losses, predictions, self._state = self._evaluate(*batch, *self._carried(batch))
        return losses, predictions

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        self._inputs = tuple(inputs)
        with tf.device(self._device):
            return self.fetch(self._predict(*map(self._tensor, inputs.values())))

    def gradients(self, batch: DeviceBatch) -> Params:
        return self._canonical(self._differentiate(*batch, *self._zero_state(batch)))

    def training_loss(self, batch: DeviceBatch) -> tf.Tensor:
        return self._forward(*batch, *self._zero_state(batch))

    def training_gradient(self, batch: DeviceBatch) -> list[tf.Tensor]:
        gradients: list[tf.Tensor] = self._differentiate(*batch, *self._zero_state(batch))
        return gradients

    def optimizer_state(self) -> Iterator[Array]:
        yield from (self.fetch(variable.value) for variable in self._optimizer.variables)

    def profile(self, run: Callable[[], None], folder: Path) -> list[Operation]:
        from backends.tensorflow.profiling import profiled

        program = ""
        if self._compiled_by_xla():
            assert self._example is not None  # it has trained
            arguments = (*self._example, *self._zero_state(self._example))
            program = self._train.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
        return profiled(run, folder, program=program)

    def reset_state(self) -> None:
        self._state = None

    def fetch(self, value: tf.Tensor) -> Array:
        array: Array = value.numpy()
        return array.astype(np.float32) if value.dtype == tf.bfloat16 else array  # NumPy has no bfloat16 of its own

    def wait(self) -> None:
        if self._strategy is None:
            tf.test.experimental.sync_devices()
        else:  # that would ask the other processes' devices too, which no eager operation reaches
            with tf.device(self._variables[0].value.device):
                tf.raw_ops.SyncDevice()

    def params(self) -> Params:
        return self._canonical([variable.value for variable in self._variables])

    def matmul(self, left: Array, right: Array, *, times: int) -> tf.Tensor:
        with tf.device(self._device):
            product, factor = (tf.cast(self._tensor(value), self._layers_dtype()) for value in (left, right))
            for _ in range(times):
                product = tf.linalg.matmul(product, factor)
        return product

    def compilations(self) -> int | None:
        functions = (self._train, self._train_several, self._evaluate, self._predict, self._differentiate)
        return sum(function.experimental_get_tracing_count() for function in functions)

    def device_memory(self) -> DeviceMemory | None:
        if self._device == "/CPU:0":
            return None  # TensorFlow would answer 0
        return DeviceMemory(tf.config.experimental.get_memory_info("GPU:0")["peak"], None)

    def settings(self) -> Settings:
        gpus = tf.config.list_physical_devices("GPU") if self._device == "/GPU:0" else []
        return {
            "device": "gpu" if "GPU" in self._variables[0].value.device else "cpu",
            "device name": tf.config.experimental.get_device_details(gpus[0]).get("device_name") if gpus else None,
            "precision": self._precision(),
            "parameters": self._variables[0].value.dtype.name,
            "TF32": tf.config.experimental.tensor_float_32_execution_enabled(),
            "op determinism": is_op_determinism_enabled(),
            "mode": self._mode(),
            "compile": ("tf.function, XLA" if self._compiled_by_xla() else "tf.function")
            + (" before and after the sum" if self._strategy is not None and self._compiled_by_xla() else ""),
            "optimizer": ("tf.raw_ops.ResourceApplyAdam" if self._fused() else "keras.optimizers.AdamW")
            + ", eps after bias correction",
            # 0 is TensorFlow's way to say: as many as the CPU affinity allows.
            "threads": tf.config.threading.get_intra_op_parallelism_threads() or None,
            "kernels": self._kernels(),
            **({"loader": self._loader.described} if self._loader else {}),
            **(distributed.settings(self._strategy) if self._strategy is not None else {}),
        }

    def _mode(self) -> str:
        """Read back from the training step, and from whether several were traced, which before the first one is still to come.

        Where two modes are the same program, it is the one that was asked for.
        """
        xla = self._compiled_by_xla()
        found = {self._asked if self._jit[self._asked] == xla else {True: "xla", False: "no-xla"}[xla]}
        if self.steps_per_call > 1 and (
            self._example is None or self._train_several.experimental_get_tracing_count() > 0
        ):
            found.add("steps-per-execution")
        if self._fused():
            found.add("fused-adam")
        return mode_of(found - {DEFAULT_MODE}, MODES)

    def _compiled_by_xla(self) -> bool:
        """By the account of the traced training step, and before there is one, of what will be traced."""
        if self._concrete is None:
            return bool(self._program._jit_compile)
        return bool(self._concrete.function_def.attr["_XlaMustCompile"].b)

    def _fused(self) -> bool:
        """By the traced training step, and before there is one, by the optimizer."""
        if self._concrete is None:
            return isinstance(self._optimizer, FusedAdam)
        return any(node.op == "ResourceApplyAdam" for node in self._nodes())

    def _nodes(self) -> list[Any]:
        """Of the graph of the traced training step, and of the functions that it calls."""
        graph = self._concrete.graph.as_graph_def()
        return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]

    @property
    def _program(self) -> Any:
        """The training step; of several processes what comes before the sum over them."""
        return self._train if self._strategy is None else self._of_rows

    @property
    def _concrete(self) -> Any:
        """The training step as it was traced; None before the first one."""
        if self._example is None:
            return None
        return self._program.get_concrete_function(*self._example, *self._zero_state(self._example))

    def _precision(self) -> str:
        """Read back from the layers and the flag."""
        found = self._layers_dtype()
        on_gpu, allowed = self._device == "/GPU:0", tf.config.experimental.tensor_float_32_execution_enabled()
        return "tf32" if found == "float32" and on_gpu and allowed else found

    def _layers_dtype(self) -> str:
        """What the layers with weights compute in, by their own account; several, if they disagree."""
        return "/".join(sorted({layer.compute_dtype for layer in self._model.keras.layers if layer.weights}))

    def _kernels(self) -> str | None:
        """Read from the traced graph of the training step; None before the first one."""
        if self._concrete is None:
            return None
        nodes = self._nodes()
        operations = {node.op for node in nodes}
        owner = "XLA" if self._compiled_by_xla() else "TensorFlow"
        if any(operation.startswith("CudnnRNN") for operation in operations):
            return "cuDNN RNN"
        if operations & {"While", "StatelessWhile"}:
            return f"{owner}, while loop"
        return f"{owner}, {len(nodes):,} operators in the graph of a step"

    # Traced once each, for one shape of batch; `arguments` are a DeviceBatch and the carried state.

    def _train_graph(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, State]:
        loss, gradients, state = self._loss_and_gradients(*arguments)
        self._optimizer.apply(gradients, self._variables)
        return loss, state

    def _train_together_graph(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, State]:
        loss, gradients, state = distributed.summed(self._strategy, self._of_rows, arguments)
        self._update(gradients)
        return loss, state

    def _update_graph(self, gradients: list[tf.Tensor]) -> None:
        self._optimizer.apply(gradients, self._variables)

    def _gradients_together_graph(self, *arguments: tf.Tensor) -> list[tf.Tensor]:
        return distributed.summed(self._strategy, self._of_rows, arguments)[1]

    def _several_graph(
        self, batches: tuple[DeviceBatch, ...], resets: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, State]:
        losses = []
        for batch, reset in zip(batches, tf.unstack(resets), strict=True):
            state = tuple(tf.where(reset, tf.zeros_like(part), part) for part in state)
            loss, state = self._train_graph(*batch, *state)
            losses.append(loss)
        return tf.stack(losses), state

    def _evaluate_graph(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, State]:
        inputs, labels, _, state = self._named(arguments)
        logits, state = self._apply(inputs, state, False)
        return _losses(logits, labels), tf.argmax(logits, axis=-1), state

    def _predict_graph(self, *arguments: tf.Tensor) -> tf.Tensor:
        state = self._model.initial_state(arguments[0].shape[0])
        return self._apply(dict(zip(self._inputs, arguments, strict=True)), state, False)[0]

    def _gradients_graph(self, *arguments: tf.Tensor) -> list[tf.Tensor]:
        return self._loss_and_gradients(*arguments)[1]

    def _loss_graph(self, *arguments: tf.Tensor) -> tf.Tensor:
        return self._loss(*arguments)[0]

    def _loss(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, State]:
        inputs, labels, weights, state = self._named(arguments)
        logits, state = self._apply(inputs, state, True)
        return tf.reduce_sum(_losses(logits, labels) * weights), state

    def _loss_and_gradients(self, *arguments: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], State]:
        with tf.GradientTape() as tape:
            loss, state = self._loss(*arguments)
        return loss, [_dense(gradient) for gradient in tape.gradient(loss, self._variables)], state

    def _apply(self, inputs: Mapping[str, tf.Tensor], state: State, training: bool) -> tuple[tf.Tensor, State]:
        logits, state = self._model.apply(inputs, state, training)
        return tf.cast(logits, self._dtype), state  # the loss is taken in the variables' precision

    def _named(self, arguments: tuple[tf.Tensor, ...]) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor, State]:
        count = len(self._inputs)
        labels, weights, *state = arguments[count:]
        return dict(zip(self._inputs, arguments[:count], strict=True)), labels, weights, tuple(state)

    def _tensor(self, value: Array) -> tf.Tensor:
        return tf.convert_to_tensor(value.astype(self._dtype, copy=False) if value.dtype.kind == "f" else value)

    def _normalised(self, weights: Array, total: float | None = None) -> tf.Tensor:
        """Divided by their sum, that of the whole batch where this is a part of one."""
        if not weights.all():
            return self._tensor(weights / np.float64(total or weights.sum(dtype="float64")))
        total = total or weights.size
        if self._unpadded is None or self._unpadded[0] != total or self._unpadded[1].shape != weights.shape:
            with tf.device(self._device):
                self._unpadded = total, tf.fill(weights.shape, tf.constant(1 / total, self._dtype))
        return self._unpadded[1]

    def _carried(self, batch: DeviceBatch) -> State:
        return self._zero_state(batch) if self._state is None else self._state

    def _zero_state(self, batch: DeviceBatch) -> State:
        with tf.device(self._device):
            return self._model.initial_state(batch[0].shape[0])

    def _load(self, params: Params) -> None:
        layout = self._model.layout
        own = {variable.path: variable for variable in self._variables}
        if set(params) != set(layout):
            raise ValueError(f"parameters and model disagree on {sorted(set(params) ^ set(layout))}")
        for name, leaf in layout.items():
            value = leaf.to_native(params[name]).astype(self._dtype)
            if leaf.row is not None:
                rows = own[leaf.native].numpy()
                rows[leaf.row] = value
                value = rows
            own[leaf.native].assign(value)

    def _undecayed(self, spec: AdamW, params: Params) -> list[Any]:
        # By canonical shapes: Keras stacks vectors into matrices, which weight decay must not take for such.
        exempt = {leaf.native for name, leaf in self._model.layout.items() if not spec.decays(params[name])}
        return [variable for variable in self._variables if variable.path in exempt]

    def _canonical(self, values: list[tf.Tensor]) -> Params:
        own = {variable.path: self.fetch(value) for variable, value in zip(self._variables, values, strict=True)}
        return {
            name: np.array(leaf.to_canonical(own[leaf.native] if leaf.row is None else own[leaf.native][leaf.row]))
            for name, leaf in self._model.layout.items()
        }


class Loader:
    """A `tf.data` pipeline whose tuples become batches of one shape (https://www.tensorflow.org/guide/data)."""

    def __init__(self, session: TensorFlowSession, examples: Examples, seed: int) -> None:
        self._session, self._size = session, examples.batch_size
        self._weights = np.ones((self._size, *examples.labels.shape[1:]), np.float32)
        self._unpadded = session._normalised(self._weights)
        with tf.device("/CPU:0"):
            rows = tf.data.Dataset.from_tensor_slices(
                tuple(map(session._tensor, (*examples.inputs.values(), examples.labels)))
            )
            if examples.shuffled:  # with room for all of them: less would be no shuffle of the whole
                rows = rows.shuffle(len(examples.labels), seed=seed)
            self._source = rows.batch(self._size).prefetch(tf.data.AUTOTUNE)
        steps = ["from_tensor_slices", *(["shuffle"] if examples.shuffled else []), "batch", "prefetch(AUTOTUNE)"]
        self.described = f"tf.data: {', '.join(steps)}"

    def __iter__(self) -> Iterator[DeviceBatch]:
        for tensors in self._source:
            count = tensors[-1].shape[0]
            yield (*tensors, self._unpadded) if count == self._size else self._padded(tensors, count)

    def _padded(self, tensors: DeviceBatch, count: int) -> DeviceBatch:
        """The first row again in the place of those that are missing, of weight 0."""
        rows = np.arange(self._size)
        rows[count:] = 0
        weights = self._weights.copy()
        weights[count:] = 0
        with tf.device("/CPU:0"):
            return (*(tf.gather(tensor, rows) for tensor in tensors), self._session._normalised(weights))


def _losses(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of every position, of the labels' shape."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def _dense(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
    # An embedding's gradient arrives with one row per token; Adam would square the rows before duplicates are summed.
    return tf.convert_to_tensor(gradient)


def _optimizer(spec: AdamW, variables: list[Any], *, undecayed: list[Any], fused: bool) -> keras.optimizers.Optimizer:
    optimizer = (FusedAdam if fused else AdamWithCorrectedEpsilon)(
        learning_rate=WarmupAndDecay(spec) if spec.scheduled else spec.learning_rate,
        weight_decay=spec.weight_decay,
        beta_1=spec.beta1,
        beta_2=spec.beta2,
        epsilon=spec.eps,
        global_clipnorm=spec.clip_norm,
    )
    if spec.weight_decay == 0:
        optimizer.weight_decay = None  # Keras's AdamW insists on a figure, and would multiply every variable by 1
    optimizer.exclude_from_weight_decay(undecayed)
    optimizer.build(variables)
    return optimizer
