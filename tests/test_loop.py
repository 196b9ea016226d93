"""The training loop on a scripted clock: which seconds are counted, where the barriers stand, what is left out."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, count, cycle, islice, repeat
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from bench.records import proof, rules, steadiness
from bench.records.record import Timings
from bench.worker import loop
from bench.worker.loop import DISTINCT_BATCHES, Diverged
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
        self.prepare_s = 0.0

    def prepare(self, batch: Batch) -> Batch:
        self.clock.now += self.prepare_s
        return batch

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


def a_preset(clock: Clock, batches: Iterator[Batch], *, warmup_steps: int) -> Any:
    def train_batches(seed: int) -> Iterator[Batch]:
        for batch in batches:
            clock.calls.append("build")
            clock.now += 100  # building must never be in a figure
            yield batch

    task = SimpleNamespace(train_batches=train_batches, name="a task")
    return SimpleNamespace(task=task, warmup_steps=warmup_steps, warmup_s=0.0)


STEP = PUT_S + STEP_S
STEADYING = 3  # blocks of a warm-up whose steps all take as long


def measured(
    session: Any, preset: Any, clock: Clock, *, blocks: int, block_steps: int | None = 1, **more: Any
) -> loop.Window:
    """A window of so many blocks, alone; without `block_steps` a block lasts about as long as ten steps."""
    return loop.measure(
        session, preset, clock=clock, turns=loop.Alone(blocks, 10 * STEP, **more), block_steps=block_steps
    )


def endless(batch: Batch) -> Iterator[Batch]:
    return (batch for _ in count())


def test_every_figure_is_exact() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch(items=4)), warmup_steps=3)
    session = RecordingSession(clock, first_step_s=8.0)
    session.prepare_s = 100.0  # preparing must never be in a figure
    window = measured(session, preset, clock, blocks=4, block_steps=2)
    block_s = 2 * STEP + WAIT_S
    assert window.first_step_s == PUT_S + 8 + WAIT_S
    assert window.warmup_s == 3 * STEP + WAIT_S + STEADYING * block_s
    assert window.blocks_s == [block_s] * 4
    assert window.window_s == sum(window.blocks_s)
    assert window.items == 4 * 2 * 4


class InTurns(loop.Alone):
    """Blocks with others' between them."""

    lead = loop.LEAD


@pytest.mark.parametrize("together", [1, 4])
def test_the_first_call_of_a_turn_is_in_no_figure_and_its_updates_count(together: int) -> None:
    clock = Clock()
    session = RecordingSession(clock)
    session.steps_per_call = together  # type: ignore[attr-defined]
    before = [1.0] * (together + 1 + STEADYING * together)
    session.durations = chain(before, cycle([*[9.0] * together, *[1.0] * together]))
    window = loop.measure(
        session, a_preset(clock, endless(a_batch(items=4)), warmup_steps=1), clock=clock, turns=InTurns(3, 1.0),
        block_steps=together,
    )  # fmt: skip
    assert window.blocks_s == [together * (1 + PUT_S) + WAIT_S] * 3
    assert window.items == 3 * together * 4
    assert clock.calls.count("train") == len(before) + 6 * together
    assert window.losses[-1][0] <= len(before) + 6 * together


def test_blocks_of_different_lengths_are_told_apart_and_add_up_to_the_window() -> None:
    clock = Clock()
    session = RecordingSession(clock)
    session.durations = iter([1.0, 1.0, *[1.0] * STEADYING, 4.0, 8.0, 16.0])
    window = measured(session, a_preset(clock, endless(a_batch()), warmup_steps=1), clock, blocks=3)
    assert window.blocks_s == [4 + PUT_S + WAIT_S, 8 + PUT_S + WAIT_S, 16 + PUT_S + WAIT_S]
    assert window.window_s == sum(window.blocks_s)


