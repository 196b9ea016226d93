"""Negative controls: a fault planted in a correct backend is caught by the ladder at the rung that it belongs to.

The subject is the reference itself with one thing wrong. A check that cannot fail proves nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import tasks
from backends.api import Options
from backends.reference import session as reference
from backends.reference.session import ReferenceSession
from bench.worker import parity
from tasks.spec import AdamW

pytestmark = pytest.mark.slow  # whole ladders

PLAIN = tasks.load("mnist_mlp", "smoke").task
EVERYTHING = replace(
    PLAIN,
    optimizer=AdamW(1e-3, 0.9, 0.999, 1e-8, weight_decay=0.01, clip_norm=0.05, warmup_steps=5, decay_steps=40),
)
DOUBLE = Options(precision="float64")


def climb(session: type[ReferenceSession], task=PLAIN, options=DOUBLE):
    subject = SimpleNamespace(open_session=lambda task, params, options: session(task, params))
    return parity.climb(subject, task, options)


@pytest.mark.parametrize("task", [PLAIN, EVERYTHING], ids=["plain", "decay, clipping, schedule"])
def test_the_reference_passes_its_own_ladder(task):
    ladder = climb(ReferenceSession, task)
    assert [rung.name for rung in ladder.rungs] == list(parity.RUNGS)
    assert ladder.passed


@pytest.mark.parametrize("task", [PLAIN, EVERYTHING], ids=["plain", "decay, clipping, schedule"])
def test_a_walk_of_the_reference_serves_a_second_climb_as_it_served_the_first(task):
    subject = SimpleNamespace(open_session=lambda task, params, options: ReferenceSession(task, params))
    walk = parity.Walk(task)
    steps = []
    step, walk.session.train_step = walk.session.train_step, lambda batch: steps.append(batch) or step(batch)
    ladders = [parity.climb(subject, task, DOUBLE, walk=walk) for _ in range(2)]
    assert ladders[0] == ladders[1] == parity.climb(subject, task, DOUBLE)
    assert len(steps) == parity.LONG_RUN


class RenamedParameter(ReferenceSession):
    def params(self):
        return {name.replace("dense_1", "dense_2"): value for name, value in super().params().items()}


class ReinterpretedKernel(ReferenceSession):
    """Reads [in, out] as if it were [out, in] transposed: the shapes fit, the weights are scattered."""

    def __init__(self, task, params):
        kernel = params["dense_0/kernel"]
        super().__init__(task, {**params, "dense_0/kernel": kernel.reshape(kernel.shape[::-1]).T})


class SinglePrecisionParameters(ReferenceSession):
    def params(self):
        return {name: value.astype(np.float16) for name, value in super().params().items()}


def forward_with(change: Callable) -> type[ReferenceSession]:
    class Faulty(ReferenceSession):
        def forward(self, params, inputs, state):
            return super().forward(*change(params, inputs), state)

    return Faulty


MissingBias = forward_with(lambda params, inputs: ({**params, "dense_0/bias": 0.0}, inputs))
SwappedBatchOrder = forward_with(lambda params, inputs: (params, {"image": inputs["image"][::-1]}))
SingleInput = forward_with(
    lambda params, inputs: (params, {"image": inputs["image"].astype(np.float32) * np.float32(1 + 1e-7)})
)


class OtherActivation(ReferenceSession):
    """Leaky ReLU for ReLU."""

    def forward(self, params, inputs, state):
        import autograd.numpy as anp

        hidden = inputs["image"] @ params["dense_0/kernel"] + params["dense_0/bias"]
        return anp.maximum(hidden, 0.01 * hidden) @ params["dense_1/kernel"] + params["dense_1/bias"], state


class LeakedLabels(ReferenceSession):
    def put(self, batch):
        batch = super().put(batch)
        image = batch.inputs["image"].copy()
        image[:, 0] = batch.labels
        return batch._replace(inputs={"image": image})


class ShuffledLabels(ReferenceSession):
    def put(self, batch):
        batch = super().put(batch)
        return batch._replace(labels=np.roll(batch.labels, 1))


class MeanOverPadding(ReferenceSession):
    def mean_loss(self, losses, weights):
        return super().mean_loss(losses * weights, np.ones_like(weights))


class GradientOverPadding(ReferenceSession):
    """The loss that it reports is right, the gradient counts the padded examples."""

    def loss_and_gradients(self, batch, state):
        loss, _, carried = super().loss_and_gradients(batch, state)
        _, gradients, _ = super().loss_and_gradients(batch._replace(weights=np.ones_like(batch.weights)), state)
        return loss, gradients, carried


class MissingGradient(ReferenceSession):
    def loss_and_gradients(self, batch, state):
        loss, gradients, carried = super().loss_and_gradients(batch, state)
        return loss, {**gradients, "dense_0/bias": 0 * gradients["dense_0/bias"]}, carried


def optimizer_with(**changes: object) -> type[ReferenceSession]:
    class Faulty(ReferenceSession):
        def __init__(self, task, params):
            super().__init__(replace(task, optimizer=replace(task.optimizer, **changes)), params)

    return Faulty


class EpsilonBeforeCorrection(ReferenceSession):
    """Keras's Adam: sqrt(v) + eps, corrected afterwards."""

    def update(self, gradients):
        spec = self.task.optimizer
        corrected = spec.eps / np.sqrt(1 - spec.beta2 ** (self.updates + 1))
        original, self.task = self.task, replace(self.task, optimizer=replace(spec, eps=corrected))
        super().update(gradients)
        self.task = original


