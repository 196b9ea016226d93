"""What else the machine did while a window was timed, from the kernel's and the driver's own counters.

The rule, stated before anything is measured: a window is disturbed if other processes and the hypervisor together took more
than MOST_TAKEN of the usable cores' time, if another process used the GPU, or if the GPU throttled for heat or by its hardware
(its power cap is a limit that it always has, and only recorded). A round with a disturbed window is kept and shown, and takes
part in no ratio. Where a counter cannot be had, its part of the rule does not apply, and the record says None; so it is with
the processors' time in a window of less than MIN_COUNTED_S.

Sources: /proc/stat (all processors' time; `steal` is what the hypervisor took), getrusage(2) and `time.process_time` (this
process), getloadavg(3), NVML.
"""

import os
import resource
import time
from contextlib import suppress
from typing import NamedTuple

import psutil

from bench.machine import nvml
from bench.records.record import Disturbance, GpuState

MOST_TAKEN = 0.1
TICK_S = 0.01  # the kernel counts a processor's time in these
MIN_COUNTED_S = TICK_S / MOST_TAKEN  # in a shorter window one tick is more than the rule allows
POWER_CAP = "power cap"


class Reading(NamedTuple):
    """The counters at one moment."""

    wall_s: float
    own_cpu_s: float
    busy_s: float | None  # of the usable cores, by any process
    stolen_s: float | None
    involuntary_switches: int
    major_page_faults: int


class Watch:
    """A context around the window; afterwards `cpu_s` and `disturbance` say what happened in it."""

    def __init__(self, *, gpu: bool) -> None:
        self.gpu = gpu
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self.cpu_s = 0.0
        self.disturbance: Disturbance | None = None

    def __enter__(self) -> "Watch":
        self.opened = read()
        return self

    def __exit__(self, *_: object) -> None:
        closed = read()
        self.cpu_s = closed.own_cpu_s - self.opened.own_cpu_s
        self.disturbance = compare(self.opened, closed, load=self.load, gpu=gpu_state() if self.gpu else None)


def read() -> Reading:
    """The counters now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    busy, stolen = None, None
    with suppress(AttributeError, OSError, IndexError):
        processors = psutil.cpu_times(percpu=True)
        usable = [processors[core] for core in os.sched_getaffinity(0)]
        busy = sum(p.user + p.system + p.nice + p.irq + p.softirq for p in usable)
        stolen = sum(p.steal for p in usable)
    return Reading(
        wall_s=time.perf_counter(),
        own_cpu_s=time.process_time(),
        busy_s=busy,
        stolen_s=stolen,
        involuntary_switches=usage.ru_nivcsw,
        major_page_faults=usage.ru_majflt,
    )


def compare(opened: Reading, closed: Reading, *, load: float | None, gpu: GpuState | None) -> Disturbance:
    """The disturbance between two readings, judged by the rule."""
    window_s = closed.wall_s - opened.wall_s
    seconds = window_s * _cores()
    others, stolen = None, None
    if None not in (opened.busy_s, closed.busy_s, opened.stolen_s, closed.stolen_s) and window_s >= MIN_COUNTED_S:
        own = closed.own_cpu_s - opened.own_cpu_s
        others = max(0.0, closed.busy_s - opened.busy_s - own) / seconds  # type: ignore[operator]
        stolen = max(0.0, closed.stolen_s - opened.stolen_s) / seconds  # type: ignore[operator]
    frequency = None
    with suppress(Exception):  # psutil raises what the platform raises
        frequency = psutil.cpu_freq().current or None
    return Disturbance(
        load=load,
        others_share=others,
        stolen_share=stolen,
        involuntary_switches=closed.involuntary_switches - opened.involuntary_switches,
        major_page_faults=closed.major_page_faults - opened.major_page_faults,
        cpu_mhz=frequency,
        gpu=gpu,
        disturbed=judge(others, stolen, gpu),
    )


def judge(others_share: float | None, stolen_share: float | None, gpu: GpuState | None) -> str | None:
    """Why a round is excluded, by the rule at the head of this module; None if it is not."""
    taken = (others_share or 0.0) + (stolen_share or 0.0)
    if taken > MOST_TAKEN:
        return f"other processes and the hypervisor took {taken:.0%} of the cores' time"
    if gpu is not None and gpu.other_processes:
        return f"{gpu.other_processes} other process{'es' if gpu.other_processes > 1 else ''} on the GPU"
    throttles = [reason for reason in (gpu.throttle_reasons or [] if gpu else []) if reason != POWER_CAP]
    if throttles:
        return f"the GPU throttled: {', '.join(throttles)}"
    return None


THROTTLES = {
    "SwPowerCap": POWER_CAP,
    "HwSlowdown": "hardware slow-down",
    "SwThermalSlowdown": "heat",
    "HwThermalSlowdown": "heat, by hardware",
    "HwPowerBrakeSlowdown": "power brake",
}
"""NVML's names of clock event reasons that make a card slower than it could be -> words."""


def gpu_state() -> GpuState | None:
    """The first visible GPU through NVML; a figure that the driver does not give is None."""
    import pynvml

    card = nvml.card()
    if card is None:
        return None

    def ask(question: str, *arguments: object) -> int | None:
        try:
            return int(getattr(pynvml, question)(card, *arguments))
        except (pynvml.NVMLError, AttributeError):
            return None

    power = ask("nvmlDeviceGetPowerUsage")  # milliwatts
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
    processes = None
    with suppress(pynvml.NVMLError):
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
        processes = sum(process.pid != os.getpid() for process in running)
    return GpuState(
        clock_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM) or None,
        temperature_celsius=ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power is None else power / 1000,
        throttle_reasons=None if reasons is None else _throttles(reasons),
        other_processes=processes,
    )


def _throttles(reasons: int) -> list[str]:
    import pynvml

    return [words for name, words in THROTTLES.items() if reasons & getattr(pynvml, f"nvmlClocksEventReason{name}", 0)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
