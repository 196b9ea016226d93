"""Runs a plan: one process after the other, one record file per process, the table as it grows."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Protocol

import msgspec

from bench.campaign import cooldown, parity_cache, pilot
from bench.campaign.journal import Journal
from bench.campaign.plan import IN_ROUNDS, KINDS, SIDE_BY_SIDE, TaskPlan
from bench.machine.signals import deferred
from bench.process.execute import execute
from bench.process.interpreters import Interpreter
from bench.records import digest, files
from bench.records.disturbed import disturbed_rounds, spare_rounds
from bench.records.record import Cell, Kind, Ladder, Outcome, Record, RoundsPlan, Run

# Until one was seen:
ESTIMATES_S: Mapping[Kind, float] = {
    "parity": 15, "pilot": 8, "speed": 8, "memory": 6, "quality": 10, "inference": 8, "loading": 12,
    "explain": 20,
}  # fmt: skip
MAIN: tuple[Kind, ...] = ("speed", "inference", "loading", "explain")
"""By which an arm that cannot take part is told, the first that is wanted."""
START_S = 5.0  # of a training, beside its steps
FEW_STEPS = 60  # of a process that measures memory


class Progress(Protocol):
    """Receives what happens."""

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None: ...
    def finished(self, finished: Record) -> None: ...
    def planned(self, task: str, rounds: RoundsPlan) -> None: ...


class Execute(Protocol):
    """Runs one cell in a process (bench/process/execute.py)."""

    def __call__(
        self, run: Run, cell: Cell, folder: Path, *, data_dir: Path | None, interpreter: Interpreter | None
    ) -> Record: ...


class ExecuteRound(Protocol):
    """Runs the cells of a round in processes that take turns (bench/process/turns.py)."""

    def __call__(
        self,
        run: Run,
        cells: Sequence[Cell],
        folder: Path,
        *,
        turns: int,
        most: int,
        data_dir: Path | None,
        interpreters: Mapping[str, Interpreter],
        ended: Callable[[Record], object],
    ) -> list[Record]: ...


class ExecuteSideBySide(Protocol):
    """Runs cells in which nothing is timed, some side by side (bench/process/side_by_side.py)."""

    def __call__(
        self,
        run: Run,
        cells: Sequence[Cell],
        folder: Path,
        *,
        data_dir: Path | None,
        interpreters: Mapping[str, Interpreter],
        starting: Callable[[Cell], object],
        ended: Callable[[Record], object],
    ) -> list[Record]: ...


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
        execute_round: ExecuteRound | None = None,
        execute_side_by_side: ExecuteSideBySide | None = None,
        before_first: Callable[[], object] = lambda: None,
        cool_down: Callable[[float, int | None], str | None] = cooldown.pause,
    ) -> None:
        """Without `execute_round`, and where energy is read, the arms of a round run one after the other; without
        `execute_side_by_side`, what is not timed does too.

        `before_first` is called once, before a process runs; where everything is kept, it is not.
        """
        self.plans, self.folder, self.progress = plans, folder, progress
        self.choice, self.run = plans[0].choice, plans[0].run
        self.records: list[Record] = []
        self.journal = Journal(folder)
        self._told = set(self.journal.hashes())  # names of the records whose hash the journal has
        self._kept = kept or {}  # name of the file -> record of an earlier run
        self._execute = execute
        self._execute_round = None if self.choice.energy else execute_round
        self._execute_side_by_side = execute_side_by_side
        self._before_next = before_first
        self._cool_down = cool_down
        self._planned = {plan.name: plan.cells for plan in plans}
        self._turns = {plan.name: (plan.preset.blocks, plan.preset.most_blocks) for plan in plans}
        self._train_steps = {plan.name: plan.preset.task.train_steps for plan in plans}
        self._step_s: dict[tuple[str, str], float] = {}  # of each task and arm
        self._finished = set(self._kept)
        self._durations: dict[tuple[str, Kind, str], list[float]] = defaultdict(list)
        self._running: list[Cell] = []
        self._block_steps: dict[
            tuple[str, str], int
        ] = {}  # of each task and arm, as its first undisturbed process found it
        self._memory_before: int | None = None
        self._hot = False  # a process has run since the last pause
        for record in self._kept.values():
            self._note(record)

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
            for cell in self._running:  # stopped in an orderly way, which is no crash
                with contextlib.suppress(OSError):
                    self.journal.add("end", cell)
            raise
        finally:
            with contextlib.suppress(
                OSError
            ):  # it is there only if a process ran, and somebody may have put something in
                (self.folder / files.SCRATCH).rmdir()

    def _run_task(self, plan: TaskPlan) -> None:
        for arm, why in self.choice.absent:
            # Of what was asked for: a run of predictions alone has no table of training.
            kind = next((kind for kind in MAIN if kind in self.choice.kinds), MAIN[0])
            absent = self._record(plan.cell(arm, kind=kind), Outcome(status="skipped", reason=why))
            self._write(absent)
            self.progress.finished(absent)
        climbed: dict[str, Record] = {}
        for kind in KINDS:
            if kind == "speed" and self.choice.effect is not None:
                plan = self._with_planned_rounds(plan, effect=self.choice.effect)
            for cells in _by_round(plan.of_kind(kind)):
                for done in self._do(cells, climbed):
                    if kind == "parity":
                        climbed[done.cell.arm.name] = done
            if kind in ("speed", "inference", "loading") and kind in self.choice.kinds:
                self._replace_disturbed(plan, kind, climbed)

    def _replace_disturbed(self, plan: TaskPlan, kind: Kind, climbed: Mapping[str, Record]) -> None:
        """Runs more rounds in place of those that were disturbed, up to a limit."""
        last = plan.rounds
        while last < plan.rounds + spare_rounds(plan.rounds):
            timed = [one for one in self.records if (one.cell.task, one.cell.kind) == (plan.name, kind)]
            if last - len(disturbed_rounds(timed)) >= plan.rounds:
                break
            last += 1
            more = plan.spare_round(kind, last)
            self._planned[plan.name] = [*self._planned[plan.name], *more]
            self._do(more, climbed)

    def _with_planned_rounds(self, plan: TaskPlan, *, effect: float) -> TaskPlan:
        """The plan with as many rounds as the pilot's noise asks for."""
        pilots = [one for one in self.records if (one.cell.task, one.cell.kind) == (plan.name, "pilot")]
        found = pilot.plan_rounds(pilots, effect=effect, otherwise=plan.preset.rounds)
        self.progress.planned(plan.name, found)
        plan = plan.with_rounds(found)
        self._planned[plan.name] = plan.cells
        return plan

    def _do(self, cells: Sequence[Cell], climbed: Mapping[str, Record]) -> list[Record]:
        """The records of the cells of a round, or of one: kept, skipped because the arm failed parity, or made now."""
        due: list[Cell] = []
        done: list[Record] = []
        for cell in cells:
            ladder = climbed.get(cell.arm.name)
            if ladder is not None:
                cell = msgspec.structs.replace(cell, ladders=ladder.outcome.ladders)
            kept = self._kept.get(cell.file_name)
            if kept is not None:
                self.records.append(kept)
                done.append(kept)
            elif ladder is not None and ladder.outcome.status != "ok":
                done.append(self._record(cell, Outcome(status="skipped", reason=f"not run: {ladder.outcome.reason}")))
                self._keep(done[-1])
            else:
                steps = self._block_steps.get((cell.task, cell.arm.name)) if cell.kind in ("pilot", "speed") else None
                due.append(msgspec.structs.replace(cell, block_steps=steps))
        return [*done, *self._measure(due)]

    def _measure(self, cells: Sequence[Cell]) -> list[Record]:
        """Runs cells together where they take turns or are not timed, else one after the other."""
        if cells and cells[0].kind in SIDE_BY_SIDE and self._execute_side_by_side is not None:
            together = self._climb if cells[0].kind == "parity" else self._measure_side_by_side
            return together(cells, self._execute_side_by_side)
        if len(cells) > 1 and self._execute_round is not None:
            return self._measure_together(cells, self._execute_round)
        return [self._measure_one(cell) for cell in cells]

    def _climb(self, cells: Sequence[Cell], execute: ExecuteSideBySide) -> list[Record]:
        """Two arms that are the same program climb once: the second one's ladder is recalled."""
        due: dict[str, Cell] = {}
        later = []
        for cell in cells:
            key = parity_cache.key(cell, self.run.machine, self._interpreter(cell))
            if key in due or self._recalled(cell):
                later.append(cell)
            else:
                due[key] = cell
        done = self._measure_side_by_side(list(due.values()), execute)
        return [*done, *(self._measure_one(cell) for cell in later)]

    def _measure_side_by_side(self, cells: Sequence[Cell], execute: ExecuteSideBySide) -> list[Record]:
        self._pause()

        def starting(cell: Cell) -> None:
            self._begin([*self._running, cell])

        def ended(done: Record) -> None:
            self._remember(done)
            self._hot = True
            self._keep(done)

        return execute(
            self.run, cells, self.folder, data_dir=self.choice.data_dir, interpreters=self.choice.interpreters,
            starting=starting, ended=ended,
        )  # fmt: skip

    def _measure_together(self, cells: Sequence[Cell], execute_round: ExecuteRound) -> list[Record]:
        self._pause()
        self._begin(cells)
        self._hot = True
        turns, most = self._turns[cells[0].task]
        return execute_round(
            self.run, cells, self.folder, turns=turns, most=most, data_dir=self.choice.data_dir,
            interpreters=self.choice.interpreters, ended=self._keep,
        )  # fmt: skip

    def _measure_one(self, cell: Cell) -> Record:
        remark = self._pause()
        self._begin([cell])
        done = (cell.kind == "parity" and self._recalled(cell)) or self._in_a_process(cell)
        if remark:
            outcome = msgspec.structs.replace(done.outcome, remarks=[*done.outcome.remarks, remark])
            done = self._record(done.cell, outcome)
        self._hot = done.outcome.wall_s > 0
        self._keep(done)
        return done

    def _begin(self, cells: Sequence[Cell]) -> None:
        self._before_next()
        self._before_next = lambda: None
        begun = [cell for cell in cells if cell not in self._running]
        self._running = list(cells)
        self._tell_started(cells[0])
        for cell in begun:
            self.journal.add("start", cell)

    def _tell_started(self, cell: Cell) -> None:
        upcoming = self.upcoming
        total = sum(map(len, self._planned.values()))
        left_s, guessed = self._estimate(upcoming)
        self.progress.started(cell, done=total - len(upcoming), total=total, left_s=left_s, at_least=guessed)

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
        self._remember(done)
        return done

    def _remember(self, done: Record) -> None:
        if done.cell.kind == "parity" and done.outcome.status == "ok":
            parity_cache.remember(done, self._interpreter(done.cell))

    def _interpreter(self, cell: Cell) -> Interpreter | None:
        return self.choice.interpreters.get(cell.arm.name)

    def _record(self, cell: Cell, outcome: Outcome) -> Record:
        return Record(run=self.run, cell=cell, outcome=outcome)

    def _pause(self) -> str | None:
        """Waits after a process that ran; returns what of the machine did not come back."""
        if not self._hot:
            return None
        self._hot = False
        return self._cool_down(self.choice.cool_down_s, self._memory_before)

    def _keep(self, done: Record) -> None:
        with deferred():  # or an interruption could hide that it is finished
            is_written, name = self._write(done), done.cell.file_name
            # A process that never began may replace one that did: its hash is another now.
            if name in {cell.file_name for cell in self._running} or (is_written and name in self._told):
                sha256 = digest.of(files.encode(done)) if is_written else ""
                self.journal.add("end", done.cell, status=done.outcome.status, sha256=sha256)
                self._running = [cell for cell in self._running if cell.file_name != name]
            self._finished.add(name)  # only now: an interruption leaves no gap
            self._note(done)
        self.progress.finished(done)
        if self._running:
            self._tell_started(self._running[0])

    def _write(self, done: Record) -> bool:
        """Whether the record's file is of this run: where it was only interrupted, that of an earlier one stays."""
        path = self.folder / "records" / done.cell.file_name
        is_written = done.outcome.status != "interrupted" or not path.exists()
        if is_written:
            files.write(path, done)
        self.records.append(done)
        return is_written

    def _note(self, done: Record) -> None:
        """What is to be known of a finished process later: how long it took, and how many steps its blocks have."""
        cell, outcome = done.cell, done.outcome
        self._durations[cell.task, cell.kind, cell.arm.name].append(outcome.wall_s / (1 + outcome.beside))
        if outcome.timings is not None:
            disturbed = outcome.disturbance is not None and outcome.disturbance.disturbed
            if not disturbed:  # then a block had too few of them
                self._block_steps.setdefault((cell.task, cell.arm.name), outcome.timings.block_steps)
            self._step_s[cell.task, cell.arm.name] = outcome.timings.step_s

    def _estimate(self, cells: Sequence[Cell]) -> tuple[float, bool]:
        """Seconds, and whether a part of them is a guess, which is mostly too short.

        What was seen of the same cell, else of the same kind and task, else what its steps take, else a guess.
        """
        left, guessed = 0.0, False
        for cell in cells:
            seen = self._durations.get((cell.task, cell.kind, cell.arm.name))
            if not seen:
                alike = (d for (task, kind, _), d in self._durations.items() if (task, kind) == (cell.task, cell.kind))
                seen = [value for durations in alike for value in durations]
            step_s = self._step_s.get((cell.task, cell.arm.name))
            if not seen and step_s is not None:
                steps = self._train_steps[cell.task] if cell.kind == "quality" else FEW_STEPS
                seen = [START_S + steps * step_s]
            guessed = guessed or not seen
            left += sum(seen) / len(seen) if seen else ESTIMATES_S[cell.kind]
            left += self.choice.cool_down_s
        return left, guessed


def _by_round(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of a kind in groups that belong together: what is not timed, the arms of a round; every other is alone."""
    if not cells or cells[0].kind not in (*SIDE_BY_SIDE, *IN_ROUNDS):
        return [[cell] for cell in cells]
    return [list(group) for _, group in groupby(cells, key=lambda cell: cell.round)]