class DecayOnBiases(ReferenceSession):
    def update(self, gradients):
        before = self.values
        super().update(gradients)
        rate = self.task.optimizer.learning_rate_at(self.updates) * self.task.optimizer.weight_decay
        self.values = {n: v - rate * before[n] if before[n].ndim == 1 else v for n, v in self.values.items()}


class WarmupOffByOne(ReferenceSession):
    """The rate of the update before: the first one does nothing."""

    def update(self, gradients):
        before = self.values
        super().update(gradients)
        spec = self.task.optimizer
        share = spec.learning_rate_at(self.updates - 1) / spec.learning_rate_at(self.updates)
        self.values = {name: before[name] + share * (value - before[name]) for name, value in self.values.items()}


class DropoutInEvaluation(ReferenceSession):
    def eval_step(self, batch):
        kept = np.random.default_rng(0).random(batch.inputs["image"].shape) > 0.1
        return super().eval_step(batch._replace(inputs={"image": batch.inputs["image"] * kept}))


class DroppedLastBatch(ReferenceSession):
    """Says nothing about a batch that is not full."""

    def eval_step(self, batch):
        losses, predictions = super().eval_step(batch)
        full = bool(np.all(batch.weights))
        return (losses, predictions) if full else (np.zeros_like(losses), np.zeros_like(predictions))


class EvaluationTrains(ReferenceSession):
    def eval_step(self, batch):
        self.values = {name: value * (1 + 1e-12) for name, value in self.values.items()}
        return super().eval_step(batch)


class EveryFifthUpdateSkipped(ReferenceSession):
    """After the twentieth."""

    skips = 0

    def update(self, gradients):
        if self.updates + self.skips >= 20 and (self.updates + self.skips) % 5 == 4:
            self.skips += 1
        else:
            super().update(gradients)


class FrozenLearningRate(ReferenceSession):
    """The schedule stands still after as many updates as a trajectory takes."""

    def update(self, gradients):
        spec = self.task.optimizer
        if self.updates > parity.TRAJECTORY_STEPS:
            rate = spec.learning_rate_at(parity.TRAJECTORY_STEPS + 1)
            spec = replace(spec, learning_rate=rate, warmup_steps=0, decay_steps=None)
        original, self.task = self.task, replace(self.task, optimizer=spec)
        super().update(gradients)
        self.task = original