def test_the_warm_up_goes_on_until_three_blocks_in_a_row_are_alike_but_not_for_ever() -> None:
    def blocks_of_warm_up(*durations: float) -> float:
        clock = Clock()
        session = RecordingSession(clock)
        session.durations = chain([1.0, 1.0], durations, repeat(1.0))
        window = measured(session, a_preset(clock, endless(a_batch()), warmup_steps=1), clock, blocks=1)
        return clock.calls.count("train") - 1 - 1 - len(window.blocks_s)

    assert blocks_of_warm_up(1.0, 1.0, 1.0) == 3
    assert blocks_of_warm_up(9.0, 5.0, 1.0, 1.0, 1.0) == 5
    assert blocks_of_warm_up(1.0, 1.0, 9.0, 1.0, 1.0, 1.0) == 6
    assert blocks_of_warm_up(*(2.0**i for i in range(100))) == loop.MAX_WARMUP_BLOCKS


def test_the_warm_up_lasts_as_many_seconds_as_the_preset_says() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=1)
    preset.warmup_s = 20 * STEP
    measured(RecordingSession(clock), preset, clock, blocks=1)
    assert clock.calls.count("train") == 1 + 20 + STEADYING + 1


def test_a_block_has_as_many_steps_as_take_its_time_unless_the_arm_has_its_number() -> None:
    for block_steps, expected in ((None, 10), (7, 7)):
        clock = Clock()
        preset = a_preset(clock, endless(a_batch()), warmup_steps=50)
        window = measured(RecordingSession(clock), preset, clock, blocks=2, block_steps=block_steps)
        assert window.block_steps == expected
        assert window.items == 4 * 2 * expected


def test_what_is_forgotten_is_warm_up() -> None:
    window = loop.Window(warmup_s=5.0, blocks_s=[1.0, 2.0], items=10, tokens=3)
    window.forget()
    assert window == loop.Window(warmup_s=8.0)


def test_one_barrier_per_block_stands_between_its_last_step_and_the_clock() -> None:
    clock = Clock()
    measured(
        RecordingSession(clock), a_preset(clock, endless(a_batch()), warmup_steps=2), clock, blocks=2, block_steps=3
    )
    step = ["put", "train"]
    block = ["clock", *step, *step, *step, "wait", "clock"]
    assert [call for call in clock.calls if call not in ("build", "fetch")][-18:] == [*block, *block]


def test_batches_are_built_before_the_clock_starts() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=5)
    measured(RecordingSession(clock), preset, clock, blocks=50, block_steps=10)
    assert clock.calls[: DISTINCT_BATCHES + 1] == ["build"] * DISTINCT_BATCHES + ["clock"]
    assert clock.calls.count("build") == DISTINCT_BATCHES
    assert clock.calls.count("train") == 1 + 5 + 10 * STEADYING + 10 * 50  # they are repeated


def test_padding_and_the_steps_before_the_window_are_not_counted() -> None:
    clock = Clock()
    counts = chain([8] * (1 + 2 + 2 * STEADYING), [5, 3, 2, 1], repeat(8))
    batches = (a_batch(items=n, padding=8 - n) for n in counts)
    preset = a_preset(clock, batches, warmup_steps=2)
    assert measured(RecordingSession(clock), preset, clock, blocks=2, block_steps=2).items == 5 + 3 + 2 + 1


def test_the_state_is_reset_exactly_where_a_sequence_starts() -> None:
    clock = Clock()
    batches = (a_batch(starts_sequence=at % 4 == 0) for at in count())
    measured(RecordingSession(clock), a_preset(clock, batches, warmup_steps=3), clock, blocks=1, block_steps=4)
    calls = [call for call in clock.calls if call not in ("build", "clock", "wait", "fetch")]
    assert calls == ["reset", *["put", "train"] * 4] * (1 + STEADYING + 1)


def test_a_step_does_not_wait() -> None:
    clock = Clock()
    assert loop.step(RecordingSession(clock), a_batch()) == 0.5
    assert clock.calls == ["put", "train"]


