"""What others do on this machine before anything is measured."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from bench.machine import cores


def cores_busy(look_s: float, *, sleep: Callable[[float], object] = time.sleep) -> float | None:
    """How many of the cores that this process may use were busy, on average, while it slept; None where nobody tells."""
    with suppress(AttributeError, OSError, IndexError):
        before = _seconds()
        sleep(look_s)
        return max(0.0, _seconds() - before) / look_s
    return None


def busy_s(processor: Any) -> float:
    """Seconds so far in which a processor of `psutil.cpu_times(percpu=True)` ran something."""
    return float(processor.user + processor.system + processor.nice + processor.irq + processor.softirq)


def _seconds() -> float:
    processors = psutil.cpu_times(percpu=True)
    return sum(busy_s(processors[core]) for core in cores.usable() or range(len(processors)))
