"""Starts one child process, waits for it without polling, and says how it ended.

The child gets a session of its own, so that everything it started can be stopped with it; its output goes to a log of bounded
size. The parent sleeps in the kernel meanwhile: on a small machine a parent that polls takes part in the measurement. If the
parent is killed, the child and what it started go with it (`bind`).
"""

import contextlib
import fcntl
import math
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from bench.machine.signals import deferred
from bench.process import phases
from bench.records.record import Status

MARK = "FRAMEWORK_BENCH_PROCESS"  # a variable by which what a child has started is known
LOG_BYTES = 256 * 1024  # kept of a child's output: so much of its start, and as much of its end
MAX_SLEEP_S = 3600.0


@dataclass(frozen=True)
class Deadlines:
    """How long a child may take: as a whole, and in each phase that it tells of, from the phase's beginning."""

    whole_s: float
    phases_s: Mapping[str, float] = field(default_factory=dict)
    grace_s: float = 5.0  # between SIGTERM and SIGKILL


class Ending(NamedTuple):
    """How a child ended; `reason` is None if it returned 0."""

    status: Status  # ok, failed, killed or timeout
    reason: str | None
    wall_s: float
    code: int | None = None  # what it exited with; None if it was ended by a signal
    left: int = 0  # processes that it had sent out of its group, and that ran on after its end


def run(command: list[str], *, env: Mapping[str, str], log: Path, deadlines: Deadlines) -> Ending:
    """Runs a command to its end or its deadline. An exception here (Ctrl-C) stops the child's whole group first."""
    with Child(command, env=env, log=log, deadlines=deadlines) as child:
        return child.ending()


class Child:
    """A process that was started. On leaving the context nothing of it runs any more, and its output is in the log.

    It tells its phases as phases.py says; one that is called "start" begins at once.
    """

    def __init__(self, command: list[str], *, env: Mapping[str, str], log: Path, deadlines: Deadlines) -> None:
        self._log, self._deadlines = log, deadlines
        self._late: str | None = None  # why it was stopped
        self._ended_s: float | None = None  # when, after its start
        self._start = self._phase_start = time.monotonic()
        self._phase = "start"
        with deferred():  # an interruption before there is something to stop would leave the child running
            self._child = _Process(command, env)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        child = self._child
        # Grandchildren go too, also those that ignore SIGTERM or outlive their parent.
        _signal_group(child.process.pid, signal.SIGKILL)
        child.waiter.join()
        child.end_daemons()
        for thread in (child.reader, child.teller):
            thread.join(self._deadlines.grace_s)
        child.close()
        self._log.write_bytes(child.output.kept())

    @property
    def pid(self) -> int:
        return self._child.process.pid

    def until(self, phase: str) -> str | None:
        """Sleeps until the child tells that it enters a phase, and returns what it adds; None if it has ended or is late."""
        while self._ended_s is None:
            event = self._next()
            if event is not None and event.partition(" ")[0] == phase:
                return event.partition(" ")[2]
        return None

    def say(self, word: bytes, *, phase: str) -> None:
        """Gives the child, which waits for it, a word of one byte; with it the phase begins."""
        self._phase, self._phase_start = phase, time.monotonic()
        with contextlib.suppress(OSError):  # it is gone, which the next `until` tells
            os.write(self._child.turns, word)

    def ending(self) -> Ending:
        """Waits for the end, and says how it came."""
        while self._ended_s is None:
            self._next()
        child, wall_s = self._child, self._ended_s
        if self._late:
            return Ending("timeout", self._late, wall_s)
        code = child.process.wait()
        left = child.end_daemons()  # before they are measured against, or keep the output open
        child.reader.join(self._deadlines.grace_s)
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (possibly out of memory, or killed manually)" if name == "SIGKILL" else ""
            return Ending("killed", f"the process was ended by {name}{hint}", wall_s, left=left)
        if code > 0:
            reason = f"the process exited with code {code}: {child.output.last_line()}"
            return Ending("failed", reason, wall_s, code, left)
        return Ending("ok", None, wall_s, code, left)

    def _next(self) -> str | None:
        """The next thing that the child tells; None at its end, also one that a deadline brought."""
        now = time.monotonic()
        left = self._start + self._deadlines.whole_s - now
        phase_left = self._phase_start + self._deadlines.phases_s.get(self._phase, math.inf) - now
        try:
            event = self._child.events.get(timeout=max(0.0, min(left, phase_left, MAX_SLEEP_S)))
        except queue.Empty:
            if min(left, phase_left) > MAX_SLEEP_S:
                return ""
            self._late = self._deadline(phase=phase_left < left) + _stopped(self.pid)
            self._ended_s = time.monotonic() - self._start
            _signal_group(self.pid, signal.SIGTERM)
            self._child.waiter.join(self._deadlines.grace_s)
            return None
        if event is None:
            self._ended_s = time.monotonic() - self._start
        elif (phase := event.partition(" ")[0]) in (*self._deadlines.phases_s, phases.WAITING):
            self._phase, self._phase_start = phase, time.monotonic()
        return event

    def _deadline(self, *, phase: bool) -> str:
        if phase:
            return (
                f"stopped after {self._deadlines.phases_s[self._phase]:g} s, the deadline of the phase {self._phase!r}"
            )
        where = f", in the phase {self._phase!r}" if self._phase in self._deadlines.phases_s else ""
        return f"stopped after its deadline of {self._deadlines.whole_s:g} s{where}"


