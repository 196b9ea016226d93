"""The first NVIDIA card that this process may use, through the driver's own library (NVML)."""

import os
from collections.abc import Callable
from typing import Any


def card() -> Any | None:
    """NVML's handle of the first visible card; None where there is no driver or no card.

    NVML numbers all cards of the machine, CUDA only those in CUDA_VISIBLE_DEVICES, by number or by UUID.
    """
    import pynvml

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if first.startswith(("GPU-", "MIG-")):
            return pynvml.nvmlDeviceGetHandleByUUID(first)
        return pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdecimal() else 0)
    except pynvml.NVMLError:
        return None


def ask(card: Any, question: str) -> Any | None:
    """The driver's answer about a card; None where it has none (an older card or driver)."""
    import pynvml

    if card is None:
        return None
    try:
        query: Callable[[Any], Any] = getattr(pynvml, question)
        return query(card)
    except (pynvml.NVMLError, AttributeError):
        return None
