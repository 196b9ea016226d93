"""The ladder of parity: one backend against the NumPy float64 reference, from its parameters to its evaluation.

Every comparison is a relative norm, ||a - b|| / ||b||, of one tensor against the reference's; a tensor whose norm is less
than a thousandth of all tensors' together is measured against that thousandth, because its own may be nothing but rounding
(the gradient of an attention key's bias is zero in exact arithmetic). Parameters start from the task's own initial values
with noise added to every bias and scale, so that a missing bias shows. The ladder ends at the first rung that is not passed.

Rungs 1 to 7 and 10 are those of the task's small version without dropout, in one session: compiling takes far longer than the
few calls of a rung. Its learning rate, where it is scheduled, rises over the first updates and falls to 0 before the last ones
of rung 10. Rung 8 is bench/worker/dropout.py. Rung 9 is one step of the task as it is timed, dropout aside. The climb in double
precision that comes before the one in the precision that is timed leaves 8 and 9 to that one, and says so.

An arm of several processes climbs in all of them: each is given its rows of every batch (bench/worker/ranks.py), and what they
make together is compared with what the reference makes of the whole batch. That every process has the same parameters, bit by
bit, is a part of the rungs 1, 6 and 10.

It shows that a computation is the right one, as exactly as its precision lets it; which precision is in force,
precision_probe.py asks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

import backends
from backends.api import Backend, Options, Session, Unsupported
from backends.reference.adamw import adamw
from bench.records.record import RUNGS, Ladder, Rung
from bench.worker import dropout, loop
from bench.worker.comparison import Comparison, norm, size
from bench.worker.ranks import replicas_apart
from tasks.spec import AdamW, Array, Batch, Params, Task

TRAJECTORY_STEPS = 20
LONG_RUN = 100  # updates of a session in all
WARMUP, SCHEDULE_END = 10, 90  # of a learning rate that changes, in the ladder
LARGEST_FLOPS = 1e11  # of the reference's step at full size: some seconds
PADDED = 3  # examples of the comparison batch that are given weight 0
DIFFERENCE_STEP = 1e-5  # of the central differences, along directions of length 1


ROUNDOFF: Mapping[str, float] = {"float64": 2**-53, "float32": 2**-24, "tf32": 2**-11, "bfloat16": 2**-8}
"""Precision -> the largest share by which rounding changes a figure of its layers."""


def _of_rounded_layers(roundoff: float) -> Mapping[str, float]:
    """The tolerances where products and activations are rounded to a unit roundoff, and all else is float32.

    Each is a power of two times the roundoff, the smallest that is at least twice the largest difference seen over the three
    tasks: in PyTorch, TensorFlow and JAX on a CPU in bfloat16, and in PyTorch with the operands of every product rounded to
    TF32's 11 bits. In units of the roundoff, these were (bfloat16, tf32):

    forward     3.5, 2.0   rounding in every layer, BERT's at full size the most
    loss        0.6, 0.1   a mean over the batch: the errors of its positions cancel
    gradients    26, 13    an attention key's bias, which is 0 in exact arithmetic: nothing but rounding, against the floor
    differences  18,  7    the same gradients along one direction
    one update             the optimizer is float32, and so is its tolerance
    trajectory  5.1, 4.2   Adam's first steps follow a gradient's sign, and small gradients change theirs
    scale        16         of a gradient, along the expected one: two rounded logits shift all of BERT's alike
    long run     24         as the trajectory's; seen in PyTorch
    tie                    two logits of one position, each as far off as the forward pass may be
    """
    return {
        "forward": 8 * roundoff, "loss": 2 * roundoff, "gradients": 64 * roundoff, "differences": 64 * roundoff,
        "one update": 1e-6, "trajectory": 16 * roundoff, "tie": 16 * roundoff, "full size": 8 * roundoff,
        "long run": 64 * roundoff, "scale": 32 * roundoff, "clipping": 32 * roundoff,
    }  # fmt: skip


TOLERANCES: Mapping[str, Mapping[str, float]] = {
    # relative norms, set per rung; see the module docstring
    "float64": {
        "forward": 1e-10, "loss": 1e-12, "gradients": 1e-9, "differences": 1e-6,
        "one update": 1e-12, "trajectory": 1e-8, "tie": 1e-9, "full size": 1e-9,
        "long run": 1e-8, "scale": 1e-9, "clipping": 1e-9,
    },
    "float32": {
        "forward": 1e-5, "loss": 1e-6, "gradients": 1e-4, "differences": 1e-4,
        "one update": 1e-6, "trajectory": 1e-3, "tie": 1e-4, "full size": 1e-4,
        "long run": 1e-3, "scale": 1e-4, "clipping": 2e-3,
    },
    "tf32": _of_rounded_layers(ROUNDOFF["tf32"]),
    "bfloat16": _of_rounded_layers(ROUNDOFF["bfloat16"]),
}  # fmt: skip


def climb(subject: Backend, task: Task, options: Options, *, timed: bool = True, walk: "Walk | None" = None) -> Ladder:
    """Compares a backend with the reference rung by rung; an exception in the backend is a rung not passed.

    Except for Unsupported, with which a backend declines the device or the precision. `timed` says that these are the options
    that will be timed. The `walk` of an earlier climb of the same task spares this one the reference's part.
    """
    climber = _Climber(subject, task, options, timed=timed, walk=walk or Walk(task))
    rungs = []
    for number, (name, rung_of) in enumerate(zip(RUNGS, climber.rungs, strict=True), start=1):
        try:
            # The comparison that used up most of its tolerance stands for the rung.
            worst = max(rung_of(), key=lambda comparison: comparison.share)
            rung = Rung(
                number=number, name=name, where=worst.where, tolerance=float(worst.tolerance),  # and no scalar of NumPy's
                difference=float(worst.difference) if np.isfinite(worst.difference) else None,
            )  # fmt: skip
        except Unsupported:
            raise  # it declines, and says why
        except Exception as error:  # whatever the framework raises is a finding about it
            where = f"{type(error).__name__}: {error}"[:500]
            rung = Rung(number=number, name=name, difference=None, tolerance=0.0, where=where)
        rungs.append(rung)
        if not rung.passed:
            break
    return Ladder(precision=options.precision, device=options.device, rungs=rungs, height=len(RUNGS))


LATER = Comparison("left to the climb in the precision that is timed", 0.0, 0.0)


class Walk:
    """The reference's updates from rung 3 to rung 10: the same for every precision, so that they are made once."""

    def __init__(self, whole: Task) -> None:
        self.task = with_schedule_in_reach(whole.for_parity())
        self.arbiter: Any = backends.load("reference")
        self.initial = with_noise_on_vectors(self.task.init_params(seed=0))
        self.batch = with_padding(next(self.task.train_batches(seed=0)))
        self.session = self.open(self.initial)
        self._batches = self.batches()
        self._losses: list[float] = []
        self._params: dict[int, Params] = {}

    def batches(self) -> Iterator[Batch]:
        """Those of the updates that follow the first one's."""
        return self.task.train_batches(seed=1)

    def open(self, params: Params) -> Session:
        """A session of the reference for the small task."""
        session: Session = self.arbiter.open_session(self.task, params, Options(precision="float64"))
        return session

    def loss(self, update: int) -> float:
        """The training loss of an update, the first of which is number 1."""
        while len(self._losses) < update:
            batch = next(self._batches) if self._losses else self.batch
            self._losses.append(loop.step(self.session, batch))
        return self._losses[update - 1]

    def params(self, update: int) -> Params:
        """The parameters after an update, asked for before the next one or again."""
        if update not in self._params:
            self._params[update] = self.session.params()
        return self._params[update]

    def evaluated(self, update: int) -> None:
        """An evaluation follows an update: it leaves a recurrent state of zero."""
        if len(self._losses) == update:
            self.session.reset_state()


