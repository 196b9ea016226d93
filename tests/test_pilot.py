"""`--rounds auto`: the pilot's noise, the plan that follows from it, and that a pilot is in no figure."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.campaign import pilot, plan
from bench.campaign.campaign import Campaign
from bench.campaign.plan import Choice
from bench.process.interpreters import Interpreter
from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Arm, Cell, Disturbance, Outcome, Record, RoundsPlan, Run
from bench.report import grouping, markdown, table_csv, words
from bench.stats import intervals, power
from tests.builders import a_record, a_run, a_timing, changed, good_figures

TASK = "tests.fakes.backend"
QUIET = Disturbance(None, None, None, None, None, None)
RATES = {"a.a": [1000.0, 1010.0, 995.0], "b.b": [500.0, 509.0, 507.0], "c.c": [250.0, 251.0, 247.0]}


def pilots(rates: dict[str, list[float]]) -> list[Record]:
    return [
        a_record(kind="pilot", backend=name, round=number, timings=a_timing(rate), disturbance=QUIET)
        for name, values in rates.items()
        for number, rate in enumerate(values, start=1)
    ]


def planned(made: list[Record], *, effect: float = 0.05) -> RoundsPlan:
    return pilot.plan_rounds(made, effect=effect, otherwise=7)


def test_the_plan_is_for_the_upper_bound_of_the_noise_that_is_pooled_over_backends() -> None:
    logs = np.log(np.array(list(RATES.values())))  # [backends, rounds]
    residuals = logs - logs.mean(0) - logs.mean(1, keepdims=True) + logs.mean()
    variance = float((residuals**2).sum()) / 4  # (3 - 1)(3 - 1) degrees of freedom
    bound = math.sqrt(
        variance * 4 / 1.6488
    )  # 20 % of a chi-squared variable with 4 degrees of freedom lie below 1.6488
    found = planned(pilots(RATES))
    assert found.noise == pytest.approx(bound, rel=1e-4)
    expected = power.rounds_for(found.noise or 0, effect=0.05, pairs=3)
    assert (found.rounds, found.tie, found.found) == expected
    assert found.effect == 0.05


def test_one_restless_arm_among_quiet_ones_is_planned_for() -> None:
    quiet = {f"{name}.{name}": [1000.0, 1001.0, 1000.0] for name in "abcde"}
    restless = {**quiet, "f.f": [900.0, 1000.0, 1100.0]}
    deviation = float(np.std(np.log([900 / 1000, 1000 / 1001, 1100 / 1000]), ddof=1)) / math.sqrt(
        2
    )  # of one of the two
    found = planned(pilots(restless))
    assert found.noise == pytest.approx(deviation, rel=1e-6)
    assert found.rounds == power.rounds_for(deviation, effect=0.05, pairs=15).rounds


@pytest.mark.slow
def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(20260101)
    bounds = [
        found.upper(power.PILOT_CONFIDENCE)
        for logs in rng.normal(0, 0.01, (2000, 3, 3))
        if (found := intervals.noise(logs))
    ]
    assert len(bounds) == 2000
    assert np.mean(np.array(bounds) >= 0.01) == pytest.approx(power.PILOT_CONFIDENCE, abs=0.02)


def test_what_is_common_to_a_round_is_no_noise() -> None:
    weather = {
        name: [rate * factor for rate, factor in zip(rates, (1, 2, 3), strict=True)] for name, rates in RATES.items()
    }
    assert planned(pilots(weather)).noise == pytest.approx(planned(pilots(RATES)).noise)


def test_a_backend_that_failed_and_a_disturbed_round_are_left_out() -> None:
    two = {name: RATES[name] for name in ("a.a", "b.b")}
    killed = a_record(kind="pilot", backend="c.c", round=2, status="killed", reason="by SIGKILL")
    made = [one for one in pilots(RATES) if (one.cell.arm.name, one.cell.round) != ("c.c", 2)]
    assert planned([*made, killed]) == planned(pilots(two))
    assert planned([*pilots(two), killed]) == planned(pilots(two))
    wild = {name: [rates[0], 10 * rates[1], rates[2]] if name == "a.a" else rates for name, rates in RATES.items()}
    told = Disturbance(None, None, None, None, None, None, disturbed="other processes took 40% of the cores' time")
    made = [
        changed(one, disturbance=told) if (one.cell.arm.name, one.cell.round) == ("a.a", 2) else one
        for one in pilots(wild)
    ]
    assert planned(made) == planned([one for one in pilots(RATES) if one.cell.round != 2])


def test_arms_of_one_backend_are_arms_of_their_own() -> None:
    """The noise is that of all arms, and every pair of them is counted."""
    made = [
        changed(one, backend="a.a", name=one.cell.arm.name, mode=f"mode {one.cell.arm.name}") for one in pilots(RATES)
    ]
    assert planned(made) == planned(pilots(RATES))


@pytest.mark.parametrize(
    "rates",
    [{}, {"a.a": [1000.0, 1010.0, 990.0]}, {"a.a": [1000.0], "b.b": [900.0]}, {"a.a": [5.0] * 3, "b.b": [7.0] * 3}],
    ids=str,
)
def test_a_pilot_that_says_nothing_leaves_the_preset_s_rounds_and_says_so(rates: dict[str, list[float]]) -> None:
    found = planned(pilots(rates))
    assert found == RoundsPlan(7, 0.05, None)
    assert words.rounds_plan(found) == "7 rounds, the preset's: the pilot left no noise of two arms to plan from"


def test_the_line_says_how_many_rounds_for_which_noise_and_what_they_achieve() -> None:
    assert words.rounds_plan(RoundsPlan(8, 0.05, 0.01234, 0.971, 0.9043)) == (
        "8 rounds, from a pilot's noise between processes of at most 1.2 % (80 % confidence): equal arms are called a tie "
        "within 3 % with a chance of 97.1 %, a difference of 5 % is found with one of 90.4 %"
    )
    assert words.rounds_plan(RoundsPlan(power.MOST_ROUNDS, 0.05, 0.1, 0.0, 0.05)).startswith(
        f"{power.MOST_ROUNDS} rounds, the most that are planned, from"
    )


# In a comparison.


class Watcher:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.plans: list[tuple[str, RoundsPlan]] = []

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None:
        self.begun.append((cell.kind, done, total))

    def finished(self, finished: Record) -> None: ...

    def planned(self, task: str, rounds: RoundsPlan) -> None:
        self.plans.append((task, rounds))


def answer(
    run: Run, cell: Cell, folder: Path, *, data_dir: Path | None, interpreter: Interpreter | None = None
) -> Record:
    """In place of a process: what a good one would have said, at the speed of `noisy`."""
    found = good_figures(cell)
    if "timings" in found:
        found["timings"] = a_timing(noisy(cell), block_steps=100)
    return Record(run=run, cell=cell, outcome=Outcome(status="ok", wall_s=5.0, **found))


def compared(folder: Path, **changes: Any) -> Campaign:
    asked: dict[str, Any] = {
        "tasks": [TASK], "arms": [Arm(name=name, backend=name) for name in RATES], "preset": "smoke", "seeds": 1,
        "run_id": "20260101", "effect": 0.05,
    }  # fmt: skip
    (folder / "records").mkdir(parents=True)
    running = Campaign(plan.make(Choice(**asked | changes)), folder, Watcher(), execute=answer)
    running.start()
    return running


def noisy(cell: Cell) -> float:
    return RATES[cell.arm.name][(cell.round - 1) % 3] * (100 if cell.kind == "pilot" else 1)


@pytest.mark.slow
def test_the_pilot_comes_after_parity_and_fixes_the_rounds_before_the_first_one(tmp_path: Path) -> None:
    running = compared(tmp_path)
    expected = planned(pilots(RATES))
    kinds = [done.cell.kind for done in running.records]
    assert kinds == ["parity"] * 3 + ["pilot"] * 9 + ["speed"] * 3 * expected.rounds + ["memory"] * 3 + ["quality"] * 3
    speeds = [done.cell for done in running.records if done.cell.kind == "speed"]
    assert {cell.round for cell in speeds} == set(range(1, expected.rounds + 1))
    orders = {tuple(cell.arm.name for cell in speeds if cell.round == n) for n in range(1, expected.rounds + 1)}
    assert len(orders) > 1
    found = speeds[0].rounds_plan
    assert found is not None
    assert found.noise == pytest.approx(expected.noise)
    assert all(cell.rounds_plan == found for cell in speeds)
    watcher = running.progress
    assert isinstance(watcher, Watcher)
    assert watcher.plans == [(TASK, found)]
    # The progress counts what is still to come as soon as it is known.
    assert [done for _, done, _ in watcher.begun] == list(range(len(kinds)))
    assert {total for kind, _, total in watcher.begun if kind in ("speed", "memory", "quality")} == {len(kinds)}
    # And every record is on the disk as it was.
    read, problems = files.read_folder(tmp_path)
    assert problems == []
    assert len(read) == len(running.records)
    assert f"Rounds: {words.rounds_plan(found)}" in markdown.render(read).replace("\\", "")


@pytest.mark.slow
def test_a_pilot_is_in_no_figure(tmp_path: Path) -> None:
    running = compared(tmp_path)
    without = [done for done in running.records if done.cell.kind != "pilot"]
    assert max(noisy(done.cell) for done in running.records) > 90_000  # a pilot a hundred times as fast
    for render in (markdown.render, table_csv.render):
        assert render(running.records) == render(without)
    (section,) = grouping.sections(running.records)
    assert {row.name: row.throughputs[1] for row in section.rows} == pytest.approx(
        {name: rates[0] for name, rates in RATES.items()}
    )


def test_a_pilot_that_failed_is_told_among_the_processes_that_are_not_ok() -> None:
    failed = a_record(kind="pilot", backend="fast", round=2, status="oom", reason="no room", versions={})
    text = markdown.render([*a_run({"fast": [200.0, 201.0], "slow": [100.0, 101.0]}), failed])
    assert "fast, pilot, round 2, seed 0: oom: no room" in text


def test_without_auto_there_is_no_pilot(tmp_path: Path) -> None:
    running = compared(tmp_path, rounds=2, effect=None)
    assert [done.cell.kind for done in running.records] == ["parity"] * 3 + ["speed"] * 6 + ["memory"] * 3 + [
        "quality"
    ] * 3
    assert {done.cell.rounds_plan for done in running.records} == {None}


def test_the_first_schema_had_no_pilots() -> None:
    old = (Path(__file__).parent / "golden" / "record-schema-1.json").read_text()
    assert '"kind": "speed"' in old
    with pytest.raises(RecordError, match="schema 1 has no kind 'pilot'"):
        files.decode(old.replace('"kind": "speed"', '"kind": "pilot"').encode())
