"""The comparison for those who know pytest-benchmark: `pytest bench`, one benchmark per task and arm.

    pytest bench -k "mnist_mlp and jax" --fb-preset standard --benchmark-json new.json

A cell is measured as by `framework-bench run`, each process fresh and alone: parity (or its cache), one window of speed,
memory, one training; with `--fb-measure inference`, one window of predictions instead, with `loading` one of the framework's
own loader. Nothing is timed inside pytest: the blocks that the worker timed are played back into the fixture, a block as a
round and its steps, calls or batches as iterations, so that every figure of pytest-benchmark's is in seconds per one of these.
A cell that our own table would not rank (parity, target, a disturbed window) is a failed test and not in pytest-benchmark's
results.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import click
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import RUN, PytestRun
from bench.records.record import LOADING_PARTS, Record
from bench.report import apart, figures, grouping

SIZES = ("one", "batch")
"""Of the batches that are asked: single examples, and the preset's."""

PARAMETERS = ("task", "preset", "arm", "device", "precision")
"""In the name of a benchmark, so that pytest-benchmark never compares two that differ in one of them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    run = metafunc.config.stash.get(RUN, None)
    if run is None:
        late = pytest.param(*[""] * 5, id="all", marks=pytest.mark.skip("benchmarks run with: pytest bench"))
        metafunc.parametrize(PARAMETERS, [late])
        return
    choice = run.choice
    absent = {arm.name: why for arm, why in choice.absent}
    cells = []
    for task in choice.tasks:
        for arm in (*choice.arms, *(arm for arm, _ in choice.absent)):
            marks = [pytest.mark.benchmark(group=task, timer=Playback())]
            if arm.name in absent:
                marks.append(pytest.mark.skip(absent[arm.name]))
            cells.append(pytest.param(task, choice.preset, arm.name, arm.device, arm.precision, marks=marks))
    metafunc.parametrize(PARAMETERS, cells)


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # by a cell that failed
def test_training(
    task: str, preset: str, arm: str, device: str, precision: str,
    run: PytestRun, benchmark: BenchmarkFixture, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    records = _measured(run, task, arm, "training")
    assert run.folder is not None
    (row,) = [row for section in grouping.sections(records) for row in section.rows]
    if row.excluded is not None:
        pytest.fail(f"{row.excluded} (records: {run.folder})", pytrace=False)
    speed = row.of("speed")[0]
    timings = speed.outcome.timings
    assert timings is not None
    benchmark.extra_info |= {
        f"{speed.cell.unit}_per_s": timings.throughput,
        "first_step_s": timings.first_step_s,
        "host_peak_bytes": row.bytes_of("host_peak").bytes,
        "device_peak_allocated_bytes": row.bytes_of("device_peak_allocated").bytes,
        **next(iter(row.metrics().values())),
        "parity": figures.parity(row),
        "record": str(run.folder / "records" / speed.cell.file_name),
    }
    _play(benchmark, request, timings.blocks_s, timings.block_steps)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # by a cell that failed
def test_inference(
    task: str, preset: str, arm: str, device: str, precision: str, size: str,
    run: PytestRun, benchmark: BenchmarkFixture, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    benchmark.group = f"{task}, {size}"
    record = _shown(run, task, arm, "inference")
    found = record.outcome.inference
    assert run.folder is not None
    assert found is not None
    calls = found.calls[0 if size == "one" else -1]
    benchmark.extra_info |= {
        "batch_size": calls.batch_size, f"{record.cell.unit}_per_s": calls.throughput, "first_call_s": calls.first_s,
        **{f"{name}_s": getattr(calls, f"{name}_s") for name in ("p50", "p90", "p99")},
        "host_peak_bytes": found.host_peak.bytes, "device_peak_allocated_bytes": found.device_peak_allocated.bytes,
        "parity": figures.ladders(record.ladders), "record": str(run.folder / "records" / record.cell.file_name),
    }  # fmt: skip
    _play(benchmark, request, calls.blocks_s, calls.block_calls)


@pytest.mark.parametrize("part", LOADING_PARTS)
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # by a cell that failed
def test_loading(
    task: str, preset: str, arm: str, device: str, precision: str, part: str,
    run: PytestRun, benchmark: BenchmarkFixture, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    benchmark.group = f"{task}, {part}"
    record = _shown(run, task, arm, "loading")
    found = record.outcome.loading
    assert run.folder is not None
    assert found is not None
    feed = found.feeds[part]
    benchmark.extra_info |= {
        f"{record.cell.unit}_per_s": feed.throughput, "first_batch_s": found.first_s,
        "loader": record.outcome.settings.get("loader"), "parity": figures.ladders(record.ladders),
        "record": str(run.folder / "records" / record.cell.file_name),
    }  # fmt: skip
    _play(benchmark, request, feed.blocks_s, feed.block_batches)


def _shown(run: PytestRun, task: str, arm: str, kind: str) -> Record:
    """The one record of an arm that our own table would show; the test fails where it would not."""
    records = _measured(run, task, arm, kind)
    rows = [row for one in apart.groups(records) for row in one.group.rows]
    if not rows:
        pytest.fail(f"{'; '.join(apart.unshown(records))} (records: {run.folder})", pytrace=False)
    record: Record
    (record,) = rows[0].records.values()
    return record


def _measured(run: PytestRun, task: str, arm: str, what: str) -> list[Record]:
    """The records of an arm; the test fails where they cannot be had, and is skipped where the arm has nothing to measure."""
    try:
        records = run.measure(task, next(one for one in run.choice.arms if one.name == arm), what)
    except click.ClickException as error:
        pytest.fail(error.format_message(), pytrace=False)
    unsupported = next((one.outcome for one in records if one.outcome.status == "unsupported"), None)
    if unsupported is not None:
        pytest.skip(str(unsupported.reason))
    return records


def _play(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, blocks_s: Sequence[float], iterations: int
) -> None:
    playback = request.node.get_closest_marker("benchmark").kwargs["timer"]
    playback.cue(blocks_s)
    benchmark.pedantic(_nothing, rounds=len(blocks_s), iterations=iterations)  # type: ignore[no-untyped-call]  # of the plug-in


def _nothing() -> None:
    """Was done elsewhere."""


class Playback:
    """A timer for the fixture: between a start and its end there lies exactly what was timed in the worker."""

    __name__ = "the worker's blocks"

    def __init__(self) -> None:
        self._times: Iterator[float] = iter(())

    def cue(self, durations_s: Sequence[float]) -> None:
        self._times = chain.from_iterable((0.0, duration_s) for duration_s in durations_s)

    def __call__(self) -> float:
        return next(self._times)
