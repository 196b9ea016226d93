"""Runs a plan: one process after the other, one record file per process, the table as it grows."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import msgspec

from bench.campaign import cooldown, parity_cache, pilot
from bench.campaign.journal import Journal
from bench.campaign.plan import KINDS, TaskPlan
from bench.machine.signals import deferred
from bench.process.execute import execute
from bench.process.interpreters import Interpreter
from bench.records import files
from bench.records.record import Cell, Kind, Ladder, Outcome, Record, RoundsPlan, Run

# Until one was seen:
ESTIMATES_S: Mapping[Kind, float] = {"parity": 15, "pilot": 8, "speed": 8, "memory": 6, "quality": 10}


class Progress(Protocol):
    """Receives what happens."""

    def started(self, cell: Cell, *, done: int, total: int, left_s: float) -> None: ...
    def finished(self, finished: Record) -> None: ...
    def planned(self, task: str, rounds: RoundsPlan) -> None: ...


class Execute(Protocol):
    """Runs one cell in a process (bench/process/execute.py)."""

    def __call__(
        self, run: Run, cell: Cell, folder: Path, *, data_dir: Path | None, interpreter: Interpreter | None
    ) -> Record: ...


class Campaign:
    """Every process of a comparison and the records that they left, in memory and under `folder/records`."""

    def __init__(
        self,
        plans: Sequence[TaskPlan],
        folder: Path,
        progress: Progress,
        *,
        kept: Mapping[str, Record] | None = None,
        execute: Execute = execute,
    ) -> None:
        self.plans, self.folder, self.progress = plans, folder, progress
        self.choice, self.run = plans[0].choice, plans[0].run
        self.records: list[Record] = []
        self.journal = Journal(folder)
        self._kept = kept or {}  # name of the file -> record of an earlier run
        self._execute = execute
        self._planned = {plan.name: pilot.with_known_rounds(plan, self._kept).cells for plan in plans}
        self._finished = set(self._kept)
        self._durations: dict[tuple[str, Kind, str], list[float]] = defaultdict(list)
        for record in self._kept.values():
            self._note_duration(record)
        self._running: Cell | None = None
        self._memory_before: int | None = None
        self._hot = False  # a process has run since the last pause

    @property
    def complete(self) -> bool:
        """Whether every process that was to run is ok."""
        absent = {arm.name for arm, _ in self.choice.absent}
        return all(record.outcome.status == "ok" for record in self.records if record.cell.arm.name not in absent)

    @property
    def upcoming(self) -> list[Cell]:
        """What has neither run nor been kept."""
        return [cell for cell in chain(*self._planned.values()) if cell.file_name not in self._finished]

    def start(self, after_task: Callable[[], object] = lambda: None) -> None:
        """Runs what is not kept; an interruption leaves a record for each process that did not run."""
        self.journal.add("run")
        if "gpu" in self.choice.devices:
            self._memory_before = cooldown.gpu_memory()
        try:
            for plan in self.plans:
                self._run_task(plan)
                after_task()
        except (KeyboardInterrupt, SystemExit):
            with deferred():
                for cell in self.upcoming:
                    self._keep(self._record(cell, Outcome(status="interrupted", reason="the run was interrupted")))
            raise
        except OSError:
            if self._running is not None:  # stopped in an orderly way, which is no crash
                with contextlib.suppress(OSError):
                    self.journal.add("end", self._running)
            raise
        finally:
            with contextlib.suppress(
                OSError
            ):  # it is there only if a process ran, and somebody may have put something in
                (self.folder / files.SCRATCH).rmdir()

    def _run_task(self, plan: TaskPlan) -> None:
        for arm, why in self.choice.absent:
            absent = self._record(plan.cell(arm), Outcome(status="skipped", reason=why))
            self._write(absent)
            self.progress.finished(absent)
        climbed: dict[str, Record] = {}
        for kind in KINDS:
            if kind == "speed" and self.choice.effect is not None:
                plan = self._with_planned_rounds(plan, effect=self.choice.effect)
            for cell in plan.of_kind(kind):
                done = self._do(cell, climbed.get(cell.arm.name))
                if kind == "parity":
                    climbed[cell.arm.name] = done

    def _with_planned_rounds(self, plan: TaskPlan, *, effect: float) -> TaskPlan:
        """The plan with as many rounds as the pilot's noise asks for."""
        pilots = [one for one in self.records if (one.cell.task, one.cell.kind) == (plan.name, "pilot")]
        found = pilot.plan_rounds(pilots, effect=effect, otherwise=plan.preset.rounds)
        self.progress.planned(plan.name, found)
        plan = plan.with_rounds(found)
        self._planned[plan.name] = plan.cells
        return plan

    def _do(self, cell: Cell, climbed: Record | None) -> Record:
        """The record of one process: kept, skipped because its arm failed parity, or made now."""
        if climbed is not None:
            cell = msgspec.structs.replace(cell, ladders=climbed.outcome.ladders)
        kept = self._kept.get(cell.file_name)
        if kept is not None:
            self.records.append(kept)
            return kept
        if climbed is not None and climbed.outcome.status != "ok":
            skipped = self._record(cell, Outcome(status="skipped", reason=f"not run: {climbed.outcome.reason}"))
            self._keep(skipped)
            return skipped
        return self._measure(cell)

    def _measure(self, cell: Cell) -> Record:
        remark = self._pause()
        upcoming = self.upcoming
        total = sum(map(len, self._planned.values()))
        self.progress.started(cell, done=total - len(upcoming), total=total, left_s=self._estimate(upcoming))
        self._running = cell
        self.journal.add("start", cell)
        done = (cell.kind == "parity" and self._recalled(cell)) or self._in_a_process(cell)
        if remark:
            outcome = msgspec.structs.replace(done.outcome, remarks=[*done.outcome.remarks, remark])
            done = self._record(done.cell, outcome)
        self._hot = done.outcome.wall_s > 0
        self._note_duration(done)
        self._keep(done)
        return done

    def _recalled(self, cell: Cell) -> Record | None:
        """The parity record of an arm from what its other records carry, or from the cache; None if it is to climb."""
        for other in self._kept.values():
            if (other.cell.task, other.cell.arm, other.outcome.status) == (cell.task, cell.arm, "ok"):
                ladders: list[Ladder] = other.cell.ladders
                found = parity_cache.recalled(
                    self.run, cell, ladders, other.outcome.versions, at=other.outcome.started_utc
                )
                if found is not None:
                    return found
        return parity_cache.recall(self.run, cell, self._interpreter(cell))

    def _in_a_process(self, cell: Cell) -> Record:
        interpreter = self._interpreter(cell)
        done = self._execute(self.run, cell, self.folder, data_dir=self.choice.data_dir, interpreter=interpreter)
        if cell.kind == "parity" and done.outcome.status == "ok":
            parity_cache.remember(done, interpreter)
        return done

    def _interpreter(self, cell: Cell) -> Interpreter | None:
        return self.choice.interpreters.get(cell.arm.name)

    def _record(self, cell: Cell, outcome: Outcome) -> Record:
        return Record(run=self.run, cell=cell, outcome=outcome)

    def _pause(self) -> str | None:
        """Lets the machine come back to where it was before the last process; returns what did not."""
        if not self._hot:
            return None
        self._hot = False
        time.sleep(self.choice.cool_down_s)
        return cooldown.until_free(self._memory_before)

    def _keep(self, done: Record) -> None:
        with deferred():  # or an interruption could hide that it is finished
            self._write(done)
            if self._running is not None:
                self.journal.add("end", done.cell, status=done.outcome.status)
                self._running = None
            self._finished.add(done.cell.file_name)  # only now: an interruption leaves no gap
        self.progress.finished(done)

    def _write(self, done: Record) -> None:
        path = self.folder / "records" / done.cell.file_name
        if done.outcome.status != "interrupted" or not path.exists():  # which an earlier run left
            files.write(path, done)
        self.records.append(done)

    def _note_duration(self, done: Record) -> None:
        self._durations[done.cell.task, done.cell.kind, done.cell.arm.name].append(done.outcome.wall_s)

    def _estimate(self, cells: Sequence[Cell]) -> float:
        """Seconds: what was seen of the same cell, else of the same kind and task, else a guess."""
        left = 0.0
        for cell in cells:
            seen = self._durations.get((cell.task, cell.kind, cell.arm.name))
            if not seen:
                alike = (d for (task, kind, _), d in self._durations.items() if (task, kind) == (cell.task, cell.kind))
                seen = [value for durations in alike for value in durations]
            left += sum(seen) / len(seen) if seen else ESTIMATES_S[cell.kind]
            left += self.choice.cool_down_s
        return left
