"""Precisions that are not IEEE's own: what the ladder lets pass, what the probe sees, and what a record says."""

import json
from types import SimpleNamespace

import autograd.numpy as anp
import numpy as np
import pytest
from autograd.extend import defvjp, primitive

import backends
import tasks
from backends.api import Options, Unsupported
from backends.reference.session import ReferenceSession
from bench.cli import commands
from bench.process.execute import execute
from bench.records import rules
from bench.worker import parity, precision_probe
from tests.conftest import BACKENDS_UNDER_TEST
from tests.fakes.backend import rounded
from tests.fakes.campaign import a_planned_cell, an_arm
from tests.test_backends import in_child

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # whole ladders

PLAIN = tasks.load("mnist_mlp", "smoke").task


def rounding_to(bits):
    """A reference whose perceptron rounds the operands of every matrix product, forward and backward."""

    @primitive
    def product(left, right):
        return rounded(left, bits) @ rounded(right, bits)

    defvjp(
        product,
        lambda _, left, right: lambda g: product(g, right.T),
        lambda _, left, right: lambda g: product(left.T, g),
    )

    class Rounding(ReferenceSession):
        def forward(self, params, inputs, state):
            hidden = product(inputs["image"], params["dense_0/kernel"]) + params["dense_0/bias"]
            return product(anp.maximum(hidden, 0), params["dense_1/kernel"]) + params["dense_1/bias"], state

        def matmul(self, left, right, *, times):
            exact = product(left.astype(np.float64), right.astype(np.float64))
            return rounded(exact, max(bits, 24))  # sums are float32 at least

    return Rounding


def climb(session, precision):
    subject = SimpleNamespace(open_session=lambda task, params, options: session(task, params))
    return parity.climb(subject, PLAIN, Options(precision=precision))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "bits"),
    [("float64", 53), ("float32", 24), ("tf32", 24), ("tf32", 11), ("bfloat16", 11), ("bfloat16", 8)],
)
def test_a_precision_and_every_finer_one_climb_its_ladder(precision, bits):
    ladder = climb(rounding_to(bits), precision)
    assert ladder.passed, ladder.rungs[-1]


@pytest.mark.parametrize(("precision", "bits"), [("float64", 24), ("float32", 11), ("tf32", 7), ("bfloat16", 4)])
def test_a_coarser_precision_falls(precision, bits):
    ladder = climb(rounding_to(bits), precision)
    assert not ladder.passed
    assert ladder.rungs[-1].name == "forward"


@pytest.mark.parametrize(("bits", "precision"), [(53, "float64"), (24, "float32"), (11, "tf32"), (8, "bfloat16")])
def test_the_probe_tells_every_precision_from_the_others(bits, precision):
    found = precision_probe.error(rounding_to(bits)(PLAIN, PLAIN.init_params(0)))
    assert [name for name in rules.PROBE_BOUNDS if (rules.probe_fault(name, found) is None)] == [precision]


def test_every_precision_that_can_be_asked_for_has_bounds_and_tolerances():
    assert set(backends.PRECISIONS) == set(rules.PROBE_BOUNDS) == set(parity.TOLERANCES)
    assert len({tuple(rungs) for rungs in parity.TOLERANCES.values()}) == 1


def test_a_backend_that_declines_a_precision_has_not_fallen():
    def decline(task, params, options):
        raise Unsupported("not here")

    with pytest.raises(Unsupported, match="not here"):
        parity.climb(SimpleNamespace(open_session=decline), PLAIN, Options(precision="tf32"))


@pytest.mark.parametrize(
    ("misbehaviour", "reason"),
    [("ok", None), ("computes in float32", "bfloat16 was requested, but a matrix product was off by")],
)
def test_a_process_is_probed_for_the_precision_that_was_asked(misbehave, tmp_path, misbehaviour, reason):
    misbehave(misbehaviour)
    run, cell = a_planned_cell(an_arm(precision="bfloat16"))
    done = execute(run, cell, tmp_path, data_dir=None).outcome
    assert (done.status, done.settings["precision"]) == ("ok" if reason is None else "invalid", "bfloat16")
    assert done.probe is not None
    assert (rules.probe_fault("bfloat16", done.probe.error) is None) == (reason is None)
    assert done.reason is None if reason is None else done.reason.startswith(reason)


def test_the_proof_in_double_precision_comes_before_the_climb_in_what_is_timed(tmp_path):
    run, cell = a_planned_cell(an_arm(precision="bfloat16"), kind="parity")
    done = execute(run, cell, tmp_path, data_dir=None)
    assert [(ladder.precision, ladder.passed) for ladder in done.ladders] == [("float64", True), ("bfloat16", True)]


@pytest.mark.parametrize("device", [["--device", "cpu"], []])
def test_tf32_without_a_gpu_is_refused_before_anything_runs(monkeypatch, capsys, tmp_path, device):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.machine.describe.gpu_and_driver", lambda: (None, None))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["framework-bench", "verify", "--precision", "tf32", *device])
    assert commands.main() == 2
    assert "tf32 is a mode of a GPU's tensor cores, which a CPU does not have" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_tf32_is_declared_on_a_gpu_and_a_flag_that_was_changed_behind_the_session_is_read_back(name):
    done = in_child(name, "-m", "tests.children.tf32_in_one_framework", name)
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout.splitlines()[-1])
    changed = read.pop("changed")
    assert read == {"tf32": "tf32", "float32": "float32"}
    assert changed != "float32"
