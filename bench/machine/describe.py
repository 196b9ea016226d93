"""What machine this is, without anything that identifies its owner: no host name, user, path or environment."""

import os
import platform
from pathlib import Path

import psutil

from bench.machine import nvml
from bench.records.record import Machine


def describe() -> Machine:
    """The machine as a record states it."""
    gpu, driver = gpu_and_driver()
    return Machine(
        cpu=_cpu(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=gpu,
        gpu_driver=driver,
        os=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {platform.machine()}",
        python=platform.python_version(),
    )


def usable_cores() -> int:
    """Logical cores in this process's affinity mask, which all three frameworks obey."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_and_driver() -> tuple[str | None, str | None]:
    """Name of the first visible NVIDIA GPU and its driver's version, from NVML; (None, None) where there is none."""
    import pynvml

    card = nvml.card()
    if card is None:
        return None, None
    try:
        return str(pynvml.nvmlDeviceGetName(card)), str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None, None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
