"""docs/extending.md, followed to the letter: its code in a package, its commands in processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records import files
from bench.records.record import Record
from bench.worker.parity import RUNGS
from tests.conftest import BACKENDS_UNDER_TEST

ROOT = Path(__file__).parent.parent
HOW_TO = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

FILES = dict(re.findall(r"<code>(mypackage/\w+\.py)</code></summary>\n\n```python\n(.*?)```", HOW_TO, re.DOTALL))
COMMANDS = re.findall(r"^PYTHONPATH=\. (framework-bench .*)$", HOW_TO, re.MULTILINE)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package that the page writes."""
    for name, content in FILES.items():
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path / "work"


def follow(command: str, folder: Path, *more: str) -> str:
    """What a command of the page prints; it must end with 0."""
    name, *words = command.split()
    assert name == "framework-bench"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench", *words, *more], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def the_command(*words: str) -> str:
    (found,) = [command for command in COMMANDS if all(word in command.split() for word in words)]
    return found


def test_the_how_to_has_two_files_and_a_proof_and_a_comparison_of_each() -> None:
    assert set(FILES) == {"mypackage/clusters.py", "mypackage/softmax.py"}
    assert [command.split()[1] for command in COMMANDS] == ["verify", "run"] * 2
    for part in HOW_TO.split("\n## ")[1:]:
        numbers = [int(number) for number in re.findall(r"^(\d)\. ", part, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= 3


@pytest.mark.slow
def test_a_backend_of_ones_own_is_proven_and_measured(package: Path) -> None:
    proven = follow(the_command("verify", "mypackage.softmax"), package)
    assert proven.count("  ok ") == 2 * len(RUNGS)
    compared = the_command("run", "mypackage.softmax").replace(" --backend jax", "")
    out = follow(compared, package, "--rounds", "1", "--output", "made")
    records, problems = files.read_folder(package / "made")
    assert problems == []
    assert {one.cell.kind for one in records} == {
        "memory",
        "parity",
        "quality",
        "speed",
    }  # a disturbed round is replaced
    assert all(one.outcome.status == "ok" for one in records)
    assert {(one.cell.task, one.cell.arm.backend) for one in records} == {("mypackage.clusters", "mypackage.softmax")}
    assert accuracy(records) >= 0.9
    assert "points/s" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_a_task_of_ones_own_is_the_same_in_a_framework(name: str, package: Path) -> None:
    (verify, _) = [command for command in COMMANDS if "--backend" not in command]
    assert follow(verify, package, "--backend", name).count("  ok ") == 2 * len(RUNGS)


def accuracy(records: list[Record]) -> float:
    (training,) = [one.outcome.quality for one in records if one.cell.kind == "quality"]
    assert training is not None
    return training.metrics["accuracy"]
