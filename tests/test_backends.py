"""Every backend under test keeps the contract and climbs the ladder, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import backends
from bench.machine import cores
from bench.process import environment, execute
from bench.records.record import Arm
from bench.worker import parity
from tests.conftest import BACKENDS_UNDER_TEST
from tests.fakes.campaign import a_planned_cell

ROOT = Path(__file__).parent.parent


def in_child(name: str, *arguments: str, mode: str = "default") -> subprocess.CompletedProcess[str]:
    env = environment.for_child(backends.find(name), Arm(name=name, backend=name), mode=mode)
    env |= {"CONTRACT_BACKEND": name}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)


Contracts = Mapping[tuple[str, str], "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def contracts(request: pytest.FixtureRequest) -> Iterator[Contracts]:
    """The contract's processes, as many side by side as there are cores: most of what they do keeps one busy."""
    chosen = [
        item.callspec.params for item in request.session.items if getattr(item, "originalname", "") == "test_contract"
    ]
    with ThreadPoolExecutor(cores.granted()) as pool:
        # Warnings are errors in our own tests, not in what a framework says about itself.
        yield {
            (one["name"], one["part"]): pool.submit(
                in_child, one["name"], "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "-m", one["part"],
                "tests/contract.py",
            )
            for one in chosen
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"),
    [(name, "not exhaustive") for name in ["reference", *BACKENDS_UNDER_TEST]]
    + [pytest.param(name, "exhaustive", marks=pytest.mark.exhaustive) for name in BACKENDS_UNDER_TEST],
)
def test_contract(contracts: Contracts, name, part):
    done = contracts[name, part].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


LONG = pytest.param("gru_lm", marks=pytest.mark.exhaustive)
LONGEST = pytest.param("bert_sentiment", marks=pytest.mark.exhaustive)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("task", ["mnist_mlp", LONG, LONGEST])
def test_verify_climbs_every_rung_in_double_and_single_precision(name, task):
    done = in_child(
        name, "-m", "bench", "verify", "--task", task, "--backend", name, "--preset", "smoke", "--device", "cpu"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for precision in ("float64", "float32"):
        climbed = [line for line in done.stdout.splitlines() if f" {precision} on cpu " in line]
        assert len(climbed) == len(parity.RUNGS), done.stdout
        assert all(line.strip().startswith("ok") for line in climbed)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_a_backend_loads_its_own_framework_and_no_other(name):
    frameworks = {module for entry in backends.BACKENDS.values() for module in entry.needs}
    _, cell = a_planned_cell(name)
    code = (
        "import json, sys, backends; from bench.worker import answer; "
        f"answer.hide({execute.hidden_from(cell)!r}); backends.load({name!r}); "
        "print(json.dumps(sorted(module for module, loaded in sys.modules.items() if loaded)))"
    )
    loaded = set(json.loads(in_child(name, "-c", code).stdout.splitlines()[-1]))
    assert loaded & frameworks == set(backends.BACKENDS[name].needs)
    assert not loaded & {*execute.HARNESS_ONLY, "transformers", "autograd", "backends.reference.session"}


@pytest.mark.slow
def test_a_worker_has_nothing_in_it_that_only_the_tables_need():
    code = f"import sys, bench.worker.answer; print(sorted({set(execute.HARNESS_ONLY)!r} & set(sys.modules)))"
    assert in_child("pytorch", "-c", code).stdout.split() == ["[]"]


DRAWS = {
    "pytorch": """
import torch
after = [open_it(task) and torch.get_rng_state() for task in every_task()]
torch.manual_seed(0)
print(all(torch.equal(state, torch.get_rng_state()) for state in after))
""",
    "tensorflow": """
from keras.src.backend.tensorflow import random
def refuse(*_, **__):
    raise AssertionError("drawn")
for name in ("uniform", "normal", "truncated_normal"):
    setattr(random, name, refuse)
import keras
keras.initializers.Orthogonal.__call__ = keras.initializers.GlorotUniform.__call__ = refuse
keras.initializers.RandomUniform.__call__ = refuse
print(all(open_it(task) for task in every_task()))
""",
}


@pytest.mark.parametrize("name", [name for name in BACKENDS_UNDER_TEST if name != "jax"])  # it asks for shapes alone
@pytest.mark.slow
def test_no_initial_weight_is_drawn_to_be_overwritten(name):
    code = (
        "import backends, tasks\nfrom backends.api import Options\n"
        f"backend = backends.load({name!r})\n"
        "def every_task():\n    return [tasks.load(each, 'smoke').task for each in tasks.TASKS]\n"
        "def open_it(task):\n    return backend.open_session(task, task.init_params(0), Options())\n" + DRAWS[name]
    )
    done = in_child(name, "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "True"
