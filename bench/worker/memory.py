"""Memory of this process, from the counters of the kernel, of the framework's allocator and of the GPU's driver.

host_*                   Linux keeps the resident set (VmRSS) and its peak (VmHWM) in /proc/self/status; writing 5 to
                         /proc/self/clear_refs starts the peak anew. `ru_maxrss` is not used: it starts from the parent's size
                         at the time of the fork.
device_peak_allocated    tensors in the framework's allocator, at most, since the session was opened: PyTorch's
                         max_memory_allocated, TensorFlow's get_memory_info()["peak"], JAX's memory_stats()["peak_bytes_in_use"]
device_peak_reserved     what that allocator held of the card: PyTorch's max_memory_reserved; the others do not tell
device_peak_process      what the driver (NVML) says is in use on the card, less what was in use before the framework was
                         imported: allocator, CUDA context, kernels and libraries. The driver keeps no peak; it is read after
                         set-up and after the last step, and no allocator of the three gives back to the card what it has
                         once taken. Preallocation is off (backends.Entry.env_memory).

On a CPU no framework has figures of an allocator. TensorFlow would answer 0: not measured is None with a reason, never 0.
"""

from collections.abc import Sequence
from pathlib import Path

from backends.api import DeviceMemory, Session
from bench.machine import nvml
from bench.records.record import Bytes

ONLY_LINUX = "only Linux keeps this counter"
NO_ACCELERATOR = "the framework keeps no allocator figures on a CPU"
NOT_REPORTED = "the framework does not report it"
NO_CARD = "a CPU has no memory of its own"
NO_DRIVER = "the GPU's driver does not tell"
SHARED_CARD = "another process took of the card's memory meanwhile, and the driver's figure is of both"
NOTHING_TAKEN = "the card in use is not the one that the driver was asked about"


def host_now() -> Bytes:
    """Resident set of this process."""
    return _status("VmRSS")


def host_peak() -> Bytes:
    """Highest resident set of this process since its start, or since `reset_host_peak`."""
    return _status("VmHWM")


def reset_host_peak() -> bool:
    """Starts the peak anew; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def device_peaks(session: Session) -> tuple[Bytes, Bytes]:
    """(peak allocated, peak reserved) of the framework's allocator on an accelerator."""
    return peaks_of(session.device_memory())


def peaks_of(memory: DeviceMemory | None) -> tuple[Bytes, Bytes]:
    """The same of what a session told."""
    if memory is None:
        return Bytes(None, NO_ACCELERATOR), Bytes(None, NO_ACCELERATOR)
    reserved = Bytes(None, NOT_REPORTED) if memory.peak_reserved is None else Bytes(memory.peak_reserved)
    return Bytes(memory.peak_allocated), reserved


def summed(parts: Sequence[Bytes]) -> Bytes:
    """Of several processes together; the first reason where one of them has no figure."""
    sizes = [part.bytes for part in parts if part.bytes is not None]
    if len(sizes) == len(parts):
        return Bytes(sum(sizes))
    return next(part for part in parts if part.bytes is None)


def larger(one: Bytes, other: Bytes) -> Bytes:
    """The larger of two peaks of a process; the one that there is, where the other was not measured."""
    return max((one, other), key=lambda peak: -1 if peak.bytes is None else peak.bytes)


class CardWatch:
    """The driver's view of a card's memory, from before the framework is imported; a CPU has none."""

    def __init__(self, *, device: str) -> None:
        self._missing = NO_CARD if device == "cpu" else None
        self._card = nvml.card() if device != "cpu" else None
        self._before = nvml.processes(self._card)
        self._peak = self._baseline = self._used()

    def look(self) -> None:
        """To be called when memory may be at its peak."""
        self._peak = max(self._peak, self._used())
        now = nvml.processes(self._card)
        # What was there before may stay, as it was; beside it there is this process, by an id that need not be its own here.
        if self._missing is None and self._before is not None and now is not None:
            kept = {pid: size for pid, size in now.items() if pid in self._before}
            if kept != self._before or len(now) > len(kept) + 1:
                self._missing = SHARED_CARD

    def peak(self) -> Bytes:
        """The most that was seen, less the idle baseline."""
        if self._missing is None and self._peak == self._baseline:
            self._missing = NOTHING_TAKEN
        return Bytes(None, self._missing) if self._missing else Bytes(self._peak - self._baseline)

    def _used(self) -> int:
        """Bytes in use on the card, by any process."""
        if self._missing is not None:
            return 0
        info = nvml.ask(self._card, "nvmlDeviceGetMemoryInfo")
        if info is None:
            self._missing = NO_DRIVER
        return int(info.used) if info is not None else 0


def _status(field: str) -> Bytes:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return Bytes(None, ONLY_LINUX)
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return Bytes(int(line.split()[1]) * 1024)
    return Bytes(None, ONLY_LINUX)
