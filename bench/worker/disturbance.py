"""What else the machine did while a window was timed, from the kernel's and the driver's own counters.

The rule of what disturbs a window is bench/records/disturbed.py. Where a counter cannot be had, its part of the rule does not
apply, and the record says None; so it is with the processors' time in a window of less than MIN_COUNTED_S.

Sources: /proc/stat (each processor's time; `steal` is what the hypervisor took), cpu.stat of the control groups
(bench/machine/quota.py), getrusage(2) (this process), the processor clocks of this process and of an arm's others
(bench/worker/ranks.py), getloadavg(3), NVML.
"""

import os
import resource
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import psutil

from bench.machine import cores, nvml, quota
from bench.machine.neighbours import busy_s
from bench.records.disturbed import HEAT, MOST_TAKEN, POWER_CAP, judge
from bench.records.record import Disturbance, GpuState

TICK_S = 0.01  # in which the kernel counts a processor's time
MIN_COUNTED_S = TICK_S / MOST_TAKEN  # in a shorter window a single tick would be more than the rule allows

THROTTLE_FIELDS = {
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP": POWER_CAP,
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN": HEAT,
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": "heat, by hardware",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN": "power brake",
}
"""NVML's counters of the nanoseconds for which a card was slower than it could be -> words."""

VIOLATIONS = {"NVML_PERF_POLICY_POWER": POWER_CAP, "NVML_PERF_POLICY_THERMAL": HEAT}
"""The same from nvmlDeviceGetViolationStatus, for drivers without those fields."""


class Counters(NamedTuple):
    """What the counters say at one moment, or what they counted between two."""

    wall_s: float = 0.0
    own_cpu_s: float = 0.0
    busy_s: float | None = 0.0  # of the usable cores, by any process
    stolen_s: float | None = 0.0  # of the usable cores
    siblings_s: float | None = 0.0  # of the other threads of the same physical cores, by any process
    withheld_s: float | None = 0.0  # by a quota, summed over cores; None without one
    involuntary_switches: int = 0
    major_page_faults: int = 0
    throttled_s: Mapping[str, float] | None = None  # reason -> how long the GPU was slowed down for it
    rank_cpu_s: Mapping[int, float] | None = None  # rank -> its part of own_cpu_s


class Taken(NamedTuple):
    """What the kernel counted of the cores of one machine, in seconds, as in Counters."""

    busy_s: float | None
    stolen_s: float | None
    siblings_s: float | None
    withheld_s: float | None


class Watch:
    """A context around the window, or around each of its parts; afterwards `cpu_s` and `disturbance` say what happened inside.

    Made before the framework is imported, so that it knows which processes the GPU had before; or `before` are the ids of those
    (`nvml.processes`), when `arms` processes of the same run use the card and this is not the first one. An arm of several
    processes has `of_cores`, the cores of all of them on a machine, and `cpu_s`, which tells the processor time of each; where
    they are on several machines, `elsewhere` tells what was taken on each of the others.
    """

    def __init__(
        self,
        *,
        gpu: bool,
        before: Collection[int] | None = None,
        arms: int = 1,
        of_cores: Collection[int] | None = None,
        cpu_s: Callable[[], Sequence[float]] = lambda: [time.process_time()],
        elsewhere: Callable[[], Sequence[Taken]] = list,
    ) -> None:
        self._cores, self._cpu_clock = cores.usable() if of_cores is None else sorted(of_cores), cpu_s
        self._elsewhere, self._machines = elsewhere, 1
        self._card = nvml.card() if gpu else None
        self._before = nvml.processes(self._card) or () if before is None else before
        self._arms = arms
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._inside = Counters()
        self._since_us = 0  # when the first part began, by the wall clock
        self.disturbance: Disturbance | None = None

    @property
    def cpu_s(self) -> float:
        """The arm's processor time inside, all threads of all its processes."""
        return self._inside.own_cpu_s

    @property
    def wall_s(self) -> float:
        """The time inside."""
        return self._inside.wall_s

    @property
    def rank_cpu_s(self) -> list[float]:
        """That of each process, in the order of their ranks."""
        return list((self._inside.rank_cpu_s or {}).values())

    def __enter__(self) -> "Watch":
        self._since_us = self._since_us or time.time_ns() // 1000
        self._opened = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        part = between(self._opened, self._read())
        self._inside = both(self._inside, part) if self.disturbance else part
        gpu = gpu_state(self._card, self._inside, others=self._others_on_the_card()) if self._card else None
        count = self._machines * (len(self._cores) or cores.count())
        self.disturbance = assess(self._inside, core_count=count, load=self._load, gpu=gpu)

    def forget(self) -> None:
        """What happened so far does not count."""
        self._inside, self._since_us, self.disturbance = Counters(), 0, None

    def _read(self) -> Counters:
        elsewhere = self._elsewhere()
        self._machines = 1 + len(elsewhere)
        return read(self._card, of_cores=self._cores, cpu_s=self._cpu_clock, elsewhere=elsewhere)

    def _others_on_the_card(self) -> int | None:
        now = nvml.processes(self._card)
        if now is None:
            return None
        samples = nvml.ask(self._card, "nvmlDeviceGetProcessUtilization", self._since_us) or ()
        computed = {sample.pid for sample in samples if sample.smUtil}
        return max(0, len(set(now) - set(self._before)) - self._arms) + len(computed & set(self._before))


