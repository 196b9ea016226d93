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
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from bench.machine.signals import deferred
from bench.process import phases
from bench.records.record import Status

LOG_BYTES = 256 * 1024  # kept of a child's output: so much of its start, and as much of its end
GRACE_S = 5.0  # between SIGTERM and SIGKILL


class Ending(NamedTuple):
    """How a child ended; `reason` is None if it returned 0."""

    status: Status  # ok, failed, killed or timeout
    reason: str | None
    wall_s: float
    code: int | None = None  # what it exited with; None if it was ended by a signal


def run(
    command: list[str],
    *,
    env: Mapping[str, str],
    log: Path,
    timeout_s: float,
    phases_s: Mapping[str, float] | None = None,
) -> Ending:
    """Runs a command to its end or its deadline. An exception here (Ctrl-C) stops the child's whole group first.

    Each phase in `phases_s` that the child tells of (phases.py) has a deadline of its own, counted from its beginning; a
    phase "start" begins at once.
    """
    start = time.monotonic()
    child: _Child | None = None
    try:
        with deferred():  # an interruption before there is something to stop would leave the child running
            child = _Child(command, env)
        late = _wait(child.events, start=start, timeout_s=timeout_s, phases_s=phases_s or {})
        wall_s = time.monotonic() - start
        if late:
            _signal_group(child.process.pid, signal.SIGTERM)
            child.waiter.join(GRACE_S)
    finally:
        if child is not None:
            # Grandchildren go too, also those that ignore SIGTERM or outlive their parent.
            _signal_group(child.process.pid, signal.SIGKILL)
            child.waiter.join()
            for thread in (child.reader, child.teller):
                thread.join(GRACE_S)
            log.write_bytes(child.output.kept())
    if late:
        return Ending("timeout", late, wall_s)
    code = child.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (by the kernel for lack of memory, or by hand)" if name == "SIGKILL" else ""
        return Ending("killed", f"the process was ended by {name}{hint}", wall_s)
    if code > 0:
        reason = f"the process exited with code {code}: {child.output.last_line()}"
        return Ending("failed", reason, wall_s, code)
    return Ending("ok", None, wall_s, code)


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


class _Child:
    """A process that was started, and the threads that block for it; `events` are the phases that it tells, at last None."""

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        told, phase_pipe = os.pipe()
        lifeline, held = os.pipe()
        pipes = (phase_pipe, lifeline)
        try:
            self.process = subprocess.Popen(
                command,
                env={**env, phases.VARIABLE: ",".join(map(str, pipes))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pipes,
            )
            bind(lifeline, self.process.pid)
        except BaseException:
            os.close(told)
            os.close(held)
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


def _wait(
    events: "queue.SimpleQueue[str | None]", *, start: float, timeout_s: float, phases_s: Mapping[str, float]
) -> str | None:
    """Sleeps until the process has ended (None), or until it must be stopped: then the reason."""
    phase, phase_start = "start", start
    while True:
        now = time.monotonic()
        left, phase_left = start + timeout_s - now, phase_start + phases_s.get(phase, math.inf) - now
        try:
            event = events.get(timeout=max(0.0, min(left, phase_left)))
        except queue.Empty:
            where = f", in the phase {phase!r}" if phase in phases_s else ""
            if phase_left < left:
                return f"stopped after {phases_s[phase]:g} s, the deadline of the phase {phase!r}"
            return f"stopped after its deadline of {timeout_s:g} s{where}"
        if event is None:
            return None
        if event in phases_s:
            phase, phase_start = event, time.monotonic()


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


def _signal_group(pid: int, number: int) -> None:
    # Nobody may be left; macOS says PermissionError for zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
