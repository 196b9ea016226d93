"""Which cores a process runs on: chosen by its parent, set before anything is imported, and read back at the end.

    python -m bench.machine.cores 0,1 bench.worker request.json record.json

runs a module on the cores 0 and 1. CPU affinity is the only number of threads that all three frameworks obey, and a thread
inherits it when it starts: NumPy starts its own while it is imported.
"""

import contextlib
import os
import runpy
import sys
from collections.abc import Collection
from pathlib import Path

from bench.machine import quota

TOPOLOGY = Path("/sys/devices/system/cpu")


def usable() -> list[int]:
    """The logical cores that this process may run on; empty where the system has no CPU affinity (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def count() -> int:
    """How many logical cores this process may run on."""
    return len(usable()) or os.cpu_count() or 1


def first(count: int, *, topology: Path = TOPOLOGY) -> list[int]:
    """`count` of the usable cores, always the same: one of every physical core before a second one of any."""
    taken: dict[object, int] = {}  # physical core -> its logical cores so far
    ranked = []
    for core in usable():
        physical = _physical(core, topology)
        ranked.append((taken.setdefault(physical, 0), core))
        taken[physical] += 1
    return [core for _, core in sorted(ranked)[:count]]


def granted() -> int:
    """How many cores a process may keep busy: those of its affinity, or as many whole ones as a quota pays for."""
    paid = quota.cores()
    return count() if paid is None else max(1, min(count(), int(paid)))


def chosen(threads: int | None, *, topology: Path = TOPOLOGY) -> list[int]:
    """The cores to bind a process to: as many as it was asked to use, or as a quota grants; empty where it may use all.

    More threads than a quota pays for are stopped by the kernel again and again, all of them at once.
    """
    wanted = threads or granted()
    return first(wanted, topology=topology) if threads or wanted < len(usable()) else []


def shares(processes: int, threads: int | None, *, topology: Path = TOPOLOGY) -> list[list[int]]:
    """The cores to bind each of several processes to: `threads` each, or equal parts of those that are granted.

    Where there are more processes than cores, they take them in turn. Empty lists where nothing can be bound.
    """
    each = threads or max(1, granted() // processes)
    pool = first(processes * each, topology=topology)
    return [
        [pool[at % len(pool)] for at in range(rank * each, (rank + 1) * each)] if pool else []
        for rank in range(processes)
    ]


def siblings(cores: Collection[int], *, topology: Path = TOPOLOGY) -> set[int]:
    """The logical cores that share a physical one with any of these, and are not among them."""
    physical = {_physical(core, topology) for core in cores}
    with contextlib.suppress(OSError):
        others = {int(folder.name[3:]) for folder in topology.glob("cpu[0-9]*")} - set(cores)
        return {core for core in others if _physical(core, topology) in physical}
    return set()


def in_force() -> int | None:
    """How many cores the threads of this process may run on, all together; None where the system does not tell."""
    cores = set(usable())
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                cores |= os.sched_getaffinity(int(thread))
    return len(cores) or None


def _physical(core: int, topology: Path) -> object:
    folder = topology / f"cpu{core}" / "topology"
    try:
        return tuple((folder / name).read_text(encoding="ascii") for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return core


def main(arguments: list[str]) -> None:
    """`arguments` are the cores, a module's name and its own arguments."""
    cores, module, *rest = arguments
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    sys.argv[1:] = rest
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
