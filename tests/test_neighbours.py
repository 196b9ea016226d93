"""What others do on the machine before anything is measured, and what the first line says of it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.cli import running
from bench.machine import cores, neighbours
from tests.fakes.campaign import a_choice, an_arm
from tests.test_cli import FAKE, Done, bench

__all__ = ["bench"]  # the fixture

QUIET = {"user": 0.0, "system": 0.0, "nice": 0.0, "irq": 0.0, "softirq": 0.0, "idle": 0.0}


def test_busy_is_what_the_kernel_counted_on_the_usable_cores_while_it_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [dict(QUIET) for _ in range(3)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [SimpleNamespace(**one) for one in counted])
    monkeypatch.setattr(cores, "usable", lambda: [0, 2])

    def sleep(seconds: float) -> None:
        counted[0]["user"] += 0.75 * seconds
        counted[0]["idle"] += 0.25 * seconds
        counted[1]["user"] += seconds  # of a core that is not ours
        counted[2]["system"] += 0.5 * seconds

    assert neighbours.cores_busy(2.0, sleep=sleep) == pytest.approx(1.25)


def test_where_nobody_tells_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [])
    assert neighbours.cores_busy(2.0, sleep=lambda _: None) is None


@pytest.mark.parametrize(
    ("threads", "processes", "busy", "advice"),
    [
        (None, 1, 0.02, None),  # less than the limit of a disturbed window
        (None, 1, 1.0, "--threads 3"),
        (None, 1, 1.05, "--threads 3"),
        (None, 1, 1.6, "--threads 2"),
        (None, 2, 1.0, "--threads 3"),
        (3, 1, 1.0, None),  # they have a core of their own
        (3, 1, 1.5, "--threads 2"),
        (None, 1, 4.0, "stop them first"),
    ],
)  # fmt: skip
def test_the_advice_is_as_many_cores_as_the_others_leave(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, processes: int, busy: float, advice: str | None
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(cores, "granted", lambda: 4)
    line = running.too_busy(a_choice(an_arm(threads=threads, processes=processes)), busy)
    if advice is None:
        assert line is None
    else:
        assert line is not None
        assert line.endswith(advice)
        assert f"others keep {busy:.1f} of its 4 cores at work" in line


@pytest.mark.slow
def test_a_run_says_so_on_its_first_line_and_a_proof_needs_no_quiet(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(running, "LOOK_S", 2.0)
    monkeypatch.setattr(neighbours, "cores_busy", lambda look_s: float(cores.count()))
    done = bench("run", *FAKE, "--preset", "smoke", "--rounds", 1, "--seeds", 1, "--output", tmp_path / "run")
    assert done.error.startswith("this machine is busy: ")
    assert "machine is busy" not in bench("verify", *FAKE, "--preset", "smoke").error
    monkeypatch.setattr(neighbours, "cores_busy", lambda look_s: 0.0)
    again = bench("run", *FAKE, "--preset", "smoke", "--rounds", 1, "--seeds", 1, "--output", tmp_path / "again")
    assert "machine is busy" not in again.error
