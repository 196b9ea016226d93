"""Shared fixtures, and which frameworks are under test.

FRAMEWORK_BENCH_TEST_BACKENDS names them, separated by commas: a named one that is not installed fails the run, and an
empty value means none. Without the variable every installed framework is under test.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

import backends
from bench.records.record import Bytes, Data, Ladder, Machine, Memory, Quality, Record, Rung, Timings
from tasks.sources import DATA_VARIABLE, OFFLINE_VARIABLE

TEST_BACKENDS_VARIABLE = "FRAMEWORK_BENCH_TEST_BACKENDS"

# A loaded machine is slow, and nothing is to be left on the disk.
hypothesis.settings.register_profile("framework-bench", deadline=None, database=None)
hypothesis.settings.load_profile("framework-bench")


def backends_under_test(named: str | None) -> list[str]:
    """The frameworks that a value of FRAMEWORK_BENCH_TEST_BACKENDS names; None is every installed one."""
    if named is None:
        return [name for name, entry in backends.BACKENDS.items() if not entry.missing()]
    names = [name.strip() for name in named.split(",") if name.strip()]
    for name in names:
        if name not in backends.BACKENDS:
            raise pytest.UsageError(
                f"{TEST_BACKENDS_VARIABLE} names {name!r}, but there are: {', '.join(backends.BACKENDS)}"
            )
        entry = backends.BACKENDS[name]
        if missing := entry.missing():
            raise pytest.UsageError(
                f"{TEST_BACKENDS_VARIABLE} names {name}, but not installed: {', '.join(missing)}; "
                f"add it with: {entry.install_command}"
            )
    return names


BACKENDS_UNDER_TEST = backends_under_test(os.environ.get(TEST_BACKENDS_VARIABLE))


def pytest_report_header() -> str:
    return f"frameworks under test: {', '.join(BACKENDS_UNDER_TEST) or 'none'}"


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's cache or settings, except those whose names say that they read the real data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(OFFLINE_VARIABLE, raising=False)
    monkeypatch.delenv("FAKE_BACKEND", raising=False)
    if "_the_real_" not in request.node.name:
        monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a backend module outside of the project for a misbehaviour of tests/fake_backend.py; returns its name."""
    folder = tmp_path / "plug-ins"
    package = folder / "fakes"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def make(misbehaviour: str) -> str:
        name = misbehaviour.replace(" ", "_")
        (package / f"{name}.py").write_text(
            "from functools import partial\nfrom tests import fake_backend\nversions = fake_backend.versions\n"
            f"open_session = partial(fake_backend.open_session, misbehaviour={misbehaviour!r})\n"
        )
        return f"fakes.{name}"

    return make


def runs(pid: int) -> bool:
    """Whether there is such a process; a zombie, which waits for its parent or init to take notice, runs no more."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(*pids: int) -> None:
    """Fails if one of these processes still runs a moment later, and ends it."""
    patience = time.monotonic() + 5
    while any(map(runs, pids)) and time.monotonic() < patience:
        time.sleep(0.02)
    left = [pid for pid in pids if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


# Records to make tables of.

RUNGS = ("parameters", "forward", "loss", "gradients", "one update", "trajectory", "evaluation")
IMPORTED, PEAK = Bytes(100 * 2**20), Bytes(300 * 2**20)
NO_ALLOCATOR = Bytes(None, "the framework keeps no allocator figures on a CPU")


def a_ladder(*, passed: int = 7, precision: str = "float32") -> Ladder:
    """The rungs up to the first one that was not passed."""
    rungs = [
        Rung(number=number, name=name, difference=1e-9, tolerance=1e-6, where="dense_0/kernel", passed=number <= passed)
        for number, name in enumerate(RUNGS, start=1)
    ]
    return Ladder(precision, "cpu", rungs[: passed + 1])


def a_record(**changes: Any) -> Record:
    """A finished speed process: 1,000 images in a window of one second."""
    made: dict[str, Any] = {
        "kind": "speed",
        "status": "ok",
        "task": "mnist_mlp",
        "preset": "quick",
        "unit": "images",
        "backend": "alpha",
        "device": "cpu",
        "precision": "float32",
        "round": 1,
        "position": 1,
        "seed": 0,
        "order_seed": 1234,
        "spec": {"task": "mnist_mlp", "epochs": 5},
        "spec_hash": "5" * 64,
        "data": Data("digits", "real handwritten digits", "d" * 64),
        "target": "accuracy >= 0.9",
        "versions": {"alpha": "1.0"},
        "machine": Machine("A CPU", 2, 8 * 2**30, None, None, "Linux 6.1 x86_64", "3.11.7"),
        "started_utc": "2026-01-01T00:00:00Z",
        "wall_s": 3.0,
    }
    made |= changes
    if made["kind"] == "speed" and made["status"] == "ok":
        made.setdefault("timings", a_timing(1000))
    return Record(**made)


def a_timing(throughput: float) -> Timings:
    """Ten blocks of five steps that took together what this throughput says."""
    window_s = 1000 / throughput
    return Timings(
        import_s=1.0, build_s=0.5, first_step_s=0.25, warmup_s=0.1, block_steps=5, blocks_s=[window_s / 10] * 10,
        window_s=window_s, items=1000,
    )  # fmt: skip


def a_memory(*, peak: Bytes = PEAK, device: Bytes = NO_ALLOCATOR, imported: Bytes = IMPORTED) -> Memory:
    return Memory(imported, peak, peak, device, device)


def a_quality(accuracy: float, *, sample: str | None = None) -> Quality:
    curve = [(1, 0.1, 2.3), (100, 1.0, 0.1)]
    return Quality(100, 1.0, 0.1, {"accuracy": accuracy, "loss": 0.1}, curve, sample)


def a_row(
    backend: str, throughputs: Sequence[float], *, accuracies: Sequence[float] = (0.95, 0.96), **common: Any
) -> list[Record]:
    """All the records of one backend: a climb, a speed process per round, one of memory, a training per seed."""
    common = {"backend": backend, "versions": {backend: "1.0"}} | common
    return [
        a_record(kind="parity", parity=[a_ladder(precision="float64"), a_ladder()], **common),
        *(
            a_record(round=number, timings=a_timing(throughput), **common)
            for number, throughput in enumerate(throughputs, start=1)
        ),
        a_record(kind="memory", memory=a_memory(), **common),
        *(
            a_record(kind="quality", seed=seed, quality=a_quality(value), target_reached=value >= 0.9, **common)
            for seed, value in enumerate(accuracies)
        ),
    ]


def a_run(speeds: Mapping[str, Sequence[float]], **common: Any) -> list[Record]:
    """A whole comparison: backend -> its throughputs, round by round."""
    return [record for backend, values in speeds.items() for record in a_row(backend, values, **common)]
