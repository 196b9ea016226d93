"""Runs a plan: one process after the other, one record file per process, the table as it grows."""

import contextlib
import dataclasses
import errno
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

import backends
from bench.campaign import cooldown, parity_cache, pilot, resume
from bench.campaign.journal import Journal
from bench.campaign.plan import Choice, TaskPlan
from bench.machine import cores
from bench.machine.signals import deferred
from bench.process import launch
from bench.process.interpreters import Interpreter
from bench.records import record
from bench.records.record import Kind, Ladder, Record, RecordError
from bench.stats import power
from bench.worker.answer import Request

DEADLINES_S: Mapping[Kind, float] = {"parity": 900, "pilot": 900, "speed": 900, "memory": 900, "quality": 7200}
PHASE_DEADLINES_S: Mapping[str, float] = {
    "start": 120, "data": 600, "import": 300, "build": 300, "first step": 600, "warm-up": 600, "window": 600, "checks": 300,
    "memory": 600, "parity": 900, "training": 7200, "evaluation": 1800,
}  # fmt: skip
"""What a worker tells that it does (bench/process/phases.py) -> how long it may take. The process's own deadline holds too."""

# Until one was seen:
ESTIMATES_S: Mapping[Kind, float] = {"parity": 15, "pilot": 8, "speed": 8, "memory": 6, "quality": 10}

SAID = (
    "status", "reason", "target_reached", "timings", "probe", "disturbance", "energy", "memory", "quality", "remarks",
    "settings", "versions",
)  # fmt: skip
"""The fields that a worker fills in."""


class Progress(Protocol):
    """Is told what happens; never asked."""

    def started(self, cell: Record, *, done: int, total: int, left_s: float) -> None: ...
    def finished(self, finished: Record) -> None: ...
    def note(self, text: str) -> None: ...


