"""`pytest bench`: pytest-benchmark's JSON and our records agree, and what must not be ranked is in neither ranking.

Every run is a real pytest with real workers; the backends are fakes.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from bench.cli import commands
from bench.records import files, pytest_json
from bench.records.files import RecordError
from bench.records.record import Record
from bench.report import markdown, table_csv
from bench.worker.parity import RUNGS
from tests.builders import a_record, a_run, changed
from tests.fakes.campaign import FAKE

ROOT = Path(__file__).parent.parent
GOOD_ONE = "plugged.good"
NO_CACHE_OF_PYTEST = ("-p", "no:cacheprovider")


BAD = ("wrong learning rate", "misses the target", "raises")


class Done(NamedTuple):
    code: int
    out: str


def pytest_bench(folder: Path, *arguments: object, **env: str) -> Done:
    """`pytest bench` in a process of its own; its storage and its results are below `folder`."""
    command = [
        sys.executable, "-m", "pytest", "bench", *NO_CACHE_OF_PYTEST, "--fb-task", FAKE, "--fb-device", "cpu",
        "--benchmark-storage", str(folder / "storage"), *map(str, arguments),
    ]  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # not those of a worker
    done = subprocess.run(
        command, cwd=ROOT, env={**own, "PYTHONPATH": path, **env}, capture_output=True, text=True, timeout=300
    )
    return Done(done.returncode, done.stdout + done.stderr)


def on_disk(folder: Path) -> dict[str, Record]:
    records, problems = files.read_folder(folder)
    assert problems == []
    return {one.cell.file_name: one for one in records}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done, list[str]]:
    """One session with a good backend, one that falls off the ladder, one that misses the target, one that breaks."""
    folder = tmp_path_factory.mktemp("session")
    package = folder / "plug-ins" / "plugged"
    package.mkdir(parents=True)
    misbehaviours = {"good": "ok"} | {name.replace(" ", "_"): name for name in BAD}
    for name, misbehaviour in misbehaviours.items():
        (package / f"{name}.py").write_text(
            "from functools import partial\nfrom tests.fakes import backend\nversions = backend.versions\n"
            f"open_session = partial(backend.open_session, misbehaviour={misbehaviour!r})\n"
        )
    names = [f"plugged.{name}" for name in misbehaviours]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package.parent))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        chosen = [part for name in names for part in ("--fb-backend", name)]
        done = pytest_bench(
            folder, *chosen, "--fb-output", folder / "run", "--benchmark-json", folder / "out.json",
            "--benchmark-save", "first",
        )  # fmt: skip
    return folder, done, names[1:]


# Both agree.


@pytest.mark.slow
def test_a_good_cell_is_a_benchmark_and_the_others_are_failed_tests(session: tuple[Path, Done, list[str]]) -> None:
    folder, done, names = session
    assert done.code == 1
    for name in names:
        assert f"FAILED bench/test_training.py::test_training[{FAKE}-quick-{name}-cpu-float32]" in done.out
    assert "parity: fell at rung 5 (one update)" in done.out
    assert "outside the target accuracy >= 0.9" in done.out
    assert "RuntimeError: the layer is broken" in done.out
    assert "3 failed, 1 passed" in done.out
    assert "Traceback" not in done.out
    (only,) = json.loads((folder / "out.json").read_bytes())["benchmarks"]
    assert only["name"] == f"test_training[{FAKE}-quick-{GOOD_ONE}-cpu-float32]"
    assert only["group"] == FAKE
    assert only["params"] == {
        "task": FAKE, "preset": "quick", "arm": GOOD_ONE, "device": "cpu", "precision": "float32",
    }  # fmt: skip


@pytest.mark.slow
def test_the_rounds_are_the_workers_own_blocks_in_seconds_per_step(session: tuple[Path, Done, list[str]]) -> None:
    folder, done, _ = session
    assert done.out
    (only,) = json.loads((folder / "out.json").read_bytes())["benchmarks"]
    (speed,) = [
        one for one in on_disk(folder / "run").values() if (one.cell.kind, one.cell.arm.name) == ("speed", GOOD_ONE)
    ]
    timings = speed.outcome.timings
    assert timings is not None
    stats = only["stats"]
    assert stats["iterations"] == timings.block_steps
    assert stats["data"] == [block_s / timings.block_steps for block_s in timings.blocks_s]
    assert stats["rounds"] == len(timings.blocks_s)
    assert stats["mean"] == pytest.approx(sum(timings.blocks_s) / len(timings.blocks_s) / timings.block_steps)


@pytest.mark.slow
def test_the_extra_figures_are_those_of_the_table(session: tuple[Path, Done, list[str]]) -> None:
    folder, _, names = session
    (only,) = json.loads((folder / "out.json").read_bytes())["benchmarks"]
    extra = only["extra_info"]
    lines = {row["backend"]: row for row in csv.DictReader((folder / "run" / "table.csv").read_text().splitlines())}
    line = lines[GOOD_ONE]
    assert extra["images_per_s"] == pytest.approx(float(line["throughput"]))
    assert extra["host_peak_bytes"] == int(float(line["host_peak_bytes"]))
    assert extra["accuracy"] == pytest.approx(float(line["metric_mean"]))
    assert extra["parity"] == line["parity"] == "float64 {0}/{0}, float32 {0}/{0}".format(len(RUNGS))
    assert line["not_ranked_because"] == ""
    assert files.read(Path(extra["record"])).cell.kind == "speed"
    # What failed there is not ranked here.
    assert {name for name, row in lines.items() if row["not_ranked_because"]} == set(names)


@pytest.mark.slow
def test_the_file_holds_every_record_and_import_makes_the_same_tables(
    session: tuple[Path, Done, list[str]], command: Callable[..., tuple[int, str, str]]
) -> None:
    folder, _, _ = session
    held = pytest_json.read(folder / "out.json")
    assert held == on_disk(folder / "run")
    (saved,) = (folder / "storage").rglob("0001_first.json")
    assert pytest_json.read(saved) == held
    assert {one.outcome.status for one in held.values()} == {"ok", "failed", "skipped"}
    code, out, _ = command("import", folder / "out.json", "--output", "again")
    assert code == 0
    assert "framework-bench report again" in out
    for name in ("table.md", "table.csv"):
        assert Path("again", name).read_bytes() == (folder / "run" / name).read_bytes()
    assert on_disk(Path("again")) == held


@pytest.mark.slow
def test_a_saved_session_can_be_compared_with(
    session: tuple[Path, Done, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = session
    monkeypatch.setenv("PYTHONPATH", str(folder / "plug-ins"))
    done = pytest_bench(
        folder, "--fb-backend", GOOD_ONE, "--fb-output", folder / "second", "--benchmark-compare", "0001",
        "--benchmark-group-by", "param:task", XDG_CACHE_HOME=str(folder / "cache"),
    )  # fmt: skip
    assert done.code == 0, done.out
    assert f"benchmark 'task={FAKE}': 2 tests" in done.out
    assert "(NOW)" in done.out
    assert "(0001_first)" in done.out


@pytest.mark.slow
def test_a_session_without_a_result_to_save_or_to_compare_with_ends_in_order(
    session: tuple[Path, Done, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = session
    monkeypatch.setenv("PYTHONPATH", str(folder / "plug-ins"))
    done = pytest_bench(
        tmp_path, "--fb-backend", "plugged.raises", "--fb-output", tmp_path / "run", "--benchmark-json", tmp_path / "out.json",
        "--benchmark-compare", XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.code == 1, done.out
    assert "INTERNALERROR" not in done.out
    assert "Not saving anything" in done.out
    assert "1 failed" in done.out


# Without measuring.


@pytest.mark.slow
def test_pytest_alone_does_not_come_here() -> None:
    command = [sys.executable, "-m", "pytest", *NO_CACHE_OF_PYTEST, "--collect-only", "-q", "tests/test_idx.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "test_training" not in done.stdout
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'testpaths = ["tests"]' in text
    program = "import sys, bench.cli, bench.campaign.campaign, bench.worker.answer; print('bench.test_training' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_the_cells_are_listed_without_measuring(tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = pytest_bench(tmp_path, "--fb-backend", FAKE, "--collect-only", "-q", "--fb-output", output)
    assert done.code == 0
    assert f"bench/test_training.py::test_training[{FAKE}-quick-{FAKE}-cpu-float32]" in done.out
    assert not output.exists()
    arms = ("--fb-arm", f"{FAKE}:fast", "--fb-arm", f"wide={FAKE}:precision=bfloat16", "--fb-preset", "smoke")
    done = pytest_bench(tmp_path, *arms, "--collect-only", "-q", "--fb-output", output)
    assert f"::test_training[{FAKE}-smoke-{FAKE}:fast-cpu-float32]" in done.out
    assert f"::test_training[{FAKE}-smoke-wide-cpu-bfloat16]" in done.out
    skipped = pytest_bench(tmp_path, "--fb-backend", FAKE, "--benchmark-skip", "--fb-output", output)
    assert "1 skipped" in skipped.out
    assert not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fb-backend", "jaxx"), "did you mean 'jax'?"),
        (("--fb-preset", "qick"), "did you mean 'quick'?"),
        (("--fb-backend", FAKE, "--fb-python", "tox=x"), "--python 'tox=x'"),
        (("--fb-arm", f"{FAKE}:fats"), "did you mean 'fast'?"),
        (("--fb-set", "batch_size"), "--set batch_size: expected FIELD=VALUE"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = pytest_bench(tmp_path, *arguments)
    assert done.code == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in done.out.splitlines() if line.strip()]
    assert line.startswith("ERROR: ")
    assert said in line


@pytest.mark.slow
def test_a_framework_that_is_not_installed_is_a_skipped_test_with_the_command_that_adds_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import backends\nbackends.BACKENDS.clear()\n"
        f"backends.BACKENDS['{FAKE}'] = backends.Entry('{FAKE}')\n"
        "backends.BACKENDS['jax'] = backends.Entry('no_such', needs=('no_such',), extra='jax')\n"
    )
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = pytest_bench(tmp_path, "-k", "jax", "-rs", PYTHONPATH=path)
    assert done.code == 0, done.out
    assert 'no_such not installed; add it with: pip install -c constraints.txt -e ".[jax]"' in done.out


# What import refuses.


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process and an empty folder: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["framework-bench", *map(str, arguments)])
        code = commands.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def a_file(records: list[Any]) -> bytes:
    whole = {"machine_info": {}, "benchmarks": [], "version": "5.3.1", pytest_json.KEY: {"records": records}}
    return json.dumps(msgspec.to_builtins(whole)).encode()


GOOD = a_run({"alpha": [100.0, 101.0], "beta": [50.0, 51.0]})
PLAIN = msgspec.to_builtins(a_record())


def test_a_whole_file_is_read(command: Callable[..., tuple[int, str, str]]) -> None:
    Path("good.json").write_bytes(a_file(GOOD))
    code, _, error = command("import", "good.json", "--output", "made")
    assert (code, error) == (0, "")
    assert Path("made/table.md").read_text() == markdown.render(GOOD)
    assert Path("made/table.csv").read_text() == table_csv.render(GOOD)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (a_file(GOOD)[:-1], "Expecting"),
        (a_file(GOOD)[:5000], "Unterminated string|Expecting"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"benchmarks": [], "version": "5.3.1"}', "there are no records of framework-bench in it"),
        (a_file([]), "there are no records of framework-bench in it"),
        (json.dumps({pytest_json.KEY: [1]}).encode(), "there are no records of framework-bench in it"),
        (b'{"benchmarks": [{"stats": {"mean": NaN}}]}', "NaN is not JSON"),
        (b'{"benchmarks": [{"stats": {"mean": 1e999}}]}', "1e999 is beyond the range of a float"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
        (b" " * (files.MAX_BYTES + 1), "larger than"),
        (a_file([1]), "record 1: "),
        (a_file([*GOOD, {**PLAIN, "cell": {**PLAIN["cell"], "kind": "telepathy"}}]), f"record {len(GOOD) + 1}: "),
        (a_file([{**PLAIN, "more": 1}]), "record 1: Object contains unknown field `more`"),
        (a_file([a_record(), a_record()]), "record 2: mnist_mlp-quick-speed-round01-alpha-"),
        (a_file([a_record(task="../../escape")]), "is no name for a file"),
        (a_file([a_record(backend="/etc/passwd")]), "record 1: Expected `str` matching regex"),
        (a_file([a_record(task=".hidden")]), "is no name for a file"),
        (a_file([a_record(task="a\0b")]), "is no name for a file"),
        (a_file([a_record(backend="\x1b[2J\n")]), "record 1: Expected `str` matching regex"),
        (a_file([a_record(task="x" * 300)]), "is no name for a file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_anything_else_is_refused_in_one_line_and_nothing_is_written(
    command: Callable[..., tuple[int, str, str]], content: bytes, said: str
) -> None:
    Path("bad.json").write_bytes(content)
    code, out, error = command("import", "bad.json", "--output", "made")
    assert (code, out) == (2, "")
    assert error.startswith("framework-bench: bad.json: not a file of `pytest bench --benchmark-json`: ")
    assert any(part in error for part in said.split("|"))
    assert error[:-1].isprintable()
    assert [path.name for path in Path().iterdir()] == ["bad.json"]


def test_import_tells_what_breaks_a_rule(
    command: Callable[..., tuple[int, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.json").write_bytes(a_file([*GOOD[:-1], changed(GOOD[-1], unit="giraffes")]))
    with pytest.raises(SystemExit, match="1"):
        command("import", "bad.json", "--output", "made")
    said = capsys.readouterr()
    assert f"{GOOD[-1].cell.file_name}: its unit differs from that of the others of its run\n" in said.err
    assert said.out.startswith(f"{len(GOOD)} records")


def test_import_overwrites_nothing(command: Callable[..., tuple[int, str, str]]) -> None:
    Path("good.json").write_bytes(a_file(GOOD))
    Path("made/records").mkdir(parents=True)
    files.write(Path("made/records/mine.json"), a_record())
    before = Path("made/records/mine.json").read_bytes()
    code, _, error = command("import", "good.json", "--output", "made")
    assert code == 2
    assert "--output made holds 'records': name a new or an empty folder" in error
    assert [path.name for path in Path("made/records").iterdir()] == ["mine.json"]
    assert Path("made/records/mine.json").read_bytes() == before


def test_a_file_that_is_not_there_is_refused(command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, error = command("import", "nowhere.json")
    assert code == 2
    assert "'nowhere.json' does not exist" in error
    with pytest.raises(RecordError, match="Is a directory"):
        pytest_json.read(Path())


def until_steady(tmp_path: Path, *arguments: str) -> tuple[Done, Path]:
    """The fake's calls take microseconds: on a machine that others use, they are at times not steady, and its test fails."""
    for number in range(4):
        folder = tmp_path / f"run{number}"
        done = pytest_bench(
            tmp_path, "--fb-backend", FAKE, "--fb-preset", "smoke", *arguments, "--fb-output", folder,
            "--benchmark-json", tmp_path / "out.json", XDG_CACHE_HOME=str(tmp_path / "cache"),
        )  # fmt: skip
        if "not steady" not in done.out:
            break
    return done, folder