def test_what_watches_the_window_is_entered_just_before_each_block_and_left_just_after() -> None:
    clock = Clock()

    @contextmanager
    def around() -> Iterator[None]:
        clock.calls.append("entered")
        yield
        clock.calls.append("left")

    class Watching(loop.Alone):
        def block(self) -> AbstractContextManager[object]:
            return around()

    turns = Watching(2, STEP)
    loop.measure(
        RecordingSession(clock),
        a_preset(clock, endless(a_batch()), warmup_steps=1),
        clock=clock,
        turns=turns,
        block_steps=1,
    )
    block = ["entered", "clock", "put", "train", "wait", "clock", "left"]
    assert [call for call in clock.calls if call != "fetch"][-14:] == [*block, *block]


def test_a_compilation_inside_the_window_is_counted_and_one_before_it_is_not() -> None:
    for answers, expected in (((3, 3), 0), ((3, 5), 2), ((), None)):
        clock = Clock()
        session = RecordingSession(clock)
        session.compiled = iter(answers)
        preset = a_preset(clock, endless(a_batch()), warmup_steps=1)
        assert measured(session, preset, clock, blocks=2).compilations == expected


def test_the_losses_of_the_first_updates_and_of_every_tenth_are_fetched_when_the_window_has_closed() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=2)
    session = RecordingSession(clock, losses=(float(update) for update in count(1)))
    window = measured(session, preset, clock, blocks=4, block_steps=15)
    updates = [*range(1, 51), *range(60, 101, 10)]  # of 1 + 2 + 3 * 15 + 4 * 15
    assert window.losses == [(update, float(update)) for update in updates]
    first = clock.calls.index("fetch")
    assert clock.calls[first:] == ["fetch"] * len(updates)
    assert clock.calls[first - 1] == "clock"


def test_no_loss_is_kept_after_the_last_one_that_counts() -> None:
    clock = Clock()
    window = measured(
        RecordingSession(clock), a_preset(clock, endless(a_batch()), warmup_steps=0), clock, blocks=10, block_steps=100
    )
    assert window.losses[-1][0] == loop.LAST_LOSS


def test_a_loss_that_is_no_number_is_told_with_its_update() -> None:
    clock = Clock()
    session = RecordingSession(clock, losses=(1.0 if update < 15 else float("nan") for update in count(1)))
    with pytest.raises(Diverged, match="the training loss was nan at update 15"):
        measured(session, a_preset(clock, endless(a_batch()), warmup_steps=0), clock, blocks=3, block_steps=5)


def test_tokens_that_are_not_padding_are_counted_where_a_task_tells_them() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch(items=4)), warmup_steps=1)
    assert measured(RecordingSession(clock), preset, clock, blocks=3, block_steps=2).tokens is None
    preset.task.tokens = lambda batch: 10 * batch.items
    assert measured(RecordingSession(clock), preset, clock, blocks=3, block_steps=2).tokens == 2 * 3 * 40


def test_every_shape_of_a_session_that_trims_has_its_first_step_before_the_warm_up() -> None:
    clock = Clock()
    lengths = [4, 4, 2, 4, 3, 2]
    preset = a_preset(
        clock, (a_batch(items=lengths[at % 6], padding=5 - lengths[at % 6]) for at in count()), warmup_steps=0
    )
    preset.task.batch_flops = lambda batch: 100 * len(batch.labels)
    session: Any = RecordingSession(clock, first_step_s=8.0)
    session.durations = iter([8.0, STEP_S, 16.0, STEP_S, 32.0])  # three shapes, in the first five batches
    session.trim = lambda batch: batch._replace(
        inputs={"x": batch.inputs["x"][: batch.items]}, labels=batch.labels[: batch.items]
    )
    window = measured(session, preset, clock, blocks=2, block_steps=6)
    assert window.first_step_s == 8 + 16 + 32 + 3 * (PUT_S + WAIT_S)
    assert window.blocks_s == [6 * STEP + WAIT_S] * 2
    assert window.flops == 2 * 100 * sum(lengths)
    assert window.items == 2 * sum(lengths)