class Campaign:
    """Every process of a comparison and the records that they left, in memory and under `folder/records`."""

    def __init__(
        self,
        plans: list[TaskPlan],
        choice: Choice,
        folder: Path,
        progress: Progress,
        kept: Mapping[str, Record] | None = None,
    ) -> None:
        self.plans, self.choice, self.folder, self.progress = plans, choice, folder, progress
        self.kept = kept or {}  # name of the file -> record of an earlier run
        self.records: list[Record] = []
        self.journal = Journal(folder)
        self._cells = {plan.name: cells(plan, choice) for plan in plans}
        self._durations: dict[tuple[str, Kind, str], list[float]] = defaultdict(list)
        for done in self.kept.values():
            self._durations[done.task, done.kind, done.backend].append(done.wall_s)
        everything = [cell for planned in self._cells.values() for cell in planned]
        self._upcoming = [cell for cell in everything if record.file_name(cell) not in self.kept]
        self._total = len(everything)
        self._running: Record | None = None
        self._memory_before: int | None = None
        self._hot = False  # a process has run since the last pause

    @property
    def complete(self) -> bool:
        """Whether every process that was to run is ok."""
        absent = {name for name, _ in self.choice.absent}
        return all(done.status == "ok" for done in self.records if done.backend not in absent)

    def run(self, after_task: Callable[[], object] = lambda: None) -> None:
        """Runs what is not kept; an interruption leaves a record for each process that did not run."""
        self.journal.add("run")
        if self.choice.device == "gpu":
            self._memory_before = cooldown.gpu_memory()
        try:
            for plan in self.plans:
                self._run_task(plan)
                after_task()
        except (KeyboardInterrupt, SystemExit):
            with deferred():
                for cell in list(self._upcoming):
                    self._keep(msgspec.structs.replace(cell, reason="the run was interrupted"))
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
                (self.folder / record.SCRATCH).rmdir()

    def _in_order(self, plan: TaskPlan) -> Iterator[Record]:
        """The task's processes; after a pilot the number of rounds is another one."""
        first = before_rounds(plan, self.choice)
        yield from first
        measured = self._cells[plan.name][len(first) :]
        if self.choice.effect is not None:
            pilots = [done for done in self.records if (done.task, done.kind) == (plan.name, "pilot")]
            found = pilot.plan_rounds(pilots, effect=self.choice.effect, otherwise=plan.preset.rounds)
            self.progress.note(f"{plan.name}: {pilot.describe(found)}")
            assumed, measured = measured, measured_cells(plan.with_rounds(found), self.choice)
            left = [cell for cell in measured if record.file_name(cell) not in self.kept]
            self._upcoming[: sum(cell.task == plan.name for cell in self._upcoming)] = left
            self._total += len(measured) - len(assumed)
        yield from measured

    def _run_task(self, plan: TaskPlan) -> None:
        for cell in plan.absent(self.choice):
            self._write(cell)
            self.progress.finished(cell)
        fallen: dict[str, Record] = {}
        ladders: dict[str, list[Ladder]] = {}
        for cell in self._in_order(plan):
            cell = msgspec.structs.replace(cell, parity=ladders.get(cell.backend, []))
            done = self.kept.get(record.file_name(cell))
            if done is not None:
                self.records.append(done)
            elif cell.backend in fallen:
                why = f"not run: {fallen[cell.backend].reason}"
                self._keep(msgspec.structs.replace(cell, status="skipped", reason=why))
                continue
            else:
                done = self._execute(cell)
            if cell.kind == "parity":
                ladders[cell.backend] = done.parity
            if cell.kind == "parity" and done.status != "ok":
                fallen[cell.backend] = done

    def _execute(self, cell: Record) -> Record:
        remark = self._pause()
        self.progress.started(
            cell, done=self._total - len(self._upcoming), total=self._total, left_s=self._estimate_left()
        )
        self._running = cell
        self.journal.add("start", cell)
        how = climb if cell.kind == "parity" else execute
        done = resume.recall(cell, self.kept.values()) if cell.kind == "parity" else None
        if done is None:
            interpreter = self.choice.interpreters.get(cell.backend)
            done = how(cell, self.folder, data_dir=self.choice.data_dir, interpreter=interpreter)
        if remark:
            done = msgspec.structs.replace(done, remarks=[*done.remarks, remark])
        self._hot = done.wall_s > 0
        self._durations[cell.task, cell.kind, cell.backend].append(done.wall_s)
        self._keep(done)
        return done

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
                self.journal.add("end", done)
                self._running = None
            self._upcoming.pop(0)  # only now: an interruption leaves no gap
        self.progress.finished(done)

    def _write(self, done: Record) -> None:
        path = self.folder / "records" / record.file_name(done)
        if done.status != "interrupted" or not path.exists():  # which an earlier run left
            record.write(path, done)
        self.records.append(done)

    def _estimate_left(self) -> float:
        """Seconds: what was seen of the same cell, else of the same kind and task, else a guess."""
        left = 0.0
        for cell in self._upcoming:
            seen = self._durations.get((cell.task, cell.kind, cell.backend))
            if not seen:
                alike = (d for (task, kind, _), d in self._durations.items() if (task, kind) == (cell.task, cell.kind))
                seen = [value for durations in alike for value in durations]
            left += sum(seen) / len(seen) if seen else ESTIMATES_S[cell.kind]
            left += self.choice.cool_down_s
        return left


def cells(plan: TaskPlan, choice: Choice) -> list[Record]:
    """Every process of a task in the order in which they run, each with its key."""
    return [*before_rounds(plan, choice), *measured_cells(plan, choice)]


def possible_cells(plan: TaskPlan, choice: Choice) -> list[Record]:
    """The same with as many rounds as a pilot may ask for: what an earlier run can have left."""
    if choice.effect is None:
        return cells(plan, choice)
    most = dataclasses.replace(plan, preset=dataclasses.replace(plan.preset, rounds=power.MOST_ROUNDS))
    return cells(most, choice)