class ScheduleWithoutItsEnd(ReferenceSession):
    """Trains on at the last learning rate above 0."""

    def update(self, gradients):
        done, self.updates = self.updates, min(self.updates, parity.SCHEDULE_END - 1)
        super().update(gradients)
        self.updates = done + 1


class MomentsThatStop(ReferenceSession):
    """The second moment is no longer updated after update 30."""

    def update(self, gradients):
        kept = {name: second for name, (_, second) in self.moments.items()}
        super().update(gradients)
        if self.updates > 30:
            self.moments = {name: (first, kept[name]) for name, (first, _) in self.moments.items()}


class Raises(ReferenceSession):
    def gradients(self, batch):
        raise RuntimeError("no gradients here")


CONTROLS = [
    (RenamedParameter, PLAIN, "parameters"),
    (ReinterpretedKernel, PLAIN, "parameters"),
    (SinglePrecisionParameters, PLAIN, "parameters"),
    (MissingBias, PLAIN, "forward"),
    (SwappedBatchOrder, PLAIN, "forward"),
    (SingleInput, PLAIN, "forward"),
    (OtherActivation, PLAIN, "forward"),
    (LeakedLabels, PLAIN, "loss"),
    (ShuffledLabels, PLAIN, "loss"),
    (MeanOverPadding, PLAIN, "loss"),
    (GradientOverPadding, PLAIN, "gradients"),
    (MissingGradient, PLAIN, "gradients"),
    (Raises, PLAIN, "gradients"),
    (EpsilonBeforeCorrection, PLAIN, "one update"),
    (optimizer_with(weight_decay=0.01), PLAIN, "one update"),
    (optimizer_with(eps=1e-7), PLAIN, "one update"),
    (optimizer_with(learning_rate=1.001e-3), PLAIN, "one update"),
    (DecayOnBiases, EVERYTHING, "one update"),
    (WarmupOffByOne, EVERYTHING, "one update"),
    (optimizer_with(clip_norm=None), EVERYTHING, "one update"),
    (optimizer_with(beta1=0.91), PLAIN, "trajectory"),
    (optimizer_with(beta2=0.99), PLAIN, "trajectory"),
    (optimizer_with(decay_steps=41), EVERYTHING, "trajectory"),
    (DropoutInEvaluation, PLAIN, "evaluation"),
    (DroppedLastBatch, PLAIN, "evaluation"),
    (EvaluationTrains, PLAIN, "evaluation"),
    (EveryFifthUpdateSkipped, PLAIN, "long run"),
    (FrozenLearningRate, EVERYTHING, "long run"),
    (ScheduleWithoutItsEnd, EVERYTHING, "long run"),
    (MomentsThatStop, PLAIN, "long run"),
]


