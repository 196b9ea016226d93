"""Holds the harness against the bare loops: `python -m bench.checks.handwritten`. A benchmark, not a test."""

import importlib.util
import random
import sys
import tempfile
from pathlib import Path

import click

import backends
from bench.campaign import campaign, plan
from bench.cli.options import FilePath
from bench.process import launch
from bench.records.record import Record
from bench.report.formats import duration, with_interval
from bench.stats import intervals


@click.command()
@click.option("--task", default="mnist_mlp", show_default=True)
@click.option("--preset", default="quick", show_default=True)
@click.option("--data-dir", type=FilePath(exists=True, file_okay=False), envvar="FRAMEWORK_BENCH_DATA")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(min=2))
def main(task: str, preset: str, data_dir: Path | None, rounds: int) -> None:
    """Prints, per backend, the harness's step over the bare loop's, with its interval over interleaved rounds."""
    names = [
        name
        for name, entry in backends.BACKENDS.items()
        if not entry.missing() and importlib.util.find_spec(f"bench.checks.handwritten.{task}_{name}")
    ]
    choice = plan.Choice(
        tasks=[task], backends=names, absent=[], preset=preset, device="cpu", precision="float32",
        rounds=rounds, seeds=1, data_dir=data_dir, order_seed=random.SystemRandom().randrange(2**31),
    )  # fmt: skip
    task_plan = plan.make(task, choice)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as folder:
        for number, cells in enumerate(task_plan.rounds(choice), start=1):
            for cell in cells:
                steps = {}
                for kind in random.sample(("harness", "bare"), 2):
                    steps[kind] = (
                        _harness(cell, Path(folder), data_dir)
                        if kind == "harness"
                        else _bare(cell, Path(folder), data_dir)
                    )
                ratios[cell.backend].append(steps["harness"] / steps["bare"])
                click.echo(
                    f"round {number} {cell.backend}: harness {duration(steps['harness'])}, bare {duration(steps['bare'])}, "
                    f"ratio {ratios[cell.backend][-1]:.3f}"
                )
    for name, values in ratios.items():
        click.echo(
            f"{name}: harness step / bare step = {with_interval(intervals.geometric_mean(values))}, n={len(values)}"
        )


def _harness(cell: Record, folder: Path, data_dir: Path | None) -> float:
    done = campaign.execute(cell, folder, data_dir=data_dir)
    if done.timings is None:
        raise click.ClickException(f"{cell.backend}: {done.status}: {done.reason}")
    return done.timings.window_s / (done.timings.block_steps * len(done.timings.blocks_s))


def _bare(cell: Record, folder: Path, data_dir: Path | None) -> float:
    entry = backends.find(cell.backend)
    log = folder / "bare.log"
    command = [
        sys.executable,
        "-P",
        "-m",
        f"bench.checks.handwritten.{cell.task}_{cell.backend}",
        cell.task,
        cell.preset,
    ]
    ending = launch.run(
        command + ([str(data_dir)] if data_dir else []),
        env=launch.worker_env({**entry.env, **entry.env_cpu}, device="cpu"),
        log=log,
        timeout_s=600,
    )
    if ending.status != "ok":
        raise click.ClickException(f"{cell.backend}: bare loop: {ending.reason}")
    return float(log.read_text().split()[-1])


if __name__ == "__main__":
    main()
