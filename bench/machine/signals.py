"""Moments in which a run must not be interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect after the block, not in the middle of it."""
    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in INTERRUPTIONS}
    try:
        for number in INTERRUPTIONS:
            signal.signal(number, lambda got, _: caught.append(got))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for got in dict.fromkeys(caught):  # the first may be one that is ignored
            signal.raise_signal(got)
