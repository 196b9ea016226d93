"""Releases of a framework as arms: what may be typed, what pip is asked for, and that an environment is made once and whole."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.cli import arms
from bench.cli.arms import Defaults
from bench.cli.options import UserError
from bench.process import interpreters, releases
from bench.process.interpreters import Interpreter, InterpreterError
from bench.records.record import Arm
from tests.fakes.campaign import FAKE


class Pip:
    """Stands for the processes that make an environment: writes down what is asked, and fails as told."""

    def __init__(self, *failures: str) -> None:
        self.failures, self.commands, self.constraints = list(failures), [], []

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        assert options["timeout"] > 0
        assert "PIP_CONSTRAINT" not in options["env"]
        if "venv" in command:
            Path(command[-1], "bin").mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(returncode=0, stdout="", stderr="")
        self.constraints.append(Path(command[command.index("-c") + 1]).read_text())
        failure = self.failures.pop(0) if self.failures else ""
        return SimpleNamespace(returncode=1 if failure else 0, stdout="", stderr=failure)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    made = Pip()
    monkeypatch.setattr(subprocess, "run", made)
    monkeypatch.setenv("PIP_CONSTRAINT", "of somebody else")
    return made


def python_of(backend: str, release: str, told: list[str] | None = None) -> Path:
    tell = told.append if told is not None else lambda line: None
    return releases.python_of(backend, release, said=f"--arm {backend}=={release}", tell=tell)


def test_an_environment_is_made_once_with_the_release_and_everything_else_as_it_is_pinned(pip: Pip) -> None:
    told: list[str] = []
    first = python_of("jax", "0.10.1", told)
    assert python_of("jax", "0.10.1", told) == first
    assert len(pip.commands) == 2
    assert len(told) == 1
    assert told[0].startswith("installing jax==0.10.1 once, into ")
    install = pip.commands[1]
    assert install[0] == str(first)
    assert install[-1] == "jax==0.10.1"
    assert install[-2].endswith("[jax]")
    (constraints,) = pip.constraints
    assert "flax==" in constraints
    assert "numpy==" in constraints
    assert not any(line.startswith("jax") for line in constraints.splitlines())  # nor jaxlib


def test_another_release_has_an_environment_of_its_own(pip: Pip) -> None:
    assert python_of("jax", "0.10.1") != python_of("jax", "0.10.2")
    assert "torch==2.12.0" in [command[-1] for command in (python_of("pytorch", "2.12.0"), pip.commands)[1]]


def test_where_the_pinned_packages_do_not_go_with_a_release_those_of_the_framework_are_loosened(pip: Pip) -> None:
    pip.failures = ["ERROR: Cannot install jax==0.8.0 and flax==0.12.8"]
    told: list[str] = []
    python_of("jax", "0.8.0", told)
    assert ["flax==" in text for text in pip.constraints] == [True, False]
    assert all("numpy==" in text for text in pip.constraints)
    assert "flax, optax as pip finds them" in told[-1]


def test_a_release_that_cannot_be_had_is_an_error_with_pips_reason_and_is_tried_again(pip: Pip) -> None:
    ignored = "ERROR: Ignored the following versions that require a different python version: 0.11.0"
    pip.failures = [f"noise\n{ignored}\nERROR: No matching distribution found for jax==99\nhint"] * 2
    with pytest.raises(InterpreterError) as caught:
        python_of("jax", "99")
    assert str(caught.value) == (
        "--arm jax==99: pip cannot install jax==99: ERROR: No matching distribution found for jax==99"
    )
    (made,) = {Path(command[-1]) for command in pip.commands if command[2] == "venv"}
    assert not made.exists()
    python_of("jax", "99")
    assert [command[2] for command in pip.commands].count("venv") == 2


def test_a_backend_of_ones_own_and_a_program_without_its_clone_have_no_releases(
    pip: Pip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InterpreterError, match="no framework of which releases are known"):
        python_of(FAKE, "1.0")
    monkeypatch.setattr(releases, "ROOT", tmp_path)
    with pytest.raises(InterpreterError, match="from a clone of framework-bench; here, use jax:python=PATH"):
        python_of("jax", "0.10.1")
    assert pip.commands == []


@pytest.mark.parametrize(
    ("text", "label", "release", "name"),
    [
        ("jax==0.10.1", None, "0.10.1", "jax==0.10.1"),
        ("old=jax==0.10.1", "old", "0.10.1", "old"),
        ("pytorch==2.12.0:compile", None, "2.12.0", "pytorch==2.12.0:compile"),
    ],
)
def test_a_release_stands_behind_the_backend(text: str, label: str | None, release: str, name: str) -> None:
    typed = arms.parse(text)
    assert (typed.label, typed.release, typed.name) == (label, release, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jax==", "'' is not a release"),
        ("jax==newest", "'newest' is not a release; expected one as in jax==1.2.3"),
        ("jax==1; rm -rf", "is not a release"),
        ("jaks==0.10.1", "there is no backend 'jaks'"),
        ("jax==0.10.1:python=x", "a release comes with its own interpreter"),
    ],
)
def test_what_is_no_release_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match="--arm") as caught:
        arms.parse(text)
    assert said in str(caught.value)


def test_an_arms_release_runs_in_its_interpreter_and_is_typed_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def ask(backend: str, typed: str, *, said: str) -> Interpreter:
        asked.append((typed, said))
        return Interpreter(typed, "3.11.7", {"jax": "0.10.1"})

    monkeypatch.setattr(interpreters, "ask", ask)
    monkeypatch.setattr(releases, "python_of", lambda backend, release, **_: Path("/cache", release, "bin", "python"))
    texts = ["jax==0.10.1", "jax==0.10.2:rbg"]
    found = arms.resolve([arms.parse(text) for text in texts], Defaults(device="cpu"), required=True)
    assert asked == [
        ("/cache/0.10.1/bin/python", "--arm jax==0.10.1"), ("/cache/0.10.2/bin/python", "--arm jax==0.10.2:rbg"),
    ]  # fmt: skip
    assert [arm.typed({"device": "cpu", "precision": "float32"}) for arm in found.arms] == texts
    assert set(found.interpreters) == set(texts)


def test_a_row_of_another_interpreter_says_path_as_before() -> None:
    arm = Arm(name="old", backend="jax", python="3.11.7")
    assert arm.typed({"device": "cpu", "precision": "float32"}) == "old=jax:python=PATH"