def before_rounds(plan: TaskPlan, choice: Choice) -> list[Record]:
    """The climbs, and the pilot if there is one."""
    return resume.with_keys([*plan.parity(choice), *plan.pilot(choice)], choice.interpreters)


def measured_cells(plan: TaskPlan, choice: Choice) -> list[Record]:
    """The rounds, memory and quality."""
    speed = [cell for block in plan.rounds(choice) for cell in block]
    return resume.with_keys([*speed, *plan.memory(choice), *plan.quality(choice)], choice.interpreters)


def climb(cell: Record, folder: Path, *, data_dir: Path | None, interpreter: Interpreter | None = None) -> Record:
    """The cell's parity record: from the cache if nothing has changed since, else from a process of its own."""
    recalled = parity_cache.recall(cell, interpreter)
    if recalled is not None:
        return msgspec.structs.replace(recalled, started_utc=_now())
    climbed = execute(cell, folder, data_dir=data_dir, interpreter=interpreter)
    if climbed.status == "ok":
        parity_cache.remember(climbed, interpreter)
    return climbed


def execute(
    cell: Record,
    folder: Path,
    *,
    data_dir: Path | None,
    interpreter: Interpreter | None = None,
    slow_down: float = 0.0,
) -> Record:
    """Runs one process, by default in this interpreter; whatever becomes of it is a record with a status and a reason.

    `slow_down` is for a self-test (slowdown.py). OSError where the disk does not take the process's files: that is no
    finding about a backend.
    """
    entry = backends.find(cell.backend)
    scratch = folder / record.SCRATCH
    for path in (scratch, folder / "logs"):
        path.mkdir(exist_ok=True)
    cell = msgspec.structs.replace(cell, started_utc=_now())
    name = record.file_name(cell)
    request_path, answer_path = record.exchange(folder, cell)
    answer_path.unlink(missing_ok=True)
    record.write(request_path, Request(cell, str(data_dir) if data_dir else None, slow_down))

    try:
        env = {**entry.env, **(entry.env_cpu if cell.device == "cpu" else {})}
        if cell.kind == "memory":
            env |= entry.env_memory
        ending = launch.run(
            launch.worker_command(
                request_path,
                answer_path,
                python=interpreter.path if interpreter else sys.executable,
                cores=cores.first(cell.threads or 0),
            ),
            env=launch.worker_env(env, device=cell.device),
            log=folder / "logs" / f"{name}.log",
            timeout_s=DEADLINES_S[cell.kind],
            phases_s=PHASE_DEADLINES_S,
        )
        if ending.code == os.EX_IOERR and not answer_path.exists():
            raise OSError(errno.EIO, f"a process could not write its record: {ending.reason}")
        return _outcome(cell, ending, answer_path)
    finally:
        for path in (request_path, answer_path):
            path.unlink(missing_ok=True)


def _outcome(cell: Record, ending: launch.Ending, answer_path: Path) -> Record:
    if ending.status != "ok":
        reason = record.one_line(str(ending.reason))
        return msgspec.structs.replace(cell, status=ending.status, reason=reason, wall_s=ending.wall_s)
    try:
        answer = record.read(answer_path)
    except RecordError as error:
        reason = f"the process left no readable record: {str(error).partition(': not a record: ')[2]}"
        return msgspec.structs.replace(cell, status="failed", reason=reason, wall_s=ending.wall_s)
    # Only what a worker may say is taken from it; what was asked stays as it was asked.
    parity = answer.parity if cell.kind == "parity" else cell.parity
    said = {field: getattr(answer, field) for field in SAID}
    return msgspec.structs.replace(cell, wall_s=ending.wall_s, parity=parity, **said)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def default_folder() -> Path:
    """A new folder for a run: its time in UTC."""
    return Path("results", "local", time.strftime("%Y%m%d-%H%M%S", time.gmtime()))
