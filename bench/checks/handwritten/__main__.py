"""Compares the harness with the hand-written loops: `python -m bench.checks.handwritten`. A benchmark, not a test."""

import contextlib
import importlib.util
import random
import secrets
import sys
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click

import backends
from bench.campaign import plan
from bench.campaign.plan import Choice, TaskPlan
from bench.cli.options import FilePath
from bench.process import environment, launch, phases, turns
from bench.process.execute import DEADLINES, started
from bench.records.record import Arm, Cell
from bench.report.formats import duration, with_interval
from bench.stats import intervals


@click.command()
@click.option("--task", default="mnist_mlp", show_default=True)
@click.option("--preset", default="quick", show_default=True)
@click.option("--data-dir", type=FilePath(exists=True, file_okay=False), envvar="FRAMEWORK_BENCH_DATA")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(min=2))
@click.option("--variant", default="", help="compiled: as torch.compile, and Keras's own compile, have it.")
def main(task: str, preset: str, data_dir: Path | None, rounds: int, variant: str) -> None:
    """Prints, per backend, the harness's step over the hand-written loop's, with its interval over rounds.

    In a round the harness's process and the loop's are alive at once and take turns, block by block.
    """
    stem = "_".join(filter(None, [f"bench.checks.handwritten.{task}", variant]))
    names = [
        name
        for name, entry in backends.BACKENDS.items()
        if not entry.missing() and importlib.util.find_spec(f"{stem}_{name}")
    ]
    if not names:
        raise click.UsageError(f"there is no loop {stem}_<framework> of a framework that is installed")
    choice = Choice(
        tasks=[task], arms=[Arm(name=name, backend=name) for name in names], preset=preset, rounds=rounds,
        data_dir=data_dir, run_id=secrets.token_hex(8),
    )  # fmt: skip
    (task_plan,) = plan.make(choice)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as name:
        for _, cells in groupby(task_plan.of_kind("speed"), key=lambda cell: cell.round):
            for cell in cells:
                ours, theirs = _both(task_plan, cell, f"{stem}_{cell.arm.backend}", Path(name))
                found = ratios[cell.arm.name]
                found.append(ours / theirs)
                click.echo(
                    f"round {cell.round} {cell.arm.name}: harness {duration(ours)}, hand-written {duration(theirs)}, "
                    f"ratio {found[-1]:.3f}"
                )
    for name, values in ratios.items():
        ratio = with_interval(intervals.geometric_mean(values))
        click.echo(f"{name}: harness step / hand-written step = {ratio}, n={len(values)}")


@dataclass(frozen=True)
class Loop:
    """A hand-written loop's process, as bench/process/turns.py wants one."""

    child: launch.Child


def _both(task_plan: TaskPlan, cell: Cell, module: str, folder: Path) -> tuple[float, float]:
    """Seconds of a step of the harness's and of the hand-written loop."""
    data_dir = task_plan.choice.data_dir
    log = folder / "hand-written.log"
    words = [cell.task, cell.preset, *([str(data_dir.absolute())] if data_dir else [])]
    env = environment.for_child(backends.find(cell.arm.backend), cell.arm)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            started(
                task_plan.run,
                cell,
                folder,
                data_dir=data_dir,
                interpreter=None,
                deadlines=DEADLINES["speed"],
                together=2,
            )
        )
        process.child.until(phases.WAITING)
        child = launch.Child(
            [sys.executable, "-P", "-m", module, *words], env=env, log=log, deadlines=DEADLINES["speed"]
        )
        loop = Loop(stack.enter_context(child))
        loop.child.until(phases.WAITING)
        rng = random.Random(f"{task_plan.run.id}/{cell.round}/{cell.arm.name}")
        turns.take_turns([process, loop], turns=task_plan.preset.blocks, rng=rng)
        for one in (process, loop):
            one.child.say(phases.END, phase="checks")
        outcome, ending = process.record(beside=1).outcome, loop.child.ending()
    if outcome.timings is None:
        raise click.ClickException(f"{cell.arm.name}: {outcome.status}: {outcome.reason}")
    if ending.status != "ok":
        raise click.ClickException(f"{cell.arm.name}: hand-written loop: {ending.reason}")
    return outcome.timings.step_s, float(log.read_text().split()[-1])


if __name__ == "__main__":
    main()
