"""The comparison for those who know pytest-benchmark: `pytest bench`, one benchmark per task and backend.

    pytest bench -k "mnist_mlp and jax" --fb-preset standard --benchmark-json new.json

A cell is measured as by `framework-bench run`, each process fresh and alone: parity (or its cache), one window of speed,
memory, one training. Nothing is timed inside pytest: the blocks that the worker timed are played back into the fixture, a
block as a round and its steps as iterations, so that every figure of pytest-benchmark's is in seconds per step. A cell that
our own table would not rank (parity, target, a disturbed window) is a failed test and not in pytest-benchmark's results.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import click
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import DOOR, Door
from bench.records.record import file_name
from bench.report import columns, grouping


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    door = metafunc.config.stash.get(DOOR, None)
    if door is None:
        late = pytest.param("", "", id="all", marks=pytest.mark.skip("benchmarks run with: pytest bench"))
        metafunc.parametrize(("task", "backend"), [late])
        return
    choice = door.choice
    absent = dict(choice.absent)
    cells = []
    for task in choice.tasks:
        for backend in (*choice.backends, *absent):
            marks = [pytest.mark.benchmark(group=task, timer=Playback())]
            if backend in absent:
                marks.append(pytest.mark.skip(absent[backend]))
            cells.append(pytest.param(task, backend, marks=marks))
    metafunc.parametrize(("task", "backend"), cells)


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # by a cell that failed
def test_training(
    task: str, backend: str, door: Door, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    try:
        records = door.measure(task, backend)
    except click.ClickException as error:
        pytest.fail(error.format_message(), pytrace=False)
    assert door.folder is not None
    (row,) = [row for section in grouping.sections(records) for row in section.rows]
    if records[0].status == "unsupported":
        pytest.skip(str(records[0].reason))
    if row.excluded is not None:
        pytest.fail(f"{row.excluded} (records: {door.folder})", pytrace=False)
    speed, training = row.of("speed")[0], row.of("quality")[0]
    assert speed.timings is not None
    assert training.quality is not None
    benchmark.extra_info |= {
        f"{speed.unit}_per_s": speed.timings.items / speed.timings.window_s,
        "first_step_s": speed.timings.first_step_s,
        "host_peak_bytes": row.bytes_of("host_peak").bytes,
        "device_peak_allocated_bytes": row.bytes_of("device_peak_allocated").bytes,
        **training.quality.metrics,
        "parity": columns.parity(row),
        "record": str(door.folder / "records" / file_name(speed)),
    }
    playback = request.node.get_closest_marker("benchmark").kwargs["timer"]
    playback.cue(speed.timings.blocks_s)
    rounds, iterations = len(speed.timings.blocks_s), speed.timings.block_steps
    benchmark.pedantic(_nothing, rounds=rounds, iterations=iterations)  # type: ignore[no-untyped-call]  # of the plug-in


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
