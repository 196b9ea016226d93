"""Interruptions: not in the middle of some moments, and never lost."""

import signal
import sys
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


def raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """A `sys.unraisablehook`: an interruption that struck in a finalizer or the callback of a weak reference, where Python
    swallows what is raised, strikes once more."""
    raised_by = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    number = raised_by.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
        return
    main = threading.main_thread().ident
    assert main is not None
    later = threading.Timer(0.01, signal.pthread_kill, (main, number))  # from within it would be swallowed again
    later.daemon = True
    later.start()
