"""Rung 8: what dropout does to a loss is told from what it should do, with the chances that bench/dropout.py states."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from statistics import NormalDist, mean, stdev
from typing import Any

import numpy as np
import pytest

import backends
import tasks
from backends.api import Options
from backends.reference.models import dropout as masks
from backends.reference.models import keep_all
from backends.reference.session import ReferenceSession
from bench.worker import dropout, parity
from bench.worker.comparison import Comparison
from tasks.spec import Array, Batch, Task
from tests import false_alarms
from tests.drawing import DrawingSession, Subject

pytestmark = pytest.mark.slow  # whole ladders

DOUBLE = Options(precision="float64")
ARBITER = backends.load("reference")
GRU = tasks.load("gru_lm", "quick").task
BERT = tasks.load("bert_sentiment", "quick").task
SITES = {
    "gru_lm": ["between the layers"],
    "bert_sentiment": [
        "embeddings",
        "attention output",
        "feed-forward output",
        "attention probabilities",
        "classifier",
    ],
}


def small(task: Task) -> tuple[Any, Any]:
    """The ladder's version of a task, and its parameters."""
    return task.for_parity(), parity.with_noise_on_vectors(task.for_parity().init_params(0))


def comparisons(session: Callable[..., ReferenceSession], task: Task, *, seed: int = 0) -> Iterator[Comparison]:
    model, params = small(task)
    return dropout.compare(
        Subject(session), ARBITER, model, timed=task, params=params, options=replace(DOUBLE, seed=seed),
        tolerance=parity.TOLERANCES["float64"],
    )  # fmt: skip


def caught(session: Callable[..., ReferenceSession], task: Task) -> str:
    """The first comparison that is not passed."""
    return next((comparison.where for comparison in comparisons(session, task) if not comparison.passed), "")


@pytest.mark.parametrize("task", [GRU, BERT], ids=lambda task: task.name)
def test_the_reference_passes_with_masks_of_its_own(task: Task) -> None:
    found = list(comparisons(DrawingSession, task))
    assert [comparison.where for comparison in found if not comparison.passed] == []
    for site in [*SITES[task.name], "all sites"]:
        assert any(comparison.where.startswith(site) for comparison in found)


def test_a_task_without_dropout_passes_and_says_so() -> None:
    plain = tasks.load("mnist_mlp", "smoke").task
    off = replace(GRU, model=replace(GRU.model, dropout=0.0))
    for task in (plain, off):
        assert list(comparisons(DrawingSession, task)) == [Comparison("no dropout in this task", 0.0, 0.0)]


def test_every_rate_of_a_model_is_a_site_where_the_task_names_none() -> None:
    class Unnamed:
        model = BERT.model

    params = {"w": np.zeros(1)}
    found = dropout.sites(Unnamed(), params)  # type: ignore[arg-type]
    assert [site.rate for site in found] == ["hidden_dropout", "attention_dropout", "classifier_dropout"]


# Controls: the reference with one thing wrong.


def with_drop(change: Callable[[Callable[[Any, float], Any]], Any]) -> type[DrawingSession]:
    """Sessions whose dropout in training is made of the right one."""

    class Faulty(DrawingSession):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.drop_in_training = change(self.drop_in_training)

    return Faulty


never_applied = with_drop(lambda drop: keep_all)
half_the_rate = with_drop(lambda drop: lambda value, rate: drop(value, rate / 2))
twice_the_rate = with_drop(lambda drop: lambda value, rate: drop(value, 2 * rate))
a_constant_rate = with_drop(lambda drop: lambda value, rate: drop(value, dropout.RATE if rate else 0.0))
not_rescaled = with_drop(lambda drop: lambda value, rate: drop(value, rate) * (1 - rate))
without_attention = with_drop(lambda drop: lambda value, rate: value if value.ndim == 4 else drop(value, rate))
one_mask_for_all_examples = with_drop(
    lambda drop: lambda value, rate: value * drop(np.ones((1, *value.shape[1:])), rate) if rate else value
)


def place(number: int) -> Callable[[Any], Any]:
    """Leaves out one of the places of a BERT of two layers, in the order of its equations."""

    def change(drop: Any) -> Any:
        calls = iter(())

        def faulty(value: Any, rate: float) -> Any:
            nonlocal calls
            turn = next(calls, None)
            if turn is None:
                calls = iter(("embeddings", *2 * ("probabilities", "attention", "feed-forward"), "classifier"))
                turn = next(calls)
            return value if turn == ("embeddings", "attention", "feed-forward")[number] else drop(value, rate)

        return faulty

    return change