class _Climber:
    """One method per rung, in the order of RUNGS; each yields its comparisons."""

    def __init__(self, subject: Backend, whole: Task, options: Options, *, timed: bool, walk: Walk) -> None:
        self.subject, self.whole, self.options, self.timed, self.walk = subject, whole, options, timed, walk
        self.task, self.arbiter, self.initial, self.batch = walk.task, walk.arbiter, walk.initial, walk.batch
        self.tolerance = TOLERANCES[options.precision]
        self.updates = 1  # rung 3's

    @property
    def rungs(self) -> tuple[Callable[[], Iterator[Comparison]], ...]:
        """In the order of RUNGS."""
        return (
            self.parameters, self.forward, self.loss, self.gradients, self.one_update, self.trajectory, self.evaluation,
            self.dropout, self.full_size, self.long_run,
        )  # fmt: skip

    def parameters(self) -> Iterator[Comparison]:
        returned = self.session.params()
        unmatched = sorted(set(returned) ^ set(self.initial))
        yield Comparison(f"names {', '.join(unmatched)}" if unmatched else "names", len(unmatched), 0)
        if not unmatched:
            for name, value in self.initial.items():
                same = returned[name].shape == value.shape and bool(np.all(returned[name] == value))
                yield Comparison(name, 0.0 if same else 1.0, 0)
        yield from self.replicas()

    def forward(self) -> Iterator[Comparison]:
        reference = self.walk.open(self.initial)
        expected = reference.predict(self.batch.inputs)
        yield self.compare("logits", self.session.predict(self.batch.inputs), expected, "forward")

    def loss(self) -> Iterator[Comparison]:
        with suppress(Exception):  # if there are none, rung 4 says so
            _ = self.own_gradients  # before the step changes the weights
        found, expected = loop.step(self.session, self.batch), np.asarray(self.walk.loss(1))
        yield self.compare("loss of a padded batch", self.session.fetch(found), expected, "loss")

    def gradients(self) -> Iterator[Comparison]:
        found, reference = self.own_gradients, self.walk.open(self.initial)
        expected = reference.gradients(loop.put(reference, self.batch))
        yield from self.compare_gradients(found, expected)
        rng = np.random.default_rng(0)
        scale = norm(found)
        for name, gradient in found.items():
            # Half along the gradient itself, so that the derivative is not lost in rounding, and half at random.
            noise: Array = np.asarray(rng.standard_normal(gradient.shape))
            direction = _unit(_unit(gradient) + _unit(noise))
            slope = float(np.sum(gradient * direction))
            difference = abs(slope - self.central_difference(name, direction))
            relative = difference / max(size(gradient), scale / 1000)
            yield Comparison(f"derivative along {name}", relative, self.tolerance["differences"])

    def one_update(self) -> Iterator[Comparison]:
        # The optimizer alone: from the backend's own gradients to the weights that it had after the step of rung 3.
        values = _as_float64(self.initial)
        zeros = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in values.items()}
        gradients = self.own_gradients
        expected, _ = adamw(self.task.optimizer, values=values, gradients=gradients, moments=zeros, update=1)
        rounding = _of_bias_correction(self.task.optimizer, self.options.precision)
        scale, updated = norm(expected), self.session.params()
        margins = {name: self.rounded_otherwise(gradient) for name, gradient in gradients.items()}
        ends = [
            adamw(
                self.task.optimizer, values=values, moments=zeros, update=1,
                gradients={name: gradient + sign * margins[name] for name, gradient in gradients.items()},
            )[0]
            for sign in (1, -1)
        ]  # fmt: skip
        for name, value in expected.items():
            if updated[name].shape == value.shape:
                possible = [value, *(end[name] for end in ends)]
                expected[name] = np.clip(updated[name], np.minimum.reduce(possible), np.maximum.reduce(possible))
        for found in self.compare_all(updated, expected, "one update"):
            name = found.where
            moved = size(expected[name] - values[name]) / max(size(expected[name]), scale / 1000)
            yield replace(found, tolerance=found.tolerance + rounding * moved)

    def rounded_otherwise(self, gradient: Array) -> Array:
        """How far an element may be off where one more or one less figure on its way is rounded; one of 0 is exact.

        A backend may compile its training step apart from `gradients`, and a compiler rounds in one program what it does not in
        the other. Adam divides a gradient by its own size, so that its first step along a small one may then be another.
        """
        typical = max(size(gradient), norm(self.own_gradients) / 1000) / np.sqrt(gradient.size)
        return np.where(gradient == 0, 0.0, ROUNDOFF[self.options.precision] * typical)

    def trajectory(self) -> Iterator[Comparison]:
        yield from self.train(TRAJECTORY_STEPS, "trajectory")
        yield from self.replicas()

    def evaluation(self) -> Iterator[Comparison]:
        session = self.session
        before = session.params()
        found = loop.evaluate(session, self.task.eval_batches())
        self.walk.evaluated(self.updates)
        after = session.params()
        moved = sum(not np.array_equal(before[name], after[name]) for name in before)
        yield Comparison("parameters changed by evaluation", moved, 0)

        reference = self.walk.open(before)
        expected = loop.evaluate(reference, self.task.eval_batches())
        yield Comparison("evaluated positions", abs(len(found.labels) - len(expected.labels)), 0)
        if len(found.labels) == len(expected.labels):
            yield Comparison("labels out of place", int(np.sum(found.labels != expected.labels)), 0)
            differing = int(np.sum(found.predictions != expected.predictions))
            ties = self.ties(before, found.predictions != expected.predictions) if differing else 0
            where = "predictions" if not ties else f"predictions, {ties} of them ties of two logits"
            yield Comparison(where, differing - ties, 0)
            yield self.compare("losses", found.losses, expected.losses, "forward")

    def dropout(self) -> Iterator[Comparison]:
        if not self.timed:
            yield LATER
            return
        yield from dropout.compare(
            self.subject, self.arbiter, self.whole.for_parity(), timed=self.whole, params=self.initial,
            options=self.options, tolerance=self.tolerance,
        )  # fmt: skip

    def full_size(self) -> Iterator[Comparison]:
        """Logits, loss and gradient of one batch of the task that is timed, its own initial weights, and no dropout.

        The gradient is read from the parameters' movement in one training step, the program that will be timed: with an eps far
        above any gradient, AdamW's first update -lr g / (|g| + eps) is nearly proportional to it.
        """
        if not self.timed:
            yield LATER
            return
        task, params = dropout.with_rates(self.whole), self.whole.init_params(seed=0)
        batch, counted = within_reach(task, next(iter(task.train_batches(seed=0))))
        rows = slice(0, counted)
        few = batch._replace(
            inputs={name: value[rows] for name, value in batch.inputs.items()},
            labels=batch.labels[rows], weights=batch.weights[rows],
        )  # fmt: skip
        reference = self.arbiter.open_session(task, params, Options(precision="float64"))
        loss, gradients, _ = reference.loss_and_gradients(loop.put(reference, few), None)
        scale = clipping(task.optimizer, norm(gradients))
        expected = {name: scale * gradient for name, gradient in gradients.items()}
        proportional = revealing(task.optimizer, params, expected)
        session = self.subject.open_session(
            replace(task, optimizer=proportional),
            params, self.options,
        )  # fmt: skip
        of = f"{counted} of {len(batch.labels)} examples" if counted < len(batch.labels) else "the whole batch"
        logits = session.predict(batch.inputs)[rows]
        yield self.compare(f"logits of {of}", logits, reference.predict(few.inputs), "full size")
        found = session.fetch(loop.step(session, batch))
        yield self.compare(f"loss of {of}", found, np.asarray(loss), "full size")
        moved = {name: value.astype(np.float64) - params[name] for name, value in session.params().items()}
        rate, eps = proportional.learning_rate, proportional.eps
        revealed = {name: -eps * movement / (rate - np.abs(movement)) for name, movement in moved.items()}
        if scale < 1:
            # PyTorch's norm on a CPU adds up float32 squares one by one, and is off by 2e-4 for ten million of them
            # (https://github.com/pytorch/pytorch/issues/169237). It scales all gradients alike, by which Adam moves nothing.
            factor = (
                sum(float(np.sum(revealed[name] * value)) for name, value in expected.items()) / norm(expected) ** 2
            )
            yield Comparison(f"the factor of clipping, {of}", abs(factor - 1), self.tolerance["clipping"])
            revealed = {name: value / factor for name, value in revealed.items()}
        for comparison in self.compare_gradients(revealed, expected):
            yield replace(comparison, where=f"{comparison.where}, {of}")

    def long_run(self) -> Iterator[Comparison]:
        yield from self.train(LONG_RUN - TRAJECTORY_STEPS - 1, "long run")  # one was rung 3's
        yield from self.replicas()

    # What the rungs are made of.

    @cached_property
    def session(self) -> Session:
        """It climbs all rungs but 8 and 9."""
        return self.subject.open_session(self.task, self.initial, self.options)

    @cached_property
    def batches(self) -> Iterator[Batch]:
        return self.walk.batches()

    def train(self, steps: int, tolerance: str) -> Iterator[Comparison]:
        """Losses of the next steps, and the parameters after them.

        As in what is timed, no loss is fetched before the steps are over: a session may take several of them at once.
        """
        handles = [loop.step(self.session, batch) for batch in islice(self.batches, steps)]
        for handle in handles:
            self.updates += 1
            expected = np.asarray(self.walk.loss(self.updates))
            yield self.compare(f"loss of update {self.updates}", self.session.fetch(handle), expected, tolerance)
        yield from self.compare_all(self.session.params(), self.walk.params(self.updates), tolerance)

    def replicas(self) -> Iterator[Comparison]:
        """Of several processes: each has its own copy of the parameters, and all copies are the same bit by bit."""
        if self.options.processes > 1:
            yield Comparison("ranks whose parameters are not those of rank 0", len(replicas_apart(self.session)), 0)

    @cached_property
    def own_gradients(self) -> Params:
        return _as_float64(self.session.gradients(loop.put(self.session, self.batch)))

    def compare(self, where: str, found: Array, expected: Array, tolerance: str) -> Comparison:
        return self.compare_all_as_one({where: found}, {where: expected}, tolerance)

    def compare_all_as_one(self, found: Params, expected: Params, tolerance: str) -> Comparison:
        return next(self.compare_all(found, expected, tolerance))

    def compare_all(self, found: Params, expected: Params, tolerance: str) -> Iterator[Comparison]:
        scale = norm(expected)
        for name, value in expected.items():
            if found[name].shape != value.shape:
                raise ValueError(f"{name} has shape {found[name].shape}, expected {value.shape}")
            difference = size(found[name].astype(np.float64) - value)
            relative = difference / max(size(value), scale / 1000) if difference else 0.0
            yield Comparison(name, relative, self.tolerance[tolerance])

    def compare_gradients(self, found: Params, expected: Params) -> Iterator[Comparison]:
        """Each tensor, and its length along the expected one: rounding averages out there, a wrong factor does not."""
        yield from self.compare_all(found, expected, "gradients")
        scale = norm(expected)
        for name, value in expected.items():
            if size(value) > scale / 1000:  # of less, the own direction may be nothing but rounding
                factor = float(np.sum(found[name] * value)) / size(value) ** 2
                yield Comparison(f"scale of {name}", abs(factor - 1), self.tolerance["scale"])

    def central_difference(self, name: str, direction: Array) -> float:
        def loss(shift: float) -> float:
            shifted = {**self.initial, name: self.initial[name].astype(np.float64) + shift * direction}
            reference = self.walk.open(shifted)
            losses, _ = reference.eval_step(loop.put(reference, self.batch))
            return float(np.sum(losses * self.batch.weights) / np.sum(self.batch.weights, dtype=np.float64))

        return (loss(DIFFERENCE_STEP) - loss(-DIFFERENCE_STEP)) / (2 * DIFFERENCE_STEP)

    def ties(self, params: Params, differing: Array) -> int:
        """How many of the differing predictions are between two logits that the precision cannot tell apart."""
        reference = self.walk.open(params)
        margins = []
        for batch in self.task.eval_batches():
            top = np.sort(reference.predict(batch.inputs)[batch.weights != 0], axis=-1)
            margins.append((top[..., -1] - top[..., -2]) / np.maximum(np.abs(top[..., -1]), 1.0))
        return int(np.sum(np.concatenate(margins)[differing] < self.tolerance["tie"]))


