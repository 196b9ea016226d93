"""What machine this is, without anything that identifies its owner: no host name, user, path or environment."""

import platform
from pathlib import Path

import psutil

from backends import huge_pages
from bench.machine import cores, nvml, quota
from bench.records.record import Machine

CPUINFO = Path("/proc/cpuinfo")

ARM_MAKERS = {
    0x41: "Arm", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x50: "APM",
    0x51: "Qualcomm", 0x61: "Apple", 0x6D: "Microsoft", 0x70: "Phytium", 0xC0: "Ampere",
}  # fmt: skip
ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73", (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78", (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD8E): "Neoverse-N3",
    (0x43, 0x0AF): "ThunderX2", (0x46, 0x001): "A64FX", (0x48, 0xD01): "TaiShan-v110", (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
}  # fmt: skip
"""(implementer, part) of /proc/cpuinfo -> name, as lscpu has them (util-linux, sys-utils/lscpu-arm.c)."""


def describe() -> Machine:
    """The machine as a record states it."""
    gpu, driver = gpu_and_driver()
    return Machine(
        cpu=cpu(),
        cores=cores.granted(),
        cpu_quota=quota.cores(),
        memory_bytes=whole_gib(psutil.virtual_memory().total),
        gpu=gpu,
        gpu_driver=driver,
        os=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {platform.machine()}",
        python=platform.python_version(),
        huge_pages=huge_pages.allowed(),
    )


def whole_gib(size: int) -> int:
    """Bytes, to the nearest GiB: what a kernel keeps for itself differs by some pages from one boot to the next."""
    return max(1, round(size / 2**30)) * 2**30


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


def cpu(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name; an ARM processor has none but the numbers of its maker and its kinds of cores."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    makers = [value for name, value in fields if name == "CPU implementer"]
    parts = [value for name, value in fields if name == "CPU part"]
    if makers and len(makers) == len(parts):
        kinds = dict.fromkeys(zip(makers, parts, strict=True))
        return " + ".join(_arm(int(maker, 0), int(part, 0)) for maker, part in kinds)
    named = [value for name, value in fields if name == "model name" and value]
    return named[0] if named else platform.processor() or platform.machine()


def _arm(maker: int, part: int) -> str:
    return f"{ARM_MAKERS.get(maker, f'ARM implementer {maker:#x}')} {ARM_PARTS.get((maker, part), f'part {part:#x}')}"
