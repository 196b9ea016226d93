"""Compares the harness with the hand-written loops: `python -m bench.checks.handwritten`. A benchmark, not a test."""

import importlib.util
import random
import secrets
import sys
import tempfile
from pathlib import Path

import click

import backends
from bench.campaign import plan
from bench.campaign.plan import Choice, TaskPlan
from bench.cli.options import FilePath
from bench.process import environment, launch
from bench.process.execute import execute
from bench.records.record import Arm, Cell
from bench.report.formats import duration, with_interval
from bench.stats import intervals


@click.command()
@click.option("--task", default="mnist_mlp", show_default=True)
@click.option("--preset", default="quick", show_default=True)
@click.option("--data-dir", type=FilePath(exists=True, file_okay=False), envvar="FRAMEWORK_BENCH_DATA")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(min=2))
def main(task: str, preset: str, data_dir: Path | None, rounds: int) -> None:
    """Prints, per backend, the harness's step over the hand-written loop's, with its interval over interleaved rounds."""
    names = [
        name
        for name, entry in backends.BACKENDS.items()
        if not entry.missing() and importlib.util.find_spec(f"bench.checks.handwritten.{task}_{name}")
    ]
    choice = Choice(
        tasks=[task], arms=[Arm(name=name, backend=name) for name in names], preset=preset, rounds=rounds,
        data_dir=data_dir, run_id=secrets.token_hex(8),
    )  # fmt: skip
    (task_plan,) = plan.make(choice)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as name:
        folder = Path(name)
        for cell in task_plan.of_kind("speed"):
            steps = {}
            for kind in random.sample(("harness", "hand-written"), 2):
                steps[kind] = (
                    _harness(task_plan, cell, folder) if kind == "harness" else _handwritten(cell, folder, data_dir)
                )
            found = ratios[cell.arm.name]
            found.append(steps["harness"] / steps["hand-written"])
            click.echo(
                f"round {cell.round} {cell.arm.name}: harness {duration(steps['harness'])}, "
                f"hand-written {duration(steps['hand-written'])}, ratio {found[-1]:.3f}"
            )
    for name, values in ratios.items():
        ratio = with_interval(intervals.geometric_mean(values))
        click.echo(f"{name}: harness step / hand-written step = {ratio}, n={len(values)}")


def _harness(task_plan: TaskPlan, cell: Cell, folder: Path) -> float:
    outcome = execute(task_plan.run, cell, folder, data_dir=task_plan.choice.data_dir).outcome
    if outcome.timings is None:
        raise click.ClickException(f"{cell.arm.name}: {outcome.status}: {outcome.reason}")
    return outcome.timings.step_s


def _handwritten(cell: Cell, folder: Path, data_dir: Path | None) -> float:
    log = folder / "hand-written.log"
    module = f"bench.checks.handwritten.{cell.task}_{cell.arm.backend}"
    command = [
        sys.executable,
        "-P",
        "-m",
        module,
        cell.task,
        cell.preset,
        *([str(data_dir.absolute())] if data_dir else []),
    ]
    env = environment.for_child(backends.find(cell.arm.backend), cell.arm)
    ending = launch.run(command, env=env, log=log, deadlines=launch.Deadlines(600))
    if ending.status != "ok":
        raise click.ClickException(f"{cell.arm.name}: hand-written loop: {ending.reason}")
    return float(log.read_text().split()[-1])


if __name__ == "__main__":
    main()
