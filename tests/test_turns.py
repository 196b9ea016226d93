"""Rounds of real processes that take turns, and what a round is worth when one of them misbehaves."""

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench.campaign.journal import Journal
from bench.process import phases, turns
from bench.process.execute import DEADLINES, PHASES_S
from bench.process.launch import Deadlines
from bench.records.record import Record
from tests.conftest import assert_gone, started, wait_until
from tests.fakes.backend import MISBEHAVIOUR
from tests.fakes.campaign import FAKE, a_planned_cell, an_arm

ROOT = Path(__file__).parent.parent
TURNS = 5


def a_round(folder: Path, *arms: Any, **limits: Any) -> dict[str, Record]:
    """The records of a round of these arms, by the name of the arm; `limits` are the phases' deadlines."""
    planned = [a_planned_cell(arm) for arm in arms]
    run = planned[0][0]
    cells = [msgspec.structs.replace(cell, position=place) for place, (_, cell) in enumerate(planned, start=1)]
    deadlines = {**DEADLINES, "speed": Deadlines(120, {**PHASES_S, **limits}, grace_s=1.0)}
    told: list[Record] = []
    made = turns.execute_round(
        run, cells, folder, turns=TURNS, data_dir=None, interpreters={}, ended=told.append, deadlines=deadlines
    )
    assert told == made
    return {one.cell.arm.name: one for one in made}


def assert_whole(done: Record, *, beside: int = 1) -> None:
    assert (done.outcome.status, done.outcome.reason) == ("ok", None)
    assert done.outcome.beside == beside
    assert done.outcome.timings is not None
    assert len(done.outcome.timings.blocks_s) == TURNS


def workers() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


@pytest.mark.slow
def test_every_arm_of_a_round_has_as_many_turns(tmp_path: Path) -> None:
    for done in a_round(tmp_path, FAKE, an_arm("fast", backend=FAKE, mode="fast")).values():
        assert_whole(done)
    assert workers() == []


FAULTS: Sequence[tuple[str, str, str]] = [
    ("raises in its turn", "failed", "RuntimeError: the layer is broken"),
    ("kills itself in its turn", "killed", "the process was ended by SIGKILL"),
    ("exits in its turn", "failed", "the process exited with code 3"),
    ("hangs in its turn", "timeout", "the deadline of the phase 'turn'"),
    ("stops itself in its turn", "timeout", "the deadline of the phase 'turn'"),
    ("kills itself", "killed", "the process was ended by SIGKILL"),  # before its turn
    ("hangs", "timeout", "the deadline of the phase 'warm-up'"),
    ("writes rubbish in its turn", "failed", "the process left no readable record"),
]


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("misbehaviour", "status", "reason"), FAULTS)
def test_one_that_misbehaves_is_left_out_of_the_rest_and_costs_the_other_nothing(
    tmp_path: Path, fakes: Callable[[str], str], misbehaviour: str, status: str, reason: str, place: int
) -> None:
    bad = fakes(misbehaviour)
    arms = [bad, FAKE] if place == 0 else [FAKE, bad]
    made = a_round(tmp_path, *arms, turn=3.0, **{"warm-up": 20.0 if misbehaviour != "hangs" else 3.0})
    assert made[bad].outcome.status == status
    assert reason in str(made[bad].outcome.reason)
    assert_whole(made[FAKE])
    assert workers() == []


