"""The ladder of parity: one backend against the NumPy float64 reference, from its parameters to its evaluation.

Every comparison is a relative norm, ||a - b|| / ||b||, of one tensor against the reference's; a tensor whose norm is less
than a thousandth of all tensors' together is measured against that thousandth, because its own may be nothing but rounding
(the gradient of an attention key's bias is zero in exact arithmetic). Parameters start from the task's own initial values
with noise added to every bias and scale, so that a missing bias shows. The ladder ends at the first rung that is not passed.

It shows that a computation is the right one, as exactly as its precision lets it; which precision is in force,
precision_probe.py
asks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

import backends
from backends.api import Backend, Options, Session, Unsupported
from backends.reference.adamw import adamw
from bench.records.record import Ladder, Rung
from bench.worker import loop
from tasks.spec import AdamW, Array, Batch, Params, Task

RUNGS = ("parameters", "forward", "loss", "gradients", "one update", "trajectory", "evaluation")
TRAJECTORY_STEPS = 20
PADDED = 3  # examples of the comparison batch that are given weight 0
DIFFERENCE_STEP = 1e-5  # of the central differences, along directions of length 1


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
    tie                    two logits of one position, each as far off as the forward pass may be
    """
    return {
        "forward": 8 * roundoff, "loss": 2 * roundoff, "gradients": 64 * roundoff, "differences": 64 * roundoff,
        "one update": 1e-6, "trajectory": 16 * roundoff, "tie": 16 * roundoff, "full size": 8 * roundoff,
    }  # fmt: skip


