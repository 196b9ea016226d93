"""The modes of a backend: how they are named and found, and that each climbs the ladder and reads itself back."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import backends
import tasks
from backends.api import Options, Unsupported, mode_of, switches
from bench.worker import parity
from tests.conftest import BACKENDS_UNDER_TEST
from tests.test_backends import in_child

ROOT = Path(__file__).parent.parent
OTHER_MODES = [
    (name, mode, task)
    for name in BACKENDS_UNDER_TEST
    for task in tasks.TASKS
    for mode in dict.fromkeys(
        [*(mode for mode in backends.modes(name) if mode not in ("default", *backends.OF_EVERY_BACKEND, backends.TUNED)),
         backends.mode_for(name, backends.TUNED, task=task, device="cpu")]
    )
    if mode not in ("default", "cuda-graph") and (mode != "grain" or find_spec("grain"))
]  # fmt: skip
"""Each of a backend's own that a CPU has, and what is tuned for each task."""


# What is read without a framework.


def test_entries_and_modes_are_read_without_any_framework():
    frameworks = {module for entry in backends.BACKENDS.values() for module in entry.needs} | {
        "transformers",
        "autograd",
    }
    code = "import sys, backends; [backends.modes(name) for name in [*backends.BACKENDS, 'reference']]; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert not frameworks & set(done.stdout.split())
    assert "backends.pytorch" in done.stdout.split()


@pytest.mark.parametrize("name", [*backends.BACKENDS, "reference"])
def test_every_backend_has_a_default_mode_and_says_what_each_does_and_where_it_is_documented(name):
    found = backends.modes(name)
    assert next(iter(found)) == "default"
    assert all("https://" in sentence for mode, sentence in found.items() if mode != backends.TUNED)


def test_a_name_that_is_no_backends_has_no_modes():
    with pytest.raises(KeyError):
        backends.modes("torch")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's; importing it fails, so that what is found was read from its source."""

    def write(source, name="mode_users.softmax"):
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source + "\nraise ImportError('nobody should import this')\n", encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mode_users", raising=False)
    return write


def test_a_module_of_ones_own_may_have_modes_and_an_entry(module):
    name = module(
        "from backends.api import Entry\n"
        "ENTRY: Entry = Entry(needs=('numpy', 'no_such'), env={'A': 'b'})\n"
        "MODES = {'default': 'plain', 'fast': 'faster'}\n"
    )
    found = backends.modes(name)
    assert (list(found), found["fast"]) == (["default", "fast", *backends.OF_EVERY_BACKEND], "faster")
    assert backends.find(name) == backends.Entry(module=name, needs=("numpy", "no_such"), env={"A": "b"})
    with pytest.raises(backends.BackendMissing, match="no_such not installed"):
        backends.load(name)


def test_a_module_of_ones_own_without_modes_has_the_default_one(module):
    name = module("")
    assert list(backends.modes(name)) == ["default", *backends.OF_EVERY_BACKEND]
    assert backends.find(name) == backends.Entry(module=name)


def test_a_module_that_is_not_there_is_missed_when_it_is_loaded_and_not_before():
    assert backends.find("no_such_package.softmax") == backends.Entry(module="no_such_package.softmax")
    assert list(backends.modes("no_such_package.softmax")) == ["default", *backends.OF_EVERY_BACKEND]
    with pytest.raises(ModuleNotFoundError):
        backends.load("no_such_package.softmax")


@pytest.mark.parametrize(
    "source",
    ["MODES = make()", "MODES = {'default': text}", "ENTRY = make()\nENTRY.x = 1", "ENTRY = Entry(needs=NEEDS)"],
)
def test_modes_and_entries_that_only_an_import_would_tell_are_refused(module, source):
    name = module(source)
    with pytest.raises(ValueError, match=r"mode_users\.softmax\.(MODES|ENTRY)"):
        (backends.modes if "MODES" in source else backends.find)(name)


def test_an_unknown_mode_is_refused_with_the_names_of_the_others():
    with pytest.raises(Unsupported, match="no mode 'fats'; the modes are: default, fast"):
        switches("fats", {"default": "", "fast": ""})
    with pytest.raises(Unsupported, match="no mode 'default'"):
        switches("default+fast", {"default": "", "fast": ""})
    task = tasks.load("mnist_mlp", "smoke").task
    with pytest.raises(Unsupported, match="the modes are: default"):
        parity.climb(backends.load("reference"), task, Options(precision="float64", mode="fast"))