def bind(lifeline: int, pid: int) -> None:
    """Makes the kernel end a process's group when the other end of its pipe is closed, which is when this process has ended.

    The pipe is the child's open file, so the request outlives the parent; it needs no thread in the child, and works while
    native code holds the interpreter's lock. Elsewhere than on Linux a worker watches the pipe itself (phases.py).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel that does not know F_SETSIG, see fcntl(2)
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, -pid)
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


def worker_command(
    request: Path, record: Path, *, python: str = sys.executable, cores: Sequence[int] = ()
) -> list[str]:
    """The command line of a worker, on the named cores only; -P keeps the current folder from shadowing packages."""
    pinned = ["bench.machine.cores", ",".join(map(str, cores))] if cores else []
    return [python, "-P", "-m", *pinned, "bench.worker", str(request), str(record)]


class _Process:
    """A process that was started, and the threads that block for it; `events` are the phases that it tells, at last None."""

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        told, phase_pipe = os.pipe()
        lifeline, held = os.pipe()
        waiting, self.turns = os.pipe()
        pipes = (phase_pipe, lifeline, waiting)
        self.mark = secrets.token_hex(8)
        try:
            self.process = subprocess.Popen(
                command,
                env={**env, phases.VARIABLE: ",".join(map(str, pipes)), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pipes,
            )
            bind(lifeline, self.process.pid)
        except BaseException:
            for descriptor in (told, held, self.turns):
                os.close(descriptor)
            raise
        finally:
            for descriptor in pipes:
                os.close(descriptor)
        assert self.process.stdout is not None  # it is a pipe
        self.output = _Output()
        self.events = queue.SimpleQueue[str | None]()
        self.reader = _thread(self.output.read, self.process.stdout)
        self.teller = _thread(_tell_phases, os.fdopen(told, "rb"), self.events)
        self.waiter = _thread(_tell_end, self.process, held, self.events)

    def end_daemons(self) -> int:
        """Ends what it started and what left its group; returns how many processes that were.

        They are known by their environment at their start. Who has started a program with another one is not found.
        """
        found = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and os.getpgid(process.pid) != self.process.pid:
                    process.kill()
                    found += 1
        return found

    def close(self) -> None:
        os.close(self.turns)


class _Output:
    """The start and the end of a stream of any length."""

    def __init__(self) -> None:
        self.head, self.tail, self.dropped = b"", b"", 0

    def read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                room = LOG_BYTES - len(self.head)
                self.head += chunk[:room]
                self.tail += chunk[room:]
                if len(self.tail) > 2 * LOG_BYTES:
                    self.dropped += len(self.tail) - LOG_BYTES
                    self.tail = self.tail[-LOG_BYTES:]

    def kept(self) -> bytes:
        gap = f"\n... {self.dropped:,} bytes left out ...\n".encode() if self.dropped else b""
        return self.head + gap + self.tail

    def last_line(self) -> str:
        lines = self.kept().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return words[-1][:300] if words else "it printed nothing"


def _thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def _tell_phases(pipe: IO[bytes], events: "queue.SimpleQueue[str | None]") -> None:
    with pipe:
        while line := pipe.readline(100):
            events.put(line.decode(errors="replace").strip())


def _tell_end(process: subprocess.Popen[bytes], held: int, events: "queue.SimpleQueue[str | None]") -> None:
    # A thread that blocks: `wait(timeout=...)` polls.
    process.wait()
    events.put(None)
    os.close(held)


def _stopped(group: int) -> str:
    """What to add to a deadline that was missed because somebody stopped one of a group's processes; else nothing."""
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            count += os.getpgid(process.pid) == group and process.status() == psutil.STATUS_STOPPED
    return f"; {count} of its processes were stopped (SIGSTOP)" if count else ""


def _signal_group(pid: int, number: int) -> None:
    # Nobody may be left; macOS says PermissionError for zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
