"""The command line: run, verify, selftest, report, compare, import, info. What is heavy is imported where it is needed."""

import contextlib
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import folders
from bench.cli.options import FilePath, Rounds, UserError, Word, common_options

if TYPE_CHECKING:
    from bench.campaign.campaign import Campaign
    from bench.campaign.plan import Choice, TaskPlan
    from bench.campaign.resume import Found

FORMATS = {
    "markdown": "bench.report.markdown", "csv": "bench.report.table_csv", "latex": "bench.report.latex",
    "html": "bench.report.page", "json": "bench.report.table_json",
}  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="framework-bench", prog_name="framework-bench")
def cli() -> None:
    """Trains the same models in PyTorch, TensorFlow and JAX, proves that they compute the same, and compares them."""


@cli.command()
@common_options
@click.option("--rounds", type=Rounds(min=1),
              help="Timed processes per backend; auto plans them from a pilot. Default: the preset's.")  # fmt: skip
@click.option("--effect", type=click.FloatRange(0, 1, min_open=True),
              help="The difference that --rounds auto is to find. Default: 0.05, which is 5 %.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), help="Trainings per backend. Default: the preset's.")
@click.option("--cool-down", "cool_down_s", type=click.IntRange(min=0, max=3600), default=0, show_default=True,
              help="Seconds of rest between two processes.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="When continuing: run again what failed. Default: it is kept.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Cores for every process, by CPU affinity. Default: all that may be used.",
)
@click.option("--energy", is_flag=True, help="Read the hardware's energy counters; windows of 10 s or more.")
@click.option("--output", type=FilePath(file_okay=False),
              help="Folder for records and tables; an earlier run's is continued. Default: results/local/<time>.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on standard output instead of the tables.")
def run(output: Path | None, retry_failed: bool, as_json: bool, **options: Any) -> None:
    """Compares: parity first, then speed, memory and quality, each in processes of their own.

    The same command with the folder of an earlier run as --output continues that run: what is finished is not done again.
    """
    from bench.campaign import campaign
    from bench.cli import request
    from bench.machine import locks
    from bench.report import terminal

    choice = request.choice(**options)
    folder = output or campaign.default_folder()
    try:
        running, tables_written = _run(choice, folder, retry_failed=retry_failed)
    except locks.Held as error:
        raise UserError(f"--output {folder}: another run is at work there: {error}") from error
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {folder}; every finished record is intact, and the same command "
                                   "continues from there") from error  # fmt: skip
    if as_json:
        statuses = Counter(done.status for done in running.records)
        told = {
            "folder": str(folder),
            "complete": running.complete,
            "processes": statuses,
            "absent": dict(choice.absent),
        }
        click.echo(json.dumps(told))
        raise SystemExit(0 if running.complete else 1)
    terminal.show(running.records, sys.stdout)
    for name, reason in choice.absent:
        click.echo(f"{name} is not in the comparison: {reason}")
    if tables_written:
        click.echo(
            f"Tables: {folder / 'table.md'} and table.csv; again from the records: framework-bench report {folder}"
        )
    if not running.complete:
        raise SystemExit(1)


def _run(choice: "Choice", folder: Path, *, retry_failed: bool) -> tuple["Campaign", bool]:
    """Starts or continues the comparison in a folder, and runs it to its end; returns whether its tables were written."""
    import dataclasses

    from bench.campaign import plan, resume
    from bench.cli import request
    from bench.machine import locks

    with contextlib.ExitStack() as stack:
        try:
            # Everything that can be refused is refused before anything is written.
            earlier = resume.stored(folder)
            if earlier is not None:
                choice = dataclasses.replace(choice, order_seed=earlier.order_seed)
            plans = request.planned(lambda: [plan.make(name, choice) for name in choice.tasks])
            resume.compare(earlier, plans, choice)
            stack.enter_context(locks.folder(folders.writable(folder)))
            if resume.stored(folder) != earlier:
                raise resume.Mismatch("was changed by another run meanwhile")
            if earlier is None:
                resume.fix(folder, plans, choice)
        except resume.Mismatch as error:
            raise UserError(f"--output {folder} {error}; name a new folder, or see what is there with "
                            f"framework-bench report {folder}") from error  # fmt: skip
        return _run_in(folder, plans, choice, earlier=earlier is not None, retry_failed=retry_failed)