@pytest.mark.slow
def test_predictions_are_benchmarks_of_their_own_and_are_measured_once_for_both_sizes(tmp_path: Path) -> None:
    done, folder = until_steady(tmp_path, "--fb-measure", "inference")
    assert done.code == 0, done.out
    assert "2 passed, 4 deselected" in done.out
    one, batch = json.loads((tmp_path / "out.json").read_bytes())["benchmarks"]
    assert (one["group"], batch["group"]) == (f"{FAKE}, one", f"{FAKE}, batch")
    assert one["extra_info"]["batch_size"] == 1 < batch["extra_info"]["batch_size"]
    assert one["extra_info"]["p50_s"] <= one["extra_info"]["p99_s"]
    assert one["extra_info"]["record"] == batch["extra_info"]["record"]
    assert one["stats"]["mean"] == pytest.approx(1 / one["extra_info"]["images_per_s"], rel=1e-6)
    assert len(list((folder / "records").iterdir())) == 2


@pytest.mark.slow
def test_training_and_predictions_of_one_session_have_one_climb(tmp_path: Path) -> None:
    done, _ = until_steady(tmp_path, "--fb-measure", "training,inference")
    assert (done.code, "3 passed" in done.out) == (0, True), done.out
    told = json.loads((tmp_path / "out.json").read_bytes())
    kinds = sorted(one["cell"]["kind"] for one in told[pytest_json.KEY]["records"])
    assert kinds == ["inference", "memory", "parity", "quality", "speed"]


