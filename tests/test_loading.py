"""The frameworks' own loaders: what is proven of them, what is timed, what makes a record of it invalid, and what is told."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import tasks
from backends.api import Unsupported
from bench.records import rules
from bench.records.record import Feed, Loading, Probe, Record
from bench.report import (
    apart_plot,
    grouping,
    latex,
    loading,
    loading_plot,
    markdown,
    page,
    publish,
    table_csv,
    table_json,
)
from bench.worker import disturbance
from bench.worker import loading as worker
from bench.worker.loop import Alone
from bench.worker.trimmed import Trimmed
from tasks import batching
from tasks.spec import Batch, Examples
from tests.builders import QUIET, a_ladder, a_record, changed
from tests.fakes.campaign import FAKE as NAME
from tests.test_cli import FAKE, Done, bench

__all__ = ["bench"]  # the fixture

ROWS, SIZE = 90, 16


# The arrays that a task hands over.


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_tasks_arrays_hold_the_examples_of_one_pass_of_its_batches(name: str) -> None:
    task = tasks.load(name, "smoke").task
    examples = task.training_examples()  # type: ignore[attr-defined]
    steps = batching.steps_per_epoch(len(examples.labels), examples.batch_size)

    def rows(batches: Iterable[Batch]) -> list[bytes]:
        return [
            b"".join(value[row].tobytes() for value in (*batch.inputs.values(), batch.labels))
            for batch in batches
            for row in range(len(batch.labels))
            if np.any(batch.weights[row])
        ]

    own = rows(islice(task.train_batches(0), steps))
    given = rows(batching.in_order(examples.inputs, examples.labels, batch_size=examples.batch_size))
    assert sorted(own) == sorted(given)
    assert (own == given) is (not examples.shuffled)


def test_the_windows_of_streams_are_the_batches_of_streams() -> None:
    tokens = np.arange(1, 200, dtype=np.int32)
    common: dict[str, Any] = {"start": 0, "batch_size": 6, "window": 7}
    examples = batching.stream_examples(tokens, **common)
    made = list(batching.in_order(examples.inputs, examples.labels, batch_size=examples.batch_size))
    assert len(made) == 4  # of 33 tokens each stream
    for one, own in zip(made, batching.streams(tokens, **common), strict=False):
        assert np.array_equal(one.inputs["tokens"], own.inputs["tokens"])
        assert np.array_equal(one.labels, own.labels)
        assert np.array_equal(one.weights, own.weights)


# The proof, against planted faults.


def examples_of(*, shuffled: bool = True, rows: int = ROWS) -> Examples:
    values = np.random.default_rng(1).normal(size=(rows, 3)).astype(np.float32)
    return Examples({"x": values}, np.arange(rows, dtype=np.int32) % 5, SIZE, shuffled=shuffled)


class Plain:
    """A session that takes a task's batches as they are."""

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def on_host(self, batch: Batch) -> Batch:
        return batch


def task_of(examples: Examples) -> Any:
    def train_batches(seed: int) -> Iterator[Batch]:
        inputs, labels, size, shuffled = examples
        while True:
            order = np.random.default_rng(seed).permutation(len(labels)) if shuffled else np.arange(len(labels))
            yield from batching.one_pass(inputs, labels, order=order, batch_size=size)

    return SimpleNamespace(name="a task", unit="images", train_batches=train_batches)


