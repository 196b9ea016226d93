"""Compares the backends with public implementations: `python -m bench.checks.handwritten`. A benchmark, not a test."""

import contextlib
import random
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import click

import backends
from bench.campaign import parity_cache, plan
from bench.campaign.plan import Choice, TaskPlan
from bench.checks.handwritten import page
from bench.checks.handwritten.loops import LOOPS, Loop
from bench.checks.handwritten.measured import Measured, Round
from bench.cli.options import FilePath
from bench.process import environment, launch, phases, turns
from bench.process.execute import DEADLINES, Process, started
from bench.records import files
from bench.records.record import Arm, Cell
from bench.report.formats import duration


@click.command()
@click.option("--task", default="mnist_mlp", show_default=True)
@click.option("--preset", default="quick", show_default=True)
@click.option("--data-dir", type=FilePath(exists=True, file_okay=False), envvar="FRAMEWORK_BENCH_DATA")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(min=2))
@click.option("--output", type=FilePath(dir_okay=False), help="A JSON file for the figures, written after every round.")
def main(task: str, preset: str, data_dir: Path | None, rounds: int, output: Path | None) -> None:
    """Prints the speed of each backend, as default and as tuned, over that of public implementations in its framework.

    In a round, all processes of a framework are alive at once and take turns, block by block.
    """
    chosen = [one for one in LOOPS if one.task == task and not backends.find(one.framework).missing()]
    for one in chosen:
        if one.missing:
            click.echo(f"left out: {one.framework}, {one.name}: pip install {' '.join(one.missing)}", err=True)
    chosen = [one for one in chosen if not one.missing]
    if not chosen:
        raise click.UsageError(f"there is no loop of {task} for a framework that is installed")
    frameworks = dict.fromkeys(one.framework for one in chosen)
    tuned = {name: backends.mode_for(name, backends.TUNED, task=task, device="cpu") for name in frameworks}
    tuned = {name: mode for name, mode in tuned.items() if mode != backends.api.DEFAULT_MODE}
    arms = [Arm(name=name, backend=name) for name in frameworks]
    arms += [Arm(name=f"{name}:tuned", backend=name, mode=backends.TUNED) for name in tuned]
    (task_plan,) = plan.make(
        Choice(tasks=[task], arms=arms, preset=preset, rounds=rounds, data_dir=data_dir, run_id=secrets.token_hex(8))
    )
    found = Measured(
        task=task, preset=preset, day=datetime.now(UTC).strftime("%Y-%m-%d"), machine=task_plan.run.machine,
        source=str(task_plan.run.source), tuned=tuned, apart={f"{one.framework}/{one.name}": one.apart for one in chosen},
        versions={name: dict(parity_cache.versions(name, None)) for name in frameworks}, rounds=[],
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as name:
        for number, group in groupby(task_plan.of_kind("speed"), key=lambda cell: cell.round):
            cells = list(group)
            for framework in frameworks:
                loops = [one for one in chosen if one.framework == framework]
                of_framework = [cell for cell in cells if cell.arm.backend == framework]
                done = one_round(task_plan, of_framework, loops, Path(name), number=number)
                found = found.with_round(done)
                told = ", ".join(f"{what} {duration(step_s)}" for what, step_s in done.steps_s.items())
                click.echo(
                    f"round {number} {framework}: {told}{f', disturbed: {done.disturbed}' if done.disturbed else ''}"
                )
                if output is not None:
                    files.write(output, found)
    click.echo(page.table(found))


@dataclass(frozen=True)
class Running:
    """A loop's process, as bench/process/turns.py wants one."""

    child: launch.Child
    loop: Loop
    log: Path


@dataclass(frozen=True)
class _Starter:
    """What all processes of a framework in a round have in common."""

    task_plan: TaskPlan
    folder: Path
    together: int
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def ours(self, cell: Cell) -> Process:
        process = self.stack.enter_context(
            started(
                self.task_plan.run, cell, self.folder, data_dir=self.task_plan.choice.data_dir, interpreter=None,
                deadlines=DEADLINES["speed"], together=self.together,
            )
        )  # fmt: skip
        process.child.until(phases.WAITING)
        return process

    def theirs(self, loop: Loop) -> Running:
        cell, data_dir = self.task_plan.template, self.task_plan.choice.data_dir
        words = [cell.task, cell.preset, *([str(data_dir.absolute())] if data_dir else [])]
        arm = Arm(name=loop.framework, backend=loop.framework, environment=dict(loop.environment))
        log = self.folder / f"{loop.module}-{loop.framework}.log"
        child = self.stack.enter_context(
            launch.Child(
                [sys.executable, "-P", "-m", f"bench.checks.handwritten.{loop.module}", *words],
                env=environment.for_child(backends.find(loop.framework), arm), log=log, deadlines=DEADLINES["speed"],
            )
        )  # fmt: skip
        child.until(phases.WAITING)
        return Running(child, loop, log)


def one_round(task_plan: TaskPlan, cells: Sequence[Cell], loops: Sequence[Loop], folder: Path, *, number: int) -> Round:
    """Seconds of a step of our arms and of the loops; ClickException where one of the processes fails."""
    steps_s: dict[str, float] = {}
    disturbed: list[str] = []
    starter = _Starter(task_plan, folder, together=len(cells) + len(loops))
    with starter.stack:
        ours, theirs = [starter.ours(cell) for cell in cells], [starter.theirs(loop) for loop in loops]
        rng = random.Random(f"{task_plan.run.id}/{number}/{cells[0].arm.backend}")
        preset = task_plan.preset
        turns.take_turns([*ours, *theirs], turns=preset.blocks, most=preset.most_blocks, rng=rng)
        for one in ours:
            one.child.say(phases.END, phase="checks")
            outcome = one.record(beside=len(ours) + len(theirs) - 1).outcome
            if outcome.timings is None or outcome.status != "ok":
                raise click.ClickException(f"{one.cell.arm.name}: {outcome.status}: {outcome.reason}")
            steps_s["tuned" if one.cell.arm.mode == backends.TUNED else "default"] = outcome.timings.step_s
            if outcome.disturbance is not None and outcome.disturbance.disturbed:
                disturbed.append(outcome.disturbance.disturbed)
        for running in theirs:
            running.child.say(phases.END, phase="checks")
            ending = running.child.ending()
            if ending.status != "ok":
                raise click.ClickException(f"{running.loop.name}: {ending.reason}")
    # A log is written when its process is closed.
    steps_s |= {running.loop.name: float(running.log.read_text().split()[-1]) for running in theirs}
    return Round(cells[0].arm.backend, number, steps_s, "; ".join(dict.fromkeys(disturbed)) or None)


if __name__ == "__main__":
    main()