def _run_in(
    folder: Path, plans: list["TaskPlan"], choice: "Choice", *, earlier: bool, retry_failed: bool
) -> tuple["Campaign", bool]:
    """Runs what is not done in a folder that is this run's own."""
    from bench.campaign import campaign, resume
    from bench.cli.progress import progress_on
    from bench.machine import locks

    cells = [cell for task_plan in plans for cell in campaign.cells(task_plan, choice)]
    possible = [cell for task_plan in plans for cell in campaign.possible_cells(task_plan, choice)]
    found = resume.find(folder, possible, retry_failed=retry_failed)
    if earlier:
        _tell_found(found, total=len(cells))
    so_far = list(found.kept.values())
    with contextlib.ExitStack() as stack:
        if len(so_far) < len(cells):
            purpose = f"run into {folder.absolute()}"
            stack.enter_context(locks.device(choice.device, purpose=purpose, tell=_tell))
        progress = stack.enter_context(progress_on(sys.stderr, so_far))
        running = campaign.Campaign(plans, choice, folder, progress, found.kept)
        try:
            running.run(
                after_task=lambda: folders.write_tables(folder)
            )  # the first task's table need not wait for the others
        finally:
            tables_written = folders.write_tables(folder)
    return running, tables_written


@cli.command()
@common_options
@click.option("--json", "as_json", is_flag=True, help="The records of the climbs as JSON instead.")
def verify(as_json: bool, **options: Any) -> None:
    """Climbs the ladder of parity for every installed backend and prints every rung.

    Where a run measures on the same device, it waits for that.
    """
    import tempfile

    from bench.campaign import campaign, parity_cache, plan
    from bench.cli import request
    from bench.machine import locks
    from bench.records import record
    from bench.report import terminal

    choice = request.choice(**options, rounds=None, seeds=None)
    plans = request.planned(lambda: [plan.make(name, choice) for name in choice.tasks])
    failed, climbs = [], []
    with (
        locks.device(choice.device, purpose="verify", tell=_tell),
        tempfile.TemporaryDirectory(prefix="framework-bench-") as folder,
    ):
        for task_plan in plans:
            for cell in task_plan.parity(choice):
                interpreter = choice.interpreters.get(cell.backend)
                climbed = campaign.execute(cell, Path(folder), data_dir=choice.data_dir, interpreter=interpreter)
                climbs.append(climbed)
                if not as_json:
                    terminal.show_ladders(climbed, sys.stdout)
                if climbed.status == "ok":
                    parity_cache.remember(climbed, interpreter)
                else:
                    failed.append(f"{cell.task} {cell.backend}: {climbed.reason}")
    if as_json:
        click.echo(record.encode(climbs), nl=False)
    for name, reason in choice.absent:
        click.echo(f"{name} was not verified: {reason}", err=as_json)
    if failed:
        raise click.ClickException("; ".join(failed))


@cli.command()
@common_options
@click.option("--rounds", type=click.IntRange(min=2), default=8, show_default=True, help="Each of three processes.")
@click.option("--slow-down", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True,
              help="What is planted; 0.1 is 10 % more work per step.")  # fmt: skip
@click.option("--json", "json_file", type=FilePath(dir_okay=False), help="A file for the figures.")
def selftest(rounds: int, slow_down: float, json_file: Path | None, **options: Any) -> None:
    """Shows what this machine can see: each cell against itself, and against itself with a planted slow-down."""
    from rich.console import Console

    from bench.campaign import plan
    from bench.checks import arms, selftest
    from bench.cli import request
    from bench.cli.progress import Lines
    from bench.machine import locks
    from bench.records import record
    from bench.stats import verdict

    if slow_down <= verdict.MARGIN:
        raise UserError(f"--slow-down {slow_down:g} must be above {verdict.MARGIN:g}: within this margin all is a tie")
    choice = request.choice(**options, rounds=None, seeds=None)
    plans = request.planned(lambda: [plan.make(name, choice) for name in choice.tasks])
    progress = Lines(Console(file=sys.stderr))
    failed, told = [], []
    for task_plan in plans:
        for backend in choice.backends:
            cell = task_plan.cell(backend)
            name = f"{cell.task} {cell.preset} {backend}, {cell.precision} on the {cell.device}"
            try:
                with locks.device(choice.device, purpose="selftest", tell=_tell):
                    found = arms.run(
                        task_plan,
                        backend,
                        rounds=rounds,
                        slow_down=slow_down,
                        data_dir=choice.data_dir,
                        progress=progress,
                        interpreter=choice.interpreters.get(backend),
                    )
            except (arms.SelfTestError, OSError) as error:
                failed.append(f"{name}: {error}")
                continue
            with contextlib.suppress(OSError):  # a cache that cannot be written
                selftest.remember(cell, found)
            faults = selftest.judge(found).faults
            failed += [f"{name}: {fault}" for fault in faults]
            told.append(selftest.as_json(cell, found))
            click.echo("\n  ".join([f"{name}: {'FAILED' if faults else 'passed'}", *selftest.describe(found)]))
    for name, reason in choice.absent:
        click.echo(f"{name} was not tested: {reason}")
    try:
        if json_file is not None:
            record.write(json_file, told)
    except OSError as error:
        failed.append(f"--json {json_file}: {error.strerror}")
    if failed:
        raise click.ClickException("; ".join(failed))


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="FOLDER...",
                type=FilePath(file_okay=False, exists=True))  # fmt: skip