def read(
    card: Any | None,
    *,
    of_cores: Collection[int] | None = None,
    cpu_s: Callable[[], Sequence[float]] = lambda: [time.process_time()],
    elsewhere: Sequence[Taken] = (),
) -> Counters:
    """The counters now; of these cores, by default those that this process may use, and of other machines."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    machines = [taken(cores.usable() if of_cores is None else of_cores), *elsewhere]
    sums = [None if None in of_each else sum(of_each) for of_each in zip(*machines, strict=True)]
    own_cpu_s = cpu_s()
    return Counters(
        wall_s=time.perf_counter(),
        own_cpu_s=sum(own_cpu_s),
        **Taken(*sums)._asdict(),
        involuntary_switches=usage.ru_nivcsw,
        major_page_faults=usage.ru_majflt,
        throttled_s=_throttled_s(card),
        rank_cpu_s=dict(enumerate(own_cpu_s)),
    )


def taken(of_cores: Collection[int]) -> Taken:
    """What the kernel counted so far of cores of this machine."""
    busy, stolen, beside = None, None, None
    with suppress(AttributeError, OSError, IndexError):
        processors = psutil.cpu_times(percpu=True)
        own = [processors[core] for core in of_cores]
        beside = sum(busy_s(processors[core]) for core in siblings_of(tuple(of_cores)))
        busy, stolen = sum(map(busy_s, own)), sum(processor.steal for processor in own)
    withheld = quota.throttled()
    return Taken(busy, stolen, beside, None if withheld is None else withheld.core_s)


@cache
def siblings_of(of_cores: tuple[int, ...]) -> set[int]:
    """cores.siblings, which reads many files."""
    return cores.siblings(of_cores)


def with_children() -> list[float]:
    """This process's time and that of its children, those that have ended included, as the time of one."""
    return [time.process_time() + _children_s()]


def _children_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds


def between(opened: Counters, closed: Counters) -> Counters:
    """What was counted from one moment to another."""
    return _combined(opened, closed, lambda before, after: after - before)


def both(first: Counters, second: Counters) -> Counters:
    """What was counted in two stretches of time."""
    return _combined(first, second, lambda one, other: one + other)


def assess(inside: Counters, *, core_count: int, load: float | None, gpu: GpuState | None) -> Disturbance:
    """The disturbance of a window in which so many cores could be used, judged by the rule."""
    core_s = inside.wall_s * core_count

    def share(taken_s: float | None) -> float | None:
        if taken_s is None or inside.wall_s < MIN_COUNTED_S:
            return None
        return max(0.0, taken_s) / core_s

    frequency = None
    with suppress(Exception):  # psutil raises what the platform raises
        frequency = psutil.cpu_freq().current or None
    shares = {
        "others_share": share(None if inside.busy_s is None else inside.busy_s - inside.own_cpu_s),
        "siblings_share": share(inside.siblings_s),
        "stolen_share": share(inside.stolen_s),
        "withheld_share": share(inside.withheld_s),
    }
    return Disturbance(
        load=load,
        **shares,
        involuntary_switches=inside.involuntary_switches,
        major_page_faults=inside.major_page_faults,
        cpu_mhz=frequency,
        gpu=gpu,
        disturbed=judge(**shares, own_share=share(inside.own_cpu_s), gpu=gpu),
    )


THROTTLES_NOW = {
    "SwPowerCap": POWER_CAP,
    "HwSlowdown": "hardware slow-down",
    "SwThermalSlowdown": HEAT,
    "HwThermalSlowdown": "heat, by hardware",
    "HwPowerBrakeSlowdown": "power brake",
}
"""NVML's names of what slows a card down at this moment -> words; asked where a card has no counters of it."""


def gpu_state(card: Any, inside: Counters, *, others: int | None) -> GpuState:
    """A card at the end of the window, and what slowed it down inside; a figure that the driver does not give is None."""
    import pynvml

    power = nvml.ask(card, "nvmlDeviceGetPowerUsage")  # milliwatts
    shares = None
    if inside.throttled_s is not None and inside.wall_s > 0:
        shares = {reason: min(1.0, seconds / inside.wall_s) for reason, seconds in inside.throttled_s.items()}
    return GpuState(
        clock_mhz=nvml.ask(card, "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM) or None,
        temperature_celsius=nvml.ask(card, "nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power is None else power / 1000,
        throttle_reasons=_throttles_now(card) if shares is None else [name for name in shares if shares[name] > 0],
        throttled_shares=shares,
        other_processes=others,
    )


def _throttled_s(card: Any | None) -> dict[str, float] | None:
    """Reason -> seconds for which it has slowed the card down since the driver was loaded; None where nothing is counted."""
    import pynvml

    found = {}
    for name, reason in THROTTLE_FIELDS.items():
        (value,) = nvml.ask(card, "nvmlDeviceGetFieldValues", [getattr(pynvml, name, 0)]) or (None,)
        if value is not None and value.nvmlReturn == pynvml.NVML_SUCCESS:
            found[reason] = value.value.ullVal / 1e9
    for name, reason in VIOLATIONS.items():
        if reason not in found and (status := nvml.ask(card, "nvmlDeviceGetViolationStatus", getattr(pynvml, name))):
            found[reason] = status.violationTime / 1e9
    return found or None


def _throttles_now(card: Any) -> list[str] | None:
    import pynvml

    now = nvml.ask(card, "nvmlDeviceGetCurrentClocksEventReasons")
    names = THROTTLES_NOW.items()
    return (
        now
        if now is None
        else [words for name, words in names if now & getattr(pynvml, f"nvmlClocksEventReason{name}", 0)]
    )


def _combined(first: Counters, second: Counters, combine: Callable[[Any, Any], Any]) -> Counters:
    """Field by field; what one of the two does not have is not known of both."""
    values: dict[str, Any] = {}
    one: Any
    other: Any
    for name, one, other in zip(Counters._fields, first, second, strict=True):
        if one is None or other is None:
            values[name] = None
        elif isinstance(one, Mapping):
            values[name] = {key: combine(one[key], other[key]) for key in one if key in other}
        else:
            values[name] = combine(one, other)
    return Counters(**values)
