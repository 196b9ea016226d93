"""Host memory of this process, from the kernel's own counters.

Linux keeps the resident set (VmRSS) and its peak (VmHWM) in /proc/self/status; writing 5 to /proc/self/clear_refs starts the
peak anew. `ru_maxrss` is not used: it starts from the parent's size at the time of the fork.
"""

from pathlib import Path

from backends.api import Session
from bench.record import Bytes

ONLY_LINUX = "only Linux keeps this counter"
NO_ACCELERATOR = "the framework keeps no allocator figures on a CPU"
NOT_REPORTED = "the framework does not report it"


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
    memory = session.device_memory()
    if memory is None:
        return Bytes(None, NO_ACCELERATOR), Bytes(None, NO_ACCELERATOR)
    reserved = Bytes(None, NOT_REPORTED) if memory.peak_reserved is None else Bytes(memory.peak_reserved)
    return Bytes(memory.peak_allocated), reserved


def _status(field: str) -> Bytes:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return Bytes(None, ONLY_LINUX)
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return Bytes(int(line.split()[1]) * 1024)
    return Bytes(None, ONLY_LINUX)