class TrainedOn(RecordingSession):
    """Remembers the batches of its steps, by their first value."""

    def __init__(self, clock: Clock, *, trims: bool) -> None:
        super().__init__(clock)
        self.trained: list[int] = []
        if trims:
            self.trim = shortened

    def train_step(self, batch: Batch) -> float:
        self.trained.append(int(batch.labels[0]))
        return super().train_step(batch)


def shortened(batch: Batch) -> Batch:
    return batch._replace(inputs={"x": batch.inputs["x"][: batch.items]})


@pytest.fixture
def of_three_lengths() -> tuple[Clock, Any, dict[int, int]]:
    """A clock, a preset with batches of 2, 4 and 6 items, and the items of each batch by its first value."""
    clock, items = Clock(), {}
    drawn = np.random.default_rng(3).choice([2, 4, 6], size=DISTINCT_BATCHES, p=[0.02, 0.58, 0.4])
    items = {100 * at: int(one) for at, one in enumerate(drawn)}
    made = (a_batch(items=one, padding=6 - one, first=at) for at, one in items.items())
    preset = a_preset(clock, made, warmup_steps=3)
    preset.task.trimmed = shortened
    return clock, preset, items


def test_of_batches_that_can_be_cut_every_stretch_has_the_lengths_in_their_shares(of_three_lengths: Any) -> None:
    clock, preset, items = of_three_lengths
    session = TrainedOn(clock, trims=True)
    measured(session, preset, clock, blocks=20, block_steps=10)
    seen = [items[one] for one in session.trained]
    assert sorted(seen[:3]) == [2, 4, 6]  # until there was one of each, no other step is taken
    mean = np.mean(list(items.values()))
    stretches = [np.mean(seen[at : at + 80]) for at in range(3, len(seen) - 80)]
    assert np.all(np.abs(stretches / mean - 1) < 0.03)
    assert len(set(session.trained[:DISTINCT_BATCHES])) == min(len(session.trained), DISTINCT_BATCHES)


@pytest.mark.parametrize(("trims", "block_steps", "start"), [(True, 4, 32), (False, 1, 1 + 3 + STEADYING)])
def test_where_steps_differ_in_length_blocks_have_several_and_windows_the_same_batches(
    of_three_lengths: Any, trims: bool, block_steps: int, start: int
) -> None:
    clock, preset, _ = of_three_lengths
    session = TrainedOn(clock, trims=trims)
    turns = loop.Alone(20, STEP)  # a block is as long as a step
    window = loop.measure(session, preset, clock=clock, turns=turns)
    assert (window.block_steps, len(session.trained)) == (block_steps, start + 20 * block_steps)


def test_a_session_that_only_queues_its_steps_has_the_same_window(of_three_lengths: Any) -> None:
    class Queueing(TrainedOn):
        queued = 0

        def train_step(self, batch: Batch) -> float:
            self.trained.append(int(batch.labels[0]))
            self.queued += 1
            return 0.5

        def put(self, batch: Batch) -> Batch:
            self.clock.now += STEP / 50  # to queue it
            return batch

        def wait(self) -> None:
            self.clock.now += self.queued * STEP
            self.queued = 0

    clock, preset, _ = of_three_lengths
    preset.warmup_steps, preset.warmup_s = 0, 2 * STEP
    session = Queueing(clock, trims=True)
    loop.measure(session, preset, clock=clock, turns=loop.Alone(20, STEP))
    assert len(session.trained) == 32 + 20 * loop.MIXED_STEPS


def test_nobody_waits_between_steps_that_were_announced(of_three_lengths: Any) -> None:
    class Announced(TrainedOn):
        """As one of several processes, of which the others are in the steps that they were told."""

        coming = 0

        def announce(self, coming: Any) -> None:
            assert not self.coming
            self.coming = len(list(coming))

        def train_step(self, batch: Batch) -> float:
            self.coming = max(0, self.coming - 1)
            return super().train_step(batch)

        def wait(self) -> None:
            assert not self.coming
            super().wait()

    clock, preset, _ = of_three_lengths
    loop.measure(Announced(clock, trims=True), preset, clock=clock, turns=loop.Alone(20, 3 * STEP))


