"""A self-test: a run of three arms, of which two are the same and one is slowed by a known amount (bench/stats/selftest.py)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from bench.campaign.campaign import Campaign, Execute, Progress
from bench.campaign.plan import TaskPlan
from bench.process import turns
from bench.process.execute import execute
from bench.records.record import Arm, Cell, Record, RoundsPlan, SelfTest
from bench.stats.selftest import NAMES, judge


class SelfTestError(RuntimeError):
    """A self-test could not be done; the message says why."""


def run(
    plan: TaskPlan,
    arm: Arm,
    *,
    rounds: int,
    slow_down: float,
    folder: Path,
    progress: Progress,
    execute: Execute = execute,
    execute_round: Callable[..., list[Record]] | None = turns.execute_round,
) -> SelfTest:
    """Runs the three in an empty folder. SelfTestError names a process that failed, or what disturbed it all.

    A disturbed round is left out, as it is in a table.
    """
    shares = dict(zip(NAMES, (0.0, 0.0, slow_down), strict=True))
    arms = [msgspec.structs.replace(arm, name=name, slow_down=share) for name, share in shares.items()]
    own = plan.choice.interpreters.get(arm.name)
    choice = replace(
        plan.choice, arms=arms, absent=(), kinds=("speed",), rounds=rounds, effect=None,
        interpreters=dict.fromkeys(NAMES, own) if own else {},
    )  # fmt: skip
    (folder / "records").mkdir()
    company: dict[int, float] = {}
    running = Campaign(
        [replace(plan, choice=choice)], folder, _Strict(progress, arm), execute=execute,
        execute_round=partial(execute_round, company=company.__setitem__) if execute_round else None,
    )  # fmt: skip
    running.start()
    by_round: dict[int, dict[str, Record]] = {}
    for one in running.records:
        by_round.setdefault(one.cell.round, {})[one.cell.arm.name] = one
    calm = [number for number, three in by_round.items() if not any(map(disturbance, three.values()))]
    quiet = [by_round[number] for number in calm]
    if len(quiet) < 2:
        why = next((found for one in running.records if (found := disturbance(one))), "there was one round")
        raise SelfTestError(f"fewer than two undisturbed rounds: {why}")
    first, second, third = NAMES
    return SelfTest(
        preset=plan.template.preset,
        rates=[(rate(three[first]), rate(three[second]), rate(three[third])) for three in quiet],
        slow_down=slow_down,
        disturbed=len(by_round) - len(quiet),
        started_utc=running.records[0].outcome.started_utc,
        company=[company[number] for number in calm if number in company],
    )


class _Strict:
    """Progress that ends a self-test with the first process that is not ok."""

    def __init__(self, progress: Progress, arm: Arm) -> None:
        self.progress, self.arm = progress, arm

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None:
        self.progress.started(cell, done=done, total=total, left_s=left_s, at_least=at_least)

    def finished(self, finished: Record) -> None:
        self.progress.finished(finished)
        outcome = finished.outcome
        if outcome.status not in ("ok", "interrupted"):
            raise SelfTestError(f"{self.arm.name}, round {finished.cell.round}: {outcome.status}: {outcome.reason}")

    def planned(self, task: str, rounds: RoundsPlan) -> None: ...


def disturbance(done: Record) -> str | None:
    """Why a process's round takes part in nothing; None if it does."""
    return done.outcome.disturbance.disturbed if done.outcome.disturbance is not None else None


def rate(done: Record) -> float:
    """Items per second of the window."""
    assert done.outcome.timings is not None  # its status is ok
    return done.outcome.timings.throughput


def as_json(plan: TaskPlan, arm: Arm, test: SelfTest, *, faults: list[str]) -> dict[str, object]:
    """The self-test and its findings as plain values."""
    found = judge(test.rates)
    return {
        "cell": {"task": plan.name, "preset": test.preset, "arm": arm, "machine": plan.run.machine},
        "test": test,
        "noise": found.noise,
        "smallest_effect": found.smallest_effect,
        "a_a": {**found.same._asdict(), "ratio": found.same.ratio._asdict()},
        "planted": {**found.slowed._asdict(), "ratio": found.slowed.ratio._asdict()},
        "faults": faults,
    }
