"""Choices, plans and campaigns of the fake task, and what stands in the place of processes: `execute=Answers()`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.campaign import plan
from bench.campaign.campaign import Campaign
from bench.campaign.plan import Choice, TaskPlan
from bench.process.interpreters import Interpreter
from bench.records.record import Arm, Cell, Outcome, Record, RoundsPlan, Run
from tests.builders import good_figures

FAKE = "tests.fakes.backend"
"""The name of the fake backend and of the fake task."""


def an_arm(name: str = FAKE, **declared: Any) -> Arm:
    """An arm under its backend's name, unless a `backend` is given too."""
    return Arm(name=name, **{"backend": name} | declared)


def a_choice(*arms: str | Arm, **changes: Any) -> Choice:
    """One round and one seed of the fake task; an arm is given whole, or by the name of its backend."""
    chosen = [an_arm(arm) if isinstance(arm, str) else arm for arm in arms or (FAKE,)]
    asked: dict[str, Any] = {"tasks": [FAKE], "preset": "smoke", "rounds": 1, "seeds": 1, "run_id": "20260101"}
    return Choice(arms=chosen, **asked | changes)


def a_plan(*arms: str | Arm, **changes: Any) -> TaskPlan:
    """The plan of `a_choice`."""
    (made,) = plan.make(a_choice(*arms, **changes))
    return made


def a_planned_cell(arm: str | Arm = FAKE, **changes: Any) -> tuple[Run, Cell]:
    """A cell of a plan with its key, and the run that it belongs to."""
    made = a_plan(arm)
    return made.run, made.cell(made.choice.arms[0], **changes)


def a_campaign(folder: Path, *plans: TaskPlan, **instead: Any) -> Campaign:
    """Runs plans in a folder; with real processes unless there is something to `execute` instead."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    return Campaign(plans, folder, Watcher(), **instead)


class Watcher:
    """Progress that writes down what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str, int, int, float]] = []
        self.done: list[Record] = []
        self.plans: list[RoundsPlan] = []

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None:
        self.begun.append((cell.arm.name, cell.kind, done, total, left_s))

    def finished(self, finished: Record) -> None:
        self.done.append(finished)

    def planned(self, task: str, rounds: RoundsPlan) -> None:
        self.plans.append(rounds)


def good(cell: Cell) -> Outcome:
    """What a process of two seconds would have answered."""
    return Outcome(status="ok", wall_s=2.0, started_utc="2026-01-01T00:00:00Z", **good_figures(cell))


def campaigns(answers: "Answers") -> Callable[..., Campaign]:
    """What makes campaigns without processes, to be put in the place of `Campaign` where a command makes one."""
    instead = {"execute": answers, "execute_round": None, "execute_side_by_side": None}
    return lambda *given, **named: Campaign(*given, **{**named, **instead})


class Answers:
    """In place of processes: every cell gets `answer(cell)`; `ran` are the cells that were asked, in their order."""

    def __init__(self, answer: Callable[[Cell], Outcome] = good, **changes: Any) -> None:
        self.answer, self.changes = answer, changes
        self.ran: list[Cell] = []

    def __call__(
        self, run: Run, cell: Cell, folder: Path, *, data_dir: Path | None, interpreter: Interpreter | None = None
    ) -> Record:
        self.ran.append(cell)
        outcome = msgspec.structs.replace(self.answer(cell), **self.changes)
        return Record(run=run, cell=cell, outcome=outcome)
