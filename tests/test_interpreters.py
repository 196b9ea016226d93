"""Other interpreters for some of the backends: which are refused, and that one that is taken really runs the processes."""

import csv
import io
import os
import stat
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.campaign import parity_cache
from bench.process import interpreters
from bench.process.interpreters import Interpreter, InterpreterError
from bench.records import files
from bench.report import facts, grouping, markdown, table_csv
from tests.builders import a_row, a_run
from tests.fakes.campaign import FAKE, a_campaign, a_plan, a_planned_cell, an_arm
from tests.test_cli import Done, bench, refusal

__all__ = ["bench"]  # the fixture

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of another virtual environment, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("environments") / "other"
    venv.create(folder, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin" / "python"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The interpreter of an environment without any package."""
    venv.create(tmp_path / "bare", symlinks=True)
    return tmp_path / "bare" / "bin" / "python"


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InterpreterError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


def unreadable(*named: object, compared: tuple[str, ...] = (FAKE,)) -> str:
    """What is said of values of --python that name no interpreter of a backend."""
    return refused(lambda: interpreters.paths([str(value) for value in named], compared))


def unfit(path: object, backend: str = FAKE, *, patience_s: float = interpreters.PATIENCE_S) -> str:
    """What is said of an interpreter in which a backend cannot run."""
    return refused(lambda: interpreters.ask(backend, str(path), said="--arm it", patience_s=patience_s))


# What is refused, in one line.


@pytest.mark.parametrize("value", ["", "jax", "=", "jax=", "toxic"])
def test_what_names_no_backend_and_path_is_refused(value: str) -> None:
    assert unreadable(value) == f"--python {value!r}: expected BACKEND=PATH, or the word tox"


def test_a_backend_that_is_not_compared_is_refused() -> None:
    line = unreadable("jaxx=python", compared=("jax", "pytorch"))
    assert "'jaxx' is not in the comparison (there are: jax, pytorch)" in line


def test_two_interpreters_for_one_backend_are_refused() -> None:
    assert f"{FAKE} has an interpreter already, 'one'" in unreadable(f"{FAKE}=one", f"{FAKE}=two")


@pytest.mark.parametrize("path", ["nowhere/bin/python", "no-such-program", ".", "a\nb\x1b[2J"])
def test_an_interpreter_that_is_not_there_is_refused(path: str) -> None:
    assert unfit(path) == "--arm it: there is no such program"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 0", "not a Python interpreter that works"),
        ("echo '{}'", "not a Python interpreter that works"),
        ("echo NaN", "not a Python interpreter that works"),
        ("printf 'broken\\033[2J\\n' >&2; exit 1", "not a Python interpreter that works: broken"),
        ("""echo '{"python": "3.9.1", "missing": [], "versions": {}}'""", "Python 3.9.1; framework-bench needs 3.11"),
    ],
)
def test_a_program_that_is_no_fit_interpreter_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in unfit(program(tmp_path / "python", text))


def test_an_interpreter_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    said = unfit(program(tmp_path / "python", "exec sleep 60"), patience_s=0.2)
    assert "no answer within 0.2 s" in said


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_bytes(b"\0\1\2")
    assert "there is no such program" in unfit(path)
    path.chmod(0o755)
    assert "cannot be run: Exec format error" in unfit(path)


def test_an_environment_without_the_framework_is_refused_with_the_command_that_adds_it(bare: Path) -> None:
    line = unfit(bare, "tensorflow")
    assert "tensorflow, keras, " in line
    assert line.endswith(
        f'not installed there; add it with: {bare} -m pip install -c constraints.txt -e ".[tensorflow]"'
    )
    assert "pip" not in unfit(bare)  # nobody knows how to install a module of the user's


