"""Several training steps in one call: the same results as so many single ones, and whole calls wherever time is taken."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tasks
from backends.api import STEPS_PER_CALL, Options, Unsupported
from backends.reference.session import ReferenceSession
from bench.worker import loop, parity
from bench.worker.several import Grouped, Grouping, steps_per_call
from bench.worker.trimmed import Trimming
from tasks.spec import Batch, Preset, Task
from tests.test_loop import Clock, RecordingSession, a_batch, a_preset, endless, measured

PLAIN = tasks.load("mnist_mlp", "smoke").task
DOUBLE = Options(precision="float64")


def small_gru() -> Task:
    task = tasks.load("gru_lm", "smoke").task.for_parity()
    return replace(task, model=replace(task.model, dropout=0.0))


class Together(ReferenceSession):
    """Takes several steps in one call, and counts the calls."""

    steps_per_call = STEPS_PER_CALL

    def __init__(self, task: Task, params: Any, *, seed: int = 0) -> None:
        super().__init__(task, params, seed=seed)
        self.calls = 0

    def train_steps(self, batches: Sequence[Batch], resets: Sequence[bool]) -> list[float]:
        assert len(batches) == len(resets) == self.steps_per_call
        self.calls += 1
        return [self.one(batch, reset) for batch, reset in zip(batches, resets, strict=True)]

    def one(self, batch: Batch, reset: bool) -> float:
        if reset:
            self.reset_state()
        return self.train_step(batch)

    def fetch(self, value: Any) -> Any:
        return np.asarray(value)


def grouped(session: type[Together], task: Task = PLAIN) -> tuple[Grouped, Together]:
    inner = session(task, task.init_params(0))
    return Grouped(inner), inner


def batches(task: Task, count: int) -> list[Batch]:
    return list(islice(task.train_batches(0), count))


@pytest.mark.parametrize("task", [PLAIN, small_gru()], ids=["perceptron", "carried state"])
def test_the_results_are_those_of_single_steps(task: Task) -> None:
    together, inner = grouped(Together, task)
    alone = ReferenceSession(task, task.init_params(0))
    found, expected = [], []
    for number, batch in enumerate(batches(task, 19)):
        batch = batch._replace(starts_sequence=number in (0, 5, 18))
        found.append(loop.step(together, batch))
        expected.append(loop.step(alone, batch))
    assert [float(together.fetch(loss)) for loss in found] == expected
    assert all(np.array_equal(value, alone.params()[name]) for name, value in together.params().items())
    assert inner.calls == 2
    assert inner.updates == 19


def test_whoever_asks_finds_every_step_taken() -> None:
    for ask in (lambda s: s.wait(), lambda s: s.params(), lambda s: s.settings(), lambda s: s.compilations()):
        together, inner = grouped(Together)
        for batch in batches(PLAIN, 3):
            loop.step(together, batch)
        assert inner.updates == 0
        ask(together)
        assert (inner.updates, inner.calls) == (3, 0)


def test_a_state_that_was_put_back_to_zero_is_zero_for_an_evaluation() -> None:
    task = small_gru()
    together, inner = grouped(Together, task)
    loop.step(together, batches(task, 1)[0])
    together.wait()
    assert inner.state is not None
    together.reset_state()
    together.wait()
    assert inner.state is None


def climb(session: type[Together]) -> Any:
    subject = Grouping(SimpleNamespace(open_session=lambda task, params, options: session(task, params)))  # type: ignore[arg-type]
    return parity.climb(subject, PLAIN, DOUBLE)


class SkipsTheLast(Together):
    def train_steps(self, batches: Sequence[Batch], resets: Sequence[bool]) -> list[float]:
        before = self.values
        losses = super().train_steps(batches, resets)
        self.values = before if self.updates == 29 else self.values
        return losses


class RepeatsTheFirst(Together):
    def train_steps(self, batches: Sequence[Batch], resets: Sequence[bool]) -> list[float]:
        return super().train_steps([batches[0]] * len(batches), resets)


class LossesOutOfOrder(Together):
    def train_steps(self, batches: Sequence[Batch], resets: Sequence[bool]) -> list[float]:
        return super().train_steps(batches, resets)[::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("session", "rung"),
    [(Together, None), (RepeatsTheFirst, "trajectory"), (LossesOutOfOrder, "trajectory"), (SkipsTheLast, "long run")],
)
def test_the_ladder_climbs_the_call_of_several_steps(session: type[Together], rung: str | None) -> None:
    ladder = climb(session)
    assert (None if ladder.passed else ladder.rungs[-1].name) == rung


def test_a_mode_of_several_steps_and_batches_of_several_lengths_exclude_each_other() -> None:
    task = tasks.load("bert_sentiment", "smoke").task.for_parity()
    backend = SimpleNamespace(open_session=lambda task, params, options: Together(task, params))
    with pytest.raises(Unsupported, match="batches of several lengths do not go into one call"):
        Grouping(Trimming(backend)).open_session(task, task.init_params(0), Options(mode="trim"))  # type: ignore[arg-type]


def test_a_session_without_such_a_mode_is_left_as_it_is() -> None:
    backend = SimpleNamespace(open_session=lambda task, params, options: ReferenceSession(task, params))
    opened = Grouping(backend).open_session(PLAIN, PLAIN.init_params(0), DOUBLE)  # type: ignore[arg-type]
    assert isinstance(opened, ReferenceSession)
    assert steps_per_call(opened) == 1


class Scripted(RecordingSession):
    """Whose steps take their time when they are taken."""

    steps_per_call = STEPS_PER_CALL

    def train_steps(self, batches: Sequence[Batch], resets: Sequence[bool]) -> list[float]:
        self.calls.append("several")
        return [self.train_step(batch) for batch in batches]


def test_a_first_call_is_whole_and_a_block_is_made_of_whole_calls() -> None:
    clock = Clock()
    preset: Preset = a_preset(clock, endless(a_batch()), warmup_steps=3)
    session = Scripted(clock, first_step_s=8.0)
    window = measured(Grouped(session), preset, clock, blocks=4, block_steps=None)  # about ten steps would be one block
    assert window.block_steps % STEPS_PER_CALL == 0
    assert window.first_step_s > 8.0 + 7 * 0.25
    at = clock.calls.index("several")
    assert clock.calls[at : at + 9] == ["several", *["train"] * 8]
    assert clock.calls[-1 - clock.calls[::-1].index("several") :].count("train") == 8  # none alone at the end
    assert [update for update, _ in window.losses][:8] == list(range(1, 9))


def test_a_curve_has_whole_calls_between_its_points() -> None:
    clock = Clock()
    session = Scripted(clock)
    curve = loop.train(Grouped(session), endless(a_batch()), steps=1004, clock=clock).curve  # type: ignore[arg-type]
    steps = [number for number, _, _ in curve]
    assert (steps[0], steps[-1]) == (1, 1004)  # both compile nothing that is not compiled after the second point
    assert {(number - 1) % STEPS_PER_CALL for number in steps[:-1]} == {0}
    assert clock.calls.count("several") == 1003 // STEPS_PER_CALL
