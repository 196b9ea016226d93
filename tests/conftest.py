"""Shared fixtures, and which frameworks are under test.

FRAMEWORK_BENCH_TEST_BACKENDS names them, separated by commas: a named one that is not installed fails the run, and an
empty value means none. Without the variable every installed framework is under test.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

import backends
from bench.campaign import parity_cache
from bench.cli import running
from bench.process import environment
from tasks.sources import DATA_VARIABLE, OFFLINE_VARIABLE
from tests.fakes.backend import MISBEHAVIOUR

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
    """No test sees the user's cache or settings, except those marked real_data, which get the folder of data sets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(running, "LOOK_S", 0.0)  # where tests run, the machine is busy
    monkeypatch.delenv(OFFLINE_VARIABLE, raising=False)
    for setting in environment.left_out():  # a run tells of them
        monkeypatch.delenv(setting.partition("=")[0])
    if request.node.get_closest_marker("real_data") is None:
        monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture
def misbehave(tmp_path: Path) -> Callable[[str], None]:
    """Makes the fake backend misbehave as named in every process that starts from now on; "ok" ends that."""

    def tell(misbehaviour: str) -> None:
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / MISBEHAVIOUR).write_text(misbehaviour)

    return tell


@pytest.fixture
def fresh_hashes() -> None:
    """A run reads its sources once."""
    parity_cache.source_hash.cache_clear()


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a backend module outside of the project for a misbehaviour of tests/fakes/backend.py; returns its name."""
    folder = tmp_path / "plug-ins"
    package = folder / "plugged"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def make(misbehaviour: str) -> str:
        name = misbehaviour.replace(" ", "_")
        (package / f"{name}.py").write_text(
            "from functools import partial\nfrom tests.fakes import backend\nversions = backend.versions\n"
            f"open_session = partial(backend.open_session, misbehaviour={misbehaviour!r})\n"
        )
        return f"plugged.{name}"

    return make


def runs(pid: int) -> bool:
    """Whether there is such a process; a zombie, which waits for its parent or init to take notice, runs no more."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that runs beside the test and does not outlive it, however the test ends."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()


def wait_until(true: Callable[[], bool], *, patience_s: float = 60.0) -> None:
    """Waits for something that another process does; fails if it is not done by then."""
    until = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < until, f"not within {patience_s:g} s"
        time.sleep(0.02)


def assert_gone(*pids: int) -> None:
    """Fails if one of these processes still runs a moment later, and ends it."""
    patience = time.monotonic() + 5
    while any(map(runs, pids)) and time.monotonic() < patience:
        time.sleep(0.02)
    left = [pid for pid in pids if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
