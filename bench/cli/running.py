"""What `run`, `verify` and `selftest` do once their request is checked: lock, measure, tell."""

import contextlib
import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from bench.campaign import parity_cache, pilot, plan, resume
from bench.campaign.campaign import Campaign
from bench.campaign.plan import Choice, TaskPlan
from bench.checks import selftest
from bench.cli import folders, progress, request
from bench.cli.options import UserError
from bench.machine import cores, locks, neighbours
from bench.process import environment, side_by_side, turns
from bench.records import digest
from bench.records.disturbed import MOST_TAKEN
from bench.records.record import Record
from bench.report import terminal, words

LOOK_S = 2.0  # at the machine, before anything is timed
HARDLY = 0.1  # of a core, kept busy by what every system does now and then


def run(choice: Choice, folder: Path, *, retry_failed: bool, output: Path | None = None) -> tuple[Campaign, bool]:
    """Starts or continues the comparison in a folder, and runs it to its end; returns whether its tables were written.

    `output` is what was named as --output, where the folder is one of several in it.
    """
    try:
        with _opened(choice, folder) as (plans, continued):
            return _run_in(folder, plans, continued=continued, retry_failed=retry_failed)
    except (KeyboardInterrupt, SystemExit):
        if (folder / "plan.json").exists():
            tell(f"to continue: the same command with --output {shlex.quote(str(output or folder))}")
        raise
    except locks.Held as error:
        raise UserError(f"--output {folder}: another run is using it: {error}") from error
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {folder}; every finished record is intact, and the same command "
                                   "continues from there") from error  # fmt: skip


@contextlib.contextmanager
def _opened(choice: Choice, folder: Path) -> Iterator[tuple[list[TaskPlan], bool]]:
    """The plans of a run, in a folder that is locked and its own, and whether an earlier run began there.

    Everything that can be refused is refused before anything is written.
    """
    with contextlib.ExitStack() as stack:
        with _refused(folder):
            plans, earlier = _plans(choice, folder)
            stack.enter_context(locks.folder(folders.writable(folder)))
            if resume.stored(folder) != earlier:
                raise resume.Mismatch("was changed by another run meanwhile")
            if earlier is None:
                resume.fix(folder, plans)
        yield plans, earlier is not None


def refuse_other(choice: Choice, folder: Path) -> None:
    """UserError for a folder in which a comparison can neither begin nor go on; nothing is written."""
    with _refused(folder):
        _plans(choice, folder)


def _plans(choice: Choice, folder: Path) -> tuple[list[TaskPlan], resume.Fixed | None]:
    """The plans of a run, and what an earlier one fixed in its folder, which agree; resume.Mismatch."""
    try:
        earlier = resume.stored(folder)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write there: {error.strerror}") from error
    if earlier is not None:
        choice = dataclasses.replace(choice, run_id=earlier.run_id)
    plans = request.planned(lambda: plan.make(choice))
    resume.compare(earlier, plans)
    return plans, earlier


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """What does not go with the folder's earlier run becomes a UserError."""
    try:
        yield
    except resume.Mismatch as error:
        raise UserError(f"--output {folder} {error}; name a new folder, or see what is there with "
                        f"framework-bench report {folder}") from error  # fmt: skip


def _run_in(folder: Path, plans: list[TaskPlan], *, continued: bool, retry_failed: bool) -> tuple[Campaign, bool]:
    """Runs what is not done in a folder that is this run's own."""
    possible = [cell for task_plan in plans for cell in task_plan.possible]
    found = resume.find(folder, possible, run_id=plans[0].run.id, retry_failed=retry_failed)
    if continued:
        planned = [pilot.with_known_rounds(task_plan, found.kept) for task_plan in plans]
        names = {cell.file_name for task_plan in planned for cell in task_plan.cells}
        _tell_found(found, total=len(names | set(found.kept)))
    so_far = list(found.kept.values())
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(progress.progress_on(sys.stderr, so_far))
        alone = measuring(plans[0].choice, purpose=f"run into {folder.absolute()}", look_s=LOOK_S)

        def before_first() -> None:
            (folder / digest.NAME).unlink(missing_ok=True)  # what it says will no longer be so
            stack.enter_context(alone)

        running = Campaign(
            plans, folder, shown, kept=found.kept, execute_round=turns.execute_round,
            execute_side_by_side=side_by_side.execute_side_by_side, before_first=before_first,
        )  # fmt: skip
        try:
            running.start(after_task=lambda: folders.write_tables(folder))  # the first need not wait for the others
        finally:
            tables_written = folders.write_tables(folder, digested=True)
    return running, tables_written


