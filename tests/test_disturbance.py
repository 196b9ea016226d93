"""What disturbs a window, and by which rule a round is left out."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bench.machine import cores, quota
from bench.records import disturbed, limits
from bench.records.record import GpuState
from bench.stats import verdict
from bench.worker import disturbance
from bench.worker.disturbance import Counters
from tests.fakes import nvml as fake_nvml

QUIET = GpuState(clock_mhz=1980, temperature_celsius=40, power_watts=300.0, throttle_reasons=[], other_processes=0)


def judged(gpu: GpuState | None = None, own_share: float | None = None, **shares: float | None) -> str | None:
    every = ("others_share", "siblings_share", "stolen_share", "withheld_share")
    return disturbed.judge(**{name: shares.get(name) for name in every}, gpu=gpu, own_share=own_share)


def test_shares_are_of_the_usable_cores() -> None:
    inside = Counters(
        wall_s=10.0, own_cpu_s=15.0, busy_s=15.2, stolen_s=0.1, siblings_s=0.05, withheld_s=0.04,
        involuntary_switches=7, major_page_faults=3,
    )  # fmt: skip
    found = disturbance.assess(inside, core_count=2, load=0.25, gpu=None)
    shares = [found.others_share, found.stolen_share, found.siblings_share, found.withheld_share]
    assert shares == pytest.approx([0.2 / 20, 0.1 / 20, 0.05 / 20, 0.04 / 20])
    assert (found.load, found.involuntary_switches, found.major_page_faults) == (0.25, 7, 3)
    assert found.disturbed is None


def test_own_time_beyond_the_cores_counter_is_no_negative_share() -> None:
    inside = Counters(wall_s=1.0, own_cpu_s=2.0, busy_s=1.98)  # the kernel's counter ticks in hundredths
    assert disturbance.assess(inside, core_count=2, load=None, gpu=None).others_share == 0


def test_without_the_kernels_counters_the_rule_does_not_apply() -> None:
    inside = Counters(wall_s=1.0, own_cpu_s=0.5, busy_s=None, stolen_s=None, siblings_s=None, withheld_s=None)
    found = disturbance.assess(inside, core_count=2, load=None, gpu=None)
    shares = (found.others_share, found.siblings_share, found.stolen_share, found.withheld_share)
    assert (shares, found.disturbed) == ((None,) * 4, None)


@pytest.mark.parametrize(("wall_s", "known"), [(0.02, False), (0.34, False), (0.35, True)])
def test_a_window_in_which_one_tick_of_the_kernels_counter_decides_is_not_judged_by_it(
    wall_s: float, known: bool
) -> None:
    inside = Counters(wall_s=wall_s, own_cpu_s=wall_s, busy_s=100 * wall_s)
    found = disturbance.assess(inside, core_count=2, load=None, gpu=None)
    assert (found.others_share is not None, found.disturbed is not None) == (known, known)


def test_the_limit_is_what_could_move_a_ratio_by_the_margin() -> None:
    assert limits.MARGIN == verdict.MARGIN
    for margin in (0.01, 0.03, 0.1):
        # An arm that lost so much, beside one that lost nothing.
        assert 1 / (1 - disturbed.most_taken(margin)) == pytest.approx(1 + margin)
    assert disturbed.most_taken(limits.MARGIN) == disturbed.MOST_TAKEN


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({}, None),
        ({"others_share": 0.029}, None),
        ({"others_share": 0.11}, "lost of the cores' time: 11.0 % to other processes (limit 2.9 %)"),
        ({"siblings_share": 0.11}, "11.0 % to processes on the same physical cores"),
        ({"stolen_share": 0.11}, "11.0 % to the hypervisor"),
        ({"withheld_share": 0.11}, "11.0 % to the quota"),
        ({"others_share": 0.02, "stolen_share": 0.02}, "2.0 % to other processes, 2.0 % to the hypervisor (limit"),
        ({"others_share": 0.5, "own_share": 0.425}, "(limit 2.9 %); used by this process: 42.5 %"),
    ],
)
def test_what_was_lost_is_told_beside_what_the_arm_used(shares: dict[str, float], told: str | None) -> None:
    found = judged(**shares)
    assert (told in found) if told and found else (found is told)


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        (QUIET, None),
        (GpuState(1980, 40, 300.0, [], 1), "1 other process on the GPU"),
        (GpuState(1980, 40, 300.0, [], 2), "2 other processes on the GPU"),
        (GpuState(1980, 40, 300.0, ["heat"], 0), "the GPU throttled: heat"),
        (GpuState(1980, 40, 300.0, ["power cap"], 0), None),
        (GpuState(1980, 40, 300.0, ["heat"], 0, {"heat": 0.25}), "the GPU throttled: heat for 25.0 % of the window"),
        (GpuState(1980, 40, 300.0, ["heat"], 0, {"heat": 0.001}), None),
        (GpuState(1980, 40, 300.0, ["power cap"], 0, {"power cap": 1.0, "heat": 0.0}), None),
        (GpuState(None, None, None, None, None), None),
    ],
)
def test_the_rule_of_a_gpu(gpu: GpuState, told: str | None) -> None:
    assert judged(gpu) == told


@pytest.mark.parametrize(
    ("planned", "lost", "last"),
    [(3, 0, 3), (3, 1, 4), (3, 2, 5), (3, 3, 5), (5, 3, 8), (5, 5, 8), (1, 0, 1), (1, 1, 2), (0, 0, 0)],
)
def test_how_many_rounds_were_planned_is_known_from_what_was_run_and_lost(planned: int, lost: int, last: int) -> None:
    assert last == planned + min(lost, disturbed.spare_rounds(planned))
    assert disturbed.planned_rounds(last, lost) == planned


def test_two_stretches_of_time_are_added_up() -> None:
    one = Counters(1.0, 0.5, 0.75, None, 0.0, None, 1, 2, {"heat": 0.25, "power cap": 1.0})
    other = Counters(2.0, 1.0, 1.25, 0.5, 0.0, None, 3, 4, {"heat": 0.5})
    assert disturbance.both(one, other) == Counters(3.0, 1.5, 2.0, None, 0.0, None, 4, 6, {"heat": 0.75})


@pytest.mark.slow
def test_only_what_happens_inside_the_parts_counts() -> None:
    def compute(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    watch = disturbance.Watch(gpu=False)
    for _ in range(3):
        with watch:
            compute(0.1)
        compute(0.2)
    assert 0.3 <= watch.cpu_s < 0.4


def test_time_beside_and_time_withheld_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = SimpleNamespace(user=5.0, system=1.0, nice=0.0, irq=0.0, softirq=0.0, steal=0.5)
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: [processor] * 4)
    monkeypatch.setattr(cores, "usable", lambda: [0, 1])
    monkeypatch.setattr(quota, "throttled", lambda: quota.Throttled(periods=3, core_s=0.25))
    monkeypatch.setattr(disturbance, "siblings_of", lambda of_cores: {2})
    found = disturbance.read(None)
    assert (found.busy_s, found.stolen_s, found.siblings_s, found.withheld_s) == (12.0, 1.0, 6.0, 0.25)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps these counters")
@pytest.mark.slow
def test_a_neighbour_that_computes_is_seen_and_this_process_is_not_taken_for_one() -> None:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with disturbance.Watch(gpu=False) as watch:
            time.sleep(1.0)
    finally:
        neighbour.kill()
        neighbour.wait(20)
    assert watch.disturbance is not None
    assert watch.disturbance.others_share is not None
    assert watch.disturbance.disturbed is not None
    assert watch.cpu_s < 0.5  # it slept

    with disturbance.Watch(gpu=False) as busy:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
    assert busy.cpu_s >= 0.5


# A GPU, through a fake driver.

OWN = 4711  # the id that the driver gives this process, which in a container is another one than its own


def running(*pids: int) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=100) for pid in pids]


def a_driver(monkeypatch: pytest.MonkeyPatch, **answers: Sequence[Any]) -> fake_nvml.Driver:
    every: dict[str, Sequence[Any]] = {
        name: [None]
        for name in (
            "nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetClockInfo",
            "nvmlDeviceGetTemperature", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetProcessUtilization",
            "nvmlDeviceGetFieldValues", "nvmlDeviceGetViolationStatus",
        )
    }  # fmt: skip
    return fake_nvml.install(monkeypatch, **{**every, **answers})


def gpu_after(watch: disturbance.Watch, *, parts: int = 1) -> GpuState:
    for _ in range(parts):
        with watch:
            pass
    assert watch.disturbance is not None
    assert watch.disturbance.gpu is not None
    return watch.disturbance.gpu


def test_without_a_driver_there_is_no_state_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.uninstall(monkeypatch)
    with disturbance.Watch(gpu=True) as watch:
        pass
    assert watch.disturbance is not None
    assert watch.disturbance.gpu is None


def test_what_the_driver_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    a_driver(monkeypatch)
    assert gpu_after(disturbance.Watch(gpu=True)) == GpuState(None, None, None, None, None)


def test_the_drivers_answers_become_words(monkeypatch: pytest.MonkeyPatch) -> None:
    a_driver(
        monkeypatch,
        nvmlDeviceGetPowerUsage=[350_500],
        nvmlDeviceGetCurrentClocksEventReasons=[0x41],  # idle, and thermal by hardware
        nvmlDeviceGetClockInfo=[lambda kind: {pynvml.NVML_CLOCK_SM: 1755}[kind]],
        nvmlDeviceGetTemperature=[lambda sensor: {pynvml.NVML_TEMPERATURE_GPU: 61}[sensor]],
        nvmlDeviceGetComputeRunningProcesses=[[], running(OWN)],
    )
    assert gpu_after(disturbance.Watch(gpu=True)) == GpuState(1755, 61, 350.5, ["heat, by hardware"], 0)


@pytest.mark.parametrize(
    ("before", "after", "others"),
    [
        ((), (OWN,), 0),
        ((), (OWN, 8), 1),
        ((), (OWN, 8, 9), 2),
        ((7,), (7, OWN), 0),  # a display server, say
        ((7,), (7, OWN, 8), 1),
        ((7,), (OWN,), 0),
        ((), (), 0),  # a driver that hides processes from a container
        ((), (os.getpid(),), 0),
    ],
)
def test_processes_count_that_were_not_there_before(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, ...], after: tuple[int, ...], others: int
) -> None:
    a_driver(monkeypatch, nvmlDeviceGetComputeRunningProcesses=[running(*before), running(*after)])
    assert gpu_after(disturbance.Watch(gpu=True)).other_processes == others


def test_a_process_that_was_there_before_counts_if_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def samples(since_us: int) -> list[Any]:
        asked.append(since_us)
        return [SimpleNamespace(pid=pid, smUtil=share) for pid, share in ((7, 30), (8, 0), (OWN, 60))]

    a_driver(
        monkeypatch,
        nvmlDeviceGetComputeRunningProcesses=[running(7, 8), running(7, 8, OWN)],
        nvmlDeviceGetProcessUtilization=[samples],
    )
    start_us = time.time_ns() // 1000
    assert gpu_after(disturbance.Watch(gpu=True), parts=2).other_processes == 1
    assert asked[0] == asked[1] >= start_us  # from the first part on


def test_the_other_arms_of_a_round_are_no_intruders(monkeypatch: pytest.MonkeyPatch) -> None:
    a_driver(monkeypatch, nvmlDeviceGetComputeRunningProcesses=[running(7, 21, 22, OWN)])
    assert gpu_after(disturbance.Watch(gpu=True, before=[7], arms=3)).other_processes == 0
    assert gpu_after(disturbance.Watch(gpu=True, before=[], arms=3)).other_processes == 1


def a_counter(nanoseconds: dict[int, Sequence[int]]) -> Any:
    """nvmlDeviceGetFieldValues of a card that has these fields."""
    left = {field: list(values) for field, values in nanoseconds.items()}

    def reply(fields: list[int]) -> list[Any]:
        (field,) = fields
        if field not in left:
            return [SimpleNamespace(nvmlReturn=pynvml.NVML_ERROR_NOT_SUPPORTED, value=None)]
        return [SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(ullVal=left[field].pop(0)))]

    return reply


@pytest.fixture
def wall_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stretch lasts two seconds."""
    now = iter(range(0, 100, 2))
    monkeypatch.setattr(disturbance.time, "perf_counter", lambda: float(next(now)))