@pytest.mark.slow
def test_a_mode_of_training_alone_is_a_skipped_test_of_inference(tmp_path: Path, fakes: Callable[..., str]) -> None:
    name = fakes("ok")
    with (tmp_path / "plug-ins" / "plugged" / "ok.py").open("a") as module:
        module.write("MODES = {'default': 'as it is', 'drilled': 'other steps'}\nTRAINING_ONLY = ('drilled',)\n")
    done = pytest_bench(
        tmp_path, "--fb-arm", f"{name}:drilled", "--fb-preset", "smoke", "--fb-measure", "inference", "-rs", "--fb-output",
        tmp_path / "run", XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    assert (done.code, "2 skipped" in done.out) == (0, True), done.out
    assert f"ask for --arm {name}" in done.out


@pytest.mark.slow
def test_loaders_are_benchmarks_of_their_own_and_are_measured_once_for_all_parts(tmp_path: Path) -> None:
    done, folder = until_steady(tmp_path, "--fb-measure", "loading")
    assert (done.code, "3 passed, 3 deselected" in done.out) == (0, True), done.out
    told = {one["group"]: one for one in json.loads((tmp_path / "out.json").read_bytes())["benchmarks"]}
    assert set(told) == {f"{FAKE}, {part}" for part in ("alone", "prepared", "fed")}
    for one in told.values():
        mean_items = one["stats"]["mean"] * one["extra_info"]["images_per_s"]
        assert 1 < mean_items <= 16  # images of a batch, the last one of a pass included
    assert len(list((folder / "records").iterdir())) == 2
