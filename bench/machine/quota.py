"""The share of the processors that a control group grants this process: `docker run --cpus`, systemd's CPUQuota.

CPU affinity does not show it: all cores may be used, but no more than so many seconds of them in each period; the kernel then
stops the group's processes until the next period begins. A group's quota binds all groups inside it, so every level is read.

Sources: cpu.max and cpu.stat of version 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files),
cpu.cfs_quota_us, cpu.cfs_period_us and cpu.stat of version 1 (https://docs.kernel.org/scheduler/sched-bwc.html).
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MOUNT = Path("/sys/fs/cgroup")
GROUPS = Path("/proc/self/cgroup")


class Throttled(NamedTuple):
    """How often and how long the kernel stopped the group's processes, since the group was made."""

    periods: int
    core_s: float  # summed over the cores


def cores(*, mount: Path = MOUNT, groups: Path = GROUPS) -> float | None:
    """How many cores' time the smallest quota grants, 1.5 for example; None without a quota."""
    found = [quota for folder in _levels(mount, groups) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def throttled(*, mount: Path = MOUNT, groups: Path = GROUPS) -> Throttled | None:
    """The counters of every level that has a quota, added up; None without a quota."""
    limited = [_counters(folder) for folder in _levels(mount, groups) if _quota(folder) is not None]
    return Throttled(sum(one.periods for one in limited), sum(one.core_s for one in limited)) if limited else None


def _levels(mount: Path, groups: Path) -> Iterator[Path]:
    """The folders of this process's group and of those around it, as far as they are visible here.

    A line is `number:controllers:path`; version 2 has the number 0 and no controllers. In a container a path may begin above
    what is mounted, and then nothing of it but the mount itself is there.
    """
    with suppress(OSError, ValueError):
        for line in groups.read_text(encoding="utf-8", errors="replace").splitlines():
            number, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(","):
                root = next((mount / name for name in (controllers, "cpu") if (mount / name).is_dir()), mount / "cpu")
            elif number == "0":
                root = mount
            else:
                continue
            group = Path(path.lstrip("/"))
            yield from (root / level for level in (group, *group.parents) if ".." not in level.parts)


def _quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return None if int(quota) < 0 else int(quota) / int(period)
    return None


def _counters(folder: Path) -> Throttled:
    found: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in (folder / "cpu.stat").read_text(encoding="ascii").splitlines():
            name, value = line.split()
            found[name] = int(value)
    # Version 2 counts microseconds, version 1 nanoseconds.
    core_s = found.get("throttled_usec", 0) / 1e6 + found.get("throttled_time", 0) / 1e9
    return Throttled(found.get("nr_throttled", 0), core_s)