def test_a_mode_joins_several_in_the_order_of_the_backends_list():
    modes = {"default": "", "fast": "", "small": ""}
    assert switches("default", modes) == frozenset()
    assert switches("small+fast", modes) == {"fast", "small"}
    assert mode_of({"small", "fast"}, modes) == "fast+small"
    assert mode_of((), modes) == "default"


def test_tuned_is_what_a_backend_declares_for_a_task_and_a_device(module):
    name = module(
        "MODES = {'default': 'plain', 'fast': 'faster'}\nTUNED = {'cpu': {'mnist_mlp': 'trim+fast'}}\n",
        "mode_users.fast",
    )
    assert backends.modes(name)[backends.TUNED].endswith("mnist_mlp on a CPU: trim+fast")
    assert backends.mode_for(name, "tuned", task="mnist_mlp", device="cpu") == "fast+trim"
    assert backends.mode_for(name, "tuned", task="gru_lm", device="cpu") == "default"
    assert backends.mode_for(name, "tuned", task="mnist_mlp", device="gpu") == "default"
    assert backends.mode_for(name, "fast", task="mnist_mlp", device="gpu") == "fast"


@pytest.mark.parametrize(("declared", "tuned"), [("", "trim"), ("OF_SEVERAL_PROCESSES = ('fast',)\n", "fast+trim")])
def test_tuned_in_several_processes_is_what_goes_with_them(
    declared: str, tuned: str, module: Callable[..., str]
) -> None:
    modes = "MODES = {'default': 'plain', 'fast': 'faster'}\n"
    name = module(
        f"{modes}{declared}TUNED = {{'cpu': {{'mnist_mlp': 'trim+fast+huge-pages'}}}}\n", "mode_users.several"
    )
    assert backends.mode_for(name, "tuned", task="mnist_mlp", device="cpu", processes=2) == tuned
    assert backends.mode_for(name, "fast", task="mnist_mlp", device="cpu", processes=2) == "fast"  # as it was asked for


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_what_is_tuned_is_made_of_the_backends_modes(name):
    known = [mode for mode in backends.modes(name) if mode not in ("default", backends.TUNED)]
    for device in ("cpu", "gpu"):
        for task in tasks.TASKS:
            mode = backends.mode_for(name, backends.TUNED, task=task, device=device)
            assert mode == "default" or set(mode.split("+")) <= set(known)
            assert backends.TRIM not in mode or task == "bert_sentiment"


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_a_mode_is_known_to_its_backend_alone(name):
    """To add one touches one folder; `compile` is also the name of a setting that all backends tell."""
    own = [
        mode
        for mode in backends.modes(name)
        if mode not in ("default", "compile", *backends.OF_EVERY_BACKEND, backends.TUNED)
    ]
    assert own
    elsewhere = [
        path
        for folder in ("bench", "tasks", "backends")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(ROOT / "backends" / name)
    ]
    assert not [
        (path.name, mode) for path in elsewhere for mode in own if f'"{mode}"' in path.read_text(encoding="utf-8")
    ]


# What a framework does in each.


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "mode", "task"), OTHER_MODES)
def test_a_mode_climbs_every_rung_and_is_read_back_and_compiles_nothing_after_the_first_steps(name, mode, task):
    done = in_child(name, "-m", "tests.children.modes_in_one_framework", name, mode, task, mode=mode)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fell"] == []
    assert found["rungs"] == [len(parity.RUNGS)] * 2
    assert found["before"] == found["settings"]["mode"] == mode
    counted = found["counted"]
    assert counted[0] is None or counted[0] >= 1  # eager: nothing ever is compiled
    assert len(set(counted[2:])) == 1, counted


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif("pytorch" not in BACKENDS_UNDER_TEST, reason="PyTorch is not under test")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.environ['CXX'] = 'no-such-compiler'", "apt-get install g++"),
        ("", "opened, compile cache: none"),
        ("import tempfile; os.environ['TORCHINDUCTOR_CACHE_DIR'] = tempfile.mkdtemp()", "opened, compile cache: kept"),
    ],
)
def test_torch_compile_asks_for_the_compiler_that_it_lacks_and_starts_without_a_cache_unless_one_is_named(code, said):
    program = (
        f"import os; {code}\n"
        "import backends, tasks\nfrom backends.api import Options, Unsupported\n"
        "task = tasks.load('mnist_mlp', 'smoke').task\n"
        "try:\n    session = backends.load('pytorch').open_session(task, task.init_params(0), Options(mode='compile'))\n"
        "    print('opened, compile cache:', session.settings()['compile cache'])\n"
        "except Unsupported as error:\n    print(error)\n"
    )
    assert said in in_child("pytorch", "-c", program).stdout