@pytest.mark.usefixtures("wall_s")
def test_throttling_is_counted_from_one_end_of_the_window_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    heat, cap = pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, pynvml.NVML_FI_DEV_PERF_POLICY_POWER
    fields = {heat: (5_000_000_000, 5_500_000_000), cap: (0, 2_000_000_000)}
    a_driver(
        monkeypatch,
        nvmlDeviceGetFieldValues=[a_counter(fields)],
        nvmlDeviceGetCurrentClocksEventReasons=[0x1],  # idle, now that the window is over
    )
    with disturbance.Watch(gpu=True) as watch:
        pass
    assert watch.disturbance is not None
    assert watch.disturbance.gpu is not None
    assert watch.disturbance.gpu.throttled_shares == {"heat": 0.25, "power cap": 1.0}
    assert sorted(watch.disturbance.gpu.throttle_reasons or []) == ["heat", "power cap"]
    assert judged(watch.disturbance.gpu) == "the GPU throttled: heat for 25.0 % of the window"


@pytest.mark.usefixtures("wall_s")
def test_a_driver_without_these_counters_is_asked_for_its_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {pynvml.NVML_PERF_POLICY_THERMAL: [7, 7], pynvml.NVML_PERF_POLICY_POWER: [0, 500_000_000]}
    a_driver(
        monkeypatch,
        nvmlDeviceGetFieldValues=[a_counter({})],
        nvmlDeviceGetViolationStatus=[lambda policy: SimpleNamespace(violationTime=ends[policy].pop(0))],
    )
    found = gpu_after(disturbance.Watch(gpu=True))
    assert found.throttled_shares == {"power cap": 0.25, "heat": 0.0}
    assert found.throttle_reasons == ["power cap"]
    assert judged(found) is None


def test_an_arm_that_computed_in_its_own_turns_is_no_intruder(monkeypatch: pytest.MonkeyPatch) -> None:
    a_driver(
        monkeypatch,
        nvmlDeviceGetComputeRunningProcesses=[running(7, 21, OWN)],
        nvmlDeviceGetProcessUtilization=[lambda since_us: [SimpleNamespace(pid=pid, smUtil=50) for pid in (21, OWN)]],
    )
    assert gpu_after(disturbance.Watch(gpu=True, before=[7], arms=2)).other_processes == 0