class Faulty:
    """A loader with a fault in the order of its examples, or in its batches."""

    def __init__(
        self,
        examples: Examples,
        order: Callable[[np.random.Generator], Any],
        batch: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        self.examples, self.order, self.batch, self.rng = examples, order, batch, np.random.default_rng(3)

    def __iter__(self) -> Iterator[Batch]:
        order = self.order(self.rng)
        inputs, labels, size, _ = self.examples
        yield from map(self.batch, batching.one_pass(inputs, labels, order=order, batch_size=size))


def shuffled(rng: np.random.Generator) -> Any:
    return rng.permutation(ROWS)


def proven(loader: Any, *, in_order: bool = False) -> list[int]:
    examples = examples_of(shuffled=not in_order)
    return worker.prove(Plain(), task_of(examples), examples, loader)  # type: ignore[arg-type]


def test_a_proper_loader_is_proven_and_the_items_of_its_batches_are_told() -> None:
    assert proven(Faulty(examples_of(), shuffled)) == [SIZE] * 5 + [10]
    assert proven(Faulty(examples_of(), lambda rng: np.arange(ROWS)), in_order=True) == [SIZE] * 5 + [10]


def small_buffer(rng: np.random.Generator) -> Any:
    """A shuffle that has room for an eighth of the examples, as tf.data's with too small a buffer."""
    left, made = list(range(ROWS)), []
    while left:
        made.append(left.pop(int(rng.integers(min(len(left), ROWS // 8)))))
    return np.array(made)


def swapped_labels(batch: Batch) -> Batch:
    return batch._replace(labels=np.roll(batch.labels, 1))


def shorter_last(batch: Batch) -> Batch:
    rows = batch.items
    return Batch({"x": batch.inputs["x"][:rows]}, batch.labels[:rows], batch.weights[:rows])


@pytest.mark.parametrize(
    ("order", "batch", "why"),
    [
        (lambda rng: rng.permutation(ROWS)[:80], None, "is missing 10 of 90 examples and has 0 too many"),
        (lambda rng: np.append(rng.permutation(ROWS)[:-1], 0), None, "is missing 1 of 90 examples and has 1 too many"),
        (lambda rng: rng.integers(0, ROWS, ROWS), None, "of 90 examples and has"),  # with replacement
        (lambda rng: np.append(rng.permutation(ROWS), 0), None, "is missing 0 of 90 examples and has 1 too many"),
        (lambda rng: np.arange(ROWS), None, "pass 1 is not shuffled: its correlation with that of the data set is 1.00"),
        (lambda rng: np.arange(ROWS)[::-1], None, "its correlation with that of the data set is -1.00"),
        (small_buffer, None, "pass 1 is not shuffled: its correlation with that of the data set is 0."),
        (lambda rng: np.random.default_rng(0).permutation(ROWS), None,
         "pass 2 is not shuffled: its correlation with that of pass 1 is 1.00"),
        (shuffled, swapped_labels, "of 90 examples and has"),
        (shuffled, shorter_last, r"labels int32\[10\], labels|x float32\[10, 3\], labels int32\[10\]"),
        (shuffled, lambda batch: batch._replace(inputs={"x": batch.inputs["x"].astype(np.float64)}), r"x float64\[16, 3\]"),
        (shuffled, lambda batch: batch._replace(inputs={"y": batch.inputs["x"]}), r"y float32\[16, 3\]"),
        (shuffled, lambda batch: batch._replace(weights=batch.weights / 2), "batch 1 of the loader weights its images"),
        (shuffled, lambda batch: batch._replace(weights=batch.weights.astype(np.float64)), "weights its images differently"),
    ],
)  # fmt: skip
def test_a_loader_that_is_none_is_caught_and_named(order: Any, batch: Any, why: str) -> None:
    loader = Faulty(examples_of(), order, *([batch] if batch else []))
    with pytest.raises(worker.LoaderFault, match=why):
        proven(loader)


def test_a_sequence_that_is_shuffled_is_caught() -> None:
    with pytest.raises(worker.LoaderFault, match="a different order from the task's"):
        proven(Faulty(examples_of(shuffled=False), shuffled), in_order=True)


def test_a_shuffle_is_not_called_none_by_chance_nor_by_examples_that_occur_often() -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        worker._check_shuffled([rng.permutation(ROWS), rng.permutation(ROWS)])
        twice = np.repeat(np.arange(ROWS // 9), 9)
        worker._check_shuffled([rng.permutation(twice), rng.permutation(twice)])
    worker._check_shuffled([[0] * ROWS] * 2)


def test_a_fault_in_the_second_pass_alone_is_caught() -> None:
    passes = count()

    def order(rng: np.random.Generator) -> Any:
        return rng.permutation(ROWS)[: ROWS - 1 if next(passes) else ROWS]

    with pytest.raises(worker.LoaderFault, match="is missing 1 of 90"):
        proven(Faulty(examples_of(), order))


# What is timed.

STEP_S, LOAD_S, FIRST_S = 2e-3, 1e-3, 0.5


class Trained(Plain):
    """A model whose steps, and a loader whose batches, take their time."""

    def __init__(self) -> None:
        self.now, self.steps, self.resets, self.compiled = 0.0, 0, 0, 0
        self.steps_per_call = 1

    def __call__(self) -> float:
        return self.now

    def loader(self, examples: Examples, *, seed: int) -> Iterable[Batch]:
        def order(rng: np.random.Generator) -> Any:
            self.now += FIRST_S  # at the beginning of each pass
            return rng.permutation(ROWS) if examples.shuffled else np.arange(ROWS)

        def batch(made: Batch) -> Batch:
            self.now += LOAD_S
            return made

        return Faulty(examples, order, batch)

    def put(self, prepared: Batch) -> Batch:
        return prepared

    def train_step(self, batch: Batch) -> float:
        self.now += STEP_S
        self.steps += 1
        return 0.7

    def reset_state(self) -> None:
        self.resets += 1

    def wait(self) -> None: ...

    def fetch(self, value: float) -> Any:
        return np.float64(value)

    def compilations(self) -> int:
        return self.compiled


def measured(session: Any, *, in_order: bool = False, blocks: int = 10) -> worker.Window:
    examples = examples_of(shuffled=not in_order)
    task = task_of(examples)
    task.training_examples = lambda: examples
    preset: Any = SimpleNamespace(task=task, warmup_s=0.5, warmup_steps=3)
    return worker.measure(session, preset, turns=Alone(blocks, 0.3), clock=session)


def test_the_parts_are_told_apart_and_what_leads_a_block_in_is_not_counted() -> None:
    window = measured(Trained())
    feeds = {name: part.told() for name, part in window.parts.items()}
    assert list(feeds) == ["prepared", "fed", "alone"]
    per_batch = {name: feed.window_s / (10 * feed.block_batches) for name, feed in feeds.items()}
    pass_s = FIRST_S / 6  # of each of the 6 batches of a pass
    assert per_batch["prepared"] == pytest.approx(STEP_S)
    assert per_batch["fed"] == pytest.approx(STEP_S + LOAD_S + pass_s, rel=0.3)
    assert per_batch["alone"] == pytest.approx(LOAD_S + pass_s, rel=0.3)
    assert feeds["prepared"].throughput == pytest.approx(ROWS / 6 / STEP_S, rel=0.02)
    for feed in feeds.values():
        assert feed.items / (10 * feed.block_batches) == pytest.approx(ROWS / 6, rel=0.1)
    assert window.first_s == pytest.approx(FIRST_S + LOAD_S)
    assert (window.items, window.compilations) == ([SIZE] * 5 + [10], 0)
    assert sum(window.blocks_s) == pytest.approx(sum(feed.window_s for feed in feeds.values()))


class Ahead(Trained):
    """A session whose loader makes a batch every LOAD_S in the background, up to so many, whatever else is done meanwhile."""

    def __init__(self, *, load_s: float, most: int) -> None:
        super().__init__()
        self.load_s, self.most = load_s, most

    def loader(self, examples: Examples, *, seed: int) -> Iterable[Batch]:
        session = self

        class Prefetching(Faulty):
            def __iter__(self) -> Iterator[Batch]:
                begun = session.now
                for taken, made in enumerate(super().__iter__()):
                    begun = max(begun, session.now - (taken + session.most) * session.load_s)  # it was full meanwhile
                    session.now = max(session.now, begun + (taken + 1) * session.load_s)
                    yield made

        return Prefetching(examples, lambda rng: rng.permutation(len(examples.labels)))


@contextmanager
def others_have_their_turns(session: Ahead) -> Iterator[None]:
    session.now += 10.0
    yield


@pytest.mark.parametrize(("load_s", "waits"), [(5e-3, True), (0.5e-3, False)])
def test_no_block_lives_on_what_was_loaded_while_others_had_their_turns(load_s: float, waits: bool) -> None:
    session: Any = Ahead(load_s=load_s, most=200)  # more than a block has

    class Turns:
        block_s = 0.3

        def next(self, window: Any) -> bool:
            return len(window.blocks_s) < 10

        def block(self) -> Any:
            return others_have_their_turns(session)

    examples = examples_of(rows=500 * SIZE)
    task = task_of(examples)
    task.training_examples = lambda: examples
    preset: Any = SimpleNamespace(task=task, warmup_s=0.5, warmup_steps=3)
    window = worker.measure(session, preset, turns=Turns(), clock=session)
    feeds = {name: part.told() for name, part in window.parts.items()}
    per_batch = {name: feed.window_s / (10 * feed.block_batches) for name, feed in feeds.items()}
    assert per_batch["alone"] == pytest.approx(load_s, rel=0.05)
    assert per_batch["fed"] == pytest.approx(load_s if waits else STEP_S, rel=0.2)


def test_what_is_in_store_is_taken_out_before_a_block_and_no_more() -> None:
    session: Any = Ahead(load_s=5e-3, most=100)
    taken = iter(session.loader(examples_of(), seed=0))

    def fed() -> Iterator[worker.Fed]:
        for batch in taken:
            yield worker.Fed(batch, False, 1)

    part = worker.Part(worker.Stream(fed(), session), lambda one: None, session, multiple=1)
    next(part.batches)
    session.now += 3 * 5e-3  # three are ready
    part.load_s = 5e-3
    part._empty_store()
    assert len(part.batches.waits_s) == 1 + 3 + 1
    assert part.batches.waits_s[-1] == pytest.approx(5e-3)


def test_the_state_is_put_back_at_the_beginning_of_a_pass_where_examples_are_a_sequence_and_nowhere_else() -> None:
    carries, plain = Trained(), Trained()
    measured(carries, in_order=True)
    measured(plain)
    assert plain.resets == 0
    assert carries.resets > 10


def test_whole_calls_are_taken_where_a_call_has_several_steps() -> None:
    session = Trained()
    session.steps_per_call = 8
    window = measured(session)
    assert session.steps % 8 == 0
    assert all(window.parts[name].block_batches % 8 == 0 for name in ("prepared", "fed"))


def test_what_is_forgotten_is_warm_up() -> None:
    window = measured(Trained())
    before, blocks_s = window.warmup_s, sum(window.blocks_s)
    window.forget()
    assert window.warmup_s == pytest.approx(before + blocks_s)
    assert window.blocks_s == []
    assert all(part.blocks_s == [] and part.items == 0 for part in window.parts.values())


def test_a_loss_that_is_no_number_and_a_compilation_in_the_window_are_seen() -> None:
    class Explodes(Trained):
        def train_step(self, batch: Batch) -> float:
            self.compiled += 1
            return super().train_step(batch) if self.steps < 2000 else float("nan")

    with pytest.raises(worker.Diverged, match="the training loss was nan on"):
        measured(Explodes(), blocks=1000)
    window = measured(Explodes(), blocks=3)
    found = msgspec.structs.replace(a_loading(1, 1, 1), compilations=window.compilations)
    assert "compilations inside the timed window" in "; ".join(rules.loading_faults(found))


def test_a_pass_that_grows_shorter_later_is_no_pass() -> None:
    class Shrinks(Trained):
        def loader(self, examples: Examples, *, seed: int) -> Iterable[Batch]:
            passes = count()
            return Faulty(examples, lambda rng: rng.permutation(ROWS if next(passes) < 4 else 50))

    with pytest.raises(worker.LoaderFault, match="a later pass of the loader has 4 batches, the first two have 6"):
        measured(Shrinks())


def test_what_offers_no_loader_or_no_arrays_or_cuts_its_batches_says_so() -> None:
    no_loader: Any = Plain()
    with pytest.raises(Unsupported, match="this backend has no loader of its own"):
        measured(no_loader)
    preset: Any = SimpleNamespace(task=SimpleNamespace(name="a task"))
    with pytest.raises(Unsupported, match="a task provides no arrays"):
        worker.measure(no_loader, preset, turns=Alone(1, 0.1))
    with pytest.raises(Unsupported, match=r"trim: .* not cut"):
        Trimmed(no_loader, lambda batch: batch).loader(examples_of(), seed=0)


@pytest.mark.slow
def test_the_time_of_a_loaders_processes_is_the_arms_own() -> None:
    spins = "import time; start = time.process_time()\nwhile time.process_time() - start < 0.3: pass\ninput()"
    process = subprocess.Popen([sys.executable, "-c", spins], stdin=subprocess.PIPE)
    try:
        with (
            disturbance.Watch(gpu=False, cpu_s=disturbance.with_children) as watch,
            disturbance.Watch(gpu=False) as alone,
        ):
            until = disturbance._children_s() + 0.25
            for _ in range(10_000_000):
                if disturbance._children_s() > until:
                    break
            living = disturbance._children_s()
        process.communicate(b"\n", timeout=60)
    finally:
        process.kill()
        process.wait(20)
    assert watch.cpu_s - alone.cpu_s >= 0.2
    assert disturbance._children_s() >= living - 0.02  # what has ended is not forgotten


# Rules.


def a_loading(alone: float, prepared: float, fed: float) -> Loading:
    """Of items per second."""

    def feed(rate: float) -> Feed:
        return Feed(10, [1000 / rate] * 10, 10_000)

    return Loading(1.0, 0.1, 0.05, 2.0, 10, 900, feed(alone), feed(prepared), feed(fed), 0, 1.0)


def a_good_record(**changes: Any) -> Record:
    """Of batches of 100."""
    found = msgspec.structs.replace(a_loading(1e4, 1e4, 1e4), **changes)
    made = a_record(kind="loading", loading=found, probe=Probe(1e-7, 1024, 5e10), disturbance=QUIET)
    return msgspec.structs.replace(made, cell=msgspec.structs.replace(made.cell, spec={"batch_size": 100}))


@pytest.mark.parametrize(("turns_s", "busy"), [(4.0, 1.5), (None, None)])
def test_cores_busy_are_those_of_the_turns_and_unknown_without_their_time(
    turns_s: float | None, busy: float | None
) -> None:
    """Blocks are a part of a turn: what a loader does between them would make two cores more than two."""
    made = a_loaded_run({"one": FREE})
    for at, one in enumerate(made):
        if one.outcome.loading is not None:
            found = msgspec.structs.replace(one.outcome.loading, cpu_s=6.0, turns_s=turns_s)
            made[at] = changed(one, loading=found)
    (group,) = loading.groups(made)
    assert [row.cores_busy for row in group.rows] == [busy]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"compilations": 2}, "2 compilations inside the timed window"),
        ({"fed": Feed(10, [0.1] * 9, 900)}, "the parts do not all have the same number of blocks"),
        ({"fed": Feed(10, [0.1] * 10, 99_999)}, "99,999 images in blocks of at most 10,000 (fed)"),
        ({"pass_items": 1_001}, "1,001 images in a pass of at most 1,000"),
        ({"turns_s": 2.0}, "turns of 2 s with blocks of 3 s"),
        ({"cpu_s": 20.0, "turns_s": 4.0}, "5.0 cores were busy in the turns of a process that may use only 2"),
    ],
)
def test_figures_that_contradict_themselves_are_refused(changes: dict[str, Any], why: str) -> None:
    assert rules.invalid(a_good_record()) == []
    assert why in "; ".join(rules.invalid(a_good_record(**changes)))


def test_batches_without_probe_or_watch_are_refused() -> None:
    assert "without a probe of their precision" in "; ".join(rules.invalid(changed(a_good_record(), probe=None)))
    assert "without a record of disturbances" in "; ".join(rules.invalid(changed(a_good_record(), disturbance=None)))


# What is told.


def a_loaded_run(rates: Mapping[str, list[tuple[float, float, float]]], *, proven: bool = True) -> list[Record]:
    """A climb and loaders of arms: name -> items per second alone, prepared and fed, process by process."""
    records = []
    for name, values in rates.items():
        ladders = [a_ladder(precision="float64"), a_ladder(precision="float32")]
        records.append(a_record(kind="parity", backend=name, ladders=ladders, versions={name: "1.0"}))
        for number, value in enumerate(values, start=1):
            made = a_record(
                kind="loading", backend=name, round=number, loading=a_loading(*value), probe=Probe(1e-7, 1024, 5e10),
                disturbance=QUIET, versions={name: "1.0"},
            )  # fmt: skip
            settings = {**made.outcome.settings, "loader": f"{name}'s own"}
            records.append(changed(made, ladders=ladders if proven else [], settings=settings))
    return records


WAITS = [(3000.0, 9000.0, 2500.0), (3030.0, 9100.0, 2520.0), (2980.0, 8950.0, 2490.0)]
FREE = [(90_000.0, 5000.0, 4995.0), (91_000.0, 5020.0, 5022.0), (89_500.0, 4980.0, 4979.0)]


def test_each_loader_is_set_beside_its_own_training_and_beside_the_others() -> None:
    (group,) = loading.groups(a_loaded_run({"waits": WAITS, "free": FREE}))
    assert [row.arm.name for row in group.rows] == ["free", "waits"]
    told = loading.sentences(group)
    assert told[0].startswith(
        "free does not wait for its loader: fed by it, it trains as fast as on prepared batches within"
    )
    assert told[1].startswith("waits waits for its loader: fed by it, it trains 0.27")
    assert told[2].startswith("Loader alone: free loads 30.")
    assert told[3].startswith("Fed by its loader: free trains 1.99")
    titles, free, waits = loading.table(group)
    assert titles[:4] == ["arm", "loader alone, images/s", "loader alone: relative", "fed by the loader, images/s"]
    assert (free[2], free[4]) == ("1", "1")
    assert waits[titles.index("fed / prepared")].endswith(": slower")
    assert free[titles.index("fed / prepared")].endswith(": tie")
    assert free[titles.index("loader")] == "free's own"


def test_what_the_rounds_do_not_decide_is_not_decided() -> None:
    noisy = [(9000.0, 5000.0, 4900.0), (9100.0, 5000.0, 4500.0), (9050.0, 4800.0, 4990.0)]
    (group,) = loading.groups(a_loaded_run({"one": noisy}))
    (told,) = loading.sentences(group)
    assert told.startswith("one: whether it waits for its loader is not decided (ratio to prepared batches 0.9")
    (single,) = loading.groups(a_loaded_run({"one": WAITS[:1]}))
    assert "not decided" in loading.sentences(single)[0]
    assert "1, no interval" in loading.table(single)[1]


def test_a_report_has_loaders_apart_from_training_in_every_format() -> None:
    records = a_loaded_run({"waits": WAITS, "free": FREE})
    text = markdown.render(records)
    assert text.startswith("## Loading: mnist_mlp, preset quick")
    assert grouping.sections(records) == []
    assert markdown.render(list(reversed(records))) == text
    assert "<h1>Loading: mnist_mlp" in page.render(records)
    assert "Loading: mnist" in latex.render(records)
    report = msgspec.json.decode(table_json.render(records))
    (told,) = report["loading"]
    assert "inference" not in report
    assert [row["arm"] for row in told["rows"]] == ["free", "waits"]
    assert {(pair["first_part"], pair["second_part"]) for pair in told["pairs"]} == {
        ("alone", "alone"), ("fed", "fed"), ("fed", "prepared"), ("prepared", "fed"),
    }  # fmt: skip
    free, waits = table_csv.lines(records)
    assert free["loading_alone"] == pytest.approx(90_000, rel=0.01)
    assert (waits["loading_verdict"], waits["loading_rounds"]) == ("slower", 3)
    (group,) = loading.groups(records)
    assert len(loading_plot.plot(group).figure.axes) == 2
    assert [name for name, _ in apart_plot.files(records)] == ["loading1.svg", "loading1.png"]
    assert set(loading.sentences(group)) <= set(publish.sentences(records))
    assert "--measure loading" in publish.command(group.section)


def test_no_loader_is_shown_of_an_arm_that_is_not_proven_or_fails_in_a_round() -> None:
    records = a_loaded_run({"one": FREE, "fails": WAITS})
    records[-1] = changed(
        records[-1], status="invalid", reason="a pass of the loader is missing 1 of 9 examples", loading=None
    )
    records += a_loaded_run({"unproven": FREE}, proven=False)
    (group,) = loading.groups(records)
    assert [row.arm.name for row in group.rows] == ["one"]
    assert "fails, loading, round 3: invalid: a pass of the loader is missing 1 of 9 examples" in group.failures
    assert "unproven, loading, round 1: parity was not checked" in group.failures


def test_a_run_of_which_nothing_can_be_shown_says_why() -> None:
    disturbed = msgspec.structs.replace(QUIET, others_share=0.5, disturbed="others had half of the cores")
    records = a_loaded_run({"one": FREE})
    records = [changed(one, disturbance=disturbed) if one.cell.kind == "loading" else one for one in records]
    assert loading.groups(records) == []
    told = markdown.render(records)
    assert told == (
        "- mnist_mlp: there is no table of loading: disturbed or interrupted, and in no figure: round 1, 2, 3\n"
    )


def test_a_control_is_no_row_and_a_failed_one_comes_first() -> None:
    def with_control(factor: float) -> loading.Group:
        again = [(factor * alone, ready, factor * fed) for (alone, ready, fed) in reversed(FREE)]
        made = a_loaded_run({"free": FREE, "waits": WAITS})
        made += [changed(one, name="control") for one in a_loaded_run({"free": again})]
        (group,) = loading.groups(made)
        return group

    good = with_control(1.0)
    assert [row.arm.name for row in good.rows] == ["free", "waits"]
    assert any(name == "Control" and text.endswith("tie") for name, text in loading.about(good))
    bad = with_control(1.3)
    assert loading.sentences(bad)[0].startswith("The control failed: loader alone, the same program was called faster")


# The command.


@pytest.mark.slow
def test_loaders_alone_are_proven_measured_reported_continued_and_checked(
    bench: Callable[..., Done], tmp_path: Path
) -> None:
    folder = tmp_path / "loaded"
    asked = ("run", *FAKE, "--preset", "smoke", "--measure", "loading", "--rounds", 2, "--output", folder)
    done = bench(*asked)
    assert (done.code, done.error.count(" loading round ")) == (0, 2), done.error
    assert "from the loader" in done.error
    assert f"## Loading: {NAME}, preset smoke" in done.out
    again = bench(*asked)
    assert (again.code, "3 of 3 processes are done" in again.error) == (0, True), again.error
    assert bench("check", folder).code == 0
    assert bench("run", *FAKE, "--measure", "loading", "--rounds", "auto").code == 2
    assert "measure loading in a run of its own" in bench("run", *FAKE, "--measure", "loading", "--energy").error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("misbehaviour", "why"),
    [
        ("never shuffles", "the order of pass 1 is not shuffled"),
        ("repeats an example", "is missing 1 of 90 examples and has 1 too many"),
        ("drops the last batch", "is missing 10 of 90 examples and has 0 too many"),
    ],
)
def test_a_loader_that_cheats_is_shut_out_with_the_reason(
    bench: Callable[..., Done], misbehave: Callable[[str], None], tmp_path: Path, misbehaviour: str, why: str
) -> None:
    misbehave(misbehaviour)
    done = bench("run", *FAKE, "--preset", "smoke", "--measure", "loading", "--rounds", 1, "--output", tmp_path / "run")
    assert done.code == 1
    assert "invalid: " in done.error
    assert why in done.error