@pytest.mark.slow
def test_one_that_floods_its_output_slows_nobody_and_is_ok(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    made = a_round(tmp_path, FAKE, fakes("prints much in its turn"))
    for done in made.values():
        assert_whole(done)


@pytest.mark.slow
def test_a_record_that_one_could_not_write_ends_the_round_and_leaves_nothing_running(
    tmp_path: Path, fakes: Callable[[str], str]
) -> None:
    with pytest.raises(OSError, match=r"a process could not write its record: .* File too large"):
        a_round(tmp_path, fakes("fills the disk in its turn"), FAKE)
    assert workers() == []
    assert [path.name for path in (tmp_path / ".framework-bench-scratch").iterdir()] == []


def in_rounds(folder: Path) -> list[str]:
    """The processes of rounds that have begun."""
    return [line.cell for line in Journal(folder).lines() if line.event == "start" and "-speed-" in line.cell]


@pytest.mark.slow
def test_a_parent_that_is_killed_in_a_round_takes_all_its_arms_along_and_the_round_is_run_again(
    tmp_path: Path, misbehave: Callable[[str], None]
) -> None:
    misbehave("hangs in its turn")
    command = [
        sys.executable, "-m", "bench", "run", "--task", FAKE, "--arm", FAKE, "--arm", f"{FAKE}:fast", "--preset", "smoke",
        "--rounds", "2", "--seeds", "1", "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    with started(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        parent = psutil.Process(running.pid)
        wait_until(lambda: len(in_rounds(tmp_path / "run")) == 2 == len(parent.children()))
        time.sleep(2)  # until one of them has its turn
        children = parent.children()
        running.send_signal(signal.SIGKILL)
        running.wait(20)
    assert_gone(*(child.pid for child in children))
    (tmp_path / "cache" / MISBEHAVIOUR).write_text("ok")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "speed round 1 was running when the last run was killed; it runs again" in done.stderr
    assert "speed round 1: " in done.stderr
    assert "n=2" in done.stdout


@pytest.mark.slow
def test_company_is_measured_before_the_window_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    told: dict[int, float] = {}
    planned = [a_planned_cell(arm) for arm in (FAKE, an_arm("fast", backend=FAKE, mode="fast"))]
    made = turns.execute_round(
        planned[0][0], [cell for _, cell in planned], tmp_path, turns=TURNS, data_dir=None, interpreters={},
        company=told.__setitem__,
    )  # fmt: skip
    for done in made:
        assert_whole(done)
    assert list(told) == [1]
    assert told[1] > 0
    assert workers() == []


class Telling:
    """A child whose blocks take these seconds, over and over; `words` are those that it was told."""

    def __init__(self, *blocks_s: float) -> None:
        self.blocks_s, self.words = itertools.cycle(blocks_s), b""

    @property
    def child(self) -> "Telling":
        return self

    def say(self, word: bytes, *, phase: str) -> None:
        self.words += word

    def until(self, phase: str) -> str:
        return repr(next(self.blocks_s))


EVEN, UNEVEN = (0.2,), (0.18, 0.22)  # the mean of 20 uneven blocks has a standard error of 2.3 %


@pytest.mark.parametrize(
    ("others", "most", "taken"),
    [
        (EVEN, 60, 20),
        (UNEVEN, 60, 47),  # 20 times (2.3 / 1.5) ^ 2
        (UNEVEN, 30, 30),
        (UNEVEN, None, 20),
        ((1.8, 2.2), 60, 20),  # 40 s already
        ((0.72, 0.88), 60, 38),  # more would make a window longer than 30 s
        ((0.0,), 60, 20),
    ],
)
def test_where_the_blocks_of_one_scatter_all_are_given_more_turns(
    monkeypatch: pytest.MonkeyPatch, others: Sequence[float], most: int | None, taken: int
) -> None:
    monkeypatch.setattr(turns, "REST_S", 0.0)
    group = [Telling(*EVEN), Telling(*others)]
    turns.take_turns(group, turns=20, most=most, rng=random.Random(1))  # type: ignore[arg-type]
    assert [one.words for one in group] == [phases.GO * taken] * 2


def test_a_window_that_changes_is_begun_anew_before_it_is_given_more_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REST_S", 0.0)
    one = Telling(*[0.2] * 10, *[0.4] * 10, *UNEVEN * 100)
    turns.take_turns([one], turns=20, most=60, rng=random.Random(1))  # type: ignore[list-item]
    assert one.words == phases.GO * 20 + phases.AGAIN + phases.GO * 46


def test_a_window_that_changes_in_its_later_turns_is_begun_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REST_S", 0.0)
    one = Telling(*UNEVEN * 10, *[0.4] * 27)
    turns.take_turns([one], turns=20, most=60, rng=random.Random(1))  # type: ignore[list-item]
    assert one.words == (phases.GO * 47 + phases.AGAIN + phases.GO * 46)


def test_no_window_is_begun_anew_for_what_the_machine_does_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REST_S", 0.0)
    slower = [Telling(*[0.2 * times] * 10, *[0.4 * times] * 10) for times in (1, 2, 3)]
    turns.take_turns(slower, turns=20, rng=random.Random(1))  # type: ignore[arg-type]
    assert [one.words for one in slower] == [phases.GO * 20] * 3
    steady, alone = Telling(*EVEN), Telling(*[0.2] * 10, *[0.4] * 10, *EVEN * 20)
    turns.take_turns([steady, alone], turns=20, rng=random.Random(1))  # type: ignore[list-item]
    assert [one.words for one in (steady, alone)] == [phases.GO * 20 + phases.AGAIN + phases.GO * 19] * 2


def test_no_window_is_exact_by_more_turns_of_nobody() -> None:
    assert turns.more_turns([], most=60) == 0


class Scripted:
    """A child whose block takes twice as long after another's."""

    last: "Scripted | None" = None
    blocks = 0

    def __init__(self, *, ends_after: int = 10**6) -> None:
        self.ends_after = ends_after

    @property
    def child(self) -> "Scripted":
        return self

    def say(self, word: bytes, *, phase: str) -> None:
        self.told = repr(2.0 if Scripted.last is not self else 1.0)
        Scripted.last = self

    def until(self, phase: str) -> str | None:
        self.ends_after -= 1
        return self.told if self.ends_after >= 0 else None


@pytest.mark.parametrize("many", [2, 3])
def test_company_is_what_a_block_takes_after_anothers_over_one_after_its_own(
    monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(turns, "REST_S", 0.0)
    group: Any = [Scripted() for _ in range(many)]
    # Where two take turns in shuffled order, one now and then follows itself; the median does not see it.
    assert turns.in_company(group, rng=random.Random(1)) == pytest.approx(2.0, rel=0.3)


def test_company_of_one_that_ends_meanwhile_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REST_S", 0.0)
    group: Any = [Scripted(), Scripted(ends_after=4)]
    assert turns.in_company(group, rng=random.Random(1)) is None
