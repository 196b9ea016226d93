"""The command line: run, verify, selftest, report. Everything heavy is imported inside the command that needs it."""

import difflib
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import backends
import tasks

if TYPE_CHECKING:
    from bench.plan import Choice

PRECISIONS = ("float32", "float64")


class UserError(click.ClickException):
    """What was asked for cannot be done; nothing ran."""

    exit_code = 2


class Name(click.ParamType[str]):
    """One of the known names, or a dotted module that implements one."""

    name = "name"

    def __init__(self, kind: str, known: Mapping[str, object]) -> None:
        self.kind, self.known = kind, known

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        dotted = "." in value and all(part.isidentifier() for part in value.split("."))
        if value not in self.known and not dotted:
            self.fail(f"there is no {self.kind} {value!r}{nearest(value, self.known)}", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.known)}]"


class Word(click.ParamType[str]):
    """One of a few words, with the nearest one named if it is none of them."""

    name = "word"

    def __init__(self, kind: str, known: tuple[str, ...]) -> None:
        self.kind, self.known = kind, known

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.known:
            self.fail(f"there is no {self.kind} {value!r}{nearest(value, self.known)}", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.known)}]"


class Rounds(click.IntRange):
    """A number of rounds, or `auto`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[INTEGER|auto]"


def nearest(value: str, known: Any) -> str:
    """`; did you mean 'x'?` and the list of what there is."""
    close = difflib.get_close_matches(value, list(known), n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{meant} (there are: {', '.join(known)})"


def common_options(command: Any) -> Any:
    """What `run` and `verify` share."""
    for option in reversed([
        click.option("--task", "task_names", multiple=True, type=Name("task", tasks.TASKS),
                     help="A task; may be given again. Default: all."),
        click.option("--backend", "backend_names", multiple=True, type=Name("backend", backends.BACKENDS),
                     help="A backend; may be given again. Default: all that are installed."),
        click.option("--preset", default="quick", show_default=True, type=Word("preset", tasks.PRESETS),
                     help="Size of data and budget."),
        click.option("--device", default="auto", show_default=True, type=Word("device", ("auto", "cpu", "gpu")),
                     help="auto takes the GPU if there is one."),
        click.option("--precision", default="float32", show_default=True, type=Word("precision", PRECISIONS),
                     help="float32 is IEEE single precision in every backend."),
        click.option("--data-dir", type=click.Path(file_okay=False, exists=True, path_type=Path),
                     envvar="FRAMEWORK_BENCH_DATA", help="Folder of data sets; without it they are downloaded."),
    ]):  # fmt: skip
        command = option(command)
    return command


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
@click.option("--output", type=click.Path(file_okay=False, path_type=Path),
              help="A new folder for records and tables. Default: results/local/<time>.")  # fmt: skip
def run(output: Path | None, **options: Any) -> None:
    """Compares: parity first, then speed, memory and quality, each in processes of their own."""
    from bench import campaign, plan
    from bench.progress import progress_on
    from bench.report import terminal

    choice = _choice(**options)
    folder = _new_folder(output or campaign.default_folder())
    plans = _planned(lambda: [plan.make(name, choice) for name in choice.tasks])
    with progress_on(sys.stderr) as progress:
        running = campaign.Campaign(plans, choice, folder, progress)
        try:
            running.run(after_task=lambda: _write_tables(folder))  # the first task's table need not wait for the others
        except OSError as error:
            raise click.ClickException(f"{error.strerror}: {folder}; every finished record is intact") from error
        finally:
            tables_written = _write_tables(folder)
    terminal.show(running.records, sys.stdout)
    for name, reason in choice.absent:
        click.echo(f"{name} is not in the comparison: {reason}")
    if tables_written:
        click.echo(
            f"Tables: {folder / 'table.md'} and table.csv; again from the records: framework-bench report {folder}"
        )
    if not running.complete:
        raise SystemExit(1)


@cli.command()
@common_options
def verify(**options: Any) -> None:
    """Climbs the ladder of parity for every installed backend and prints every rung."""
    import tempfile

    from bench import campaign, gate, plan
    from bench.report import terminal

    choice = _choice(**options, rounds=None, seeds=None)
    plans = _planned(lambda: [plan.make(name, choice) for name in choice.tasks])
    failed = []
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as folder:
        for task_plan in plans:
            for cell in task_plan.parity(choice):
                climbed = campaign.execute(cell, Path(folder), data_dir=choice.data_dir)
                terminal.show_ladders(climbed, sys.stdout)
                if climbed.status == "ok":
                    gate.remember(climbed)
                else:
                    failed.append(f"{cell.task} {cell.backend}: {climbed.reason}")
    for name, reason in choice.absent:
        click.echo(f"{name} was not verified: {reason}")
    if failed:
        raise click.ClickException("; ".join(failed))


@cli.command()
@common_options
@click.option("--rounds", type=click.IntRange(min=2), default=8, show_default=True, help="Each of three processes.")
@click.option("--slow-down", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True,
              help="What is planted; 0.1 is 10 % more work per step.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="A file for the figures.")
def selftest(rounds: int, slow_down: float, json_file: Path | None, **options: Any) -> None:
    """Shows what this machine can see: each cell against itself, and against itself with a planted slow-down."""
    from rich.console import Console

    from bench import arms, plan, record, selftest, verdict
    from bench.progress import Lines

    if slow_down <= verdict.MARGIN:
        raise UserError(f"--slow-down {slow_down:g} must be above {verdict.MARGIN:g}: within this margin all is a tie")
    choice = _choice(**options, rounds=None, seeds=None)
    plans = _planned(lambda: [plan.make(name, choice) for name in choice.tasks])
    progress = Lines(Console(file=sys.stderr))
    failed, told = [], []
    for task_plan in plans:
        for backend in choice.backends:
            cell = task_plan.cell(backend)
            name = f"{cell.task} {cell.preset} {backend}, {cell.precision} on the {cell.device}"
            try:
                found = arms.run(task_plan, backend, rounds=rounds, slow_down=slow_down, data_dir=choice.data_dir,
                                 progress=progress)  # fmt: skip
            except (arms.SelfTestError, OSError) as error:
                failed.append(f"{name}: {error}")
                continue
            with suppress(OSError):  # a cache that cannot be written
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
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--format", "form", default="markdown", show_default=True, type=Word("format", ("markdown", "csv")))
def report(folder: Path, form: str) -> None:
    """Prints the table of a folder, from its records alone; the same records give the same bytes."""
    from bench import record
    from bench.report import markdown, table_csv

    records, problems = record.read_folder(folder)
    for problem in problems:
        click.echo(problem, err=True)
    if not records:
        raise UserError(f"no records below {folder / 'records'}: give the folder that `framework-bench run` wrote")
    render = {"markdown": markdown.render, "csv": table_csv.render}[form]
    click.echo(render(records), nl=False)
    if problems:
        raise SystemExit(1)


def _choice(
    *,
    task_names: tuple[str, ...],
    backend_names: tuple[str, ...],
    preset: str,
    device: str,
    precision: str,
    data_dir: Path | None,
    rounds: Any,
    seeds: int | None,
    effect: float | None = None,
) -> "Choice":
    """What was asked for, checked: everything that can be known to be wrong is said before anything runs."""
    import random

    from bench import machine
    from bench.plan import Choice

    if rounds == "auto":
        rounds, effect = None, _checked_effect(0.05 if effect is None else effect)
    elif effect is not None:
        raise UserError("--effect says what --rounds auto plans for; without it the number of rounds is given")
    gpu = machine.gpu_and_driver()[0]
    if device == "gpu" and gpu is None:
        raise UserError("--device gpu: there is no NVIDIA GPU with a driver here; use --device cpu")
    absent = []
    for name in dict.fromkeys(backend_names or backends.BACKENDS):
        entry = backends.find(name)
        try:
            missing = entry.missing()
        except ModuleNotFoundError as error:
            missing = [str(error.name)]
        if not entry.extra:  # a module of the user's
            _check_module(name)
        if missing:
            absent.append((name, f"{', '.join(missing)} not installed; add it with: {entry.install_command}"))
    if backend_names and absent:
        raise UserError("; ".join(f"--backend {name}: {reason}" for name, reason in absent))
    chosen = [name for name in dict.fromkeys(backend_names or backends.BACKENDS) if name not in dict(absent)]
    if not chosen:
        commands = "; ".join(entry.install_command for entry in backends.BACKENDS.values())
        raise UserError(f"no framework is installed; add at least one with: {commands}")
    return Choice(
        tasks=list(dict.fromkeys(task_names or tasks.TASKS)),
        backends=chosen,
        absent=absent,
        preset=preset,
        device=device if device != "auto" else ("gpu" if gpu else "cpu"),
        precision=precision,
        rounds=rounds,
        seeds=seeds,
        data_dir=data_dir,
        order_seed=random.SystemRandom().randrange(2**31),
        effect=effect,
    )


def _checked_effect(effect: float) -> float:
    from bench.verdict import MARGIN

    if effect <= MARGIN:
        raise UserError(f"--effect {effect:g} must be above {MARGIN:g}: a difference within this margin is a tie")
    return effect


def _check_module(name: str) -> None:
    import importlib.util

    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(f"--backend {name}: there is no such module")


def _planned(make: Any) -> Any:
    from tasks.spec import SpecError

    try:
        return make()
    except SpecError as error:
        raise UserError(str(error)) from error
    except ModuleNotFoundError as error:
        raise UserError(f"--task: no module named {error.name!r}") from error


def _new_folder(folder: Path) -> Path:
    try:
        (folder / "records").mkdir(parents=True, exist_ok=True)
        if any((folder / "records").iterdir()):
            raise UserError(f"--output {folder} already holds records; name a new folder, or see them with "
                            f"framework-bench report {folder}")  # fmt: skip
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write there: {error.strerror}") from error
    return folder


def _write_tables(folder: Path) -> bool:
    """Writes table.md and table.csv; False where the disk does not take them (the records are what counts)."""
    from bench import record
    from bench.report import markdown, table_csv

    records, _ = record.read_folder(folder)
    try:
        record.write_bytes(folder / "table.md", markdown.render(records).encode())
        record.write_bytes(folder / "table.csv", table_csv.render(records).encode())
    except OSError:
        return False
    return True


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