TOLERANCES: Mapping[str, Mapping[str, float]] = {
    # relative norms, set per rung; see the module docstring
    "float64": {
        "forward": 1e-10, "loss": 1e-12, "gradients": 1e-9, "differences": 1e-6,
        "one update": 1e-12, "trajectory": 1e-8, "tie": 1e-9, "full size": 1e-9,
    },
    "float32": {
        "forward": 1e-5, "loss": 1e-6, "gradients": 1e-4, "differences": 1e-4,
        "one update": 1e-6, "trajectory": 1e-3, "tie": 1e-4, "full size": 1e-4,
    },
    "tf32": _of_rounded_layers(2**-11),
    "bfloat16": _of_rounded_layers(2**-8),
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A difference beside the tolerance that it must not exceed."""

    where: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return bool(self.difference <= self.tolerance)  # False for NaN


def climb(subject: Backend, task: Task, options: Options) -> Ladder:
    """Compares a backend with the reference rung by rung; an exception in the backend is a rung not passed.

    Except for Unsupported, with which a backend declines the device or the precision.
    """
    climber = _Climber(subject, task.for_parity(), options, full_size=task)
    rungs = []
    for number, name in enumerate(RUNGS, start=1):
        method: Callable[[], Iterator[Comparison]] = getattr(climber, name.replace(" ", "_"))
        try:
            # The comparison that used up most of its tolerance stands for the rung.
            worst = max(method(), key=lambda c: _share(c.difference, c.tolerance))
            rung = Rung(
                number=number, name=name, where=worst.where, tolerance=worst.tolerance,
                difference=worst.difference if np.isfinite(worst.difference) else None,
            )  # fmt: skip
        except Unsupported:
            raise  # it declines, and says why
        except Exception as error:  # whatever the framework raises is a finding about it
            where = f"{type(error).__name__}: {error}"[:500]
            rung = Rung(number=number, name=name, difference=None, tolerance=0.0, where=where)
        rungs.append(rung)
        if not rung.passed:
            break
    return Ladder(precision=options.precision, device=options.device, rungs=rungs)


class _Climber:
    """One method per rung, in the order of RUNGS; each yields its comparisons."""

    def __init__(self, subject: Backend, task: Task, options: Options, *, full_size: Task) -> None:
        self.subject, self.task, self.options, self.full_size = subject, task, options, full_size
        self.arbiter = backends.load("reference")
        self.tolerance = TOLERANCES[options.precision]
        self.initial = with_noise_on_vectors(task.init_params(seed=0))
        self.batch = with_padding(next(task.train_batches(seed=0)))

    def parameters(self) -> Iterator[Comparison]:
        returned = self.untrained.params()
        unmatched = sorted(set(returned) ^ set(self.initial))
        yield Comparison(f"names {', '.join(unmatched)}" if unmatched else "names", len(unmatched), 0)
        if not unmatched:
            for name, value in self.initial.items():
                same = returned[name].shape == value.shape and bool(np.all(returned[name] == value))
                yield Comparison(name, 0.0 if same else 1.0, 0)

    def forward(self) -> Iterator[Comparison]:
        session, reference = self.untrained, self.open_reference(self.initial)
        expected = reference.logits(loop.put(reference, self.batch))
        yield self.compare("logits", session.logits(loop.put(session, self.batch)), expected, "forward")
        if getattr(self.full_size, "forward_at_full_size", False):
            yield from self.forward_at_full_size()

    def forward_at_full_size(self) -> Iterator[Comparison]:
        """The task as it is trained: its own sizes, initial weights (a checkpoint's, if it has one) and dropout rates."""
        task, params = self.full_size, self.full_size.init_params(seed=0)
        batch = next(iter(task.eval_batches()))
        reference = self.arbiter.open_session(task, params, Options(precision="float64"))
        expected = reference.logits(loop.put(reference, batch))
        expected_losses = reference.eval_step(loop.put(reference, batch))[0]
        session = self.subject.open_session(task, params, self.options)
        yield self.compare("logits at full size", session.logits(loop.put(session, batch)), expected, "full size")
        # Dropout left on in evaluation shows here: the small task that climbs the other rungs has none.
        losses = session.fetch(session.eval_step(loop.put(session, batch))[0])
        yield self.compare("evaluated losses at full size", losses, expected_losses, "full size")

    def loss(self) -> Iterator[Comparison]:
        session, reference = self.updated, self.open_reference(self.initial)
        expected = reference.train_step(loop.put(reference, self.batch))
        found = session.fetch(session.train_step(loop.put(session, self.batch)))
        yield self.compare("loss of a padded batch", found, np.asarray(expected), "loss")

    def gradients(self) -> Iterator[Comparison]:
        found, reference = self.own_gradients, self.open_reference(self.initial)
        expected = reference.gradients(loop.put(reference, self.batch))
        yield from self.compare_all(found, expected, "gradients")
        rng = np.random.default_rng(0)
        scale = _norm(found)
        for name, gradient in found.items():
            # Half along the gradient itself, so that the derivative is not lost in rounding, and half at random.
            noise: Array = np.asarray(rng.standard_normal(gradient.shape))
            direction = _unit(_unit(gradient) + _unit(noise))
            slope = float(np.sum(gradient * direction))
            difference = abs(slope - self.central_difference(name, direction))
            relative = difference / max(_size(gradient), scale / 1000)
            yield Comparison(f"derivative along {name}", relative, self.tolerance["differences"])

    def one_update(self) -> Iterator[Comparison]:
        # The optimizer alone: from the backend's own gradients to the weights that it had after the step of rung 3.
        values = _as_float64(self.initial)
        zeros = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in values.items()}
        gradients = self.own_gradients
        expected, _ = adamw(self.task.optimizer, values=values, gradients=gradients, moments=zeros, update=1)
        self.updated.wait()
        rounding = _of_bias_correction(self.task.optimizer, self.options.precision)
        scale = _norm(expected)
        for found in self.compare_all(self.updated.params(), expected, "one update"):
            name = found.where
            moved = _size(expected[name] - values[name]) / max(_size(expected[name]), scale / 1000)
            yield replace(found, tolerance=found.tolerance + rounding * moved)

    def trajectory(self) -> Iterator[Comparison]:
        session, reference = self.trained, self.open_reference(self.initial)
        for number, batch in enumerate(islice(self.task.train_batches(seed=1), TRAJECTORY_STEPS), start=1):
            found = session.fetch(loop.step(session, batch))
            expected = loop.step(reference, batch)
            yield self.compare(f"loss of step {number}", found, np.asarray(expected), "trajectory")
        yield from self.compare_all(session.params(), reference.params(), "trajectory")

    def evaluation(self) -> Iterator[Comparison]:
        session = self.trained
        before = session.params()
        found = loop.evaluate(session, self.task.eval_batches())
        after = session.params()
        moved = sum(not np.array_equal(before[name], after[name]) for name in before)
        yield Comparison("parameters changed by evaluation", moved, 0)

        reference = self.open_reference(before)
        expected = loop.evaluate(reference, self.task.eval_batches())
        yield Comparison("evaluated positions", abs(len(found.labels) - len(expected.labels)), 0)
        if len(found.labels) == len(expected.labels):
            yield Comparison("labels out of place", int(np.sum(found.labels != expected.labels)), 0)
            differing = int(np.sum(found.predictions != expected.predictions))
            ties = self.ties(before, found.predictions != expected.predictions) if differing else 0
            where = "predictions" if not ties else f"predictions, {ties} of them ties of two logits"
            yield Comparison(where, differing - ties, 0)
            yield self.compare("losses", found.losses, expected.losses, "forward")

    # What the rungs are made of. Three sessions, because compiling takes far longer than the few calls of a rung.

    @cached_property
    def untrained(self) -> Session:
        """It takes no step."""
        return self.open(self.initial)

    @cached_property
    def updated(self) -> Session:
        """It takes one step, in rung 3."""
        return self.open(self.initial)

    @cached_property
    def trained(self) -> Session:
        """It takes the steps of rung 6."""
        return self.open(self.initial)

    @cached_property
    def own_gradients(self) -> Params:
        return _as_float64(self.untrained.gradients(loop.put(self.untrained, self.batch)))

    def open(self, params: Params) -> Session:
        return self.subject.open_session(self.task, params, self.options)

    def open_reference(self, params: Params) -> Session:
        return self.arbiter.open_session(self.task, params, Options(precision="float64"))

    def compare(self, where: str, found: Array, expected: Array, tolerance: str) -> Comparison:
        return self.compare_all_as_one({where: found}, {where: expected}, tolerance)

    def compare_all_as_one(self, found: Params, expected: Params, tolerance: str) -> Comparison:
        return next(self.compare_all(found, expected, tolerance))

    def compare_all(self, found: Params, expected: Params, tolerance: str) -> Iterator[Comparison]:
        scale = _norm(expected)
        for name, value in expected.items():
            if found[name].shape != value.shape:
                raise ValueError(f"{name} has shape {found[name].shape}, expected {value.shape}")
            difference = _size(found[name].astype(np.float64) - value)
            relative = difference / max(_size(value), scale / 1000) if difference else 0.0
            yield Comparison(name, relative, self.tolerance[tolerance])

    def central_difference(self, name: str, direction: Array) -> float:
        def loss(shift: float) -> float:
            shifted = {**self.initial, name: self.initial[name].astype(np.float64) + shift * direction}
            reference = self.open_reference(shifted)
            losses, _ = reference.eval_step(loop.put(reference, self.batch))
            return float(np.sum(losses * self.batch.weights) / np.sum(self.batch.weights, dtype=np.float64))

        return (loss(DIFFERENCE_STEP) - loss(-DIFFERENCE_STEP)) / (2 * DIFFERENCE_STEP)

    def ties(self, params: Params, differing: Array) -> int:
        """How many of the differing predictions are between two logits that the precision cannot tell apart."""
        reference = self.open_reference(params)
        margins = []
        for batch in self.task.eval_batches():
            top = np.sort(reference.logits(loop.put(reference, batch))[batch.weights != 0], axis=-1)
            margins.append((top[..., -1] - top[..., -2]) / np.maximum(np.abs(top[..., -1]), 1.0))
        return int(np.sum(np.concatenate(margins)[differing] < self.tolerance["tie"]))


def _of_bias_correction(spec: AdamW, precision: str) -> float:
    """The share by which Adam's first update is off where 1 - beta is formed in the optimizer's precision, as optax does.

    float32 has no 0.999: what is left of 1 may be off by 3e-5 of itself, and the root over it halves that.
    """
    roundoff = float(np.finfo(np.float64 if precision == "float64" else np.float32).epsneg) / 2  # of figures below 1
    return roundoff / (1 - spec.beta1) + roundoff / (1 - spec.beta2) / 2


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


def _size(value: Array) -> float:
    return float(np.linalg.norm(value.astype(np.float64)))


def _unit(value: Array) -> Array:
    unit: Array = value / max(_size(value), 1e-300)
    return unit


def _norm(params: Params) -> float:
    return float(np.sqrt(sum(_size(value) ** 2 for value in params.values())))


def _share(difference: float, tolerance: float) -> float:
    if not np.isfinite(difference):
        return float("inf")
    return difference / tolerance if tolerance else difference * 1e300