def the_same_in_both_layers(drop: Any) -> Any:
    """The second layer of BERT has the masks of the first."""
    calls, kept = 0, {}

    def faulty(value: Any, rate: float) -> Any:
        nonlocal calls
        turn, calls = calls % 8, calls + 1
        if not 1 <= turn <= 6:
            return drop(value, rate)
        kind = (turn - 1) % 3
        if turn <= 3:
            kept[kind] = drop(np.ones(value.shape), rate)
        return value * kept[kind]

    return faulty


def the_same_in_all_time_steps(drop: Any) -> Any:
    """All T steps of a window have the mask of the first."""
    calls, kept = 0, 0.0

    def faulty(value: Any, rate: float) -> Any:
        nonlocal calls, kept
        if calls % GRU.for_parity().window == 0:
            kept = drop(np.ones(value.shape), rate)
        calls += 1
        return value * kept

    return faulty


class RepeatedMasks(DrawingSession):
    """The masks of step 51 are those of step 1."""

    period = 50

    def train_step(self, batch: Batch) -> float:
        if self.updates % self.period == 0:
            self.drop_in_training = masks(np.random.default_rng(5))
        return super().train_step(batch)


class RepeatedLate(RepeatedMasks):
    """The longest period that is looked for."""

    period = dropout.LAGS


class EveryMaskTwice(DrawingSession):
    """As two processes, or two micro-batches, with one seed would have it."""

    steps, last = 0, 0.0

    def train_step(self, batch: Batch) -> float:
        self.steps += 1
        if self.steps % 2 or self.task.optimizer.learning_rate > dropout.AT_REST:
            self.last = super().train_step(batch)
        return self.last


class SeedIgnored(DrawingSession):
    def __init__(self, *arguments: Any, seed: int) -> None:
        super().__init__(*arguments, seed=7)


class SeedFromTheClock(DrawingSession):
    def __init__(self, *arguments: Any, seed: int) -> None:
        super().__init__(*arguments, seed=int(np.random.default_rng().integers(2**32)))


class LeftOnInEvaluation(DrawingSession):
    def eval_step(self, batch: Batch) -> tuple[Array, Array]:
        self.drop = self.drop_in_training
        logits, self.state = self.forward(self.values, batch.inputs, self.state)
        return self.losses(logits, batch.labels), np.argmax(logits, axis=-1)


class AlsoBehindTheLastLayer(DrawingSession):
    """Dropout on the outputs of every layer of a GRU."""

    def forward(self, params: Any, inputs: Any, state: Any) -> Any:
        import autograd.numpy as anp

        hidden = {**params, "output/kernel": anp.eye(len(params["output/kernel"])), "output/bias": 0.0}
        features, state = super().forward(hidden, inputs, state)
        return self.drop(features, self.task.model.dropout) @ params["output/kernel"] + params["output/bias"], state


