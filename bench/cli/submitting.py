"""`framework-bench submit`: whole runs on the machines of a cluster, one machine for each, through submitit.

https://github.com/facebookincubator/submitit starts them, with Slurm or, to try it out, on this machine. Arms of a round are
never split over machines. A job that is preempted or runs out of its time is queued again, and its run continues, as any run
does with the `--output` of an earlier one.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import psutil

from bench.cli.options import UserError
from bench.process.launch import bind
from bench.records import files
from bench.records.text import one_line, printable

JOBS = "jobs"
"""The folder with what submitit writes, logs among it, beside the folders of the runs."""

SUBMITTED = "submitted.json"
"""In that folder: the machines, and the job of each."""

TIMES_OUT = 10
"""How often a job that ran out of its time is queued again."""

State = Literal["waiting", "running", "complete", "failed", "gone"]


class Launcher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `--launcher` names, a TOML file."""

    machines: dict[str, dict[str, Any]]  # name -> submitit's parameters for it, beside those of all
    executor: Literal["slurm", "local"] = "slurm"
    parameters: dict[str, Any] = {}


class Submitted(msgspec.Struct, frozen=True):
    """The job of a machine."""

    job: str
    executor: str


@dataclass
class Job:
    """A run, in a job of the cluster: submitit calls it, and asks it for a `checkpoint` before the machine is taken away."""

    command: list[str]
    ended: Path  # gets the exit code
    folder: Path = field(default_factory=Path.cwd)

    def __call__(self) -> int:
        lifeline, held = os.pipe()
        # In a session of its own: the launcher's signals are for the job. It ends with the job all the same.
        self._process = subprocess.Popen(self.command, cwd=self.folder, start_new_session=True, pass_fds=[lifeline])
        bind(lifeline, self._process.pid)
        os.close(lifeline)
        code = self._process.wait()
        os.close(held)
        self.ended.write_text(f"{code}\n", encoding="ascii")
        return code

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        # An interrupted run writes down what it has, and tells the other processes to end.
        os.kill(self._process.pid, signal.SIGTERM)
        # A signal's handler calls this, and what it interrupts is `wait`, which holds a lock.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(self.command, self.ended, self.folder))


class Status(NamedTuple):
    """Where the run of a machine stands."""

    name: str
    state: State
    records: int  # of processes that came to an end
    said: str  # the last line of its log, where it failed or is gone
    log: Path | None


def launcher(path: Path) -> Launcher:
    """The launcher in a TOML file; UserError for what is none."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Launcher)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UserError(printable(one_line(f"--launcher {path}: {error}"))) from error


def submit(found: Launcher, folder: Path, arguments: Sequence[str]) -> dict[str, Submitted]:
    """Submits a run for each machine whose run is neither complete nor under way; the jobs by machine."""
    submitit = _submitit()
    if not found.machines:
        raise UserError("--launcher names no machine: add a table for each, as in [machines.epyc]")
    for name in found.machines:
        if not re.fullmatch(r"[\w][\w.-]*", name) or name == JOBS:
            raise UserError(printable(f"--launcher: {name!r} is no name for a machine's folder"))
    jobs = folder / JOBS
    known = submitted(folder)
    left = {one.name for one in status(folder) if one.state in ("complete", "running", "waiting")}
    try:
        jobs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write there: {error.strerror}") from error
    for name, own in found.machines.items():
        if name in left:
            continue
        parameters = {"timeout_min": 240, "slurm_exclusive": True, **found.parameters, **own}
        if not parameters["slurm_exclusive"]:  # sbatch knows the option, and no false value of it
            del parameters["slurm_exclusive"]
        python = parameters.pop("python", sys.executable)
        if not isinstance(python, str):
            raise UserError(printable(f"--launcher: python of {name} is {python!r}: expected a path"))
        try:
            executor = submitit.AutoExecutor(
                jobs, cluster=found.executor, slurm_max_num_timeout=TIMES_OUT, local_max_num_timeout=TIMES_OUT
            )
            executor.update_parameters(name=f"framework-bench-{name}", nodes=1, tasks_per_node=1, **parameters)
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            raise UserError(printable(f"--launcher: {one_line(str(error))}")) from error
        command = [python, "-P", "-m", "bench", "run", *arguments, "--output", str((folder / name).absolute())]
        ended = (jobs / f"{name}.exit").absolute()
        ended.unlink(missing_ok=True)
        try:
            job = executor.submit(Job(command, ended))
        except (submitit.core.utils.FailedSubmissionError, OSError) as error:
            raise UserError(printable(f"{name} was not submitted: {one_line(str(error))}")) from error
        known[name] = Submitted(str(job.job_id), found.executor)
        files.write_bytes(jobs / SUBMITTED, msgspec.json.format(msgspec.json.encode(known)), via=jobs)
    return known


def submitted(folder: Path) -> dict[str, Submitted]:
    """The jobs of a folder by machine; empty where nothing was submitted."""
    try:
        return msgspec.json.decode((folder / JOBS / SUBMITTED).read_bytes(), type=dict[str, Submitted])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(printable(f"{folder / JOBS / SUBMITTED} is not readable: {error}")) from error


def status(folder: Path) -> list[Status]:
    """Of every machine that a run was submitted for: from its folder, from its job's files, and from the launcher."""
    return [_status(folder, name, job) for name, job in submitted(folder).items()]


def _status(folder: Path, name: str, job: Submitted) -> Status:
    jobs, records = folder / JOBS, files.read_folder(folder / name)[0]
    ended = sum(one.outcome.status != "interrupted" for one in records)
    logs = [log for kind in ("err", "out") for log in sorted(jobs.glob(f"{job.job}_*_log.{kind}"))]
    log = next((one for one in logs if one.stat().st_size), None)
    try:
        code = int((jobs / f"{name}.exit").read_text(encoding="ascii"))
    except (OSError, ValueError):
        code = None
    state: State
    if code is not None:
        state = "complete" if code == 0 else "failed"
    elif _is_alive(job):
        state = "running" if ended or log else "waiting"
    else:
        state = "gone"
    said = _last_line(log) if log and state in ("failed", "gone") else ""
    return Status(name, state, ended, said, log)


def _is_alive(job: Submitted) -> bool:
    """Whether the launcher still has the job: Slurm by `squeue`, this machine by its process."""
    if job.executor == "local":
        return any(_is_of(process, job.job) for process in psutil.process_iter())
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", job.job, "--format", "%T"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"squeue does not answer: {error}") from error
    return bool(asked.stdout.strip())


def _is_of(process: psutil.Process, job: str) -> bool:
    with contextlib.suppress(psutil.Error):
        if any("submitit" in part for part in process.cmdline()):
            return job in (str(process.pid), process.environ().get("SUBMITIT_LOCAL_JOB_ID"))
    return False


def _last_line(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        lines = stream.read().decode(errors="replace").splitlines()
    return next((printable(one_line(line))[:300] for line in reversed(lines) if line.strip()), "")


def told(found: Sequence[Status]) -> Iterator[str]:
    """A line for each machine, and where it failed, the last line of its log and the log."""
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        yield f"{one.name:<{width}}  {one.state:<8}  {one.records} records"
        if one.said:
            yield f"{'':<{width}}  {one.said} (log: {one.log})"


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError('submit needs submitit; install it with: pip install "framework-bench[cluster]"') from None
    return submitit
