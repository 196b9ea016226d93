"""Runs the three arms of a self-test, a process per arm and round; bench/checks/selftest.py judges them."""

import random
import tempfile
from pathlib import Path

from bench.campaign import campaign
from bench.campaign.campaign import Progress
from bench.campaign.plan import TaskPlan
from bench.checks.selftest import ARMS
from bench.process.interpreters import Interpreter
from bench.records.record import Record, SelfTest


class SelfTestError(RuntimeError):
    """A self-test could not be done; the message says why."""


def run(
    plan: TaskPlan,
    backend: str,
    *,
    rounds: int,
    slow_down: float,
    data_dir: Path | None,
    progress: Progress,
    interpreter: Interpreter | None = None,
) -> SelfTest:
    """Randomised complete blocks of the three arms. SelfTestError names a process that failed, or what disturbed it all.

    A disturbed round is left out, as it is in a table.
    """
    rng = random.Random(plan.blank.order_seed)
    kept: list[list[Record]] = []
    wall_s: list[float] = []
    total = rounds * len(ARMS)
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as folder:
        for number in range(1, rounds + 1):
            done: dict[int, Record] = {}
            for position, arm in enumerate(rng.sample(range(len(ARMS)), len(ARMS)), start=1):
                cell = plan.cell(backend, kind="speed", round=number, position=position)
                mean_s = sum(wall_s) / len(wall_s) if wall_s else campaign.ESTIMATES_S["speed"]
                progress.started(cell, done=len(wall_s), total=total, left_s=(total - len(wall_s)) * mean_s)
                planted = slow_down if ARMS[arm] == "planted" else 0.0
                done[arm] = campaign.execute(
                    cell, Path(folder), data_dir=data_dir, interpreter=interpreter, slow_down=planted
                )
                if done[arm].status != "ok":
                    raise SelfTestError(f"{backend}, round {number}: {done[arm].status}: {done[arm].reason}")
                progress.finished(done[arm])
                wall_s.append(done[arm].wall_s)
            kept.append([done[arm] for arm in range(len(ARMS))])
    quiet = [arms for arms in kept if not any(disturbance(one) for one in arms)]
    if len(quiet) < 2:
        why = next((disturbance(one) for arms in kept for one in arms if disturbance(one)), "there was one round")
        raise SelfTestError(f"fewer than two undisturbed rounds: {why}")
    return SelfTest(
        preset=plan.blank.preset,
        rates=[(rate(first), rate(second), rate(third)) for first, second, third in quiet],
        slow_down=slow_down,
        disturbed=len(kept) - len(quiet),
        started_utc=kept[0][0].started_utc,
    )


def disturbance(done: Record) -> str | None:
    """Why a process's round takes part in nothing; None if it does."""
    return done.disturbance.disturbed if done.disturbance is not None else None


def rate(done: Record) -> float:
    """Items per second of the window."""
    assert done.timings is not None  # its status is ok
    return done.timings.items / done.timings.window_s