ALONE = f"between the layers, rate {dropout.RATE}"
TOGETHER = f"all sites, rate {dropout.JOINT_RATE}"


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (never_applied, f"{ALONE}: all losses are equal"),
        (half_the_rate, f"{ALONE}: mean"),
        (twice_the_rate, f"{ALONE}: mean"),
        (not_rescaled, f"{ALONE}: mean"),
        (one_mask_for_all_examples, f"{ALONE}: mean"),
        (with_drop(the_same_in_all_time_steps), f"{ALONE}: mean"),
        (AlsoBehindTheLastLayer, f"{ALONE}: mean"),
        (RepeatedMasks, f"{ALONE}: correlation with the losses"),
        (EveryMaskTwice, f"{ALONE}: correlation with the losses 1 steps before"),
        (a_constant_rate, f"{TOGETHER}: mean"),
        (LeftOnInEvaluation, "evaluated losses after steps with dropout"),
        (SeedFromTheClock, f"{TOGETHER}: the same seed again"),
        (SeedIgnored, f"{TOGETHER}: correlation of the losses of two seeds"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_of_a_language_models_dropout_is_caught_and_named(fault: type[ReferenceSession], where: str) -> None:
    assert caught(fault, GRU).startswith(where)


@pytest.mark.parametrize(
    ("fault", "site"),
    [
        (with_drop(place(0)), "embeddings"),
        (with_drop(place(1)), "attention output"),
        (with_drop(place(2)), "feed-forward output"),
        (without_attention, "attention probabilities"),
        (with_drop(the_same_in_both_layers), "attention output"),
        (half_the_rate, "embeddings"),
    ],
    ids=["no embeddings", "no attention output", "no feed-forward output", "no probabilities", "same masks", "half"],
)
def test_a_place_of_bert_without_its_dropout_is_caught_and_named(fault: type[ReferenceSession], site: str) -> None:
    assert caught(fault, BERT).startswith(f"{site}, rate {dropout.RATE}")


def test_the_whole_ladder_ends_at_the_rung_of_dropout() -> None:
    ladder = parity.climb(Subject(never_applied), GRU, DOUBLE)
    assert (ladder.rungs[-1].name, ladder.passed) == ("dropout", False)
    assert ladder.rungs[-1].where.startswith("between the layers")


def test_the_climb_before_the_one_that_is_timed_leaves_dropout_to_it() -> None:
    ladder = parity.climb(Subject(never_applied), GRU, DOUBLE, timed=False)
    assert ladder.passed
    later = {rung.name: rung.where for rung in ladder.rungs if "left to the climb" in rung.where}
    assert set(later) == {"dropout", "full size"}


# Power and false alarms.


@cache
def losses_at(site: str, name: str, share: float, draws: int, seed: int) -> Array:
    """Draws of the reference at one site alone, at a share of the rung's rate."""
    task, params = small({"gru_lm": GRU, "bert_sentiment": BERT}[name])
    (found,) = [candidate for candidate in dropout.sites(task, params) if candidate.name == site]
    at = dropout.with_rates(task, **{found.rate: share * dropout.RATE})
    batch = dropout.alike(next(iter(task.train_batches(seed=0))))
    drawn: Array = ARBITER.draw_losses(at, found.params, batch, count=draws, rng=np.random.default_rng(seed))  # type: ignore[attr-defined]
    return drawn


@pytest.mark.parametrize(("name", "site"), [(name, site) for name, found in SITES.items() for site in found])
def test_a_halved_rate_and_a_site_left_out_are_found_in_at_least_99_of_100_climbs(name: str, site: str) -> None:
    expected = losses_at(site, name, 1.0, dropout.REFERENCE_DRAWS, 1)
    climbs, samples = 24, len(SITES[name]) + 1
    halved = np.split(losses_at(site, name, 0.5, climbs * dropout.DRAWS, 2), climbs)

    def missed(draws: int, beyond: float) -> float:
        """The chance of a look that is not beyond; the statistic is a norm of two nearly normal figures, far from 0."""
        judged = [
            dropout.distribution(site, found[:draws], expected, rounding=0.0, samples=samples) for found in halved
        ]
        statistics = [comparison.difference for comparison in judged]
        return NormalDist(mean(statistics), stdev(statistics)).cdf(beyond)

    limit = dropout.distribution(site, halved[0], expected, rounding=0.0, samples=samples).tolerance
    assert missed(dropout.FIRST_DRAWS, dropout.CLEAR) + missed(dropout.DRAWS, limit) < 0.01
    left_out = losses_at(site, name, 0.0, dropout.DRAWS, 3)
    assert np.ptp(left_out) == 0
    found = dropout.distribution(site, left_out, expected, rounding=0.0, samples=samples)
    assert found.difference > found.tolerance + 2.33


def test_chance_alone_exceeds_a_limit_as_often_as_the_limit_says() -> None:
    rng = np.random.default_rng(0)
    climbs, chance = 4000, 0.01
    limit = np.sqrt(-2 * np.log(chance))
    values = np.arange(dropout.DRAWS + dropout.REFERENCE_DRAWS, dtype=float) ** 3  # skewed; only the ranks count
    beyond = 0
    for _ in range(climbs):
        sample = rng.permutation(values)
        found, expected = sample[: dropout.DRAWS], sample[dropout.DRAWS :]
        beyond += dropout.distribution("", found, expected, rounding=0.0, samples=1).difference > limit
    assert beyond / climbs == pytest.approx(chance, abs=4 * np.sqrt(chance / climbs))


def test_a_shift_that_rounding_explains_is_no_difference_and_a_larger_one_is() -> None:
    expected = np.random.default_rng(0).normal(3.0, 0.01, dropout.REFERENCE_DRAWS)
    found = np.random.default_rng(1).normal(3.0, 0.01, dropout.DRAWS)
    assert dropout.distribution("", found * 1.005, expected, rounding=0.005, samples=2).passed
    assert not dropout.distribution("", found * 1.015, expected, rounding=0.005, samples=2).passed


@pytest.mark.parametrize("lag", [1, 2, 77, dropout.LAGS])
def test_losses_that_come_again_are_found_at_their_lag(lag: int) -> None:
    once = np.random.default_rng(2).standard_normal(lag)
    repeated = np.resize(once, dropout.DRAWS)
    if lag == 1:  # a constant has no lag: it is the distribution's affair
        assert dropout.repeats("", repeated, samples=2).passed
        return
    found = dropout.repeats("", repeated, samples=2)
    assert not found.passed
    assert f" {lag} steps before" in found.where or lag == 2


def test_a_right_dropout_is_not_called_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    false_alarms.main("gru_lm", 2)
    assert capsys.readouterr().out.startswith("gru_lm: 0 false alarms in 2 climbs")
