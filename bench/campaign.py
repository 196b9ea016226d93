"""Runs a plan: one process after the other, one record file per process, the table as it grows."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

import backends
from bench import gate, launch, pilot, record
from bench.plan import Choice, TaskPlan
from bench.record import Kind, Ladder, Record, RecordError
from bench.worker import Request

DEADLINES_S: Mapping[Kind, float] = {"parity": 900, "pilot": 900, "speed": 900, "memory": 900, "quality": 7200}
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

    def __init__(self, plans: list[TaskPlan], choice: Choice, folder: Path, progress: Progress) -> None:
        self.plans, self.choice, self.folder, self.progress = plans, choice, folder, progress
        self.records: list[Record] = []
        self._durations: dict[tuple[str, Kind, str], list[float]] = defaultdict(list)
        self._upcoming: list[Record] = [cell for plan in plans for cell in self._cells(plan)]
        self._total = len(self._upcoming)

    @property
    def complete(self) -> bool:
        """Whether every process that was to run is ok."""
        absent = {name for name, _ in self.choice.absent}
        return all(done.status == "ok" for done in self.records if done.backend not in absent)

    def run(self, after_task: Callable[[], object] = lambda: None) -> None:
        """Runs everything; an interruption leaves a record for each process that did not run."""
        try:
            for plan in self.plans:
                self._run_task(plan)
                after_task()
        except (KeyboardInterrupt, SystemExit):
            for cell in list(self._upcoming):
                self._keep(msgspec.structs.replace(cell, reason="the run was interrupted"))
            raise
        finally:
            shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def _cells(self, plan: TaskPlan) -> list[Record]:
        return [*plan.parity(self.choice), *plan.pilot(self.choice), *self._measured(plan)]

    def _measured(self, plan: TaskPlan) -> list[Record]:
        choice = self.choice
        speed = [cell for cells in plan.rounds(choice) for cell in cells]
        return [*speed, *plan.memory(choice), *plan.quality(choice)]

    def _in_order(self, plan: TaskPlan) -> Iterator[Record]:
        """The task's processes; after a pilot the number of rounds is another one."""
        yield from [*plan.parity(self.choice), *plan.pilot(self.choice)]
        if self.choice.effect is not None:
            assumed = len(self._measured(plan))
            pilots = [done for done in self.records if (done.task, done.kind) == (plan.name, "pilot")]
            found = pilot.plan_rounds(pilots, effect=self.choice.effect, otherwise=plan.preset.rounds)
            self.progress.note(f"{plan.name}: {pilot.describe(found)}")
            plan = plan.with_rounds(found)
            self._upcoming[:assumed] = self._measured(plan)
            self._total += len(self._measured(plan)) - assumed
        yield from self._measured(plan)

    def _run_task(self, plan: TaskPlan) -> None:
        for cell in plan.absent(self.choice):
            self._write(cell)
            self.progress.finished(cell)
        fallen: dict[str, Record] = {}
        ladders: dict[str, list[Ladder]] = {}
        for cell in self._in_order(plan):
            cell = msgspec.structs.replace(cell, parity=ladders.get(cell.backend, []))
            if cell.backend in fallen:
                why = f"not run: {fallen[cell.backend].reason}"
                self._keep(msgspec.structs.replace(cell, status="skipped", reason=why))
                continue
            done = self._execute(cell)
            if cell.kind == "parity":
                ladders[cell.backend] = done.parity
            if cell.kind == "parity" and done.status != "ok":
                fallen[cell.backend] = done

    def _execute(self, cell: Record) -> Record:
        self.progress.started(
            cell, done=self._total - len(self._upcoming), total=self._total, left_s=self._estimate_left()
        )
        if cell.kind == "parity":
            done = climb(cell, self.folder, data_dir=self.choice.data_dir)
        else:
            done = execute(cell, self.folder, data_dir=self.choice.data_dir)
        self._durations[cell.task, cell.kind, cell.backend].append(done.wall_s)
        self._keep(done)
        return done

    def _keep(self, done: Record) -> None:
        self._write(done)
        self._upcoming.pop(0)  # only now: an interruption leaves no gap
        self.progress.finished(done)

    def _write(self, done: Record) -> None:
        record.write(self.folder / "records" / record.file_name(done), done)
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
        return left


def climb(cell: Record, folder: Path, *, data_dir: Path | None) -> Record:
    """The cell's parity record: from the cache if nothing has changed since, else from a process of its own."""
    recalled = gate.recall(cell)
    if recalled is not None:
        return msgspec.structs.replace(recalled, started_utc=_now())
    climbed = execute(cell, folder, data_dir=data_dir)
    if climbed.status == "ok":
        gate.remember(climbed)
    return climbed


def execute(cell: Record, folder: Path, *, data_dir: Path | None, slow_down: float = 0.0) -> Record:
    """Runs one process; whatever becomes of it, the result is a record with a status and a reason.

    `slow_down` is for a self-test (bench/planted.py).
    """
    entry = backends.find(cell.backend)
    scratch = folder / "scratch"
    for path in (scratch, folder / "logs"):
        path.mkdir(exist_ok=True)
    cell = msgspec.structs.replace(cell, started_utc=_now())
    name = record.file_name(cell)
    request_path, answer_path = scratch / f"request-{name}", scratch / f"answer-{name}"
    answer_path.unlink(missing_ok=True)
    record.write(request_path, Request(cell, str(data_dir) if data_dir else None, slow_down))

    env = {**entry.env, **(entry.env_cpu if cell.device == "cpu" else {})}
    if cell.kind == "memory":
        env |= entry.env_memory
    ending = launch.run(
        launch.worker_command(request_path, answer_path),
        env=launch.worker_env(env, device=cell.device),
        log=folder / "logs" / f"{name}.log",
        timeout_s=DEADLINES_S[cell.kind],
    )
    done = _outcome(cell, ending, answer_path)
    for path in (request_path, answer_path):
        path.unlink(missing_ok=True)
    return done


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
