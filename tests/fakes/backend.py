"""A backend that misbehaves on request, and a task of milliseconds to misbehave on.

    --backend tests.fakes.backend --task tests.fakes.backend

A test names the misbehaviour in a file in the user's cache (the fixture `misbehave` in tests/conftest.py): what is set in a
shell does not reach a measured process. It computes with the reference, in float64 whatever was asked, and tells the settings
that were asked. Misbehaviours other than those of parity strike at update LATE of a session that is not the ladder's: every
measurement makes more updates. `kills itself in <phase>` and `hangs in <phase>` strike when the worker tells that the phase
begins (bench/process/phases.py), `<misbehaviour> in its turn` whenever a worker is given its turn. A test with several fakes at
once makes a module for each (the fixture `fakes`).
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.api import Options, Settings
from backends.reference.session import ReferenceSession, versions
from bench.process import phases
from bench.worker.precision_probe import PROBE_SIZE, RATE_SECONDS
from tasks import batching
from tasks.mnist_mlp import MlpConfig
from tasks.spec import AdamW, Array, Batch, Data, Evaluation, Examples, Params, Preset, Target, Task, hash_arrays

__all__ = ["MODES", "open_session", "preset", "versions"]

MODES = {"default": "as it is", "fast": "the same under another name"}

LATE = 12
STEP_S = 0.02  # of a step that is only queued
CHAIN_S = RATE_SECONDS["cpu"]
BLOCK_S = 0.002  # what is measured is not the point here
MISBEHAVIOUR = "misbehaviour.txt"
"""The file in XDG_CACHE_HOME that names one."""

SLEEP = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('asleep', flush=True); time.sleep(60)"
)


BITS = {"tf32": 11, "bfloat16": 8}  # of a significand, the hidden one included


def rounded(value: Array, bits: int) -> Array:
    """To the nearest number with so many significant bits."""
    significand, exponent = np.frexp(value)
    nearest: Array = np.ldexp(np.round(significand * 2.0**bits), exponent - bits)
    return nearest


def open_session(
    task: Task, params: Params, options: Options, *, misbehaviour: str | None = None
) -> "MisbehavingSession":
    """A session that misbehaves as named, or as the file in the cache says."""
    misbehaviour = misbehaviour or told()
    strike, _, at = misbehaviour.partition(" in its ")
    if at == "turn":
        _strike_in_its_turn(STRIKES[strike])
    if misbehaviour == "raises in open":
        raise RuntimeError("no session today")
    if misbehaviour == "wrong learning rate":
        faster = dataclasses.replace(task.optimizer, learning_rate=1.1 * task.optimizer.learning_rate)
        task = dataclasses.replace(task, optimizer=faster)  # type: ignore[type-var]
    return MisbehavingSession(task, params, options, misbehaviour)


def _strike_in_its_turn(strike: Callable[[], object]) -> None:
    wait = phases.next_word

    def next_word(told: str) -> bytes:
        word = wait(told)
        if word != phases.END:
            strike()
        return word

    phases.next_word = next_word


def told() -> str:
    """The misbehaviour that the running test asked for."""
    path = Path(os.environ.get("XDG_CACHE_HOME", "nowhere"), MISBEHAVIOUR)
    return path.read_text() if path.exists() else "ok"


class MisbehavingSession(ReferenceSession):
    def __init__(self, task: Task, params: Params, options: Options, misbehaviour: str) -> None:
        super().__init__(task, params)
        self.options, self.misbehaviour = options, misbehaviour
        self.climbs = getattr(task, "small", False)
        self.pending_s = 0.0  # of work that is queued
        self.chains = 0

    def train_step(self, batch: Batch) -> float:
        loss = super().train_step(batch)
        self.pending_s = STEP_S if self.misbehaviour == "does not wait" else 0.0
        if self.late and self.updates == LATE and self.misbehaviour in STRIKES:
            STRIKES[self.misbehaviour]()
        return float("nan") if self.late and self.misbehaviour == "nan loss" else loss

    @property
    def late(self) -> bool:
        return self.updates >= LATE and not self.climbs

    def eval_step(self, batch: Batch) -> tuple[Array, Array]:
        losses, predictions = super().eval_step(batch)
        wrong = self.late and self.misbehaviour == "misses the target"
        return losses, (predictions + 1) % 3 if wrong else predictions

    def params(self) -> Params:
        if self.pending_s:  # to sleep for no time would give the core to somebody else
            time.sleep(self.pending_s)
            self.pending_s = 0.0
        return super().params()

    def compilations(self) -> int | None:
        return self.updates if self.misbehaviour == "compiles in every step" else 0

    def loader(self, examples: Examples, *, seed: int) -> "Loader":
        return Loader(examples, seed, self.misbehaviour)

    def on_host(self, prepared: Batch) -> Batch:
        return prepared

    def matmul(self, left: Array, right: Array, *, times: int) -> Array:
        if len(left) > PROBE_SIZE:  # the rate's: a chain of no work that lasts as long as it must
            time.sleep(CHAIN_S if self.chains else 0.0)
            self.chains += 1
            return left
        product = super().matmul(left, right, times=times)
        precision = "float32" if self.misbehaviour == "computes in float32" else self.options.precision
        return rounded(product, BITS[precision]) if precision in BITS else product.astype(precision)

    def settings(self) -> Settings:
        device = "tpu" if self.misbehaviour == "wrong device" else self.options.device
        precision = "bfloat16" if self.misbehaviour == "wrong precision" else self.options.precision
        mode = "default" if self.misbehaviour == "ignores its mode" else self.options.mode
        odd = {"odd": {1, 2}} if self.misbehaviour == "tells settings that are no plain values" else {}
        return {"device": device, "precision": precision, "mode": mode, "compile": "none", **odd}  # type: ignore[dict-item]


class Loader:
    """NumPy's rows, batch by batch, in double precision as the session has them."""

    def __init__(self, examples: Examples, seed: int, misbehaviour: str = "ok") -> None:
        self.rng, self.misbehaviour = np.random.default_rng(seed), misbehaviour
        inputs = {name: value.astype(np.float64) for name, value in examples.inputs.items()}
        self.examples = examples._replace(inputs=inputs)

    def __iter__(self) -> Iterator[Batch]:
        inputs, labels, batch_size, shuffled = self.examples
        order = np.arange(len(labels))
        if shuffled and self.misbehaviour != "never shuffles":
            order = self.rng.permutation(order)
        if self.misbehaviour == "repeats an example":
            order[0] = order[1]
        if self.misbehaviour == "drops the last batch":
            order = order[: len(order) // batch_size * batch_size]
        for batch in batching.one_pass(inputs, labels, order=order, batch_size=batch_size):
            yield batch._replace(weights=batch.weights.astype(np.float64))


def _raise(error: Exception) -> Callable[[], None]:
    def strike() -> None:
        raise error

    return strike


def _hang(*, ignores_sigterm: bool) -> Callable[[], None]:
    def strike() -> None:
        if ignores_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", SLEEP])
            print(f"grandchild {child.pid}", flush=True)
        while True:
            signal.pause()

    return strike


def _leave_a_daemon() -> None:
    """A process of a session of its own, which keeps the output open."""
    child = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    print(f"grandchild {child.pid}", flush=True)


def _print_much() -> None:
    for number in range(2_000):
        print(f"line {number} " + "x" * 1_000)
    sys.stdout.flush()


def _answer(make: Callable[[dict[str, Any]], bytes]) -> Callable[[], None]:
    """Answers in the worker's place, to the cell that was asked, and ends the process as if all were well."""

    def strike() -> None:
        request, answer = map(Path, sys.argv[1:])
        answer.write_bytes(make(json.loads(request.read_bytes())["cell"]))
        os._exit(0)

    return strike


def _of_another_cell(asked: dict[str, Any]) -> bytes:
    return json.dumps({"status": "failed", "reason": "of another", "cell": {**asked, "round": 7, "seed": 7}}).encode()


def _fill_the_disk() -> None:
    """No file of this process grows any more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def _use_up_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.dup(0)


def _strike_in_a_phase() -> None:
    misbehaviour, _, at = told().partition(" in ")
    strikes = {"kills itself": STRIKES["kills itself"], "hangs": STRIKES["hangs"]}
    if misbehaviour not in strikes:
        return
    if at == "data":  # in which this module is imported
        strikes[misbehaviour]()
    tell = phases.enter

    def enter(phase: str) -> None:
        tell(phase)
        if phase == at:
            strikes[misbehaviour]()

    phases.enter = enter


STRIKES: Mapping[str, Callable[[], object]] = {
    "raises": _raise(RuntimeError("the layer\n  is broken in /home/somebody/secret/layer.py")),
    "unsupported value": _raise(ValueError()),
    "exits": lambda: os._exit(3),
    "exits with a path": lambda: (print("cannot open /home/somebody/secret/file", flush=True), os._exit(4)),
    "exits without a record": lambda: os._exit(0),
    "kills itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfaults": lambda: ctypes.string_at(0),
    "stops itself": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hangs": _hang(ignores_sigterm=False),
    "hangs with a grandchild": _hang(ignores_sigterm=True),
    "leaves a daemon": _leave_a_daemon,
    "prints much": _print_much,
    "runs out of host memory": _raise(MemoryError("Unable to allocate 3 TiB")),
    "runs out of device memory": _raise(RuntimeError("RESOURCE_EXHAUSTED: failed to allocate 3 TiB")),
    "writes rubbish": _answer(lambda asked: b"\x00\xffrubbish"),
    "writes half a record": _answer(lambda asked: json.dumps({"status": "ok", "versions": asked}).encode()[:100]),
    "claims success without figures": _answer(lambda asked: b'{"status": "ok"}'),
    "fails without a reason": _answer(lambda asked: b'{"status": "failed"}'),
    "writes a record of another cell": _answer(_of_another_cell),
    "fills the disk": _fill_the_disk,
    "goes elsewhere": lambda: os.chdir("/"),
    "uses up its file descriptors": _use_up_descriptors,
}

if sys.argv[0].endswith("bench/worker/__main__.py"):
    _strike_in_a_phase()


# The task: which of three corners of a cube is an example near to?


@dataclass(frozen=True)
class NearestCorner:
    """90 examples for training (the last of 6 batches has 6 of padding) and 20 held out."""

    epochs: int = 10
    batch_size: int = 16
    model: MlpConfig = MlpConfig((12, 8, 3))
    optimizer: AdamW = AdamW(learning_rate=1e-2, beta1=0.9, beta2=0.999, eps=1e-8)
    small: bool = False  # the ladder's

    name = "tests.fakes.backend"
    unit = "images"

    def examples(self, *, start: int, stop: int) -> tuple[dict[str, Array], Array]:
        labels = np.arange(110, dtype=np.int32) % 3
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, (110, 12))
        images = (np.tile(np.eye(3), 4)[labels] + noise).astype(np.float32)
        return {"image": images[start:stop]}, labels[start:stop]

    @property
    def data(self) -> Data:
        inputs, labels = self.examples(start=0, stop=110)
        return Data("corners", "noisy corners of a cube", hash_arrays(inputs["image"], labels))

    @property
    def train_steps(self) -> int:
        return self.epochs * 6

    def init_params(self, seed: int) -> Params:
        rng = np.random.default_rng(seed)
        params: dict[str, Array] = {}
        for layer, shape in enumerate(((12, 8), (8, 3))):
            params[f"dense_{layer}/kernel"] = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
            params[f"dense_{layer}/bias"] = np.zeros(shape[1], np.float32)
        return params

    def train_batches(self, seed: int) -> Iterator[Batch]:
        return batching.shuffled(*self.examples(start=0, stop=90), batch_size=self.batch_size, seed=seed)

    def training_examples(self) -> Examples:
        return Examples(*self.examples(start=0, stop=90), self.batch_size)

    def eval_batches(self) -> Iterator[Batch]:
        return batching.in_order(*self.examples(start=90, stop=110), batch_size=self.batch_size)

    def metrics(self, evaluation: Evaluation) -> dict[str, float]:
        return {"accuracy": float(np.mean(evaluation.predictions == evaluation.labels))}

    def for_parity(self) -> "NearestCorner":
        return dataclasses.replace(self, small=True)


def preset(name: str, data_dir: Path | None = None) -> Preset:
    """The same size under every name."""
    return Preset(
        task=NearestCorner(), warmup_steps=60, blocks=10, most_blocks=10, rounds=2, seeds=1,
        target=Target("accuracy", at_least=0.9), block_s=BLOCK_S, warmup_s=0.0,
    )  # fmt: skip
