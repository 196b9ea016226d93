"""The one NVIDIA card that is measured, through the driver's own library (NVML).

NVML numbers a machine's cards by their place on the bus, CUDA the fastest one first, and only those in CUDA_VISIBLE_DEVICES. So
that both mean the same card, it is chosen here once, by NVML's number or by its UUID, and every process that measures is told
the UUID (`uuid`): https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables.
"""

import os
from collections.abc import Callable
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"


def card() -> Any | None:
    """NVML's handle of the first card in CUDA_VISIBLE_DEVICES; None where that names none, or there is no driver."""
    import pynvml

    first = os.environ.get(VISIBLE, "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if first.startswith("GPU-"):
            return _starting_with(first)
        if first.startswith("MIG-"):
            return pynvml.nvmlDeviceGetHandleByUUID(first)
        # Empty, -1 and whatever else is no number mean no card at all, as they do to CUDA.
        return pynvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdecimal() else None
    except pynvml.NVMLError:
        return None


def uuid() -> str | None:
    """The card's UUID: in CUDA_VISIBLE_DEVICES it means this card to every framework and to NVML. None without a card."""
    found = ask(card(), "nvmlDeviceGetUUID")
    return None if found is None else str(found)


def processes(card: Any) -> dict[int, int | None] | None:
    """Process id -> bytes, of the processes that compute on a card; None where the driver does not tell.

    In a container the ids are the host's: none of them need be that of this process.
    """
    running = ask(card, "nvmlDeviceGetComputeRunningProcesses")
    return None if running is None else {one.pid: one.usedGpuMemory for one in running}


def ask(card: Any, question: str, *arguments: object) -> Any | None:
    """The driver's answer about a card; None where it has none (an older card or driver)."""
    import pynvml

    if card is None:
        return None
    try:
        query: Callable[..., Any] = getattr(pynvml, question)
        return query(card, *arguments)
    except (pynvml.NVMLError, AttributeError):
        return None


def _starting_with(start: str) -> Any | None:
    """The card whose UUID starts so: CUDA takes a part of it that only one card has."""
    import pynvml

    cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    found = [card for card in cards if str(pynvml.nvmlDeviceGetUUID(card)).startswith(start)]
    return found[0] if len(found) == 1 else None
