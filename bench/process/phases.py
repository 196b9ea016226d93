"""A worker's two pipes to its parent: what it is doing now, and whether the parent is still there.

The parent (launch.py) stops a worker that stays too long in one phase. In a worker that was started by hand all of this
does nothing.
"""

import contextlib
import os
import select
import signal
import sys
import threading

VARIABLE = "FRAMEWORK_BENCH_PIPES"  # two descriptors: the phases' and the lifeline's

_pipe: int | None = None


def attach() -> None:
    """Takes over the pipes that the parent left in the environment; no grandchild gets them."""
    global _pipe
    pipes = os.environ.pop(VARIABLE, "")
    if pipes:
        _pipe, lifeline = map(int, pipes.split(","))
        for descriptor in (_pipe, lifeline):
            os.set_inheritable(descriptor, False)
        _watch(lifeline)


def enter(phase: str) -> None:
    """Tells the parent what begins now; takes some microseconds."""
    if _pipe is not None:
        with contextlib.suppress(OSError):  # nobody reads any more, and this process ends in a moment
            os.write(_pipe, phase.encode() + b"\n")


def _watch(lifeline: int) -> None:
    """Ends this process and all that it started once the parent is gone, however that ended: then the pipe is at its end."""
    if sys.platform != "linux":
        threading.Thread(target=_end_after, args=(lifeline,), daemon=True).start()
    elif select.select([lifeline], [], [], 0)[0]:  # gone before it could ask the kernel for a signal (launch.bind)
        _end_after(lifeline)


def _end_after(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written
    os.killpg(os.getpgrp(), signal.SIGKILL)
