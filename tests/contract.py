"""What every backend promises for every task (backends/api.py). Run once per backend, in a process of its own, by
tests/test_backends.py: CONTRACT_BACKEND names the backend.
"""

import importlib
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pytest

import backends
import tasks
from backends.api import Options, Unsupported
from bench.records import rules
from bench.worker import loading, loop, parity, precision_probe

NAME = os.environ["CONTRACT_BACKEND"]
BACKEND = backends.load(NAME)
MIXED = pytest.mark.skipif(NAME == "reference", reason="the reference computes in double precision, whatever is asked")
PRECISIONS = ["float64"] if NAME == "reference" else ["float32", "bfloat16", "float64"]


@pytest.fixture(params=list(tasks.TASKS))
def task(request):
    return tasks.load(request.param, "smoke").task.for_parity()


LONGEST = pytest.param("bert_sentiment", marks=pytest.mark.exhaustive)  # a quarter of a minute to some frameworks


@pytest.fixture(params=["mnist_mlp", "gru_lm", LONGEST])
def compiled_task(request):
    """For what opens sessions of several precisions."""
    return tasks.load(request.param, "smoke").task.for_parity()


@pytest.fixture
def session(task):
    # Double precision: the ladder is climbed in both, and a framework's compilation is most of the time that this takes.
    return BACKEND.open_session(task, task.init_params(3), Options(precision="float64"))


def batches(task, count):
    return list(islice(task.train_batches(0), count))


def test_parameters_come_back_under_their_names_and_layouts(task, session):
    expected = task.init_params(3)
    found = session.params()
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_parameters_are_a_copy(task, session):
    before = session.params()
    kept = {name: value.copy() for name, value in before.items()}
    loop.step(session, batches(task, 1)[0])
    session.wait()
    assert all(np.array_equal(before[name], kept[name]) for name in kept)
    assert any(not np.array_equal(session.params()[name], kept[name]) for name in kept)


def test_a_parameter_too_many_or_too_few_is_refused(task):
    params = dict(task.init_params(0))
    name = sorted(params)[0]
    for wrong in ({**params, "extra": params[name]}, {n: v for n, v in params.items() if n != name}):
        if NAME == "reference":
            continue  # its parameters are its model
        with pytest.raises(ValueError, match="extra|" + name):
            BACKEND.open_session(task, wrong, Options())


def test_training_lowers_the_loss_and_leaves_the_host_batch_alone(task, session):
    batch = batches(task, 1)[0]
    copy = {name: value.copy() for name, value in batch.inputs.items()}
    losses = [float(session.fetch(loop.step(session, batch))) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert all(np.array_equal(batch.inputs[name], copy[name]) for name in copy)


def test_two_sessions_from_the_same_start_train_alike(compiled_task):
    def losses():
        session = BACKEND.open_session(compiled_task, compiled_task.init_params(0), Options(precision="float64"))
        return [float(session.fetch(loop.step(session, batch))) for batch in batches(compiled_task, 5)]

    np.testing.assert_allclose(losses(), losses(), rtol=1e-12)


def test_predictions_gradients_and_evaluation_change_nothing(task, session):
    session.train_step(loop.put(session, batches(task, 1)[0]))
    before = session.params()
    host = batches(task, 2)[1]
    batch = loop.put(session, host)
    first = session.predict(host.inputs)
    session.gradients(batch)
    session.eval_step(batch)
    session.reset_state()
    after = session.params()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(session.predict(host.inputs), first)


def test_shapes_of_logits_losses_and_predictions(task, session):
    host = batches(task, 1)[0]
    batch = loop.put(session, host)
    losses, predictions = map(session.fetch, session.eval_step(batch))
    assert losses.shape == predictions.shape == host.labels.shape
    logits = session.predict(host.inputs)
    assert logits.shape[:-1] == host.labels.shape
    assert np.array_equal(predictions, logits.argmax(-1))
    assert set(session.gradients(batch)) == set(task.init_params(0))


def test_padding_counts_for_nothing(task, session):
    host = batches(task, 1)[0]
    weights = host.weights.copy()
    weights[-2:] = 0
    other_labels = host.labels.copy()
    other_labels[-2:] = (other_labels[-2:] + 1) % 2
    found = [
        session.gradients(loop.put(session, host._replace(weights=weights, labels=labels)))
        for labels in (host.labels, other_labels)
    ]
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)