def test_the_order_of_batches_is_the_same_whether_they_are_cut_or_not(of_three_lengths: Any) -> None:
    clock, preset, items = of_three_lengths
    batches = [a_batch(items=one, padding=6 - one, first=at) for at, one in items.items()]
    orders = []
    for trims in (True, False):
        preset.task.train_batches = lambda seed: iter(batches)
        session = TrainedOn(clock, trims=trims)
        measured(session, preset, clock, blocks=20, block_steps=4)
        orders.append(session.trained[:80])
    assert orders[0] == orders[1] != sorted(orders[0])


def test_without_trimming_the_operations_are_those_of_the_cell() -> None:
    clock = Clock()
    preset = a_preset(clock, endless(a_batch()), warmup_steps=0)
    preset.task.batch_flops = lambda batch: 100
    assert measured(RecordingSession(clock), preset, clock, blocks=1).flops is None


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
    [("everything", 0, None), ("the loss", 2, "67 % of a step"), ("nothing", 3, "100 % of a step")],
)
def test_a_barrier_that_does_not_wait_for_the_weights_is_caught(
    waits_for: str, unfinished_s: float, fault: str | None
) -> None:
    clock = Clock()
    session = AsynchronousSession(clock, waits_for)
    _, found = loop.check_barrier(session, endless(a_batch()), clock=clock)
    assert found == unfinished_s
    faults = list(rules.timing_faults(msgspec.structs.replace(STEADY, unfinished_s=found)))
    assert [fault in told for told in faults] == ([True] if fault else [])


STEADY = Timings(
    import_s=1, build_s=1, first_step_s=1, warmup_s=1, block_steps=2, blocks_s=[6.0] * 10, window_s=60.0, items=1000,
    compilations=0, unfinished_s=0.0,
)  # fmt: skip


def test_steady_timings_have_no_fault() -> None:
    assert list(rules.timing_faults(STEADY)) == []
    assert list(rules.timing_faults(msgspec.structs.replace(STEADY, compilations=None, unfinished_s=None))) == []


def test_a_compilation_in_the_window_is_a_fault() -> None:
    (fault,) = list(rules.timing_faults(msgspec.structs.replace(STEADY, compilations=1)))
    assert "1 compilations inside the timed window" in fault


@pytest.mark.parametrize(("window_s", "faulty"), [(60.003, False), (60.1, True), (59.0, True)])
def test_blocks_that_do_not_add_up_to_the_window_are_a_fault(window_s: float, faulty: bool) -> None:
    faults = list(rules.timing_faults(msgspec.structs.replace(STEADY, window_s=window_s)))
    assert [("together" in fault) for fault in faults] == [True] * faulty


@pytest.mark.parametrize(
    ("blocks_s", "steady"),
    [
        ([1.0] * 20, True),
        ([1.0] * 10 + [1.02] * 10, True),  # within the margin
        ([1.0] * 10 + [1.2] * 10, False),
        ([2.0, 2.1] * 5 + [1.0, 1.1] * 5, False),
        ([1.0, 2.0] * 5 + [1.1, 2.1] * 5, True),  # the blocks scatter more than that
        ([1.0] * 11 + [9.0], True),  # one slow block is noise
        ([1.0, 2.0], True),  # too few to say
    ],
)
def test_a_window_is_steady_if_its_halves_differ_by_no_more_than_the_margin_or_their_scatter(
    blocks_s: list[float], steady: bool
) -> None:
    assert steadiness.is_steady(blocks_s) is steady


HALVES = [1.0] * 10 + [1.2] * 10
EVEN = [1.0] * 20