def _of_bias_correction(spec: AdamW, precision: str) -> float:
    """The share by which Adam's first update is off where 1 - beta is formed in the optimizer's precision, as optax does.

    float32 has no 0.999: what is left of 1 may be off by 3e-5 of itself, and the root over it halves that.
    """
    roundoff = float(np.finfo(np.float64 if precision == "float64" else np.float32).epsneg) / 2  # of figures below 1
    return roundoff / (1 - spec.beta1) + roundoff / (1 - spec.beta2) / 2


def with_schedule_in_reach(task: Task) -> Task:
    """With a learning rate that rises and falls within the ladder's updates, if it does so at all."""
    spec = task.optimizer
    inside = replace(
        spec,
        warmup_steps=min(spec.warmup_steps, WARMUP),
        decay_steps=None if spec.decay_steps is None else SCHEDULE_END,
    )
    return replace(task, optimizer=inside)  # type: ignore[type-var]  # tasks are dataclasses


def within_reach(task: Task, batch: Batch) -> tuple[Batch, int]:
    """The batch, in which only as many of the first examples count as the reference can compute in some seconds."""
    rows = len(batch.labels)
    flops = getattr(task, "step_flops", None) or 0
    counted = rows if flops <= LARGEST_FLOPS else max(1, int(rows * LARGEST_FLOPS / flops))
    weights = batch.weights.copy()
    weights[counted:] = 0
    return batch._replace(weights=weights), counted


