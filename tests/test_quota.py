"""A control group's quota: found at every level and in both versions, used as the number of cores, and its throttling read."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.machine import cores, describe, quota


def a_tree(folder: Path, *, groups: str, files: Mapping[str, str]) -> dict[str, Path]:
    """A mount of control groups and the list of this process's groups, as the arguments of quota's functions."""
    (folder / "groups").write_text(groups)
    for name, content in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"mount": folder / "mount", "groups": folder / "groups"}


STAT = "usage_usec 900\nnr_periods 40\nnr_throttled 3\nthrottled_usec 250000\nnr_bursts 0\n"
OLD_STAT = "nr_periods 40\nnr_throttled 3\nthrottled_time 250000000\n"


@pytest.mark.parametrize(
    ("groups", "files", "granted", "throttled"),
    [
        # A container of version 2 sees its own group as the root.
        ("0::/\n", {"cpu.max": "150000 100000\n", "cpu.stat": STAT}, 1.5, (3, 0.25)),
        ("0::/\n", {"cpu.max": "max 100000\n", "cpu.stat": STAT}, None, None),
        # The root group of a machine has no such file.
        ("0::/\n", {"cpu.stat": STAT}, None, None),
        # systemd: the quota of a slice binds the services in it, and the least counts.
        (
            "0::/user.slice/run.service\n",
            {"user.slice/cpu.max": "200000 100000", "user.slice/run.service/cpu.max": "max 100000",
             "user.slice/cpu.stat": STAT, "user.slice/run.service/cpu.stat": STAT},
            2.0, (3, 0.25),
        ),
        (
            "0::/user.slice/run.service\n",
            {"user.slice/cpu.max": "200000 100000", "user.slice/run.service/cpu.max": "50000 100000",
             "user.slice/cpu.stat": STAT, "user.slice/run.service/cpu.stat": STAT},
            0.5, (6, 0.5),
        ),
        # The group's path is that of the host, of which the container sees only the end.
        ("0::/../docker/ab\n", {"cpu.max": "300000 100000", "cpu.stat": STAT}, 3.0, (3, 0.25)),
        ("0::/docker/ab\n", {"cpu.max": "300000 100000", "cpu.stat": STAT}, 3.0, (3, 0.25)),
        # Version 1, by its own name and by that of both controllers.
        (
            "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "100000",
             "cpu,cpuacct/cpu.stat": OLD_STAT},
            1.5, (3, 0.25),
        ),
        (
            "4:cpu:/jobs/one\n",
            {"cpu/jobs/one/cpu.cfs_quota_us": "250000", "cpu/jobs/one/cpu.cfs_period_us": "100000",
             "cpu/jobs/one/cpu.stat": OLD_STAT},
            2.5, (3, 0.25),
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        # Nothing that can be read.
        ("", {}, None, None),
        ("nonsense\n", {"cpu.max": "150000 100000"}, None, None),
        ("0::/\n", {"cpu.max": "many 100000"}, None, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None, None),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5, (0, 0.0)),
    ],
)  # fmt: skip
def test_a_quota_and_its_counters(
    tmp_path: Path, groups: str, files: dict[str, str], granted: float | None, throttled: tuple[int, float] | None
) -> None:
    tree = a_tree(tmp_path, groups=groups, files=files)
    assert quota.cores(**tree) == granted
    assert quota.throttled(**tree) == throttled


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert quota.cores(mount=tmp_path, groups=tmp_path / "absent") is None
    assert quota.throttled(mount=tmp_path, groups=tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("affinity", "paid", "threads", "granted", "chosen"),
    [
        ({0, 1, 2, 3}, None, None, 4, []),
        ({0, 1, 2, 3}, None, 2, 4, [0, 1]),
        ({0, 1, 2, 3}, 2.0, None, 2, [0, 1]),
        (
            {0, 1, 2, 3},
            2.9,
            None,
            2,
            [0, 1],
        ),  # a third thread would be stopped for a tenth of its time, and all with it
        ({0, 1, 2, 3}, 0.5, None, 1, [0]),
        ({0, 1, 2, 3}, 2.0, 3, 2, [0, 1, 2]),  # as was asked
        ({0, 1}, 8.0, None, 2, []),
        ({3}, 8.0, None, 1, []),
    ],
)
def test_the_smaller_of_affinity_and_quota_is_stated_and_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, affinity: set[int], paid: float | None, threads: int | None,
    granted: int, chosen: list[int],
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: affinity, raising=False)
    monkeypatch.setattr(quota, "cores", lambda: paid)
    assert cores.granted() == granted
    assert cores.chosen(threads, topology=tmp_path) == chosen  # where nothing says which share a physical one
    stated = describe.describe()
    assert (stated.cores, stated.cpu_quota) == (granted, paid)
