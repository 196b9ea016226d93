"""What disturbs a window, and by which rule a round is left out."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bench.records.record import GpuState
from bench.worker import disturbance
from bench.worker.disturbance import Reading

QUIET = GpuState(clock_mhz=1980, temperature_celsius=40, power_watts=300.0, throttle_reasons=[], other_processes=0)


def a_reading(**changes: Any) -> Reading:
    values: dict[str, Any] = {
        "wall_s": 0.0, "own_cpu_s": 0.0, "busy_s": 0.0, "stolen_s": 0.0, "involuntary_switches": 0,
        "major_page_faults": 0,
    }  # fmt: skip
    return Reading(**values | changes)


def test_shares_are_of_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_cores", lambda: 2)
    closed = a_reading(
        wall_s=10.0, own_cpu_s=15.0, busy_s=16.0, stolen_s=0.5, involuntary_switches=7, major_page_faults=3
    )
    found = disturbance.compare(a_reading(), closed, load=0.25, gpu=None)
    assert (found.others_share, found.stolen_share) == (1 / 20, 0.5 / 20)
    assert (found.load, found.involuntary_switches, found.major_page_faults) == (0.25, 7, 3)
    assert found.disturbed is None


def test_own_time_beyond_the_cores_counter_is_no_negative_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_cores", lambda: 2)
    closed = a_reading(wall_s=1.0, own_cpu_s=2.0, busy_s=1.98)  # the kernel's counter ticks in hundredths
    assert disturbance.compare(a_reading(), closed, load=None, gpu=None).others_share == 0


def test_without_the_kernels_counters_the_rule_does_not_apply() -> None:
    found = disturbance.compare(a_reading(busy_s=None), a_reading(wall_s=1.0, busy_s=None), load=None, gpu=None)
    assert (found.others_share, found.stolen_share, found.disturbed) == (None, None, None)


@pytest.mark.parametrize(
    ("others", "stolen", "gpu", "told"),
    [
        (0.0, 0.0, None, None),
        (0.1, 0.0, None, None),
        (0.11, 0.0, None, "took 11%"),
        (0.06, 0.06, None, "took 12%"),
        (None, None, None, None),
        (0.0, 0.0, QUIET, None),
        (0.0, 0.0, GpuState(1980, 40, 300.0, [], 2), "2 other processes on the GPU"),
        (0.0, 0.0, GpuState(1980, 40, 300.0, ["heat"], 0), "the GPU throttled: heat"),
        (0.0, 0.0, GpuState(1980, 40, 300.0, ["power cap"], 0), None),
        (0.0, 0.0, GpuState(None, None, None, None, None), None),
    ],
)
def test_the_rule(others: float | None, stolen: float | None, gpu: GpuState | None, told: str | None) -> None:
    found = disturbance.judge(others, stolen, gpu)
    assert (told in found) if told and found else (found is told)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps these counters")
def test_a_neighbour_that_computes_is_seen_and_this_process_is_not_taken_for_one() -> None:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with disturbance.Watch(gpu=False) as watch:
            time.sleep(1.0)
    finally:
        neighbour.kill()
        neighbour.wait()
    assert watch.disturbance is not None
    assert watch.disturbance.others_share is not None
    assert watch.disturbance.disturbed is not None
    assert watch.cpu_s < 0.5  # it slept

    with disturbance.Watch(gpu=False) as busy:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
    assert busy.cpu_s >= 0.5


class FakeNvml(SimpleNamespace):
    """The part of pynvml that is asked."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's name
        if self.absent:
            raise self.NVMLError

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return "card"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)

        def answer(*_: object) -> Any:
            if name not in self.answers:
                raise self.NVMLError
            return self.answers[name]

        return answer


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    reasons = {"nvmlClocksEventReasonHwThermalSlowdown": 0x40, "nvmlClocksEventReasonGpuIdle": 0x1}
    fake = FakeNvml(absent=False, answers={}, **reasons)
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    return fake


def test_without_a_driver_there_is_no_state_of_a_gpu(nvml: FakeNvml) -> None:
    nvml.absent = True
    assert disturbance.gpu_state() is None


def test_what_the_driver_does_not_tell_is_none(nvml: FakeNvml) -> None:
    assert disturbance.gpu_state() == GpuState(None, None, None, None, None)


def test_the_drivers_answers_become_words(nvml: FakeNvml) -> None:
    nvml.answers |= {
        "nvmlDeviceGetPowerUsage": 350_500,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x41,
        "nvmlDeviceGetClockInfo": 1755,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=1)],
    }
    state = disturbance.gpu_state()
    assert state == GpuState(1755, 61, 350.5, ["heat, by hardware"], 1)
    assert disturbance.judge(0.0, 0.0, state) == "1 other process on the GPU"
