"""What a machine is called: the same after a reboot, and no two kinds of ARM processor the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.machine import describe


def an_arm(folder: Path, cores: Sequence[tuple[str, str]]) -> Path:
    """/proc/cpuinfo of a machine with these (implementer, part)."""
    blocks = [
        f"processor\t: {number}\nBogoMIPS\t: 243.75\nCPU implementer\t: {maker}\nCPU architecture: 8\n"
        f"CPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n"
        for number, (maker, part) in enumerate(cores)
    ]
    path = folder / "cpuinfo"
    path.write_text("\n".join(blocks))
    return path


@pytest.mark.parametrize(
    ("cores", "name"),
    [
        ([("0x41", "0xd0c")] * 4, "Arm Neoverse-N1"),
        ([("0x41", "0xd4f")], "Arm Neoverse-V2"),
        ([("0xc0", "0xac3")], "Ampere Ampere-1"),
        ([("0x41", "0xd05"), ("0x41", "0xd05"), ("0x41", "0xd41")], "Arm Cortex-A55 + Arm Cortex-A78"),
        ([("0x61", "0x022")], "Apple part 0x22"),
        ([("0x99", "0x123")], "ARM implementer 0x99 part 0x123"),
    ],
)
def test_an_arm_processor_is_named_from_its_numbers(tmp_path: Path, cores: list[tuple[str, str]], name: str) -> None:
    assert describe.cpu(an_arm(tmp_path, cores)) == name


def test_a_processor_that_has_a_name_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9B14\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 9B14\n")
    assert describe.cpu(path) == "AMD EPYC 9B14"


@pytest.mark.parametrize("content", [None, "", "model name\t:\n"])
def test_a_processor_without_any_name_is_called_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert describe.cpu(tmp_path / "cpuinfo") == "riscv64"


@pytest.mark.parametrize(
    ("size", "gib"), [(135_148_564_480, 126), (135_148_564_480 - 4096, 126), (8 * 2**30, 8), (200 * 2**20, 1)]
)
def test_memory_is_told_as_it_is_shown(size: int, gib: int) -> None:
    assert describe.whole_gib(size) == gib * 2**30
