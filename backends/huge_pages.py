"""The mode `huge-pages` of every backend: malloc keeps the memory that a step frees, and has it in pages of 2 MiB.

By default glibc gives every large block back to the kernel when it is freed, and the next step is given empty pages of 4 KiB
for it one by one, thousands of times. Then a processor looks up where each page lies, and a step that goes through hundreds of
megabytes has more of them than it can remember. What glibc does is said by the environment that a process starts with
(https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html), and large pages are the kernel's to give
(https://docs.kernel.org/admin-guide/mm/transhuge.html). What is computed stays the same.
"""

import ctypes
import os
import re
from functools import cache
from pathlib import Path

MODE = "huge-pages"
VARIABLE = "GLIBC_TUNABLES"
SETTING = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", f"mmap_threshold={2**32}", f"trim_threshold={2**34}", "arena_max=1")
)
"""Large pages; blocks below 4 GiB from the heap, which keeps up to 16 GiB that are free, and is one for all threads."""

SINCE = (2, 35)  # glibc
KERNELS = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BLOCK_BYTES = 64 * 2**20  # by default malloc asks the kernel for so large a block, and has nothing of it in its heap


def allowed() -> str | None:
    """Who gets such pages, in the kernel's word: "always" all, "madvise" who asks for them, "never" nobody; None: not known."""
    try:
        found = re.search(r"\[(\w+)\]", KERNELS.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def missing() -> str | None:
    """Why there is no such mode on this machine; None where there is."""
    if _glibc() < SINCE:
        return f"{MODE}: glibc {'.'.join(map(str, SINCE))} or newer is needed, which is Linux's"
    if allowed() is None:
        return f"{MODE}: this kernel has no transparent huge pages"
    if allowed() == "never":
        return f"{MODE}: the kernel gives no huge pages; allow programs to ask for them with: echo madvise | sudo tee {KERNELS}"
    return None


def environment(mode: str, before: str = "") -> dict[str, str]:
    """What a process of a mode needs in its environment; `before` is what the variable has already."""
    return {VARIABLE: ":".join(filter(None, [before, SETTING]))} if MODE in mode.split("+") else {}


@cache
def in_force() -> bool:
    """Whether this process is started so: a large block that malloc hands out and that is written to lies, by the kernel's
    account, in the heap and in huge pages."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(BLOCK_BYTES)
    if block is None:
        return False
    try:
        ctypes.memset(block, 1, BLOCK_BYTES)
        smaps = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
        return huge_bytes(smaps, block + BLOCK_BYTES // 2) > 0
    except OSError:
        return False
    finally:
        libc.free(block)


def huge_bytes(smaps: str, address: int) -> int:
    """How much of the heap is in huge pages, by the kernel's account (proc_pid_smaps(5)); 0 for an address elsewhere."""
    inside = False
    for line in smaps.splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) .*", line):
            inside = int(span[1], 16) <= address < int(span[2], 16) and line.endswith("[heap]")
        elif inside and line.startswith("AnonHugePages:"):
            return 1024 * int(line.split()[1])
    return 0


def _glibc() -> tuple[int, ...]:
    """Its version; empty where the C library is another one."""
    try:
        told = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ()
    found = re.fullmatch(r"glibc (\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else ()