def verify(choice: Choice, *, quiet: bool) -> list[Record]:
    """The climb of every arm, made anew and told rung by rung unless `quiet`."""
    plans = request.planned(lambda: plan.make(dataclasses.replace(choice, kinds=("parity",))))

    def ended(climbed: Record) -> None:
        if not quiet:
            terminal.show_ladders(climbed, sys.stdout)
        if climbed.outcome.status == "ok":
            parity_cache.remember(climbed, choice.interpreters.get(climbed.cell.arm.name))

    with measuring(choice, purpose="verify"), tempfile.TemporaryDirectory(prefix="framework-bench-") as folder:
        # The longest first, so that no core is left without one at the end.
        cells = [cell for task_plan in sorted(plans, key=_by_flops) for cell in task_plan.of_kind("parity")]
        return side_by_side.execute_side_by_side(
            plans[0].run, cells, Path(folder), data_dir=choice.data_dir, interpreters=choice.interpreters, ended=ended
        )


def _by_flops(task_plan: TaskPlan) -> int:
    return -(task_plan.template.step_flops or 0)


def selftests(choice: Choice, *, rounds: int, slow_down: float) -> tuple[list[dict[str, object]], list[str]]:
    """The self-test of every task and arm as plain values, and a line for each that failed; tells each as it ends."""
    plans = request.planned(lambda: plan.make(choice))
    shown = progress.Lines(Console(file=sys.stderr))
    told: list[dict[str, object]] = []
    failed: list[str] = []
    with measuring(choice, purpose="selftest", look_s=LOOK_S):
        for task_plan in plans:
            for arm in choice.arms:
                name = f"{task_plan.name} {choice.preset} {arm.name}, {arm.precision} on the {arm.device}"
                try:
                    with tempfile.TemporaryDirectory(prefix="framework-bench-") as folder:
                        found = selftest.run(
                            task_plan, arm, rounds=rounds, slow_down=slow_down, folder=Path(folder), progress=shown
                        )
                except (selftest.SelfTestError, OSError) as error:
                    failed.append(f"{name}: {error}")
                    continue
                with contextlib.suppress(OSError):  # a cache that cannot be written
                    task_plan.remember_selftest(arm, found)
                faults = words.selftest_faults(found)
                failed += [f"{name}: {fault}" for fault in faults]
                told.append(selftest.as_json(task_plan, arm, found, faults=faults))
                click.echo("\n  ".join([f"{name}: {'FAILED' if faults else 'passed'}", *words.selftest(found)]))
    return told, failed


@contextlib.contextmanager
def measuring(choice: Choice, *, purpose: str, look_s: float = 0.0) -> Iterator[None]:
    """Keeps other measurements of this user from the devices, and tells which variables the processes do not get.

    Before what is timed it looks for so long at what others do on the machine, and tells what helps where it is too much.
    """
    left_out = environment.left_out()
    if left_out:
        name = left_out[0].partition("=")[0]
        tell(f"not passed on to the measured processes: {', '.join(left_out)}; to measure what one does, "
             f"--arm {choice.arms[0].backend}:env.{name}=...")  # fmt: skip
    with contextlib.ExitStack() as stack:
        for device in choice.devices:
            stack.enter_context(locks.device(device, purpose=purpose, tell=tell))
        if look_s and (busy := neighbours.cores_busy(look_s)) and (line := too_busy(choice, busy)):
            tell(line)
        yield


def too_busy(choice: Choice, busy: float) -> str | None:
    """What to do where others keep so many cores busy that they would disturb an arm; None where they would not."""
    needed = max((arm.threads or max(1, cores.granted() // arm.processes)) * arm.processes for arm in choice.arms)
    if busy + needed <= cores.count() + MOST_TAKEN * needed:
        return None
    free = int(cores.count() - busy + HARDLY)
    way = f", or leave them theirs: --threads {free}" if free else ""
    return (f"this machine is busy: others keep {busy:.1f} of its {cores.count()} cores at work, and a round that they disturb "
            f"is in no figure of speed; stop them first{way}")  # fmt: skip


def tell_absent(choice: Choice, what: str, *, err: bool = False) -> None:
    """A line for each arm whose framework is not installed."""
    for arm, why in choice.absent:
        click.echo(f"{arm.name} is {what}: {why}", err=err)


def tell(line: str) -> None:
    """A line on standard error."""
    click.echo(terminal.plain(line).plain, err=True)


def _tell_found(found: resume.Found, *, total: int) -> None:
    """What an earlier run left, before it is continued."""
    failed = [one for one in found.kept.values() if one.outcome.status != "ok"]
    tell(f"continuing: {len(found.kept)} of {total} processes are done")
    for cell in found.crashed:
        tell(f"{progress.describe(cell)} was running when the last run was killed; it runs again")
    for line in found.aside:
        tell(f"{line}; it runs again")
    for one in failed:
        tell(f"{progress.describe(one.cell)} is kept as it is ({one.outcome.status}: {one.outcome.reason})")
    if failed:
        tell("to run again what failed, add --retry-failed")