@pytest.mark.slow
@pytest.mark.skipif("pytorch" not in BACKENDS_UNDER_TEST, reason="PyTorch is not under test")
def test_a_mode_of_one_device_is_declined_on_the_other():
    program = (
        "import torch; torch.cuda.is_available = lambda: True\n"
        "import backends, tasks\nfrom backends.api import Options, Unsupported\n"
        "task = tasks.load('mnist_mlp', 'smoke').task\n"
        "for device, mode in (('gpu', 'flush-denormal'), ('cpu', 'cuda-graph')):\n"
        "    try:\n"
        "        backends.load('pytorch').open_session(task, task.init_params(0), Options(device=device, mode=mode))\n"
        "    except Unsupported as error:\n        print(error)\n"
    )
    on_gpu, on_cpu = in_child("pytorch", "-c", program).stdout.splitlines()[-2:]
    assert "on a GPU it would change nothing" in on_gpu
    assert "a mode of a GPU" in on_cpu


GRAPHED = """
import backends, tasks
from itertools import islice
from backends.api import Options
from backends.pytorch.graphed import WARM_UP, Graphed
from bench.worker import loop

captures = []
def kept(run):  # a graph runs nothing while it is made
    captures.append(run)
    return run

def shorter(batch):
    inputs = {name: value[:-1] for name, value in batch.inputs.items()}
    return batch._replace(inputs=inputs, labels=batch.labels[:-1], weights=batch.weights[:-1])

for name in tasks.TASKS:
    task = tasks.load(name, "smoke").task
    batches = list(islice(task.train_batches(0), 7))
    batches[3:3] = [shorter(batch)._replace(starts_sequence=True) for batch in batches[:4]]
    batches[7] = batches[7]._replace(starts_sequence=True)
    found = []
    for graphed in (False, True):
        captures.clear()
        session = backends.load("pytorch").open_session(task, task.init_params(0), Options(precision="float64"))
        session._weighted = True  # in both, or rounding would part them
        if graphed:
            session._graphs = [Graphed(step, capture=kept) for step in (session._update, session._backward)]
            session._step = session._graphs[0]
        before = session.settings()["mode"]
        handles = [loop.step(session, batch) for batch in batches]
        losses = [float(session.fetch(handle)) for handle in handles]
        weights = [value.tobytes() for value in session.params().values()]
        found.append((losses, weights))
        print(before, session.settings()["mode"], session.settings()["compile"], session.compilations(), len(captures))
    print(found[0] == found[1])
"""


@pytest.mark.skipif("pytorch" not in BACKENDS_UNDER_TEST, reason="PyTorch is not under test")
@pytest.mark.slow
def test_a_step_that_is_replayed_is_the_step_for_every_shape_and_state_and_is_captured_once_it_is_warm():
    said = in_child("pytorch", "-c", GRAPHED).stdout.splitlines()[-9:]
    assert said == 3 * ["default default eager None 0", "cuda-graph cuda-graph eager, CUDA graph 2 2", "True"]


CAPTURED = """
import contextlib, gc, weakref
import torch
from backends.pytorch.graphed import captured

class Graph:
    replay = staticmethod(lambda: print("replayed"))

class Cycle:
    def __init__(self):
        self.itself = self

torch.cuda.CUDAGraph = Graph
torch.cuda.graph = lambda graph: contextlib.nullcontext()
older = weakref.ref(Cycle())
before = older() is not None
captured(lambda: print(before, older() is None, gc.isenabled()))()
try:
    captured(lambda: 1 / 0)
except ZeroDivisionError:
    print(gc.isenabled())
gc.disable()
captured(lambda: None)
print(gc.isenabled())
"""


@pytest.mark.skipif("pytorch" not in BACKENDS_UNDER_TEST, reason="PyTorch is not under test")
@pytest.mark.slow
def test_no_older_graph_is_collected_while_another_is_captured():
    # One that is destroyed meanwhile makes the capture invalid, as BERT's ladder found on a GPU: its sessions are cycles.
    said = in_child("pytorch", "-c", CAPTURED).stdout.splitlines()[-4:]
    assert said == ["True True False", "replayed", "True", "False"]


KERNELS = """
import tasks, backends
from dataclasses import replace
from backends.api import Options
from bench.worker import loop
task = tasks.load("bert_sentiment", "smoke").task
dropped = replace(task.model, attention_dropout=0.1)
kept = replace(task.model, attention_dropout=0.0)
for model in (dropped, kept):
    task = replace(task, model=model)
    batch, losses = next(task.train_batches(0)), []
    for asks in (True, False):
        session = backends.load("pytorch").open_session(task, task.init_params(0), Options(seed=1))
        for _ in range(3):
            loss = loop.step(session, batch)
            kernels = session.settings()["kernels"] if asks else kernels
        losses.append(float(session.fetch(loss)))
    print(kernels, "|", losses[0] == losses[1])
"""


