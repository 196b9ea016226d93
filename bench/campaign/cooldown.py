"""Between two processes: the time in which a machine cools down and a GPU's memory comes back."""

import time
from collections.abc import Callable

from bench.machine import nvml

FREE_WITHIN_S = 30.0
LOOK_EVERY_S = 0.2  # nothing is measured meanwhile
SLACK_BYTES = 64 * 2**20  # a driver's own use of a card varies


def gpu_memory() -> int | None:
    """Bytes in use on the first NVIDIA GPU, by any process; None where the driver does not say."""
    found = nvml.ask(nvml.card(), "nvmlDeviceGetMemoryInfo")
    return None if found is None else int(found.used)


def pause(cool_down_s: float, memory_before: int | None) -> str | None:
    """Lets the machine come back to where it was before the last process; returns what did not."""
    time.sleep(cool_down_s)
    return until_free(memory_before)


def until_free(
    before: int | None, *, used: Callable[[], int | None] = gpu_memory, sleep: Callable[[float], object] = time.sleep
) -> str | None:
    """Waits until no more memory is in use than `before`; after FREE_WITHIN_S it gives up and says how much is."""
    if before is None:
        return None
    more = 0
    for _ in range(round(FREE_WITHIN_S / LOOK_EVERY_S)):
        now = used()
        if now is None or now <= before + SLACK_BYTES:
            return None
        more = now - before
        sleep(LOOK_EVERY_S)
    return f"{more / 2**20:,.0f} MiB more of the GPU's memory were in use than before the run"
