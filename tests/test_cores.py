"""The cores of a process: chosen, set before anything is imported, read back, and a disagreement found."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from backends import Entry
from bench.cli import commands
from bench.machine import cores
from bench.process import environment, launch
from bench.process.request import Request
from bench.records import files
from bench.records.record import Arm, Outcome
from bench.report import facts, grouping
from tests.builders import a_row
from tests.fakes.campaign import FAKE, a_plan, a_planned_cell, an_arm

pytestmark = pytest.mark.skipif(not cores.usable(), reason="this system has no CPU affinity")


def a_topology(folder: Path, physical: dict[int, int]) -> Path:
    """Logical core -> physical core, all in one package."""
    for core, of in physical.items():
        topology = folder / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{of}\n")
    return folder


@pytest.mark.parametrize(
    ("physical", "ranked"),
    [
        ({0: 0, 1: 1, 2: 2, 3: 3}, [0, 1, 2, 3]),
        ({0: 0, 1: 0, 2: 1, 3: 1}, [0, 2, 1, 3]),  # neighbours share a core
        ({0: 0, 1: 1, 2: 0, 3: 1}, [0, 1, 2, 3]),  # the second half shares with the first
        ({}, [0, 1, 2, 3]),  # the system does not tell
    ],
)
def test_every_physical_core_comes_before_a_second_thread_of_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, physical: dict[int, int], ranked: list[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1, 2, 0})
    topology = a_topology(tmp_path, physical)
    for count in range(5):
        assert cores.first(count, topology=topology) == ranked[:count]


def test_only_usable_cores_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {6, 9})
    assert cores.first(1) == [6]


@pytest.mark.parametrize(
    ("physical", "bound", "beside"),
    [
        ({0: 0, 1: 0, 2: 1, 3: 1}, {0}, {1}),
        ({0: 0, 1: 1, 2: 0, 3: 1}, {0, 1}, {2, 3}),
        ({0: 0, 1: 1, 2: 0, 3: 1}, {0, 2}, set()),
        ({0: 0, 1: 1}, {0}, set()),
        ({}, {0}, set()),  # the system does not tell
    ],
)
def test_siblings_share_a_physical_core_and_are_not_among_the_bound_ones(
    tmp_path: Path, physical: dict[int, int], bound: set[int], beside: set[int]
) -> None:
    assert cores.siblings(bound, topology=a_topology(tmp_path, physical)) == beside


def test_a_module_runs_on_the_named_cores_from_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "import os, sys; print(sys.argv[1:], sorted(os.sched_getaffinity(0)), 'numpy' in sys.modules)"
    (tmp_path / "told.py").write_text(told)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    core = cores.usable()[-1]
    command = [sys.executable, "-m", "bench.machine.cores", str(core), "told", "1", "--two"]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"['1', '--two'] [{core}] False\n"


def child_environment() -> dict[str, str]:
    return environment.for_child(Entry(FAKE), an_arm())


def run_worker(folder: Path, arm: Arm, *, kind: str = "memory", pinned: list[int]) -> Outcome:
    request, answer = folder / "request.json", folder / "answer.json"
    _, cell = a_planned_cell(arm, kind=kind)
    files.write(request, Request(cell, None, takes_turns=False, hidden=[]))
    command = launch.worker_command(request, answer, cores=pinned)
    ending = launch.run(command, env=child_environment(), log=folder / "log", deadlines=launch.Deadlines(120))
    assert ending.status == "ok", (folder / "log").read_text()
    return files.read_outcome(answer)


@pytest.mark.parametrize("kind", ["speed", "memory", "quality"])
@pytest.mark.slow
def test_the_number_of_threads_is_in_force_and_read_back(tmp_path: Path, kind: str) -> None:
    done = run_worker(tmp_path, an_arm(threads=1), kind=kind, pinned=cores.first(1))
    assert (done.status, done.reason) == ("ok", None)
    assert done.settings["cores"] == 1


@pytest.mark.slow
def test_threads_that_were_not_in_force_make_a_record_invalid(tmp_path: Path) -> None:
    count = len(cores.usable())
    done = run_worker(tmp_path, an_arm(threads=count + 1), pinned=[])
    assert done.status == "invalid"
    assert done.reason == f"cores {count + 1} was requested, but {count} was in force"


@pytest.mark.slow
def test_without_threads_every_usable_core_is_in_force(tmp_path: Path) -> None:
    done = run_worker(tmp_path, an_arm(), pinned=[])
    assert (done.status, done.settings["cores"]) == ("ok", len(cores.usable()))


def test_threads_are_in_every_record_of_a_plan() -> None:
    assert {cell.arm.threads for cell in a_plan(an_arm(threads=1)).cells} == {1}


# The command line.


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: int) -> str:
    arguments = ["run", "--task", FAKE, "--backend", FAKE, "--device", "cpu", "--threads", str(threads)]
    monkeypatch.setattr(sys, "argv", ["framework-bench", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert commands.main() == 2
    assert list(Path().iterdir()) == []
    return capsys.readouterr().err


def test_more_threads_than_cores_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    count = len(cores.usable())
    line = refused(monkeypatch, capsys, count + 1)
    assert f"--threads: {count + 1} threads, but this process may use {count} cores" in line


def test_a_system_without_affinity_refuses_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cores, "usable", list)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "--threads: Darwin has no CPU affinity" in refused(monkeypatch, capsys, 1)


# Reports.


def test_different_numbers_of_threads_stand_in_one_table_which_says_so() -> None:
    made = [*a_row("fast", [200.0]), *a_row("slow", [100.0], threads=1)]
    (section,) = grouping.sections(made)
    assert [(row.name, row.arm.threads) for row in section.rows] == [("fast", None), ("slow", 1)]
    assert section.common("threads") is None
    assert "1" in dict(facts.facts(section))["Machine"].partition(" in use")[0]