@pytest.mark.slow
def test_a_module_that_only_this_interpreter_could_find_is_refused(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # of this process alone
    (tmp_path / "my_backend").mkdir()
    (tmp_path / "my_backend" / "one.py").touch()
    line = unfit(other, "my_backend.one")
    assert line.endswith("my_backend.one not installed there")


@pytest.mark.slow
def test_another_version_of_the_harness_is_refused(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.records.source.harness_hash", lambda: "0" * 64)
    assert unfit(other) == "--arm it: another version of framework-bench is installed there; install this one"


def test_the_command_line_refuses_it_with_the_arm_that_was_typed(bench: Callable[..., Done], bare: Path) -> None:
    for typed, said in (
        (("--arm", f"{FAKE}:python=nowhere"), f"--arm {FAKE}:python=nowhere: there is no such program"),
        (("--backend", FAKE, "--python", f"{FAKE}={bare}"), f"--python {FAKE}={bare}: msgspec not installed there"),
        (("--arm", f"jax:python={bare}"), f"--arm jax:python={bare}: jax, "),
    ):
        line = refusal(bench("run", "--task", FAKE, "--device", "cpu", *typed, "--output", "run"))
        assert line.startswith(f"framework-bench: {said}")
        assert list(Path().iterdir()) == []


# tox.


def an_environment_of_tox(work: Path, backend: str, python: Path) -> None:
    (work / f"bench-{backend}" / "bin").mkdir(parents=True)
    program(work / f"bench-{backend}" / "bin" / "python", f'exec "{python}" "$@"')


def test_without_environments_of_tox_the_command_that_makes_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOX_WORK_DIR", str(tmp_path))
    line = unreadable("tox", compared=("jax", "pytorch"))
    assert line.endswith("tox run -e bench-jax,bench-pytorch --notest")


@pytest.mark.slow
def test_the_environments_of_tox_are_found_and_a_path_goes_before_them(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOX_WORK_DIR", str(tmp_path))
    an_environment_of_tox(tmp_path, FAKE, other)
    of_tox = str(tmp_path / f"bench-{FAKE}" / "bin" / "python")
    compared = [FAKE, "not.made"]
    assert interpreters.paths(["tox"], compared) == {FAKE: of_tox}
    assert interpreters.paths(["tox", f"{FAKE}={other}"], compared) == {FAKE: str(other)}
    assert interpreters.ask(FAKE, of_tox, said="").path == of_tox


def test_tox_has_an_environment_for_each_backend() -> None:
    import backends

    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    for name in backends.BACKENDS:
        assert f"bench-{name}" in text


# What is taken.


@pytest.mark.slow
def test_an_interpreter_says_what_it_is(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = interpreters.ask(FAKE, str(other), said="")
    assert found.path == str(other)  # not what the link points to, which has none of the packages
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.versions["numpy"][0].isdigit()
    assert found.origin == ROOT / "tests" / "fakes" / "backend.py"
    assert interpreters.ask(FAKE, str(other.parent.parent), said="") == found  # the environment's folder will do
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    assert interpreters.ask(FAKE, "python", said="").path == str(other)


@pytest.mark.slow
def test_the_processes_of_an_arm_run_in_its_interpreter(
    other: Path, tmp_path: Path, fakes: Callable[[str], str]
) -> None:
    here, there = FAKE, fakes("ok")
    with (tmp_path / "plug-ins" / "plugged" / "ok.py").open("a") as file:
        file.write("import sys\nassert sys.prefix.endswith('other'), sys.prefix\n")
    interpreter = interpreters.ask(there, str(other), said="")
    plan = a_plan(here, an_arm(there, python="3.99.0"), interpreters={there: interpreter})
    folder = tmp_path / "run"
    running = a_campaign(folder, plan)
    running.start()
    assert [one.outcome.reason for one in running.records if one.outcome.status != "ok"] == []
    (section,) = grouping.sections(running.records)
    assert sorted(row.name for row in section.rows) == sorted([there, here])
    machine = dict(facts.facts(section))["Machine"]
    assert f"3.99.0 ({there})" in machine
    assert f"({here})" in machine
    assert str(other) not in markdown.render(running.records)
    assert all(str(other).encode() not in path.read_bytes() for path in folder.rglob("*.json"))


@pytest.mark.slow
def test_one_backend_in_two_interpreters_stands_in_one_table(bench: Callable[..., Done], other: Path) -> None:
    arms = ("--arm", f"here={FAKE}", "--arm", f"there={FAKE}:python={other}")
    done = bench("run", "--task", FAKE, "--device", "cpu", *arms, "--rounds", 2, "--seeds", 1, "--output", "run")
    assert done.code == 0, done.error
    (section,) = grouping.sections(files.read_folder(Path("run"))[0])
    assert {row.name: row.arm.python for row in section.rows} == {
        "here": None, "there": ".".join(map(str, sys.version_info[:3])),
    }  # fmt: skip
    assert str(other) not in Path("run/table.md").read_text()
    again = bench("run", "--task", FAKE, "--device", "cpu", *arms, "--rounds", 2, "--seeds", 1, "--output", "run")
    assert "continuing: 10 of 10 processes are done" in again.error


def test_what_another_interpreter_has_is_in_the_key_of_a_climb(tmp_path: Path) -> None:
    run, cell = a_planned_cell(kind="parity")
    origin = tmp_path / "module.py"
    origin.write_text("one = 1")

    def key(interpreter: Interpreter | None = None) -> str:
        parity_cache.source_hash.cache_clear()  # which a run reads once
        return parity_cache.key(cell, run.machine, interpreter)

    same = Interpreter("python", run.machine.python, {"numpy": "1.0"}, origin)
    before = key(same)
    assert before != key()
    elsewhere = Interpreter("elsewhere", run.machine.python, {"numpy": "1.0"}, origin)
    assert before == key(elsewhere)  # where it lies is no matter
    assert before != key(Interpreter("python", "3.99.0", {"numpy": "1.0"}, origin))
    assert before != key(Interpreter("python", run.machine.python, {"numpy": "2.0"}, origin))
    origin.write_text("one = 2")
    assert before != key(same)


# Tables.


def test_backends_of_one_run_with_an_interpreter_each_stand_in_one_table() -> None:
    made = a_row("old", [1000.0, 1010.0]) + a_row("new", [2000.0, 2010.0], python="3.13.0")
    (section,) = grouping.sections(made)
    assert dict(facts.facts(section))["Machine"].endswith("Python 3.13.0 (new), 3.11.7 (old)")
    assert "Python 3.13.0 (new), 3.11.7 (old)" in markdown.brief(made)
    lines = csv.DictReader(io.StringIO(table_csv.render(made)))
    assert {line["backend"]: line["python"] for line in lines} == {"new": "3.13.0", "old": "3.11.7"}


def test_one_interpreter_is_named_once() -> None:
    (section,) = grouping.sections(a_run({"fast": [2000.0, 2010.0], "slow": [1000.0, 1010.0]}))
    assert dict(facts.facts(section))["Machine"].endswith("Linux 6.1 x86_64, Python 3.11.7")


def test_a_record_of_another_interpreter_can_be_read_again() -> None:
    (first, *_) = a_row("new", [2000.0], python="3.13.0")
    assert files.decode(files.encode(first)) == first
