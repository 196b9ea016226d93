"""Starts one child process, waits for it without polling, and says how it ended.

The child gets a session of its own, so that everything it started can be stopped with it; its output goes to a log of bounded
size. The parent sleeps in the kernel meanwhile: on a small machine a parent that polls takes part in the measurement.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

LOG_BYTES = 256 * 1024  # kept of a child's output: so much of its start, and as much of its end
GRACE_S = 5.0  # between SIGTERM and SIGKILL


class Ending(NamedTuple):
    """How a child ended; `reason` is None if it returned 0."""

    status: str  # "ok", "failed", "killed" or "timeout"
    reason: str | None
    wall_s: float


def run(command: list[str], *, env: Mapping[str, str], log: Path, timeout_s: float) -> Ending:
    """Runs a command to its end or its deadline. An exception here (Ctrl-C) stops the child's whole group first."""
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None  # it is a pipe
    output = _Output()
    reader = threading.Thread(target=output.read, args=(process.stdout,), daemon=True)
    reader.start()
    ended = threading.Event()
    threading.Thread(target=_tell_end, args=(process, ended), daemon=True).start()
    try:
        in_time = ended.wait(timeout_s)
        wall_s = time.monotonic() - start
        if not in_time:
            _signal_group(process.pid, signal.SIGTERM)
            ended.wait(GRACE_S)
    finally:
        # Grandchildren go too, also those that ignore SIGTERM or outlive their parent.
        _signal_group(process.pid, signal.SIGKILL)
        ended.wait()
        reader.join(GRACE_S)
        log.write_bytes(output.kept())
    if not in_time:
        return Ending("timeout", f"stopped after its deadline of {timeout_s:g} s", wall_s)
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        hint = " (by the kernel for lack of memory, or by hand)" if name == "SIGKILL" else ""
        return Ending("killed", f"the process was ended by {name}{hint}", wall_s)
    if process.returncode > 0:
        return Ending("failed", f"the process exited with code {process.returncode}: {output.last_line()}", wall_s)
    return Ending("ok", None, wall_s)


def worker_command(request: Path, record: Path, *, cores: Sequence[int] = ()) -> list[str]:
    """The command line of a worker, on the named cores only; -P keeps the current folder from shadowing packages."""
    pinned = ["bench.cores", ",".join(map(str, cores))] if cores else []
    return [sys.executable, "-P", "-m", *pinned, "bench.worker", str(request), str(record)]


def worker_env(backend_env: Mapping[str, str], *, device: str) -> dict[str, str]:
    """This process's environment with a backend's own settings, and no GPU in sight where the CPU is measured."""
    env = {**os.environ, **backend_env}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = "-1"
    root = Path(__file__).parent.parent
    if (root / "pyproject.toml").exists():  # a clone, which need not be installed
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return env


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


def _tell_end(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    # A thread that blocks: `wait(timeout=...)` polls.
    process.wait()
    ended.set()


def _signal_group(pid: int, number: int) -> None:
    # Nobody may be left; macOS says PermissionError for zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