@pytest.mark.parametrize(("fault", "task", "rung"), CONTROLS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_is_caught_at_its_rung(fault, task, rung):
    ladder = climb(fault, task)
    assert not ladder.passed
    assert ladder.rungs[-1].name == rung
    assert all(below.passed for below in ladder.rungs[:-1])


class TrainsInAnotherProgram(ReferenceSession):
    """What `gradients` returns is rounded otherwise than what the update is made of, by a share of each tensor's size."""

    rounding = 0.0

    def gradients(self, batch):
        rng = np.random.default_rng(0)
        own = super().gradients(batch)
        sizes = {name: self.rounding * np.sqrt(np.mean(np.square(value))) for name, value in own.items()}
        noise = {name: size * rng.uniform(-1, 1, own[name].shape) for name, size in sizes.items()}
        return {name: np.where(value == 0, 0, value + noise[name]) for name, value in own.items()}


@pytest.mark.parametrize(
    ("precision", "rounding", "passed"),
    [("bfloat16", 2**-8, True), ("tf32", 2**-11, True), ("float32", 2**-24, True), ("bfloat16", 2**-4, False)],
)
def test_a_small_gradient_may_be_rounded_otherwise_in_the_program_that_trains(precision, rounding, passed):
    """As it is in XLA's two programs of BERT on a GPU, in bfloat16."""
    subject = type("Subject", (TrainsInAnotherProgram,), {"rounding": rounding})
    one_update = climb(subject, PLAIN, Options(precision=precision)).rungs[4]
    assert (one_update.name, one_update.passed) == ("one update", passed), one_update


@pytest.mark.parametrize(("fault", "task", "rung"), [control for control in CONTROLS if control[2] == "one update"])
def test_a_fault_of_the_update_is_caught_in_bfloat16_too(fault, task, rung):
    ladder = climb(fault, task, Options(precision="bfloat16"))
    assert (ladder.rungs[-1].name, ladder.passed) == (rung, False)


LONG = [EveryFifthUpdateSkipped, FrozenLearningRate, ScheduleWithoutItsEnd, MomentsThatStop]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("fault", LONG[:2] + LONG[3:])
def test_a_fault_of_a_late_update_stands_out_from_the_rounding_of_a_coarser_precision(fault, precision):
    with_schedule = fault is FrozenLearningRate
    ladder = climb(fault, EVERYTHING if with_schedule else PLAIN, Options(precision=precision))
    assert (ladder.rungs[-1].name, ladder.passed) == ("long run", False)


@pytest.mark.parametrize("name", ["dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"])
def test_one_parameters_gradient_times_four_fifths_is_caught_in_bfloat16(name):
    class Scaled(ReferenceSession):
        def loss_and_gradients(self, batch, state):
            loss, gradients, carried = super().loss_and_gradients(batch, state)
            return loss, {**gradients, name: 0.8 * gradients[name]}, carried

    rung = climb(Scaled, PLAIN, Options(precision="bfloat16")).rungs[-1]
    assert (rung.name, rung.where, rung.passed) == ("gradients", f"scale of {name}", False)


@pytest.mark.parametrize(
    ("sizes", "where"),
    [({"logits": 1.001}, "the whole batch"), ({"gradient": 1.001}, "gru_1/hidden/kernel, the whole batch")],
    ids=["forward", "gradient"],
)
def test_a_kernel_that_is_wrong_only_at_the_size_that_is_timed_is_caught_there(sizes, where):
    task = tasks.load("gru_lm", "quick").task
    task = replace(task, model=replace(task.model, dropout=0.0))

    class WrongWhenLarge(ReferenceSession):
        def forward(self, params, inputs, state):
            logits, state = super().forward(params, inputs, state)
            return logits * (sizes.get("logits", 1) if logits.shape[-1] > 1000 else 1), state

        def loss_and_gradients(self, batch, state):
            loss, gradients, carried = super().loss_and_gradients(batch, state)
            factor = sizes.get("gradient", 1) if self.task.model.hidden > 100 else 1
            return loss, {**gradients, "gru_1/hidden/kernel": gradients["gru_1/hidden/kernel"] * factor}, carried

    rung = climb(WrongWhenLarge, task).rungs[-1]
    assert (rung.name, rung.passed) == ("full size", False)
    assert rung.where.endswith(where)


@pytest.mark.parametrize(("factor", "passed"), [(1.01, False), (1.001, True)])
def test_the_norm_for_clipping_may_be_rounded_at_full_size_and_no_more(factor, passed):
    task = tasks.load("gru_lm", "quick").task
    task = replace(task, model=replace(task.model, dropout=0.0), optimizer=replace(task.optimizer, clip_norm=0.1))

    def open_session(task, params, options):
        if task.model.hidden > 100:
            clip_norm = factor * task.optimizer.clip_norm
            task = replace(task, optimizer=replace(task.optimizer, clip_norm=clip_norm))
        return ReferenceSession(task, params)

    ladder = parity.climb(SimpleNamespace(open_session=open_session), task, Options(precision="float32"))
    rung = ladder.rungs[8]
    assert (rung.name, rung.where, rung.passed) == ("full size", "the factor of clipping, the whole batch", passed)


def test_the_full_size_counts_as_many_examples_as_the_reference_can_compute():
    task = tasks.load("gru_lm", "quick").task
    batch = next(task.train_batches(0))
    assert parity.within_reach(task, batch)[1] == len(batch.labels)

    class Huge:
        step_flops = 10 * int(parity.LARGEST_FLOPS)

    few, counted = parity.within_reach(Huge(), batch)
    assert counted == len(batch.labels) // 10
    assert np.count_nonzero(few.weights) == counted * batch.labels.shape[1]
    assert few.labels.shape == batch.labels.shape


def test_the_ladders_schedule_ends_before_its_last_update_whatever_the_tasks_is():
    long = replace(PLAIN, optimizer=replace(PLAIN.optimizer, warmup_steps=1_000, decay_steps=20_000))
    spec = parity.with_schedule_in_reach(long).optimizer
    assert (spec.warmup_steps, spec.decay_steps) == (parity.WARMUP, parity.SCHEDULE_END)
    assert spec.learning_rate_at(parity.LONG_RUN) == 0
    assert parity.with_schedule_in_reach(PLAIN) == PLAIN


def test_a_not_a_number_is_not_within_any_tolerance():
    class NotANumber(ReferenceSession):
        def predict(self, inputs):
            return super().predict(inputs) * np.nan

    ladder = climb(NotANumber)
    assert (ladder.rungs[-1].name, ladder.rungs[-1].difference) == ("forward", None)


def test_the_rung_names_what_differs_and_by_how_much():
    rung = climb(optimizer_with(weight_decay=0.01)).rungs[-1]
    assert rung.where == "dense_0/kernel" or rung.where == "dense_1/kernel"
    assert rung.difference == pytest.approx(1e-5, rel=0.2)  # the decay moves a kernel by rate x decay
    assert rung.tolerance == pytest.approx(1e-12, rel=0.1)  # the second part is what rounded betas do to the update


def test_predictions_that_a_tie_explains_are_named_and_pass():
    """Two equal logits: which one is larger is a matter of rounding."""

    class TieBroken(ReferenceSession):
        def eval_step(self, batch):
            losses, predictions = super().eval_step(batch)
            top = np.argsort(self.predict(batch.inputs), axis=-1)
            return losses, np.where(tied(self, batch), top[:, -2], predictions)

    def tied(session, batch):
        ordered = np.sort(ReferenceSession.predict(session, batch.inputs), axis=-1)
        return ordered[:, -1] - ordered[:, -2] < 0.05

    subject = SimpleNamespace(open_session=lambda task, params, options: TieBroken(task, params))
    narrow = parity.climb(subject, PLAIN, DOUBLE).rungs[-1]
    assert (narrow.name, narrow.passed) == ("evaluation", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parity.TOLERANCES["float64"], "tie", 0.05)
        wide = parity.climb(subject, PLAIN, DOUBLE).rungs[-1]
    assert wide.passed


def test_noise_reaches_every_vector_and_no_matrix():
    params = PLAIN.init_params(0)
    noisy = parity.with_noise_on_vectors(params)
    for name, value in params.items():
        assert np.array_equal(noisy[name], value) == (value.ndim != 1), name
        assert noisy[name].dtype == np.float32


def test_the_reference_is_float64_whatever_it_is_given():
    session = reference.open_session(PLAIN, PLAIN.init_params(0), Options())
    assert {value.dtype for value in session.params().values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("beta2", [0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999])
@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.8, 0.9, 0.95])
def test_what_rounded_betas_do_to_an_update_is_no_fall(beta1: float, beta2: float) -> None:
    spec = AdamW(learning_rate=0.1, beta1=beta1, beta2=beta2, eps=0.0)
    first, second = (1 - float(np.float32(beta)) for beta in (beta1, beta2))
    update = (1 - beta1) / first / np.sqrt((1 - beta2) / second)  # of any gradient; 1 is exact
    allowed = parity._of_bias_correction(spec, "float32")
    assert abs(update - 1) <= allowed * (1 + 1e-3)
    assert allowed < 2e-4
    assert parity._of_bias_correction(spec, "float64") < 1e-11
