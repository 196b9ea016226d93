"""Other interpreters for some of the backends: which are refused, and that one that is taken really runs the processes."""

import csv
import io
import os
import stat
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench.campaign import campaign, parity_cache, plan
from bench.campaign.plan import Choice
from bench.process import interpreters
from bench.process.interpreters import Interpreter, InterpreterError
from bench.records import record
from bench.records.record import Record
from bench.report import grouping, markdown, summary, table_csv
from tests.conftest import a_row, a_run

FAKE = "tests.fake_backend"
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


def refusal(*named: object, compared: tuple[str, ...] = (FAKE,)) -> str:
    with pytest.raises(InterpreterError) as caught:
        interpreters.chosen([str(value) for value in named], compared)
    assert str(caught.value).isprintable()
    return str(caught.value)


# What is refused, in one line.


@pytest.mark.parametrize("value", ["", "jax", "=", "jax=", "toxic"])
def test_what_names_no_backend_and_path_is_refused(value: str) -> None:
    assert refusal(value) == f"--python {value!r}: expected BACKEND=PATH, or the word tox"


def test_a_backend_that_is_not_compared_is_refused() -> None:
    line = refusal("jaxx=python", compared=("jax", "pytorch"))
    assert "'jaxx' is not in the comparison (there are: jax, pytorch)" in line


def test_two_interpreters_for_one_backend_are_refused() -> None:
    assert f"{FAKE} has an interpreter already, 'one'" in refusal(f"{FAKE}=one", f"{FAKE}=two")


@pytest.mark.parametrize("path", ["nowhere/bin/python", "no-such-program", ".", "a\nb\x1b[2J"])
def test_an_interpreter_that_is_not_there_is_refused(path: str) -> None:
    assert refusal(f"{FAKE}={path}") == f"--python {f'{FAKE}={path}'!r}: there is no such program"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 0", "not a Python interpreter that works"),
        ("echo '{}'", "not a Python interpreter that works"),
        ("echo NaN", "not a Python interpreter that works"),
        ("printf 'broken\\033[2J\\n' >&2; exit 1", "not a Python interpreter that works: broken"),
        ("""echo '{"python": "3.9.1", "missing": [], "versions": {}}'""", "Python 3.9.1; framework-bench needs 3.11"),
        ("sleep 60", "no answer within 0.2 s"),
    ],
)
def test_a_program_that_is_no_fit_interpreter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    if "sleep" in text:
        monkeypatch.setattr(interpreters, "PATIENCE_S", 0.2)
        text = f"exec {text}"
    assert said in refusal(f"{FAKE}={program(tmp_path / 'python', text)}")


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_bytes(b"\0\1\2")
    assert "there is no such program" in refusal(f"{FAKE}={path}")
    path.chmod(0o755)
    assert "cannot be run: Exec format error" in refusal(f"{FAKE}={path}")


def test_an_environment_without_the_framework_is_refused_with_the_command_that_adds_it(bare: Path) -> None:
    line = refusal(f"tensorflow={bare}", compared=("tensorflow",))
    assert "tensorflow, keras, " in line
    assert line.endswith(
        f'not installed there; add it with: {bare} -m pip install -c constraints.txt -e ".[tensorflow]"'
    )
    assert "pip" not in refusal(f"{FAKE}={bare}")  # nobody knows how to install a module of the user's