@pytest.mark.parametrize(
    ("windows", "changed"),
    [
        ([EVEN, EVEN], [False, False]),
        ([HALVES], [True]),
        ([HALVES, EVEN], [True, False]),
        ([HALVES, [2 * block for block in HALVES]], [False, False]),  # the machine did it to both
        ([HALVES, HALVES, HALVES], [False, False, False]),
        ([HALVES, HALVES[::-1]], [True, True]),
        ([HALVES, HALVES[::-1], EVEN], [True, True, False]),
        ([HALVES, [block**2 for block in HALVES]], [True, True]),  # one by 20 %, the other by 44 %
        ([HALVES, [block**1.1 for block in HALVES]], [False, False]),  # within the margin of each other
        ([[1.0] * 10 + [1.04] * 10, [1.0] * 10 + [1.015] * 10], [True, False]),  # too, but most of it is its own
        ([HALVES, [1.0] * 9 + [1.2] * 10], [True, True]),  # they cannot have taken the same turns
        ([HALVES, [0.0] * 20], [True, False]),
        ([], []),
    ],
)
def test_a_window_changed_by_itself_if_the_others_of_the_same_turns_did_not_change_alike(
    windows: list[list[float]], changed: list[bool]
) -> None:
    assert steadiness.changed(windows) == changed


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
    train_s = loop.train(RecordingSession(clock), endless(a_batch()), steps=10, clock=clock).seconds
    assert train_s == 10 * (PUT_S + STEP_S) + WAIT_S
    assert clock.calls[-2:] == ["wait", "clock"]


@pytest.mark.parametrize(("steps", "points"), [(1, [1]), (3, [1, 2, 3]), (205, [1, *range(4, 205, 4), 205])])
def test_the_curve_has_the_first_the_last_and_evenly_spaced_steps(steps: int, points: list[int]) -> None:
    clock = Clock()
    session = RecordingSession(clock, losses=(float(number) for number in count(1)))
    curve = loop.train(session, endless(a_batch()), steps=steps, clock=clock).curve
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


def a_validated_training(batches: Iterator[Batch], *, steps: int, validations: int) -> tuple[loop.Trained, list[int]]:
    """The training, and how many steps had been taken before each evaluation, which takes 50 s."""
    clock, before = Clock(), list[int]()

    def validate() -> float:
        before.append(clock.calls.count("train"))
        clock.now += 50
        return float(len(before))

    session = RecordingSession(clock)
    return loop.train(session, batches, steps=steps, clock=clock, validations=validations, validate=validate), before


def test_a_training_is_validated_at_evenly_spread_steps_while_its_clock_stands_still() -> None:
    trained, before = a_validated_training(endless(a_batch()), steps=10, validations=4)
    assert before == [2, 4, 6, 8]
    assert [(step, value) for step, _, value in trained.validation] == [(2, 1.0), (4, 2.0), (6, 3.0), (8, 4.0)]
    assert [seconds for _, seconds, _ in trained.validation] == [
        number * (PUT_S + STEP_S) + waits * WAIT_S for waits, number in enumerate((2, 4, 6, 8), start=1)
    ]
    assert trained.seconds == 10 * (PUT_S + STEP_S) + 5 * WAIT_S
    assert trained.curve[-1][1] <= trained.seconds


def test_a_carried_state_is_not_lost_to_an_evaluation() -> None:
    """It waits for the batch before which the state is put back to zero anyway."""
    passes = [a_batch(starts_sequence=number % 7 == 0) for number in range(20)]
    trained, before = a_validated_training(iter(passes), steps=20, validations=4)  # due after 4, 8, 12 and 16 steps
    assert before == [7, 14]
    assert len(trained.validation) == 2


def test_a_training_shorter_than_its_evaluations_has_fewer() -> None:
    _, before = a_validated_training(endless(a_batch()), steps=2, validations=4)
    assert before == [1]


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


def test_a_window_of_few_slow_steps_leaves_losses_enough_to_prove_its_work() -> None:
    """BERT at its published size does 26 updates in all: as many blocks of one step, and a short warm-up."""
    kept = loop._Losses()
    for update in range(1, 27):
        kept.note(1.0 / update)
    assert len(kept.handles) >= proof.FEWEST
    for update in range(27, 1001):
        kept.note(1.0 / update)
    assert [update for update in kept.handles if update > 50] == list(range(60, 501, 10))
