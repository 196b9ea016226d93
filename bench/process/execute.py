"""One cell of a comparison in a process of its own: a request to a child, one outcome back."""

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import backends
from bench.machine import cores, hosts
from bench.process import environment, launch
from bench.process.interpreters import Interpreter
from bench.process.request import Request
from bench.records import files
from bench.records.files import RecordError
from bench.records.record import Arm, Cell, Kind, Outcome, Record, Run
from bench.records.text import one_line

PHASES_S: Mapping[str, float] = {
    "start": 120, "data": 600, "import": 300, "build": 300, "first step": 600, "warm-up": 600, "window": 600, "turn": 300,
    "checks": 300, "memory": 600, "parity": 900, "training": 7200, "evaluation": 1800, "parts": 600, "profile": 900,
}  # fmt: skip
"""What a worker tells that it does (bench/process/phases.py) -> how long it may take."""

DEADLINES: Mapping[Kind, launch.Deadlines] = {
    "parity": launch.Deadlines(900, PHASES_S),
    "pilot": launch.Deadlines(900, PHASES_S),
    "speed": launch.Deadlines(900, PHASES_S),
    "memory": launch.Deadlines(900, PHASES_S),
    "quality": launch.Deadlines(7200, PHASES_S),
    "inference": launch.Deadlines(900, PHASES_S),
    "loading": launch.Deadlines(900, PHASES_S),
    "explain": launch.Deadlines(1800, PHASES_S),
}

TRACES = "traces"
"""The folder of a run with what profilers wrote, a folder for each process."""

TEMPORARY = "framework-bench-"
LINK = re.compile(r"temporary-(\w+)")
"""The name of a link in the scratch folder: it leads to the temporary folder that has the same token in its name."""

HARNESS_ONLY = ("matplotlib", "pandas", "scipy", "sklearn")
"""Installed for the tables, the data and the reference, and imported by Keras wherever it finds them."""


def execute(
    run: Run,
    cell: Cell,
    folder: Path,
    *,
    data_dir: Path | None,
    interpreter: Interpreter | None = None,
    deadlines: Mapping[Kind, launch.Deadlines] = DEADLINES,
) -> Record:
    """Runs one process, by default in this interpreter; whatever becomes of it is a record with a status and a reason.

    OSError where the disk does not take the process's files: that is no finding about a backend.
    """
    with started(
        run, cell, folder, data_dir=data_dir, interpreter=interpreter, deadlines=deadlines[cell.kind]
    ) as process:
        return process.record()


@contextlib.contextmanager
def started(
    run: Run,
    cell: Cell,
    folder: Path,
    *,
    data_dir: Path | None,
    interpreter: Interpreter | None,
    deadlines: launch.Deadlines,
    together: int = 1,
    gpu_before: list[int] | None = None,
    gpu_arms: int = 1,
    passive: bool = False,
) -> Iterator["Process"]:
    """A process with its request; on leaving the context it has ended, and its files are gone.

    It has a temporary folder of its own, so that no cache of compiled code survives it. Where several are `together`, each
    waits for its turns, and is told which processes the GPU had before them (`gpu_before`) and how many of them use it. Where
    it is `passive`, its threads wait for work without taking a core from other processes.
    """
    folder = folder.absolute()
    entry = backends.find(cell.arm.backend)
    for path in (folder / files.SCRATCH, folder / "logs"):
        path.mkdir(exist_ok=True)
    request_path, answer_path = files.exchange(folder, cell)
    answer_path.unlink(missing_ok=True)
    data = str(data_dir.absolute()) if data_dir else None
    traces = str(folder / TRACES / Path(cell.file_name).stem) if cell.kind == "explain" else None
    shares = cores_of(cell.arm)
    arm = cell.arm
    mode = backends.mode_for(arm.backend, arm.mode, task=cell.task, device=arm.device, processes=arm.processes)
    asked = Request(
        cell, data, together > 1, hidden_from(cell), gpu_before, gpu_arms, traces, shares,
        hosts.of_ranks(cell.arm.processes, cell.arm.nodes), hosts.remote(),
    )  # fmt: skip
    files.write(request_path, asked)
    with contextlib.ExitStack() as stack:
        for path in (request_path, answer_path):
            stack.callback(path.unlink, missing_ok=True)
        env = environment.for_child(
            entry, cell.arm, mode=mode, temporary=stack.enter_context(_temporary(folder / files.SCRATCH)),
            shares_device=cell.kind in ("parity", "memory") or together > 1, passive=passive,
        )  # fmt: skip
        command = launch.worker_command(
            request_path,
            answer_path,
            python=interpreter.path if interpreter else sys.executable,
            cores=shares[0],
        )
        at = now()
        child = launch.Child(
            command, env=env, log=folder / "logs" / f"{cell.file_name}.log",
            deadlines=replace(deadlines, whole_s=together * deadlines.whole_s),
        )  # fmt: skip
        yield Process(run, cell, stack.enter_context(child), answer_path, at)