@click.option("--format", "form", default="markdown", show_default=True, type=Word("format", FORMATS))
@click.option("--plots", "plots_folder", type=FilePath(file_okay=False),
              help="A new folder for the plots as SVG and PNG.")  # fmt: skip
def report(paths: tuple[Path, ...], form: str, plots_folder: Path | None) -> None:
    """Prints the tables of folders, from their records alone; the same records give the same bytes.

    Records of several runs stand in tables of their own. html is one page that needs nothing else; latex goes into a paper.
    """
    import importlib

    from bench.records import record

    records, sound = folders.read(paths)
    click.echo(importlib.import_module(FORMATS[form]).render(records), nl=False)
    if plots_folder is not None:
        from bench.report import plots

        folders.new_and_empty(plots_folder, "--plots")
        for name, content in plots.files(records):
            record.write_bytes(plots_folder / name, content)
    if not sound:
        raise SystemExit(1)


@cli.command()
@click.argument("before", type=FilePath(file_okay=False, exists=True))
@click.argument("after", type=FilePath(file_okay=False, exists=True))
@click.option("--fail-on", type=Word("verdict", ("slower",)),
              help="Exit code 1 if a cell is slower, is missing in AFTER, or is no longer ranked there.")  # fmt: skip
def compare(before: Path, after: Path, fail_on: str | None) -> None:
    """Compares two folders cell by cell: what an upgrade of a framework, or another machine, did."""
    from bench.report import compare as comparing

    first, first_sound = folders.read((before,))
    second, second_sound = folders.read((after,))
    try:
        found = comparing.compare(first, second)
    except comparing.NotComparable as error:
        raise UserError(f"{before} and {after}: {error}") from error
    click.echo(comparing.render(found), nl=False)
    if not (first_sound and second_sound) or (fail_on and found.worse):
        raise SystemExit(1)


@cli.command("import")
@click.argument("file", type=FilePath(dir_okay=False, exists=True))
@click.option("--output", type=FilePath(file_okay=False),
              help="A new folder for records and tables. Default: results/local/<time>.")  # fmt: skip
def import_(file: Path, output: Path | None) -> None:
    """Makes records and tables of the file that `pytest bench --benchmark-json` left."""
    from bench.campaign import campaign
    from bench.records import pytest_json, record

    try:
        found = pytest_json.read(file)
    except record.RecordError as error:
        raise UserError(str(error)) from error
    folder = folders.new(output or campaign.default_folder())
    try:
        for name, one in found.items():
            record.write(folder / "records" / name, one)
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {folder}") from error
    folders.write_tables(folder)
    click.echo(f"{len(found)} records; their tables: framework-bench report {folder}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, without the folders' paths.")
def info(as_json: bool) -> None:
    """Shows what is installed, the machine, the data sets, and what would make the rest available."""
    from bench.cli import info as about

    click.echo(json.dumps(about.gather(), indent=1) if as_json else about.text())


def _tell_found(found: "Found", *, total: int) -> None:
    """What an earlier run left, before it is continued."""
    from bench.cli import progress

    failed = [done for done in found.kept.values() if done.status != "ok"]
    _tell(f"continuing: {len(found.kept)} of {total} processes are done")
    for cell in found.crashed:
        _tell(f"{progress.describe(cell)} was running when the last run was killed; it runs again")
    for line in found.aside:
        _tell(f"{line}; it runs again")
    for done in failed:
        _tell(f"{progress.describe(done)} is kept as it is ({done.status}: {done.reason})")
    if failed:
        _tell("to run again what failed, add --retry-failed")


def _tell(line: str) -> None:
    from bench.report import terminal

    click.echo(terminal.plain(line).plain, err=True)


def main() -> int:
    """Exit codes: 0 ok, 1 something failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code: int | None = cli.main(standalone_mode=False, prog_name="framework-bench")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"framework-bench: {error.format_message()}", err=True)
        return 2 if isinstance(error, click.UsageError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("framework-bench: interrupted; what was finished is kept", err=True)
        return 130
    return code or 0
