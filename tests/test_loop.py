"""The training loop on a scripted clock: which seconds are counted, where the barriers stand, what is left out."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import loop
from bench.loop import DISTINCT_BATCHES, Diverged
from bench.record import Timings
from tasks.spec import Batch

STEP_S, WAIT_S, PUT_S = 0.25, 0.5, 0.125  # powers of two: sums are exact


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        self.calls.append("clock")
        return self.now


class RecordingSession:
    """Writes down what it is asked, in one list with the clock, and lets time pass as scripted."""

    def __init__(self, clock: Clock, *, first_step_s: float = STEP_S, losses: Iterator[float] | None = None) -> None:
        self.clock, self.calls = clock, clock.calls
        self.durations = iter([first_step_s])
        self.losses = losses or iter(lambda: 0.5, None)
        self.compiled: Iterator[int] = iter([])  # the answers to the question how often

    def put(self, batch: Batch) -> Batch:
        self.calls.append("put")
        self.clock.now += PUT_S
        return batch

    def train_step(self, batch: Batch) -> float:
        self.calls.append("train")
        self.clock.now += next(self.durations, STEP_S)
        return next(self.losses)

    def eval_step(self, batch: Batch) -> tuple[Any, Any]:
        self.calls.append("eval")
        return batch.inputs["x"] * 10, batch.inputs["x"] + 1

    def wait(self) -> None:
        self.calls.append("wait")
        self.clock.now += WAIT_S

    def reset_state(self) -> None:
        self.calls.append("reset")

    def compilations(self) -> int | None:
        return next(self.compiled, None)

    def fetch(self, value: Any) -> Any:
        self.calls.append("fetch")
        return np.asarray(value)


def a_batch(*, items: int = 4, padding: int = 0, starts_sequence: bool = False, first: int = 0) -> Batch:
    values = np.arange(first, first + items + padding)
    weights = np.array([1.0] * items + [0.0] * padding, np.float32)
    return Batch({"x": values.astype(np.float32)}, values.astype(np.int32), weights, starts_sequence)


def a_preset(clock: Clock, batches: Iterator[Batch], *, warmup_steps: int, block_steps: int, blocks: int) -> Any:
    def train_batches(seed: int) -> Iterator[Batch]:
        for batch in batches:
            clock.calls.append("build")
            clock.now += 100  # building must never be in a figure
            yield batch

    task = SimpleNamespace(train_batches=train_batches)
    return SimpleNamespace(task=task, warmup_steps=warmup_steps, block_steps=block_steps, blocks=blocks)


def endless(batch: Batch) -> Iterator[Batch]:
    return (batch for _ in count())


def test_every_figure_is_exact() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch(items=4)), warmup_steps=3, block_steps=2, blocks=4)
    window = loop.measure(RecordingSession(clock, first_step_s=8.0), preset, clock=clock, min_window_s=0)
    assert window.first_step_s == PUT_S + 8 + WAIT_S
    assert window.warmup_s == 3 * (PUT_S + STEP_S) + WAIT_S
    assert window.blocks_s == [2 * (PUT_S + STEP_S) + WAIT_S] * 4
    assert window.window_s == sum(window.blocks_s)
    assert window.items == 4 * 2 * 4


def test_blocks_of_different_lengths_are_told_apart_and_add_up_to_the_window() -> None:
    clock = Clock()
    session = RecordingSession(clock)
    session.durations = iter([1.0, 2.0, 4.0, 8.0, 16.0])
    preset = a_preset(clock, endless(a_batch()), warmup_steps=1, block_steps=1, blocks=3)
    window = loop.measure(session, preset, clock=clock, min_window_s=0)
    assert window.blocks_s == [4 + PUT_S + WAIT_S, 8 + PUT_S + WAIT_S, 16 + PUT_S + WAIT_S]
    assert window.window_s == sum(window.blocks_s)


def test_one_barrier_per_block_stands_between_its_last_step_and_the_clock() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=2, block_steps=3, blocks=2)
    loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0)
    calls = [call for call in clock.calls if call != "build"]
    step = ["put", "train"]
    first, warmup = [*step, "wait"], [*step, *step, "wait"]
    block = [*step, *step, *step, "wait", "clock"]
    assert calls == ["clock", *first, "clock", *warmup, "clock", "clock", *block, *block, "clock", "fetch", "fetch"]


def test_batches_are_built_before_the_clock_starts() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=5, block_steps=10, blocks=50)
    loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0)
    assert clock.calls[: DISTINCT_BATCHES + 1] == ["build"] * DISTINCT_BATCHES + ["clock"]
    assert clock.calls.count("build") == DISTINCT_BATCHES
    assert clock.calls.count("train") == 1 + 5 + 10 * 50  # they are repeated


def test_no_more_batches_are_built_than_are_used() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=5, block_steps=2, blocks=10)
    loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0)
    assert clock.calls.count("build") == clock.calls.count("train") == 1 + 5 + 2 * 10


def test_padding_and_the_steps_before_the_window_are_not_counted() -> None:
    clock = Clock()
    batches = iter([a_batch(items=n, padding=8 - n) for n in (8, 8, 8, 5, 3, 2, 1)])
    preset = a_preset(clock, batches, warmup_steps=2, block_steps=2, blocks=2)
    assert loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0).items == 5 + 3 + 2 + 1


@pytest.mark.parametrize(("min_window_s", "blocks"), [(0.0, 2), (10.0, 2), (10.001, 3), (24.9, 5), (25.0, 5)])
def test_the_window_grows_by_whole_blocks_until_it_is_long_enough(min_window_s: float, blocks: int) -> None:
    clock = Clock()
    session = RecordingSession(clock)
    session.durations = iter([1.0, 1.0, *[5.0 - PUT_S - WAIT_S] * 100])
    preset = a_preset(clock, endless(a_batch()), warmup_steps=1, block_steps=1, blocks=2)
    window = loop.measure(session, preset, clock=clock, min_window_s=min_window_s)
    assert window.blocks_s == [5.0] * blocks
    assert window.window_s == 5.0 * blocks
    assert window.items == 4 * blocks


def test_the_window_lasts_a_second_unless_something_else_is_asked() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=0, block_steps=1, blocks=1)
    window = loop.measure(RecordingSession(clock), preset, clock=clock)
    assert len(window.blocks_s) == 2
    assert window.window_s == 2 * (PUT_S + STEP_S + WAIT_S) >= 1


def test_the_state_is_reset_exactly_where_a_sequence_starts() -> None:
    clock = Clock()
    batches = iter([a_batch(starts_sequence=start) for start in (True, False, True, False)])
    preset = a_preset(clock, batches, warmup_steps=1, block_steps=2, blocks=1)
    loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0)
    calls = [call for call in clock.calls if call not in ("build", "clock", "wait", "fetch")]
    assert calls == ["reset", "put", "train", "put", "train", "reset", "put", "train", "put", "train"]


def test_a_step_does_not_wait() -> None:
    clock = Clock()
    assert loop.step(RecordingSession(clock), a_batch()) == 0.5
    assert clock.calls == ["put", "train"]


def test_what_watches_the_window_is_entered_just_before_it_and_left_just_after() -> None:
    clock = Clock()
    around = ExitStack()
    around.callback(clock.calls.append, "left")
    preset = a_preset(clock, endless(a_batch()), warmup_steps=1, block_steps=1, blocks=2)
    session = RecordingSession(clock)
    window = loop.measure(session, preset, clock=clock, min_window_s=0, around=around)
    assert clock.calls[-5:] == ["clock", "clock", "left", "fetch", "fetch"]
    assert len(window.blocks_s) == 2


def test_a_compilation_inside_the_window_is_counted_and_one_before_it_is_not() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=1, block_steps=1, blocks=2)
    for answers, expected in (((3, 3), 0), ((3, 5), 2), ((), None)):
        session = RecordingSession(clock)
        session.compiled = iter(answers)
        assert loop.measure(session, preset, clock=clock, min_window_s=0).compilations == expected


def test_the_loss_of_every_blocks_last_update_is_fetched_when_the_window_has_closed() -> None:
    clock = Clock()
    preset = a_preset(clock, (a_batch() for _ in count()), warmup_steps=2, block_steps=3, blocks=4)
    session = RecordingSession(clock, losses=(float(update) for update in count(1)))
    window = loop.measure(session, preset, clock=clock, min_window_s=0)
    assert window.losses == [6.0, 9.0, 12.0, 15.0]
    first = clock.calls.index("fetch")
    assert clock.calls[first:] == ["fetch"] * 4
    assert clock.calls[first - 1] == "clock"


def test_a_loss_in_the_window_that_is_no_number_is_told_with_its_block() -> None:
    clock = Clock()
    preset = a_preset(clock, (a_batch() for _ in count()), warmup_steps=0, block_steps=2, blocks=3)
    session = RecordingSession(clock, losses=(1.0 if update < 5 else float("nan") for update in count(1)))
    with pytest.raises(Diverged, match="nan at the end of the window's block 2"):
        loop.measure(session, preset, clock=clock, min_window_s=0)


def test_tokens_that_are_not_padding_are_counted_where_a_task_tells_them() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch(items=4)), warmup_steps=1, block_steps=2, blocks=3)
    assert loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0).tokens is None
    preset.task.tokens = lambda batch: 10 * batch.items
    assert loop.measure(RecordingSession(clock), preset, clock=clock, min_window_s=0).tokens == 2 * 3 * 40


# The barrier.


class AsynchronousSession(RecordingSession):
    """Queues its work: a step returns at once, and whoever waits for a part of it lets time pass."""

    LOSS_S, REST_S = 1.0, 2.0  # of a step: until its loss is there, and from then until its weights are

    def __init__(self, clock: Clock, waits_for: str) -> None:
        super().__init__(clock)
        self.waits_for, self.pending_s = waits_for, 0.0

    def train_step(self, batch: Batch) -> float:
        self.pending_s += self.LOSS_S + self.REST_S
        return 0.5

    def wait(self) -> None:
        left = {"nothing": self.pending_s, "the loss": min(self.pending_s, self.REST_S), "everything": 0.0}[
            self.waits_for
        ]
        self.clock.now += self.pending_s - left
        self.pending_s = left

    def params(self) -> dict[str, Any]:
        self.clock.now += self.pending_s + 0.125
        self.pending_s = 0.0
        return {}


@pytest.mark.parametrize(
    ("waits_for", "unfinished_s", "fault"),
    [("everything", 0, None), ("the loss", 2, "67% of a step"), ("nothing", 3, "100% of a step")],
)
def test_a_barrier_that_does_not_wait_for_the_weights_is_caught(
    waits_for: str, unfinished_s: float, fault: str | None
) -> None:
    clock = Clock()
    session = AsynchronousSession(clock, waits_for)
    _, found = loop.check_barrier(session, endless(a_batch()), clock=clock)
    assert found == unfinished_s
    faults = loop.faults(msgspec.structs.replace(STEADY, unfinished_s=found))
    assert [fault in told for told in faults] == ([True] if fault else [])


STEADY = Timings(
    import_s=1, build_s=1, first_step_s=1, warmup_s=1, block_steps=2, blocks_s=[6.0] * 10, window_s=60.0, items=1000,
    compilations=0, unfinished_s=0.0,
)  # fmt: skip


def test_steady_timings_have_no_fault() -> None:
    assert loop.faults(STEADY) == []
    assert loop.faults(msgspec.structs.replace(STEADY, compilations=None, unfinished_s=None)) == []


def test_a_compilation_in_the_window_is_a_fault() -> None:
    (fault,) = loop.faults(msgspec.structs.replace(STEADY, compilations=1))
    assert "1 compilations inside the timed window" in fault


@pytest.mark.parametrize(("window_s", "faulty"), [(60.5, False), (61.0, True), (59.0, True)])
def test_blocks_that_do_not_add_up_to_the_window_are_a_fault(window_s: float, faulty: bool) -> None:
    faults = loop.faults(msgspec.structs.replace(STEADY, window_s=window_s))
    assert [("apart" in fault) for fault in faults] == [True] * faulty


@pytest.mark.parametrize(
    ("blocks_s", "told"),
    [
        ([1.0] * 12, None),
        ([1.0] * 6 + [1.09] * 6, None),
        ([1.0] * 6 + [1.2] * 6, "20% more time"),
        ([2.0, 2.0, 2.0] + [1.0] * 9, "50% less time"),
        ([1.0] * 11 + [9.0], None),  # one slow block is noise
    ],
)
def test_a_window_that_is_not_steady_is_told(blocks_s: list[float], told: str | None) -> None:
    remark = loop.unsteady(blocks_s)
    assert (told in remark) if told and remark else (told is remark)


# Training to a budget.


def test_training_takes_its_budget_of_batches_and_no_more() -> None:
    clock = Clock()
    batches = endless(a_batch())
    taken: list[Batch] = []
    loop.train(RecordingSession(clock), (taken.append(b) or b for b in batches), steps=7, clock=clock)
    assert len(taken) == 7
    assert clock.calls.count("train") == 7


def test_the_duration_of_a_training_ends_behind_the_barrier() -> None:
    clock = Clock()
    train_s, _ = loop.train(RecordingSession(clock), endless(a_batch()), steps=10, clock=clock)
    assert train_s == 10 * (PUT_S + STEP_S) + WAIT_S
    assert clock.calls[-2:] == ["wait", "clock"]


@pytest.mark.parametrize(("steps", "points"), [(1, [1]), (3, [1, 2, 3]), (205, [1, *range(4, 205, 4), 205])])
def test_the_curve_has_the_first_the_last_and_evenly_spaced_steps(steps: int, points: list[int]) -> None:
    clock = Clock()
    session = RecordingSession(clock, losses=(float(number) for number in count(1)))
    _, curve = loop.train(session, endless(a_batch()), steps=steps, clock=clock)
    assert curve == [(number, number * (PUT_S + STEP_S), float(number)) for number in points]
    assert clock.calls.count("fetch") == len(points)  # the others are never waited for


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_stops_the_training_where_it_is_seen(bad: float) -> None:
    losses = iter([*[1.0] * 60, *[bad] * 1000])  # from step 61 on; every fourth of 200 steps is looked at
    clock = Clock()
    with pytest.raises(Diverged, match=f"the training loss was {bad} at step 64"):
        loop.train(RecordingSession(clock, losses=losses), endless(a_batch()), steps=200, clock=clock)
    assert clock.calls.count("train") == 64


def test_a_loss_that_is_no_number_only_at_the_last_step_is_seen() -> None:
    losses = iter([*[1.0] * 204, float("nan")])
    with pytest.raises(Diverged, match="at step 205"):
        loop.train(RecordingSession(clock := Clock(), losses=losses), endless(a_batch()), steps=205, clock=clock)


# Evaluation.


def test_evaluation_is_in_order_and_without_padding() -> None:
    batches = [a_batch(items=4, first=0), a_batch(items=3, padding=1, first=4)]
    found = loop.evaluate(RecordingSession(Clock()), batches)
    np.testing.assert_array_equal(found.losses, np.arange(7) * 10)
    np.testing.assert_array_equal(found.predictions, np.arange(7) + 1)
    np.testing.assert_array_equal(found.labels, np.arange(7))
    assert (found.losses.dtype, found.predictions.dtype, found.labels.dtype) == (np.float64, np.int64, np.int64)


def test_padding_is_left_out_wherever_it_stands() -> None:
    batch = a_batch(items=4)._replace(weights=np.array([0, 1, 0, 1], np.float32))
    np.testing.assert_array_equal(loop.evaluate(RecordingSession(Clock()), [batch]).labels, [1, 3])


def test_positions_of_sequences_are_flattened_in_order() -> None:
    tokens = np.arange(6).reshape(2, 3)
    weights = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    found = loop.evaluate(RecordingSession(Clock()), [Batch({"x": tokens}, tokens, weights)])
    np.testing.assert_array_equal(found.labels, [0, 1, 3])
    np.testing.assert_array_equal(found.predictions, [1, 2, 4])


def test_evaluation_resets_the_state_before_and_after_and_where_a_sequence_starts() -> None:
    clock = Clock()
    batches = [a_batch(), a_batch(starts_sequence=True), a_batch()]
    loop.evaluate(RecordingSession(clock), batches)
    calls = [call for call in clock.calls if call != "fetch"]
    assert calls == ["reset", "put", "eval", "reset", "put", "eval", "put", "eval", "reset"]


def test_evaluation_never_trains() -> None:
    clock = Clock()
    loop.evaluate(RecordingSession(clock), list(islice(endless(a_batch()), 3)))
    assert "train" not in clock.calls
