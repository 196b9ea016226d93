"""The command line, a function for each command. Heavy modules are imported where needed."""

import dataclasses
import errno
import importlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import tasks
from bench.cli import folders
from bench.cli.options import (
    MEASURES,
    Duration,
    FilePath,
    NameOrModule,
    OneOf,
    Price,
    Rounds,
    Size,
    UserError,
    common_options,
    measure_option,
)
from bench.machine import signals
from bench.records.text import printable

FORMATS = {
    "markdown": "bench.report.markdown", "csv": "bench.report.table_csv", "latex": "bench.report.latex",
    "html": "bench.report.page", "json": "bench.report.table_json", "sweep": "bench.report.sweep",
    "history": "bench.report.history",
}  # fmt: skip


OF_AN_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE}
"""Errors of writing to what is open already."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="framework-bench", prog_name="framework-bench")
def cli() -> None:
    """Trains the same models in PyTorch, TensorFlow and JAX, proves that they compute the same, and compares them."""


@cli.command()
@common_options
@click.option("--rounds", type=Rounds(min=1, max=1000),
              help="Timed processes per arm; auto plans them from a pilot. Default: the preset's.")  # fmt: skip
@click.option("--effect", type=click.FloatRange(0, 1, min_open=True),
              help="The relative difference that --rounds auto must be able to detect. Default: 0.05 (5 %).")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1, max=1000), help="Trainings per arm. Default: the preset's.")
@click.option("--cool-down", "cool_down_s", type=click.IntRange(min=0, max=3600), default=0, show_default=True,
              help="Seconds of rest between two processes.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="When continuing: rerun failed processes. Default: keep them.")
@click.option("--control", is_flag=True,
              help="Time the first arm a second time: the same program must not be called different from itself.")  # fmt: skip
@measure_option
@click.option("--energy", is_flag=True, help="Read the hardware's energy counters; windows of 10 s or more.")
@click.option("--output", type=FilePath(file_okay=False),
              help="Folder for records and tables; an earlier run's is continued. Default: results/local/<time>.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on standard output instead of the tables.")
def run(output: Path | None, retry_failed: bool, as_json: bool, **options: Any) -> None:
    """Compares: parity first, then speed, memory and quality, each in processes of their own.

    Repeat the command with the folder of an interrupted run as --output to continue it.
    """
    from bench.cli import request, running
    from bench.report import terminal

    choice = request.parse(**options)
    folder = output or folders.default()
    done, tables_written = running.run(choice, folder, retry_failed=retry_failed)
    if as_json:
        statuses = Counter(one.outcome.status for one in done.records)
        absent = {arm.name: why for arm, why in choice.absent}
        told = {"folder": str(folder), "complete": done.complete, "processes": statuses, "absent": absent}
        click.echo(json.dumps(told))
    else:
        terminal.show(done.records, sys.stdout)
        running.tell_absent(choice, "not in the comparison")
        if tables_written:
            click.echo(
                f"Tables: {folder / 'table.md'} and table.csv; again from the records: framework-bench report {folder}"
            )
    if not done.complete:
        raise SystemExit(1)


@cli.command()
@common_options
@click.option("--json", "as_json", is_flag=True, help="The records of the climbs as JSON instead.")
def verify(as_json: bool, **options: Any) -> None:
    """Climbs the ladder of parity for every arm and prints every rung.

    Waits if another run is using the device.
    """
    from bench.cli import request, running
    from bench.records import files

    choice = request.parse(**options)
    climbs = running.verify(choice, quiet=as_json)
    if as_json:
        click.echo(files.encode(climbs), nl=False)
    running.tell_absent(choice, "not verified", err=as_json)
    failed = [one for one in climbs if one.outcome.status != "ok"]
    if failed:
        told = (f"{one.cell.task} {one.cell.arm.name}: {one.outcome.reason}" for one in failed)
        raise click.ClickException("; ".join(told))


@cli.command()
@common_options
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=8, show_default=True,
              help="Rounds of three processes each.")  # fmt: skip
@click.option("--slow-down", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True,
              help="Injected slow-down; 0.1 is 10 % more work per step.")  # fmt: skip
@click.option("--json", "json_file", type=FilePath(dir_okay=False), help="Write the figures to this file.")
def selftest(rounds: int, slow_down: float, json_file: Path | None, **options: Any) -> None:
    """Shows what this machine can see: each arm against itself, and against itself with an injected slow-down."""
    from bench.cli import request, running
    from bench.records import files
    from bench.records.limits import MARGIN

    if not slow_down > MARGIN:
        raise UserError(f"--slow-down {slow_down:g} must be above {MARGIN:g}: within this margin all is a tie")
    choice = request.parse(**options)
    told, failed = running.selftests(choice, rounds=rounds, slow_down=slow_down)
    running.tell_absent(choice, "not tested")
    try:
        if json_file is not None:
            files.write(json_file, told)
    except OSError as error:
        failed.append(f"--json {json_file}: {error.strerror}")
    if failed:
        raise click.ClickException("; ".join(failed))


@cli.command()
@common_options
@click.option("--rounds", type=click.IntRange(min=1, max=1000), default=3, show_default=True, help="Processes per arm.")
@click.option("--output", type=FilePath(file_okay=False),
              help="Folder for records, tables and the profilers' traces; one of an earlier `explain` is continued. "
                   "Default: results/local/<time>.")  # fmt: skip
def explain(output: Path | None, **options: Any) -> None:
    """Shows where a training step's time goes, arm by arm: its parts, and its kinds of operations.

    Every arm climbs the ladder of parity first. A plot: framework-bench report FOLDER --plots NEW.
    """
    from bench.cli import request, running
    from bench.report import terminal

    choice = dataclasses.replace(request.parse(**options), kinds=("parity", "explain"))
    folder = output or folders.default()
    done, _ = running.run(choice, folder, retry_failed=False)
    terminal.show(done.records, sys.stdout)
    running.tell_absent(choice, "not explained")
    click.echo(f"Tables: {folder / 'table.md'}; the profilers' traces: {folder / 'traces'}")
    if not done.complete:
        raise SystemExit(1)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("run_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[RUN_OPTIONS]...")
@click.option("--launcher", "launcher_file", type=FilePath(dir_okay=False, exists=True),
              help="TOML: the executor (slurm or local), parameters of submitit, and a table for each machine.")  # fmt: skip
@click.option("--status", "only_status", is_flag=True, help="Say where each machine's run stands, and submit nothing.")
@click.option("--gather", is_flag=True, help="Show the tables of all machines that have any, and submit nothing.")
@click.option("--output", required=True, type=FilePath(file_okay=False),
              help="Folder that all machines see, with a folder for each machine's run.")  # fmt: skip
def submit(
    run_arguments: tuple[str, ...], launcher_file: Path | None, only_status: bool, gather: bool, output: Path
) -> None:
    """Hands whole runs to a cluster, one machine for each: the options of `run` follow those of `submit`.

    The same command again submits what failed or was lost, and such a run continues; --status and --gather look on.
    """
    from bench.cli import arms, submitting
    from bench.report import terminal

    if not (only_status or gather):
        if launcher_file is None:
            raise UserError("name a file with --launcher, or give --status or --gather")
        # What is wrong with them is said here, and not on a machine.
        asked = run.make_context("run", list(run_arguments))
        for text in asked.params["arm_texts"]:
            arms.parse(text)
        submitting.submit(submitting.launcher(launcher_file), output, run_arguments)
    found = submitting.status(output)
    if not found:
        raise UserError(f"nothing was submitted into {output}")
    for line in submitting.told(found):
        click.echo(line)
    having = tuple(output / one.name for one in found if one.records)
    if gather and having:
        records, _ = folders.read(having)
        terminal.show(records, sys.stdout)
    if (only_status or gather) and not all(one.state == "complete" for one in found):
        raise SystemExit(1)


@cli.command()
@common_options
@click.option("--vary", "vary_texts", multiple=True, metavar="FIELD=A,B,...",
              help="A field and its values: of the task (batch_size, model.hidden), or threads, processes, precision, mode or "
                   "release of the arms; repeatable.")  # fmt: skip
@click.option("--rounds", type=Rounds(min=1, max=1000),
              help="Timed processes per arm and point; auto plans them from a pilot. Default: the preset's.")  # fmt: skip
@click.option("--effect", type=click.FloatRange(0, 1, min_open=True),
              help="The relative difference that --rounds auto must be able to detect. Default: 0.05 (5 %).")  # fmt: skip
@click.option("--control", is_flag=True, help="Time the first arm of every point a second time.")
@click.option("--budget", "budget_s", type=Duration(),
              help="Time limit, as in 90s, 20m or 1.5h: a point starts only if the slowest one so far would still fit; then "
                   "rounds are added where verdicts are open. Repeat the command to continue.")  # fmt: skip
@click.option("--output", type=FilePath(file_okay=False),
              help="Folder with a run for each point; one of an earlier sweep is continued. "
                   "Default: results/local/<time>.")  # fmt: skip
def sweep(output: Path | None, vary_texts: tuple[str, ...], budget_s: float | None, **options: Any) -> None:
    """Compares the speed at several points: batch sizes, widths, threads, precisions, and says who is ahead where.

    Every arm climbs the ladder of parity at every point; quality is not judged.
    """
    from bench.cli import sweeping

    if not sweeping.command(output, vary_texts, budget_s, options):
        raise SystemExit(1)


@cli.command()
@click.argument("paths", nargs=-1, metavar="[FOLDER...]", type=FilePath(file_okay=False, exists=True))
@common_options
@click.option("--releases", "releases_text", metavar="RELEASE,RELEASE,...",
              help="Of the framework of --arm; each is installed once, into an environment of its own.")  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(min=1, max=1000), help="Timed processes per release. Default: the preset's."
)
@click.option("--control", is_flag=True, help="Time the first release a second time.")
@click.option("--output", type=FilePath(file_okay=False),
              help="Folder for records, table and plots; one of an earlier history is continued. "
                   "Default: results/local/<time>.")  # fmt: skip
def history(paths: tuple[Path, ...], releases_text: str | None, output: Path | None, **options: Any) -> None:
    """Shows speed, first step and memory of a framework over its releases, and marks the steps beyond the noise.

    The releases take turns in one run, and every one climbs the ladder of parity; quality is not judged. With a FOLDER, the
    history is read from its records.
    """
    from bench.cli import histories

    if paths and releases_text is None:
        _refuse_given(but=("paths", "output"), why="is for --releases: the history of a folder is of all its records")
    numbers = histories.parse(releases_text) if releases_text is not None else []
    if not histories.command(paths, numbers, output, options):
        raise SystemExit(1)


def _refuse_given(*, but: Collection[str], why: str) -> None:
    """UserError for an option of this command that was typed."""
    context = click.get_current_context()
    for param in context.command.params:
        typed = context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if typed and param.name not in but:
            raise UserError(f"{param.opts[0]} {why}")


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="FOLDER...", type=FilePath(file_okay=False, exists=True))
@click.option("--format", "form", type=OneOf("format", FORMATS),
              help="Default: markdown; in a terminal, the short tables that `run` ends with.")  # fmt: skip
@click.option(
    "--plots", "plots_folder", type=FilePath(file_okay=False), help="A new folder for the plots as SVG and PNG."
)
@click.option("--price-per-hour", type=Price(0, 1e9, min_open=True),
              help="Price of the machine, in any currency: adds what each arm costs to reach the target. "
                   "Markdown only.")  # fmt: skip
@click.option("--memory-limit", type=Size(), metavar="SIZE",
              help="Memory of the device (of the host, for arms on a CPU), as in 16GiB: adds the largest size of a sweep "
                   "that fits for each arm. Sweep only.")  # fmt: skip
@click.option("--baseline", help="The arm with which --fail-on compares the others.")
@click.option("--fail-on", type=OneOf("verdict", ("slower", "undecided")), multiple=True,
              help="Exit code 1 if an arm is slower than the baseline, or if that is undecided; repeatable.")  # fmt: skip
def report(
    paths: tuple[Path, ...], form: str | None, plots_folder: Path | None, price_per_hour: float | None,
    memory_limit: int | None,
    baseline: str | None, fail_on: tuple[str, ...],
) -> None:  # fmt: skip
    """Prints the tables of folders, from their records alone; the same records give the same bytes.

    Records of several runs stand in tables of their own. html is one page that needs nothing else; latex goes into a paper.
    """
    from bench.report import gate, terminal

    short = form is None and price_per_hour is None
    form = form or "markdown"
    if (baseline is None) != (not fail_on):
        raise UserError(
            "--baseline and --fail-on go together: an arm, and what must not be said of the others against it"
        )
    asked = {"price_per_hour": ("markdown", price_per_hour), "memory_limit": ("sweep", memory_limit)}
    more = {name: value for name, (_, value) in asked.items() if value is not None}
    for name in more:
        if form != asked[name][0]:
            raise UserError(f"--{name.replace('_', '-')} is for --format {asked[name][0]}, not for {form}")
    records, sound = folders.read(paths)
    try:
        objections = gate.objections(records, baseline, fail_on) if baseline is not None else []
    except gate.NoBaseline as error:
        raise UserError(f"--baseline: {error}") from error
    if short:
        terminal.show(records, sys.stdout)
    else:
        click.echo(importlib.import_module(FORMATS[form]).render(records, **more), nl=False)
    if plots_folder is not None:
        from bench.report import apart_plot, explanation_plot, history_plot, plots, sweep_plot

        usual = (plots.files, apart_plot.files, explanation_plot.files)
        drawn = {"sweep": (sweep_plot.files,), "history": (history_plot.files,)}.get(form, usual)
        folders.new_and_empty(plots_folder, "--plots")
        folders.fill(plots_folder, dict(made for draw in drawn for made in draw(records)), "--plots")
    for text in objections:
        click.echo(printable(f"--fail-on {text}"), err=True)
    if objections or not sound:
        raise SystemExit(1)


@cli.command()
@click.argument("paths", nargs=-1, metavar="[FOLDER...]", type=FilePath(file_okay=False, exists=True))
@click.option("--measure", type=OneOf("measure", MEASURES), help="What is to be fast. Default: any.")
@click.option("--task", type=NameOrModule("task", tasks.TASKS), help="Task. Default: any.")
@click.option("--device", type=OneOf("device", ("cpu", "gpu")), help="Device. Default: any.")
@click.option("--batch-size", "--batch", type=click.IntRange(min=1), help="Batch size. Default: any.")
def advise(
    paths: tuple[Path, ...], measure: str | None, task: str | None, device: str | None, batch_size: int | None
) -> None:
    """Says what records mean for a choice: who is ahead by how much, what is open, and what was never measured.

    A FOLDER is a run's, or one of several runs. Default: results.
    """
    from bench.records import sweep_folder
    from bench.report import advice

    found: dict[str, list[Any]] = {}
    whole = True
    for path in paths or (Path("results"),):
        is_one = (path / "records").is_dir() or sweep_folder.is_one(path)
        within = (one.parent for name in ("records", sweep_folder.NAME) for one in path.glob(f"*/{name}"))
        places = [path] if is_one else sorted(within, reverse=True)
        if not places:
            raise UserError(f"no runs in {path}: give the folder that `framework-bench run` wrote, or one of several")
        for place in places:
            records, sound = folders.read((place,))
            found[_apart(place, found)] = records
            whole = whole and sound
    wish = advice.Wish(task, device, batch_size, measure)
    click.echo("\n".join(printable(line) for line in advice.render(advice.advice(found, wish)).splitlines()))
    if not whole:
        raise SystemExit(1)


def _apart(folder: Path, taken: Collection[str]) -> str:
    """The end of a folder's path, as long as it takes to be no other one's."""
    parts = folder.resolve().parts
    ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next((end for end in ends if end not in taken), str(folder))


@cli.command()
@click.argument("before", type=FilePath(file_okay=False, exists=True))
@click.argument("after", type=FilePath(file_okay=False, exists=True))
@click.option("--fail-on", type=OneOf("verdict", ("slower", "undecided")), multiple=True,
              help="Exit code 1 if an arm is slower (or is missing or no longer ranked in AFTER), or if its comparison "
                   "is undecided; repeatable.")  # fmt: skip
def compare(before: Path, after: Path, fail_on: tuple[str, ...]) -> None:
    """Compares two folders arm by arm: what an upgrade, or another machine, changed."""
    from bench.report import compare as comparing

    first, first_sound = folders.read((before,))
    second, second_sound = folders.read((after,))
    try:
        found = comparing.compare(first, second)
    except comparing.NotComparable as error:
        raise UserError(f"{before} and {after}: {error}") from error
    click.echo(comparing.render(found), nl=False)
    objections = comparing.objections(found, fail_on)
    for text in objections:
        click.echo(printable(f"--fail-on {text}"), err=True)
    if objections or not (first_sound and second_sound):
        raise SystemExit(1)


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="FOLDER...", type=FilePath(file_okay=False, exists=True))
@click.option("--data-dir", type=FilePath(file_okay=False, exists=True), envvar="FRAMEWORK_BENCH_DATA",
              help="A folder with the data sets, to compare tasks with their presets.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def check(paths: tuple[Path, ...], data_dir: Path | None, as_json: bool) -> None:
    """Looks for what is wrong with the results in folders, as a reviewer would, and prints a line for each finding.

    What could not be checked is listed too, but is not a finding. Exit code 1 if there is a finding.
    """
    from bench.checks import review

    found = [finding for path in paths for finding in review.check(path, data_dir)]
    objections = [one for one in found if not one.gap]
    if as_json:
        click.echo(json.dumps([one._asdict() for one in found], indent=1))
    else:
        for one in found:
            click.echo(f"{one.folder}: {one.about}: {'not looked at: ' if one.gap else ''}{one.text}")
        told = f"{len(objections)} finding{'s' if len(objections) != 1 else ''}"
        click.echo(f"{len(paths)} folder{'s' if len(paths) != 1 else ''}, {told}")
    if objections:
        raise SystemExit(1)


@cli.command()
@click.argument("folder", type=FilePath(file_okay=False, exists=True))
@click.option("--results", type=FilePath(file_okay=False), default="results", show_default=True,
              help="The published results of a clone.")  # fmt: skip
@click.option("--data-dir", type=FilePath(file_okay=False, exists=True), envvar="FRAMEWORK_BENCH_DATA",
              help="A folder with the data sets, to compare tasks with their presets.")  # fmt: skip
@click.option("--pull-request", is_flag=True, help="Open a pull request with git and gh, once you agree.")
def publish(folder: Path, results: Path, data_dir: Path | None, pull_request: bool) -> None:
    """Copies the folder of a run or a sweep, if it passes `check`, to the published results, and makes their index anew."""
    import shlex

    from bench.cli import publishing

    place = publishing.into(results, folder, data_dir=data_dir)
    click.echo(f"published: {place}; for a pull request, in the clone:")
    for words in publishing.commands(place):
        click.echo(f"  {shlex.join(words)}")
    if pull_request:
        publishing.request_pull(place)


@cli.command("import")
@click.argument("file", type=FilePath(dir_okay=False, exists=True))
@click.option("--output", type=FilePath(file_okay=False),
              help="A new folder for records and tables. Default: results/local/<time>.")  # fmt: skip
def import_(file: Path, output: Path | None) -> None:
    """Makes records and tables of the file that `pytest bench --benchmark-json` left."""
    from bench.records import files, pytest_json

    try:
        found = pytest_json.read(file)
    except files.RecordError as error:
        raise UserError(str(error)) from error
    folder = folders.new(output or folders.default())
    try:
        for name, one in found.items():
            files.write(folder / "records" / name, one)
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {folder}") from error
    folders.write_tables(folder, digested=True)
    click.echo(f"{len(found)} records; their tables: framework-bench report {folder}")
    if not folders.read((folder,))[1]:  # which tells what breaks a rule
        raise SystemExit(1)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, without the folders' paths.")
def info(as_json: bool) -> None:
    """Shows what is installed, the machine, the modes and data sets, and what would make the rest available."""
    from bench.cli import info as about

    click.echo(json.dumps(about.gather(), indent=1) if as_json else about.text())


def main() -> int:
    """Exit codes: 0 ok, 1 something failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.unraisablehook = signals.raise_again
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        code: int | None = cli.main(standalone_mode=False, prog_name="framework-bench")
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"framework-bench: {error.format_message()}", err=True)
        return 2 if isinstance(error, click.UsageError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("framework-bench: interrupted; what was finished is kept", err=True)
        return 130
    except OSError as error:
        output = error.filename is None and error.errno in OF_AN_OUTPUT
        if output:  # what is left of it has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # who reads it has read enough
            place = "standard output: " if output else f"{error.filename}: " if error.filename else ""
            click.echo(printable(f"framework-bench: {place}{error.strerror or error}"), err=True)
        return 1
    return code or 0