def clipping(spec: AdamW, length: float) -> float:
    """What a gradient of this norm is multiplied by."""
    return 1.0 if spec.clip_norm is None else min(1.0, spec.clip_norm / length)


def revealing(spec: AdamW, params: Params, gradients: Params) -> AdamW:
    """The optimizer whose first update tells the gradient: its eps is far above any.

    The movement is at least as large as the parameters, so that rounding them to float32 does not hide it.
    """
    largest = max(float(np.max(np.abs(gradient))) for gradient in gradients.values())
    floor = norm(gradients) / 1000
    factor = max(size(params[name]) / max(size(gradient), floor) for name, gradient in gradients.items())
    eps = 1e7 * largest
    return replace(spec, learning_rate=factor * eps, eps=eps, weight_decay=0.0, warmup_steps=0, decay_steps=None)


def with_noise_on_vectors(params: Params) -> Params:
    """Adds float32 noise of standard deviation 0.1 to every bias and scale: zeros would hide a missing one."""
    rng = np.random.default_rng(1)
    noisy = dict(params)
    for name, value in params.items():
        if value.ndim == 1:
            noisy[name] = (value + 0.1 * rng.standard_normal(value.shape)).astype(np.float32)
    return noisy


def with_padding(batch: Batch) -> Batch:
    """The batch with its last examples declared padding: they must then count for nothing."""
    weights = batch.weights.copy()
    weights[-PADDED:] = 0
    return batch._replace(weights=weights, starts_sequence=True)


def _as_float64(params: Params) -> dict[str, Array]:
    return {name: value.astype(np.float64) for name, value in params.items()}


def _unit(value: Array) -> Array:
    unit: Array = value / max(size(value), 1e-300)
    return unit
