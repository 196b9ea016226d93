"""A worker's three pipes: what it is doing now, whether its parent is still there, and whose turn it is.

The parent (launch.py) stops a worker that stays too long in one phase. In a worker that was started by hand all of this
does nothing.
"""

import contextlib
import os
import select
import signal
import sys
import threading

VARIABLE = "FRAMEWORK_BENCH_PIPES"  # three descriptors: the phases', the lifeline's and the turns'

GO, AGAIN, END = b"g", b"a", b"e"
"""What a worker that waits is told: run a block; run a block, and forget those before; no more blocks."""

WAITING = "waiting"
"""The phase of a worker that waits for its turn, however long that takes."""

_pipe: int | None = None
_turns: int | None = None


def attach() -> None:
    """Takes over the pipes that the parent left in the environment; no grandchild gets them."""
    global _pipe, _turns
    pipes = os.environ.pop(VARIABLE, "")
    if pipes:
        _pipe, lifeline, _turns = map(int, pipes.split(","))
        for descriptor in (_pipe, lifeline, _turns):
            os.set_inheritable(descriptor, False)
        _watch(lifeline)


def enter(phase: str) -> None:
    """Tells the parent what begins now; takes some microseconds."""
    if _pipe is not None:
        with contextlib.suppress(OSError):  # nobody reads any more, and this process ends in a moment
            os.write(_pipe, phase.encode() + b"\n")


def next_word(told: str) -> bytes:
    """Tells the parent that this process waits for its turn, and sleeps until it has one: GO, AGAIN or END."""
    assert _turns is not None  # only a worker that was started to take turns waits for one
    enter(f"{WAITING} {told}")
    return os.read(_turns, 1) or END


def _watch(lifeline: int) -> None:
    """Ends this process and all that it started once the parent is gone, however that ended: then the pipe is at its end."""
    if sys.platform != "linux":
        threading.Thread(target=_end_after, args=(lifeline,), daemon=True).start()
    elif select.select([lifeline], [], [], 0)[0]:  # gone before it could ask the kernel for a signal (launch.bind)
        _end_after(lifeline)


def _end_after(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written
    os.killpg(os.getpgrp(), signal.SIGKILL)