def test_settings_are_read_back(session):
    settings = session.settings()
    assert settings["device"] == "cpu"
    assert settings["precision"] in PRECISIONS
    assert settings["mode"] == "default"
    assert settings["compile"]
    assert all(value is None or isinstance(value, str | int | float | bool) for value in settings.values())


def test_precision_is_what_was_asked_for(compiled_task):
    batch = batches(compiled_task, 1)[0]
    for precision in PRECISIONS:
        session = BACKEND.open_session(compiled_task, compiled_task.init_params(0), Options(precision=precision))
        assert session.settings()["precision"] == precision
        assert rules.probe_fault(precision, precision_probe.error(session)) is None
        kept = np.float64 if precision == "float64" else np.float32
        assert session.predict(batch.inputs).dtype == kept
        assert {value.dtype for value in session.params().values()} == {np.dtype(kept)}
        loop.step(session, batch)  # now with kernels, and with a state that was carried
        assert session.settings()["precision"] == precision


@pytest.mark.exhaustive
@MIXED
def test_the_ladder_is_climbed_in_bfloat16(task):
    if task.name == "bert_sentiment":
        pytest.skip("takes the longest; a run in bfloat16 climbs it before anything is timed")
    ladder = parity.climb(BACKEND, tasks.load(task.name, "smoke").task, Options(precision="bfloat16"))
    assert ladder.passed, ladder.rungs[-1]


@MIXED
def test_bfloat16_rounds_the_layers_and_not_the_loss(compiled_task):
    batch = batches(compiled_task, 1)[0]
    found = {}
    for precision in ("float32", "bfloat16"):
        session = BACKEND.open_session(compiled_task, compiled_task.init_params(0), Options(precision=precision))
        losses = session.fetch(session.eval_step(loop.put(session, batch))[0])
        found[precision] = session.predict(batch.inputs), losses
    difference = np.linalg.norm(found["bfloat16"][0] - found["float32"][0]) / np.linalg.norm(found["float32"][0])
    assert 2**-11 < difference < 2**-4
    logits = found["bfloat16"][0].astype(np.float64)
    chosen = np.take_along_axis(logits, batch.labels[..., None], axis=-1)[..., 0]
    exact = np.log(np.sum(np.exp(logits), axis=-1)) - chosen
    np.testing.assert_allclose(found["bfloat16"][1], exact, rtol=1e-5, atol=1e-6)


@MIXED
def test_updates_far_below_the_resolution_of_bfloat16_are_kept(compiled_task):
    slow = replace(compiled_task, optimizer=replace(compiled_task.optimizer, learning_rate=1e-6, clip_norm=None))
    session = BACKEND.open_session(slow, slow.init_params(0), Options(precision="bfloat16"))
    for batch in batches(slow, 10):
        loop.step(session, batch)
    before, after = slow.init_params(0), session.params()
    kernel = max(before, key=lambda name: before[name].size)
    moved = np.abs(after[kernel] - before[kernel])
    assert 0 < moved.max() < np.abs(before[kernel]).max() * 2**-9


def test_a_product_of_matrices_has_the_error_of_its_precision():
    task = tasks.load("mnist_mlp", "smoke").task
    for precision in PRECISIONS:
        session = BACKEND.open_session(task, task.init_params(0), Options(precision=precision))
        assert rules.probe_fault(precision, precision_probe.error(session)) is None


def test_a_chain_of_products_is_as_long_as_asked(session):
    left, right = np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)
    found = session.fetch(session.matmul(left, right, times=3))
    np.testing.assert_allclose(found, left.astype(np.float64) @ right @ right @ right, rtol=1e-5)


def test_a_batch_of_another_shape_is_compiled_where_there_is_compilation():
    task = tasks.load("mnist_mlp", "smoke").task
    session = BACKEND.open_session(task, task.init_params(0), Options(precision="float64"))
    host = batches(task, 1)[0]
    loop.step(session, host)
    loop.step(session, host)
    session.wait()
    before = session.compilations()
    loop.step(session, host)
    assert session.compilations() == before
    inputs = {name: value[:-1] for name, value in host.inputs.items()}
    loop.step(session, host._replace(inputs=inputs, labels=host.labels[:-1], weights=host.weights[:-1]))
    session.wait()
    if before is None:
        assert "jit" not in session.settings()["compile"]
        assert "tf.function" not in session.settings()["compile"]
    else:
        assert session.compilations() > before


def test_the_cpu_has_no_allocator_figures_and_no_zero_stands_for_that(session):
    assert session.device_memory() is None


