"""The workflows, the action and the scripts for continuous integration: they parse, and what they call is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / ".ci").iterdir() if os.access(path, os.X_OK))


def commands(path: Path) -> list[str]:
    """The lines that a workflow or an action runs."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    jobs = [*found.get("jobs", {}).values(), found.get("runs", {})]
    texts = [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]
    return [line.strip() for text in texts for line in text.splitlines()]


def test_there_are_workflows_for_tests_results_and_pages_and_an_action() -> None:
    assert [path.name for path in GITHUB] == ["action.yml", "check.yml", "pages.yml", "test.yml"]


def test_the_workflow_of_the_tests_runs_what_ci_runs() -> None:
    assert ".ci/run" in commands(ROOT / ".github" / "workflows" / "test.yml")


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_what_a_workflow_calls_is_there(path: Path) -> None:
    for line in commands(path):
        for script in re.findall(r"(?<![\w/])\.ci/\w+|(?<=/)\.ci/\w+", line):
            assert os.access(ROOT / script, os.X_OK), script
        for module in re.findall(r"python -m (bench[\w.]*)", line):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)


FAKE = """#!/usr/bin/env bash
echo "$@" >> calls
case "$1" in
  selftest) exit 1 ;;
  run) echo the tables; exit "${RUN_CODE:-0}" ;;
  report) echo the report; exit "${GATE_CODE:-0}" ;;
esac
"""


@pytest.mark.parametrize(("run", "gate", "code"), [(0, 0, 0), (0, 1, 1), (1, 1, 1), (2, 0, 2)])
def test_two_arms_are_compared_in_one_run_and_gated_by_its_records(
    tmp_path: Path, run: int, gate: int, code: int
) -> None:
    program = tmp_path / "bin" / "framework-bench"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "RUN_CODE": str(run), "GATE_CODE": str(gate)}
    done = subprocess.run(
        [ROOT / ".ci" / "compare", "jax==0.10.1", "jax", "slower,undecided", "out", "--task", "mnist_mlp"], cwd=tmp_path,
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:2] == [
        "selftest --arm base=jax==0.10.1 --task mnist_mlp",
        "run --arm base=jax==0.10.1 --arm head=jax --control --output out/run --task mnist_mlp",
    ]
    if run < 2:
        assert calls[2] == "report out/run --baseline base --fail-on slower --fail-on undecided"
        assert (tmp_path / "out" / "comment.md").read_text() == "the report\n"
        assert done.stdout == "the tables\n"


def test_the_container_installs_what_is_pinned_and_copies_what_there_is() -> None:
    text = (ROOT / ".ci" / "Containerfile").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    assert "-c constraints.txt" in text
    assert 'ENTRYPOINT ["framework-bench"]' in text