def cores_of(arm: Arm) -> list[list[int]]:
    """The cores to bind each of an arm's processes to; an empty list where it may use all. The same on each machine."""
    if arm.processes == 1:
        return [cores.chosen(arm.threads)]
    return arm.nodes * cores.shares(arm.processes // arm.nodes, arm.threads)


@contextlib.contextmanager
def _temporary(scratch: Path) -> Iterator[Path]:
    """A folder for a process's temporary files, among those of all programs: in the run's own its paths could be too long.

    A link in the scratch folder leads to it, so that a later run finds what a killed one left. Both names end with the same
    random token, or a link that somebody else put there could lead to any folder.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True) as name:
        link = scratch / f"temporary-{Path(name).name.removeprefix(TEMPORARY)}"
        link.symlink_to(name)
        try:
            yield Path(name)
        finally:
            link.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Removes the temporary folders of processes whose run was killed."""
    for link in (folder / files.SCRATCH).glob("temporary-*"):
        if (match := LINK.fullmatch(link.name)) and link.is_symlink():
            target = link.readlink()
            if target == Path(tempfile.gettempdir(), TEMPORARY + match[1]):
                shutil.rmtree(target, ignore_errors=True)
            link.unlink()


@dataclass(frozen=True)
class Process:
    """A process that was started for a cell."""

    run: Run
    cell: Cell
    child: launch.Child
    answer_path: Path
    started_utc: str

    def record(self, *, beside: int = 0) -> Record:
        """Waits for its end, and says what became of it; `beside` others took turns with it."""
        ending = self.child.ending()
        if ending.code == os.EX_IOERR and not self.answer_path.exists():
            raise OSError(errno.EIO, f"a process could not write its record: {ending.reason}")
        done = _record(self.run, self.cell, _outcome(ending, self.answer_path))
        remarks = done.outcome.remarks
        if ending.left:
            many = "es" if ending.left > 1 else ""
            remarks = [*remarks, f"{ending.left} process{many} that it had started outlived it and had to be killed"]
        outcome = msgspec.structs.replace(
            done.outcome, started_utc=self.started_utc, wall_s=ending.wall_s, beside=beside, remarks=remarks
        )
        return msgspec.structs.replace(done, outcome=outcome)


def hidden_from(cell: Cell) -> list[str]:
    """The other backends' frameworks, and what only the harness needs, so that they look as if they were not installed.

    TensorFlow imports JAX, and Keras pandas and scikit-learn, if they are there: with all frameworks in one environment, their
    time and memory would be counted as TensorFlow's. A module of the user's own that declares no needs sees everything.
    """
    entry = backends.find(cell.arm.backend)
    if not entry.needs:
        return []
    others = {module for other in backends.BACKENDS.values() for module in other.needs}
    reference = backends.REFERENCE.needs if cell.kind == "parity" else ()
    return sorted({*others, *HARNESS_ONLY} - {*entry.needs, *entry.brings, *reference})


def _outcome(ending: launch.Ending, answer_path: Path) -> Outcome:
    if ending.status != "ok":
        return Outcome(status=ending.status, reason=one_line(str(ending.reason)))
    if not os.path.lexists(answer_path):
        return Outcome(status="failed", reason="the process exited with code 0 but left no record")
    try:
        return files.read_outcome(answer_path)
    except RecordError as error:
        why = str(error).partition(": ")[2]
        return Outcome(status="failed", reason=one_line(f"the process left no readable record: {why}"))


def _record(run: Run, cell: Cell, outcome: Outcome) -> Record:
    """The whole record; a failed one if what the process claims is none."""
    done = Record(run=run, cell=cell, outcome=outcome)
    try:
        files.check(done)
    except RecordError as error:
        return msgspec.structs.replace(done, outcome=Outcome(status="failed", reason=f"the process answered: {error}"))
    return done


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