@pytest.mark.skipif("pytorch" not in BACKENDS_UNDER_TEST, reason="PyTorch is not under test")
@pytest.mark.slow
def test_kernels_are_those_of_a_step_with_dropout_and_asking_for_them_draws_no_mask():
    dropped, kept = in_child("pytorch", "-c", KERNELS).stdout.splitlines()[-2:]
    assert "fused attention" not in dropped  # on a CPU torch has none with dropout
    assert "fused attention" in kept
    assert all(line.endswith("| True") for line in (dropped, kept))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif("pytorch" not in BACKENDS_UNDER_TEST, reason="PyTorch is not under test")
def test_a_recompilation_by_torch_compile_is_counted_and_a_compiler_that_tells_nothing_is_an_error():
    program = (
        "import backends, tasks\nfrom backends.api import Options\nfrom bench.worker import loop\n"
        "task = tasks.load('mnist_mlp', 'smoke').task\n"
        "session = backends.load('pytorch').open_session(task, task.init_params(0), Options(mode='compile'))\n"
        "batch = next(task.train_batches(0))\n"
        "def step(batch):\n    loop.step(session, batch)\n    return session.compilations()\n"
        "inputs = {name: value[:-1] for name, value in batch.inputs.items()}\n"
        "shorter = batch._replace(inputs=inputs, labels=batch.labels[:-1], weights=batch.weights[:-1])\n"
        "counts = [step(each) for each in (batch, batch, shorter, shorter)]\n"
        "print([after - before for before, after in zip(counts, counts[1:])])\n"
        "from backends.pytorch import compiled\ncompiled._COMPILED.clear()\n"
        "print(session.settings()['mode'])\n"
        "try:\n    session.compilations()\nexcept RuntimeError as error:\n    print(error)\n"
    )
    differences, mode, said = in_child("pytorch", "-c", program).stdout.splitlines()[-3:]
    same, another, again = json.loads(differences)
    assert (same, again) == (0, 0)
    assert another >= 1
    assert mode == "default"
    assert "cannot be seen" in said


COMMITTED = """
import jax, tasks, backends
from backends.api import Options
from bench.worker import loop
second = jax.devices("cpu")[1]
jax.local_devices = lambda **platform: [second]
for name in tasks.TASKS:
    task = tasks.load(name, "smoke").task
    session = backends.load("jax").open_session(task, task.init_params(0), Options(precision="float64"))
    batch = next(task.train_batches(0))
    loss = loop.step(session, batch)
    losses, predictions = session.eval_step(loop.put(session, batch))
    handles = jax.tree.leaves([loss, losses, predictions, session._weights, session._optimizer, session._rest, session._state])
    product = session.matmul(batch.weights.reshape(1, -1), batch.weights.reshape(-1, 1), times=1)
    print({device == second for handle in [*handles, product] for device in handle.devices()})
from backends.jax import session as own
own._COMPILED.clear()
try:
    session.compilations()
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif("jax" not in BACKENDS_UNDER_TEST, reason="JAX is not under test")
@pytest.mark.slow
def test_jax_fetches_its_parameters_anew_whenever_they_are_asked_for():
    """What a JAX array was once fetched as, it keeps: the barrier's check would time a transfer the first time alone."""
    program = (
        "import backends, tasks\nfrom backends.api import Options\n"
        "task = tasks.load('mnist_mlp', 'smoke').task\n"
        "session = backends.load('jax').open_session(task, task.init_params(0), Options())\n"
        "before = session.compilations()\n"
        "first, second = session.params(), session.params()\n"
        "print([weight._npy_value is None for weight in session._weights], session.compilations() - before)\n"
        "print(all((first[name] == second[name]).all() for name in first))\n"
    )
    kept, same = in_child("jax", "-c", program).stdout.splitlines()[-2:]
    assert kept == "[True, True, True, True] 0"
    assert same == "True"


@pytest.mark.skipif("jax" not in BACKENDS_UNDER_TEST, reason="JAX is not under test")
@pytest.mark.slow
def test_jax_computes_on_the_device_that_was_asked_for_and_a_count_that_stands_still_is_an_error():
    done = in_child(
        "jax", "-c", "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'" + COMMITTED
    )
    assert done.stdout.splitlines()[-4:-1] == ["{True}"] * 3, done.stdout + done.stderr[-3000:]
    assert "cannot be seen" in done.stdout.splitlines()[-1]