def test_versions_name_the_framework():
    versions = BACKEND.versions()
    assert set(backends.find(NAME).distributions) <= set(versions)
    assert all(versions.values())


def test_what_a_backend_cannot_do_it_declines():
    task = tasks.load("mnist_mlp", "smoke").task

    @dataclass(frozen=True)
    class UnknownConfig:
        widths: tuple[int, ...] = (784, 128, 10)  # which the task checks

    with pytest.raises(Unsupported, match="UnknownConfig"):
        BACKEND.open_session(replace(task, model=UnknownConfig()), task.init_params(0), Options())
    with pytest.raises(Unsupported, match=", ".join(importlib.import_module(backends.package(NAME)).MODES)):
        BACKEND.open_session(task, task.init_params(0), Options(mode="no-such-mode"))
    if NAME != "reference":
        with pytest.raises(Unsupported, match="float8"):
            BACKEND.open_session(task, task.init_params(0), Options(precision="float8"))
        with pytest.raises(Unsupported, match="tf32 is a mode of a GPU's tensor cores"):
            BACKEND.open_session(task, task.init_params(0), Options(precision="tf32"))
        with pytest.raises(Unsupported, match=r"no (GPU|gpu)"):
            BACKEND.open_session(task, task.init_params(0), Options(device="gpu"))


@MIXED
def test_the_parts_of_a_step_are_its_own_and_leave_the_training_as_it_is(compiled_task):
    task = replace(compiled_task, optimizer=replace(compiled_task.optimizer, clip_norm=None))
    session = BACKEND.open_session(task, task.init_params(3), Options(precision="float64"))
    batch = loop.put(session, batches(task, 1)[0])
    before = session.params()
    loss = float(session.fetch(session.training_loss(batch)))
    session.training_gradient(batch)
    session.wait()
    after = session.params()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert float(session.fetch(session.train_step(batch))) == pytest.approx(loss, rel=1e-12)
    assert sum(np.size(array) for array in session.optimizer_state()) >= 2 * sum(
        value.size for value in before.values()
    )


def test_the_loader_hands_over_every_example_once_in_the_form_of_the_tasks_batches():
    own = importlib.import_module(backends.package(NAME)).MODES
    modes = ["default", *(mode for mode, told in own.items() if "--measure loading" in told)]
    for task_name in tasks.TASKS:
        task = tasks.load(task_name, "smoke").task
        for mode in modes:
            if mode == "grain" and find_spec("grain") is None:
                with pytest.raises(Unsupported, match=r"pip install \"framework-bench\[jax,grain\]\""):
                    BACKEND.open_session(task, task.init_params(0), Options(mode=mode))
                continue
            session = BACKEND.open_session(task, task.init_params(0), Options(mode=mode))
            if not hasattr(session, "loader"):
                assert NAME == "reference"
                return
            assert "loader" not in session.settings()
            examples = task.training_examples()
            items = loading.prove(session, task, examples, session.loader(examples, seed=0))
            assert len(items) == -(-len(examples.labels) // examples.batch_size)
            assert sum(items) == examples.labels.size
            settings = session.settings()
            assert (settings["mode"], bool(settings["loader"])) == (mode, True)


def test_a_step_on_what_the_loader_yields_is_the_step_on_the_tasks_batch():
    """In order, where both have the same batches."""
    if NAME == "reference":
        return
    task = tasks.load("gru_lm", "smoke").task
    losses = []
    for from_loader in (False, True):
        session = BACKEND.open_session(task, task.init_params(0), Options())
        made = (
            session.loader(task.training_examples(), seed=0) if from_loader else map(session.prepare, batches(task, 3))
        )
        losses.append([float(session.fetch(session.train_step(session.put(one)))) for one in islice(made, 3)])
    assert losses[0] == losses[1]


@MIXED
def test_the_frameworks_profiler_sees_the_operations_of_a_step(tmp_path):
    task = tasks.load("mnist_mlp", "smoke").task
    session = BACKEND.open_session(task, task.init_params(3), Options())
    steps = batches(task, 4)
    loop.step(session, steps[0])
    session.wait()

    def run():
        for batch in steps[1:]:
            loop.step(session, batch)
        session.wait()

    operations = session.profile(run, tmp_path)
    found = {one.kind for one in operations}
    assert {"matrix products", "optimizer"} <= found, sorted({(one.name, one.kind) for one in operations})
    assert all(one.start_s <= one.end_s for one in operations)
    assert any(path.is_file() for path in tmp_path.rglob("*"))
