"""Climbs and measurements of memory side by side: as many as fit, each with its own end, none left running."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.campaign import parity_cache
from bench.machine import cores, nvml
from bench.process import environment, side_by_side
from bench.process.execute import PHASES_S
from bench.process.launch import Deadlines
from bench.records.record import CONTROL, Cell, Record
from tests.fakes.campaign import FAKE, Answers, a_campaign, a_plan, a_planned_cell, an_arm

GIB = 2**30


def climb(folder: Path, *arms: Any, **options: Any) -> list[Record]:
    planned = [a_planned_cell(arm, kind="parity") for arm in arms]
    cells = [cell for _, cell in planned]
    return side_by_side.execute_side_by_side(
        planned[0][0], cells, folder, data_dir=None, interpreters={}, at_once=2, **options
    )


def workers() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


@pytest.mark.slow
def test_climbs_side_by_side_are_each_told_and_nothing_is_left(tmp_path: Path) -> None:
    started: list[str] = []
    ended: list[Record] = []
    arms = [an_arm(name, backend=FAKE) for name in ("one", "two", "three")]
    made = climb(tmp_path, *arms, starting=lambda cell: started.append(cell.arm.name), ended=ended.append)
    assert started == ["one", "two", "three"]
    assert ended == made
    assert {one.cell.arm.name: one.outcome.status for one in made} == dict.fromkeys(started, "ok")
    assert all(one.outcome.ladders[-1].passed for one in made)
    assert workers() == []


@pytest.mark.slow
def test_one_that_hangs_is_stopped_and_costs_the_others_nothing(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    """The deadline is that of a climb alone, times those that share the cores."""
    deadlines = Deadlines(120, {**PHASES_S, "import": 1.0}, grace_s=1.0)
    hangs = tmp_path / "plug-ins" / "plugged"
    hanging = fakes("hangs")
    (hangs / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    made = {one.cell.arm.name: one.outcome for one in climb(tmp_path, hanging, FAKE, deadlines={"parity": deadlines})}
    assert made[FAKE].status == "ok"
    assert made[hanging].status == "timeout"
    assert "after 2 s, the deadline of the phase 'import'" in str(made[hanging].reason)
    assert workers() == []


@pytest.mark.slow
def test_an_interruption_ends_all_of_them(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    def interrupt(cell: Cell) -> None:
        if cell.arm.name == "second":
            raise KeyboardInterrupt

    begun, threads = time.monotonic(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        climb(tmp_path, FAKE, an_arm("second", backend=FAKE), starting=interrupt)
    assert time.monotonic() - begun < 60
    assert workers() == []
    assert threading.active_count() <= threads


def test_as_many_climb_at_once_as_there_are_cores_and_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [a_planned_cell(an_arm(f"arm{number}", backend=FAKE))[1] for number in range(9)]

    def width(*, core_count: int, memory: int) -> int:
        monkeypatch.setattr(cores, "granted", lambda: core_count)
        found = psutil.virtual_memory()._replace(available=memory)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: found)
        return side_by_side.width_for(cells)

    assert width(core_count=2, memory=24 * GIB) == 2
    assert width(core_count=1, memory=24 * GIB) == 1
    assert width(core_count=64, memory=512 * GIB) == side_by_side.MOST
    assert width(core_count=4, memory=7 * GIB) == 1
    assert width(core_count=4, memory=1 * GIB) == 1
    on_a_gpu = a_planned_cell(an_arm("gpu", backend=FAKE, device="gpu"))[1]
    width(core_count=8, memory=128 * GIB)
    for memory, wide in ((None, 1), (2 * GIB, 1), (13 * GIB, 2), (80 * GIB, 4)):
        answer = None if memory is None else SimpleNamespace(free=memory)
        monkeypatch.setattr(nvml, "ask", lambda card, question, answer=answer: answer)
        assert side_by_side.width_for([*cells, on_a_gpu]) == wide
    of_memory = [a_planned_cell(an_arm(name, backend=FAKE, device="gpu"), kind="memory")[1] for name in ("one", "two")]
    assert side_by_side.width_for(of_memory) == 1  # the driver tells of all processes on a card together


def test_threads_that_wait_leave_the_cores_to_the_climb_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    import backends

    entry, arm = backends.find("pytorch"), an_arm("pytorch", backend="pytorch", environment={"KMP_BLOCKTIME": "5"})
    assert "OMP_WAIT_POLICY" not in environment.for_child(entry, arm)
    passive = environment.for_child(entry, arm, passive=True)
    assert passive["OMP_WAIT_POLICY"] == "passive"
    assert passive["KMP_BLOCKTIME"] == "5"  # what an arm asks for, it gets


def test_a_control_climbs_with_its_twin_and_not_beside_it(tmp_path: Path) -> None:
    plan = a_plan(an_arm("one", backend=FAKE), an_arm(CONTROL, backend=FAKE), an_arm("two", backend=FAKE, mode="fast"))
    climbed: list[str] = []
    answers = Answers()

    def together(run: Any, cells: Any, folder: Path, *, starting: Any, ended: Any, **rest: Any) -> list[Record]:
        made = []
        for cell in cells:
            starting(cell)
        for cell in reversed(cells):
            climbed.extend([cell.arm.name] if cell.kind == "parity" else [])
            made.append(answers(run, cell, folder, data_dir=None))
            ended(made[-1])
        return made

    running = a_campaign(tmp_path, plan, execute=answers, execute_side_by_side=together)
    running.start()
    assert climbed == ["two", "one"]
    ladders = {one.cell.arm.name: one.outcome for one in running.records if one.cell.kind == "parity"}
    assert set(ladders) == {"one", "two", CONTROL}
    assert ladders[CONTROL].settings == {"from cache": True}
    assert all(one.outcome.status == "ok" for one in running.records)
    starts = [line for line in running.journal.lines() if line.event == "start"]
    assert len(starts) == len({line.cell for line in starts}) == len(running.records)


def test_an_arm_that_falls_is_not_measured_and_the_others_are(tmp_path: Path) -> None:
    plan = a_plan(an_arm("one", backend=FAKE), an_arm("two", backend=FAKE, mode="fast"))
    answers = Answers()

    def together(run: Any, cells: Any, folder: Path, *, starting: Any, ended: Any, **rest: Any) -> list[Record]:
        made = []
        for cell in cells:
            starting(cell)
            done = answers(run, cell, folder, data_dir=None)
            if cell.arm.name == "one":
                from tests.builders import changed

                done = changed(done, status="failed", reason="parity: fell", ladders=[])
            made.append(done)
            ended(done)
        return made

    running = a_campaign(tmp_path, plan, execute=answers, execute_side_by_side=together)
    running.start()
    statuses = {(one.cell.arm.name, one.cell.kind): one.outcome.status for one in running.records}
    assert statuses["one", "parity"] == "failed"
    assert statuses["one", "speed"] == "skipped"
    assert statuses["two", "speed"] == "ok"
    assert parity_cache.recall(plan.run, plan.of_kind("parity")[0]) is None


def test_where_every_climb_is_remembered_there_is_nothing_to_run(tmp_path: Path) -> None:
    run, _ = a_planned_cell(an_arm("one", backend=FAKE), kind="parity")
    assert side_by_side.execute_side_by_side(run, [], tmp_path, data_dir=None, interpreters={}) == []


@pytest.mark.slow
def test_memory_is_measured_side_by_side_and_is_as_much_as_alone(tmp_path: Path) -> None:
    run, cell = a_planned_cell(an_arm("one", backend=FAKE), kind="memory")
    cells = [cell, a_planned_cell(an_arm("two", backend=FAKE), kind="memory")[1]]
    measured = {
        width: side_by_side.execute_side_by_side(run, cells, tmp_path, data_dir=None, interpreters={}, at_once=width)
        for width in (1, 2)
    }
    peaks = [
        one.outcome.memory.host_peak_training.bytes for made in measured.values() for one in made if one.outcome.memory
    ]
    assert len(peaks) == 4
    assert max(peaks) < 1.1 * min(peaks)


def test_a_campaign_measures_memory_side_by_side(tmp_path: Path) -> None:
    answers, together = Answers(), list[list[str]]()

    def at_once(run: Any, cells: Any, folder: Path, *, starting: Any, ended: Any, **rest: Any) -> list[Record]:
        together.append([f"{cell.arm.name} {cell.kind}" for cell in cells])
        made = []
        for cell in cells:
            starting(cell)
            made.append(answers(run, cell, folder, data_dir=None))
            ended(made[-1])
        return made

    plan = a_plan(an_arm("one", backend=FAKE), an_arm("two", backend=FAKE, mode="fast"))
    running = a_campaign(tmp_path, plan, execute=answers, execute_side_by_side=at_once)
    running.start()
    assert together == [["one parity", "two parity"], ["one memory", "two memory"]]
    assert running.complete
    assert {line.event for line in running.journal.lines() if "memory" in str(line.cell)} == {"start", "end"}