def test_a_module_that_only_this_interpreter_could_find_is_refused(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # of this process alone
    (tmp_path / "my_backend").mkdir()
    (tmp_path / "my_backend" / "one.py").touch()
    line = refusal(f"my_backend.one={other}", compared=("my_backend.one",))
    assert line.endswith("my_backend.one not installed there")


# tox.


def an_environment_of_tox(work: Path, backend: str, python: Path) -> None:
    (work / f"bench-{backend}" / "bin").mkdir(parents=True)
    program(work / f"bench-{backend}" / "bin" / "python", f'exec "{python}" "$@"')


def test_without_environments_of_tox_the_command_that_makes_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOX_WORK_DIR", str(tmp_path))
    line = refusal("tox", compared=("jax", "pytorch"))
    assert line.endswith("tox run -e bench-jax,bench-pytorch --notest")


def test_the_environments_of_tox_are_found_and_a_path_goes_before_them(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOX_WORK_DIR", str(tmp_path))
    an_environment_of_tox(tmp_path, FAKE, other)
    of_tox = str(tmp_path / f"bench-{FAKE}" / "bin" / "python")
    compared = [FAKE, "not.made"]
    assert {name: it.path for name, it in interpreters.chosen(["tox"], compared).items()} == {FAKE: of_tox}
    assert interpreters.chosen(["tox", f"{FAKE}={other}"], compared)[FAKE].path == str(other)


def test_tox_has_an_environment_for_each_backend() -> None:
    import backends

    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    for name in backends.BACKENDS:
        assert f"bench-{name}" in text


# What is taken.


def test_an_interpreter_says_what_it_is(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = interpreters.ask(FAKE, str(other))
    assert found.path == str(other)  # not what the link points to, which has none of the packages
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.versions["numpy"][0].isdigit()
    assert found.origin == ROOT / "tests" / "fake_backend.py"
    assert interpreters.ask(FAKE, str(other.parent.parent)) == found  # the environment's folder will do
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    assert interpreters.ask(FAKE, "python").path == str(other)


def test_the_processes_of_a_backend_run_in_its_interpreter(
    other: Path, tmp_path: Path, fakes: Callable[[str], str]
) -> None:
    here, there = FAKE, fakes("ok")
    with (tmp_path / "plug-ins" / "fakes" / "ok.py").open("a") as file:
        file.write("import sys\nassert sys.prefix.endswith('other'), sys.prefix\n")
    interpreter = interpreters.ask(there, str(other))
    interpreter = Interpreter(interpreter.path, "3.99.0", interpreter.versions, interpreter.origin)
    choice = Choice(
        tasks=[FAKE], backends=[here, there], absent=[], preset="smoke", device="cpu", precision="float32", rounds=1,
        seeds=1, data_dir=None, order_seed=1, interpreters={there: interpreter},
    )  # fmt: skip
    folder = tmp_path / "run"
    (folder / "records").mkdir(parents=True)
    running = campaign.Campaign([plan.make(FAKE, choice)], choice, folder, Quiet())
    running.run()
    assert [cell.reason for cell in running.records if cell.status != "ok"] == []
    for done in running.records:
        assert (done.machine.python == "3.99.0") == (done.backend == there)
    (section,) = grouping.sections(running.records)
    assert sorted(row.backend for row in section.rows) == [there, here]
    machine = dict(summary.facts(section))["Machine"]
    assert f"3.99.0 ({there})" in machine
    assert f"({here})" in machine
    assert str(other) not in markdown.render(running.records)
    assert all(str(other).encode() not in path.read_bytes() for path in folder.rglob("*.json"))


class Quiet:
    """Progress that nobody watches."""

    def started(self, cell: Record, **_: object) -> None: ...
    def finished(self, finished: Record) -> None: ...


def test_what_another_interpreter_has_is_in_the_key_of_a_climb(tmp_path: Path) -> None:
    cell = plan_cell()
    origin = tmp_path / "module.py"
    origin.write_text("one = 1")
    same = Interpreter("python", cell.machine.python, {"numpy": "1.0"}, origin)
    before = parity_cache.key(cell, same)
    assert before != parity_cache.key(cell)
    assert before == parity_cache.key(
        cell, Interpreter("elsewhere", "", {"numpy": "1.0"}, origin)
    )  # where it lies is no matter
    assert before != parity_cache.key(cell, Interpreter("python", "", {"numpy": "2.0"}, origin))
    origin.write_text("one = 2")
    assert before != parity_cache.key(cell, same)


def plan_cell() -> Record:
    choice = Choice(
        tasks=[FAKE], backends=[FAKE], absent=[], preset="smoke", device="cpu", precision="float32", rounds=1,
        seeds=1, data_dir=None, order_seed=1,
    )  # fmt: skip
    return plan.make(FAKE, choice).cell(FAKE, kind="parity")


# Tables.


def test_backends_of_one_run_with_an_interpreter_each_stand_in_one_table() -> None:
    newer = msgspec.structs.replace(a_row("old", [1000])[0].machine, python="3.13.0")
    made = a_row("old", [1000.0, 1010.0]) + a_row("new", [2000.0, 2010.0], machine=newer)
    (section,) = grouping.sections(made)
    assert dict(summary.facts(section))["Machine"].endswith("Python 3.13.0 (new), 3.11.7 (old)")
    assert "Python 3.13.0 (new), 3.11.7 (old)" in markdown.brief(made)
    lines = csv.DictReader(io.StringIO(table_csv.render(made)))
    assert {line["backend"]: line["python"] for line in lines} == {"new": "3.13.0", "old": "3.11.7"}


def test_one_interpreter_is_named_once() -> None:
    (section,) = grouping.sections(a_run({"fast": [2000.0, 2010.0], "slow": [1000.0, 1010.0]}))
    assert dict(summary.facts(section))["Machine"].endswith("Linux 6.1 x86_64, Python 3.11.7")


def test_record_of_another_interpreter_can_be_read_again() -> None:
    cell = plan_cell()
    assert record.decode(record.encode(cell)) == cell
