"""The command line: what it answers, what it refuses in one line, and what it leaves behind however it ends."""

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pytest

import backends
from backends import Entry
from bench.campaign.journal import Journal
from bench.cli import commands, running
from bench.machine import locks
from bench.records import digest, files
from bench.records.record import Cell, Outcome, Record
from bench.worker.parity import RUNGS
from tests.builders import a_record, a_run, a_timing, changed, write_records
from tests.conftest import TEST_BACKENDS_VARIABLE, assert_gone, backends_under_test, started, wait_until
from tests.fakes.campaign import FAKE as NAME
from tests.fakes.campaign import Answers, campaigns, good

ROOT = Path(__file__).parent.parent
FAKE = ("--task", NAME, "--backend", NAME, "--device", "cpu")
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "optax")
MISSING = Entry(module="no_such_module", needs=("no_such_module",), extra="pytorch")


class Done(NamedTuple):
    code: int
    out: str
    error: str


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Done]]:
    """Runs the command line in this process, in an empty folder."""
    handler = signal.getsignal(signal.SIGTERM)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["framework-bench", *map(str, arguments)])
        try:
            code = commands.main()
        except SystemExit as error:
            code = int(str(error.code))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


def refusal(done: Done, code: int = 2) -> str:
    """What a command that was refused said: one line, and nothing else."""
    assert done.code == code
    assert done.out == ""
    assert done.error.startswith("framework-bench: ")
    assert done.error.endswith("\n")
    line = done.error[:-1]
    assert line.isprintable()
    return line


def records_in(folder: Path) -> list[Record]:
    records, problems = files.read_folder(folder)
    assert problems == []
    return records


# Help.


def test_help_imports_no_framework_and_no_numpy() -> None:
    program = f"""
import sys
from bench.cli.commands import main
for arguments in (["--help"], ["run", "--help"], ["verify", "--help"], ["report", "-h"], ["--version"]):
    sys.argv = ["framework-bench", *arguments]
    assert main() == 0
heavy = {{"numpy", "pandas", "scipy", "msgspec", "rich", "sklearn", "autograd", *{FRAMEWORKS!r}}}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("loaded: []\n")
    for word in ("run", "verify", "report", "--rounds", "--seeds", "--data-dir", "--output", "pytorch", "mnist_mlp"):
        assert word in done.stdout


@pytest.mark.slow
def test_the_harness_itself_imports_no_framework() -> None:
    rooms = {
        "bench.campaign": "campaign plan parity_cache", "bench.worker": "answer", "bench.cli": "commands arms progress",
        "bench.report": "markdown terminal",
    }  # fmt: skip
    modules = " ".join(f"{room}.{name}" for room, names in rooms.items() for name in names.split())
    program = f"import sys, {', '.join(modules.split())}; print(sorted(set({FRAMEWORKS!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_python_m_bench_is_the_command() -> None:
    command = [sys.executable, "-m", "bench", "frobnicate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "frobnicate" in refusal(Done(done.returncode, done.stdout, done.stderr))


# What is refused before anything runs.


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--task", "mnist_mpl"], ["'mnist_mpl'", "did you mean 'mnist_mlp'?"]),
        (["run", "--backend", "pytroch"], ["'pytroch'", "did you mean 'pytorch'?", "tensorflow", "jax"]),
        (["run", "--backend", "reference"], ["'reference'", "(there are: pytorch, tensorflow, jax)"]),
        (["run", "--preset", "qick"], ["'qick'", "did you mean 'quick'?", "standard"]),
        (["run", "--device", "gpuu"], ["'gpuu'", "did you mean 'gpu'?"]),
        (["run", "--precision", "float23"], ["'float23'", "did you mean 'float32'?"]),
        (["verify", "--backend", "jaxx"], ["'jaxx'", "did you mean 'jax'?"]),
        (["report", ".", "--format", "markdwon"], ["'markdwon'", "did you mean 'markdown'?", "csv"]),
        (["run", "--task", "zzz"], ["there is no task 'zzz' (there are: mnist_mlp"]),
        (["run", "--rounds", "0"], ["--rounds", "0 is not in the range 1<=x<=1000"]),
        (["run", "--rounds", "-3"], ["--rounds"]),
        (["run", "--rounds", "many"], ["--rounds", "'many' is not a valid integer"]),
        (["run", "--seeds", "0"], ["--seeds"]),
        (["run", "--data-dir", "nowhere"], ["--data-dir", "'nowhere' does not exist"]),
        (["report", "nowhere"], ["'nowhere' does not exist"]),
        (["report"], ["Missing argument"]),
        (["rnu"], ["No such command 'rnu'"]),
        (["run", "--round", "3"], ["--round", "--rounds"]),
        (["run", "--backend", ""], ["there is no backend ''"]),
        (["run", "--backend", "a\nb\x1b[2J"], ["there is no backend 'a\\nb\\x1b[2J'"]),
    ],
    ids=" ".join,
)
def test_what_is_unknown_is_refused_with_the_nearest_name(
    bench: Callable[..., Done], arguments: list[str], parts: list[str]
) -> None:
    line = refusal(bench(*arguments))
    for part in parts:
        assert part in line
    assert list(Path().iterdir()) == []


def test_nothing_at_all_shows_the_help(bench: Callable[..., Done]) -> None:
    done = bench()
    assert "Usage: framework-bench [OPTIONS] COMMAND" in done.out + done.error
    assert "framework-bench: Usage" not in done.error


@pytest.mark.parametrize(
    "name", ["no.such.module", "tests.no_such_module", "./backend", "../x/y.z", ".relative", "a..b", "a b.c"]
)
def test_a_module_that_is_no_backend_is_refused(bench: Callable[..., Done], name: str) -> None:
    line = refusal(bench("run", "--task", NAME, "--backend", name))
    assert name in line
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "name", ["no.such.module", "tests.no_such_module", "os.path", "../x/y.z", ".relative", "a b.c"]
)
def test_a_module_that_is_no_task_is_refused(bench: Callable[..., Done], name: str) -> None:
    line = refusal(bench("run", "--task", name, "--backend", NAME))
    assert "--task" in line


def test_data_that_is_not_there_is_refused_with_what_was_expected(bench: Callable[..., Done]) -> None:
    Path("data").mkdir()
    line = refusal(
        bench(
            "run",
            "--task",
            "mnist_mlp",
            "--backend",
            NAME,
            "--preset",
            "standard",
            "--data-dir",
            "data",
        )
    )
    assert "data/mnist" in line


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nothing"])
def test_an_output_that_cannot_be_written_is_refused(bench: Callable[..., Done], output: str) -> None:
    Path("file").write_text("in the way")
    line = refusal(bench("run", *FAKE, "--output", output))
    assert output in line
    assert Path("file").read_text() == "in the way"


@pytest.mark.parametrize("name", [locks.NAME, "records", ".framework-bench-scratch"])
def test_a_link_in_an_empty_folder_leads_nowhere(bench: Callable[..., Done], name: str) -> None:
    Path("mine").mkdir()
    Path("mine/file").write_text("mine")
    Path("run").mkdir()
    Path("run", name).symlink_to("../mine/file" if name == locks.NAME else "../mine")
    Path("made.json").write_bytes(files.encode({"framework_bench": {"records": [a_record()]}}))
    for command in (("run", *FAKE), ("import", "made.json")):
        line = refusal(bench(*command, "--output", "run"))
        assert f"--output run holds '{name}', which is a link" in line
    assert everything_below(Path("mine")) == {"mine/file": b"mine"}
    assert [path.name for path in Path("run").iterdir()] == [name]


Misbehave = Callable[[str], None]


def everything_below(folder: Path) -> dict[str, bytes | None]:
    """Path -> content, None for a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


LOOK_ALIKES = (
    ".env.prodkeys", ".vimrc.original", ".writable", ".lock", "scratch/mine.txt", "logs/mine.log", "records/notes.json",
    "records/.one.json.0123abcd", "corrupt/mine.json", "table.md", "table.csv", "journal.jsonl", "plots/mine.svg",
    ".framework-bench-scratch/mine", ".framework-bench-0123456789abcdef.tmp", "plan.json",
)  # fmt: skip


@pytest.mark.parametrize("name", LOOK_ALIKES)
@pytest.mark.parametrize("output", [".", "run"])
@pytest.mark.slow
def test_a_folder_with_something_in_it_is_refused_by_name_and_left_alone(
    bench: Callable[..., Done], name: str, output: str
) -> None:
    path = Path(output, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = everything_below(Path.cwd())
    line = refusal(bench("run", *FAKE, "--output", output))
    assert f"--output {output} holds" in line
    assert path.relative_to(output).parts[0] in line
    assert everything_below(Path.cwd()) == before


@pytest.mark.slow
def test_a_run_leaves_alone_what_was_put_beside_its_own_files(bench: Callable[..., Done]) -> None:
    """Also when it is continued, and cleans up after a write that was killed."""
    command = ("run", *FAKE, "--rounds", 1, "--seeds", 1, "--output", "run")
    assert bench(*command).code == 0
    mine = [Path("run", name) for name in LOOK_ALIKES if not Path("run", name).exists()]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    next(Path("run/records").glob("*-memory-*")).unlink()
    half = Path("run/records/.framework-bench-0123456789abcdef.tmp")
    half.write_text("half a rec")
    bench(*command)
    assert len(mine) > 10
    assert {path.read_text() for path in mine} == {"mine"}
    assert not half.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--output", ""), ("report", ""), ("compare", "", ""), ("import", ""), ("run", "--data-dir", ""),
        ("report", ".", "--plots", ""), ("selftest", "--json", ""),
    ],
    ids=str,
)  # fmt: skip
def test_an_empty_path_is_refused_and_is_not_the_current_folder(
    bench: Callable[..., Done], command: tuple[str, ...]
) -> None:
    assert "the path is empty" in refusal(bench(*command))
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("wrong", [("--task", "tests.no_such_task"), ("--threads", 1000), ("--effect", 0.05)], ids=str)
def test_a_request_that_is_refused_leaves_nothing_behind(bench: Callable[..., Done], wrong: tuple[object, ...]) -> None:
    refusal(bench("run", "--backend", NAME, *wrong, "--output", "run"))
    assert list(Path.cwd().iterdir()) == []


def test_a_gpu_that_is_not_there_is_refused(bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.describe.gpu_and_driver", lambda: (None, None))
    line = refusal(bench("run", *FAKE[:-2], "--device", "gpu"))
    assert "device gpu: there is no NVIDIA GPU with a driver here" in line


def test_a_named_backend_that_is_not_installed_is_refused_before_anything_runs(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "pytorch", MISSING)  # type: ignore[arg-type]
    line = refusal(bench("run", *FAKE, "--backend", "pytorch", "--output", "run"))
    assert "--backend pytorch: no_such_module not installed; add it with: pip install" in line
    assert '".[pytorch]"' in line
    assert not Path("run").exists()
    assert "--backend pytorch" in refusal(bench("verify", "--backend", "pytorch"))


@pytest.mark.parametrize("command", ["run", "verify"])
def test_without_any_framework_the_commands_that_add_one_are_told(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in list(backends.BACKENDS):
        entry = Entry(module="no_such_module", needs=("no_such_module",), extra=name)
        monkeypatch.setitem(backends.BACKENDS, name, entry)  # type: ignore[arg-type]
    line = refusal(bench(command))
    assert "no framework is installed" in line
    for name in backends.BACKENDS:
        assert f'".[{name}]"' in line
    assert list(Path().iterdir()) == []


# Runs.


@pytest.mark.slow
def test_without_names_what_is_installed_is_compared_and_what_is_not_is_listed(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"pytorch": MISSING, NAME: Entry(NAME)}
    monkeypatch.setattr(backends, "BACKENDS", known)
    done = bench("run", "--task", NAME, "--device", "cpu", "--rounds", 2, "--seeds", 1, "--output", "run")
    assert done.code == 0, done.error
    why = 'no_such_module not installed; add it with: pip install -c constraints.txt -e ".[pytorch]"'
    assert f"pytorch is not in the comparison: {why}" in done.out
    assert "| tests.fake" in done.out
    assert "Tables: run/table.md" in done.out
    found = records_in(Path("run"))
    statuses = [(one.cell.arm.backend, one.outcome.status) for one in found]
    assert sorted(statuses) == [("pytorch", "skipped"), *[(NAME, "ok")] * 5]
    assert len(found) == 1 + 1 + 2 + 1 + 1
    # One line of progress for each, with what is left.
    progress = [line for line in done.error.splitlines() if line.startswith("[")]
    assert [line.partition(",")[0] for line in progress] == [f"[{number}/5" for number in range(1, 6)]
    assert "all rungs passed" in progress[0]
    assert "images/s" in progress[1]
    # The table comes from the records: the same bytes again.
    again = bench("report", "run")
    assert again.code == 0
    assert again.out.encode() == Path("run/table.md").read_bytes()
    assert done.out.startswith(again.out)
    assert bench("report", "run", "--format", "csv").out.encode() == Path("run/table.csv").read_bytes()
    assert sorted(path.name for path in Path("run").iterdir()) == [
        ".framework-bench.lock",
        "journal.jsonl",
        "logs",
        "plan.json",
        "records",
        "records.sha256",
        "table.csv",
        "table.md",
    ]


@pytest.mark.slow
def test_a_cell_that_fails_makes_the_exit_code_1_and_stands_in_the_table(
    bench: Callable[..., Done], misbehave: Misbehave
) -> None:
    misbehave("raises in open")
    done = bench("run", *FAKE, "--rounds", 1, "--seeds", 1, "--output", "run")
    assert done.code == 1
    assert "RuntimeError: no session today" in done.out
    assert "Nothing is compared" in done.out
    assert len(records_in(Path("run"))) == 4
    assert "no session today" in Path("run/table.md").read_text()


@pytest.mark.slow
def test_the_output_is_a_new_folder_of_results_unless_named(bench: Callable[..., Done], misbehave: Misbehave) -> None:
    misbehave("raises in open")
    bench("run", *FAKE, "--rounds", 1, "--seeds", 1)
    (folder,) = Path("results/local").iterdir()
    assert len(records_in(folder)) == 4


def test_a_full_disk_is_said_in_one_line_and_earlier_records_are_intact(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = files.write_bytes, []

    def full(path: Path, content: bytes, *, via: Path | None = None) -> None:
        calls.append(path)
        if len(calls) > 4:  # the plan and three records
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, via=via)

    monkeypatch.setattr(files, "write_bytes", full)
    failing = Answers(status="failed", reason="not run in this test")
    monkeypatch.setattr(running, "Campaign", campaigns(failing))
    done = bench("run", *FAKE, "--rounds", 1, "--seeds", 1, "--output", "run")
    assert done.code == 1
    (line,) = [line for line in done.error.splitlines() if line.startswith("framework-bench: ")]
    assert "No space left on device" in line
    assert "every finished record is intact" in line
    assert len(records_in(Path("run"))) == 3
    assert "Traceback" not in done.error


@pytest.mark.slow
def test_a_failed_process_is_kept_and_told_until_it_is_to_be_retried(
    bench: Callable[..., Done], misbehave: Misbehave
) -> None:
    command = ("run", *FAKE, "--rounds", 1, "--seeds", 1, "--output", "run")
    misbehave("raises")
    assert bench(*command).code == 1
    misbehave("ok")
    Path("run/records/foreign.json").write_text("{}")
    half = next(Path("run/records").glob("*-memory-*"))
    half.write_bytes(half.read_bytes()[:500])
    done = bench(*command)
    assert done.code == 1
    said = done.error.splitlines()
    assert said[0] == "continuing: 3 of 4 processes are done"
    assert f"records/{half.name}: not a record: " in said[1]
    assert said[1].endswith(f"; moved to run/corrupt/{half.stem}.1.json; it runs again")
    name = f"{NAME} {NAME}"
    assert said[2].startswith(f"{name} speed round 1 is kept as it is (failed: RuntimeError: the layer is broken")
    assert said[3].startswith(f"{name} quality seed 0 is kept as it is (failed: RuntimeError")
    assert said[4] == "to run again what failed, add --retry-failed"
    assert said[5].startswith(f"[4/4, more than 5 s left] {name} memory: ok")
    Path("run/records/foreign.json").unlink()
    done = bench(*command, "--retry-failed")
    assert done.code == 0
    assert [one.outcome.status for one in records_in(Path("run"))] == ["ok"] * 4


@pytest.mark.slow
def test_a_run_with_other_options_into_the_same_folder_is_refused(
    bench: Callable[..., Done], misbehave: Misbehave
) -> None:
    misbehave("raises in open")
    assert bench("run", *FAKE, "--rounds", 1, "--seeds", 1, "--output", "run").code == 1
    line = refusal(bench("run", *FAKE, "--rounds", 4, "--seeds", 1, "--output", "run"))
    assert f"--output run holds another comparison: --rounds of {NAME} was 1, now 4; name a new folder" in line
    assert len(records_in(Path("run"))) == 4


@pytest.mark.slow
def test_a_run_that_plans_its_rounds_is_continued_with_all_of_them(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the preset's, so that the preset says nothing about what is done."""

    def noisy(cell: Cell) -> Outcome:
        swing = 1 + 0.2 * math.sin(cell.round * (3 if cell.arm.mode == "fast" else 2))
        timings = {"timings": a_timing(1000 * swing, block_steps=100)} if cell.kind in ("pilot", "speed") else {}
        return msgspec.structs.replace(good(cell), wall_s=5.0, **timings)

    held: list[str] = []
    holding = locks.device
    monkeypatch.setattr(running, "Campaign", campaigns(Answers(noisy)))
    monkeypatch.setattr(locks, "device", lambda name, **how: (held.append(name), holding(name, **how))[1])
    command = ("run", *FAKE, "--arm", f"{NAME}:fast", "--rounds", "auto", "--seeds", 1, "--output", "run")
    done = bench(*command)
    assert done.code == 0, done.error
    assert len(records_in(Path("run"))) == 2 * (1 + 3 + 30 + 1 + 1)  # 30 are the most that are planned
    next(Path("run/records").glob("*-speed-round30-*")).unlink()
    for finished, locked in ((70, 2), (72, 2)):  # a round is made whole
        done = bench(*command)
        assert done.code == 0, done.error
        assert f"continuing: {finished} of 72 processes are done" in done.error
        assert len(held) == locked


# Interruptions.


RUN = [sys.executable, "-m", "bench", "run", *FAKE, "--rounds", "2", "--seeds", "1", "--output"]


@contextmanager
def hanging(
    tmp_path: Path, misbehave: Misbehave, *, interruptible: bool
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run whose first speed process hangs, and the ids of all processes below it."""
    misbehave("hangs with a grandchild")

    def as_a_shell_would() -> None:  # in the foreground; or with nohup, or & in a script
        signal.signal(signal.SIGINT, signal.SIG_DFL if interruptible else signal.SIG_IGN)

    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started([*RUN, str(tmp_path / "run")], preexec_fn=as_a_shell_would, **options) as process:
        children: list[int] = []

        def hangs() -> bool:  # parity is done, and the speed process has a child of its own
            assert process.poll() is None
            children[:] = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            return len(children) == 2

        wait_until(hangs)
        yield process, children


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_and_leaves_no_gap_and_no_process(
    tmp_path: Path, misbehave: Misbehave, number: signal.Signals, code: int
) -> None:
    with hanging(tmp_path, misbehave, interruptible=True) as (process, children):
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in error
    assert_gone(*children)
    found = {(one.cell.kind, one.cell.round): one.outcome for one in records_in(tmp_path / "run")}
    assert set(found) == {("parity", 1), ("speed", 1), ("speed", 2), ("memory", 1), ("quality", 1)}
    assert found.pop(("parity", 1)).status == "ok"
    assert {(one.status, one.reason) for one in found.values()} == {("interrupted", "the run was interrupted")}
    assert "interrupted" in (tmp_path / "run" / "table.md").read_text()
    if number == signal.SIGINT:
        assert error.splitlines()[-1] == "framework-bench: interrupted; what was finished is kept"
    assert f"to continue: the same command with --output {tmp_path / 'run'}" in error


@pytest.mark.slow
def test_a_run_that_was_started_to_ignore_ctrl_c_goes_on_and_still_ends_by_sigterm(
    tmp_path: Path, misbehave: Misbehave
) -> None:
    """As a run with nohup or in a script's background does."""
    with hanging(tmp_path, misbehave, interruptible=False) as (process, children):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in error
    assert_gone(*children)


@pytest.mark.slow
def test_a_run_that_was_started_to_ignore_ctrl_c_comes_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *RUN, str(tmp_path / "run")], cwd=ROOT, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {one.outcome.status for one in records_in(tmp_path / "run")} == {"ok"}


# Verify.


@pytest.mark.slow
def test_verify_prints_every_rung(bench: Callable[..., Done]) -> None:
    done = bench("verify", *FAKE)
    assert done.code == 0, done.error
    for precision in ("float64", "float32"):
        lines = [line for line in done.out.splitlines() if f" {precision} on cpu " in line]
        assert len(lines) == len(RUNGS)
        for line in lines:
            assert line.lstrip().startswith("ok ")
            assert "difference" in line
            assert "tolerance" in line
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_verify_climbs_anew_whatever_is_in_the_cache(bench: Callable[..., Done], misbehave: Misbehave) -> None:
    assert bench("verify", *FAKE).code == 0
    misbehave("wrong learning rate")
    assert bench("verify", *FAKE).code == 1


@pytest.mark.slow
def test_verify_ends_with_1_and_names_the_rung(bench: Callable[..., Done], misbehave: Misbehave) -> None:
    misbehave("wrong learning rate")
    done = bench("verify", *FAKE)
    assert done.code == 1
    (line,) = done.error.splitlines()
    assert line.startswith(f"framework-bench: {NAME} {NAME}: parity: fell at rung 5 (one update)")
    assert "FAILED float64 on cpu  5 one update" in done.out


# Reports.


def test_a_device_is_no_folder(bench: Callable[..., Done]) -> None:
    assert "'/dev/null' is not a folder" in refusal(bench("run", *FAKE, "--data-dir", "/dev/null", "--output", "run"))
    assert not Path("run").exists()


def test_a_folder_without_records_is_refused(bench: Callable[..., Done]) -> None:
    Path("run").mkdir()
    assert "no records below run/records: give the folder that" in refusal(bench("report", "run"))


def test_good_records_are_shown_and_each_bad_file_is_a_line(bench: Callable[..., Done]) -> None:
    write_records(Path("run"), a_run({"alpha": [100.0, 101.0], "beta": [50.0, 51.0]}))
    clean = bench("report", "run")
    assert (clean.code, clean.error) == (0, "")
    Path("run/records/half.json").write_bytes(next(Path("run/records").iterdir()).read_bytes()[:200])
    Path("run/records/foreign.json").write_text('{"name": "something else", "version": "1.0.0"}')
    Path("run/records/hostile.json").write_text('{"\\u001b[2J\\n": 1}')
    Path("run/records/folder.json").mkdir()
    done = bench("report", "run")
    assert done.code == 1
    assert done.out == clean.out
    lines = done.error.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"run/records/{name}.json" for name in ("folder", "foreign", "half", "hostile")
    ]
    assert all(line.isprintable() for line in lines)


def test_only_foreign_files_are_no_report(bench: Callable[..., Done]) -> None:
    Path("run/records").mkdir(parents=True)
    Path("run/records/package.json").write_text('{"name": "something else"}')
    done = bench("report", "run")
    assert done.code == 2
    assert done.out == ""
    assert len(done.error.splitlines()) == 2


def test_a_report_changes_nothing(bench: Callable[..., Done]) -> None:
    write_records(Path("run"), [a_record()])
    before = sorted(Path("run").rglob("*"))
    bench("report", "run")
    assert sorted(Path("run").rglob("*")) == before


def a_folder(name: str, made: list[Record]) -> Path:
    return write_records(Path(name), made)


TWO_ROUNDS = {"alpha": [100.0, 101.0], "beta": [50.0, 51.0]}


def test_several_folders_make_one_report_with_a_table_for_each_run(bench: Callable[..., Done]) -> None:
    one = a_folder("one", a_run(TWO_ROUNDS, id="1"))
    two = a_folder("two", a_run({"alpha": [200.0, 202.0]}, id="2"))
    copy = a_folder("copy", a_run(TWO_ROUNDS, id="1"))
    alone = bench("report", one).out
    both = bench("report", one, two)
    assert both.code == 0
    assert both.out.count("## mnist_mlp: preset") == 2
    for run, text in ((1, alone), (2, bench("report", two).out)):
        title, _, rest = text.partition("\n")
        assert f"{title} (A CPU, run {run})\n{rest}" in both.out  # two machines and runs are told apart
    assert bench("report", two, one).out == both.out
    assert bench("report", one, one, copy).out == alone  # a copy adds no process
    (Path("empty") / "records").mkdir(parents=True)
    assert "no records below empty/records" in refusal(bench("report", one, "empty"))


@pytest.mark.slow
@pytest.mark.parametrize("form", commands.FORMATS)
def test_every_format_is_printed_twice_the_same(bench: Callable[..., Done], form: str) -> None:
    a_folder("one", a_run(TWO_ROUNDS))
    done = bench("report", "one", "--format", form)
    assert (done.code, done.error) == (0, "")
    assert {"sweep": "No sweep", "history": "No history"}.get(form, "alpha") in done.out
    assert bench("report", "one", "--format", form).out == done.out
    assert sorted(path.name for path in Path("one").iterdir()) == ["records"]


@pytest.mark.slow
def test_plots_go_into_a_new_folder_only(bench: Callable[..., Done]) -> None:
    folder = a_folder("one", a_run(TWO_ROUNDS, task="..evil"))
    assert bench("report", "one", "--plots", "new/plots").code == 0
    assert {path.suffix for path in Path("new/plots").iterdir()} == {".svg", ".png"}
    assert sorted(str(path) for path in Path().iterdir()) == ["new", "one"]
    before = Path("new/plots/table1-totals.svg").stat().st_mtime_ns
    done = bench("report", "one", "--plots", "new/plots")
    assert (done.code, "--plots new/plots is not empty" in done.error) == (2, True)
    assert Path("new/plots/table1-totals.svg").stat().st_mtime_ns == before
    assert bench("report", "one", "--plots", next((folder / "records").iterdir()) / "x").code == 2


def test_plots_that_the_disk_does_not_take_leave_nothing_and_can_be_asked_for_again(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_folder("one", a_run(TWO_ROUNDS))
    drawn = {"a.svg": b"1", "b.svg": b"2"}

    def write(path: Path, content: bytes) -> None:
        if path.name == "b.svg":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr("bench.report.plots.files", lambda records: iter(drawn.items()))
        patch.setattr(files, "write_bytes", write)
        done = bench("report", "one", "--plots", "new")
        assert (done.code, done.error) == (1, "framework-bench: --plots new: No space left on device\n")
        assert not list(Path("new").iterdir())
        patch.undo()
    assert bench("report", "one", "--plots", "new").code == 0


@pytest.mark.parametrize("price", ["nan", "inf", "1e308", "0", "-1"])
def test_a_price_is_a_number_that_can_be_counted_with(bench: Callable[..., Done], price: str) -> None:
    a_folder("one", a_run(TWO_ROUNDS))
    assert "--price-per-hour" in refusal(bench("report", "one", "--price-per-hour", price))


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("> /dev/full", 1, "framework-bench: standard output: No space left on device\n"),
        (">&-", 0, ""),
        ("| true", 0, ""),  # which has ended before anything is written
    ],
)
@pytest.mark.parametrize("command", ["--help", "report one --format csv"])
def test_an_output_that_cannot_be_written_is_no_traceback(
    tmp_path: Path, command: str, redirected: str, code: int, said: str
) -> None:
    write_records(tmp_path / "one", a_run(TWO_ROUNDS))
    line = f"{sys.executable} -m bench {command} {redirected}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_a_history_of_folders_refuses_what_is_for_measuring(bench: Callable[..., Done]) -> None:
    a_folder("one", a_run(TWO_ROUNDS))
    assert "--task is for --releases" in refusal(bench("history", "one", "--task", "gru_lm"))


def test_a_name_that_no_folder_can_have_is_refused(bench: Callable[..., Done]) -> None:
    Path("file").touch()
    for name in (300 * "a", "file/x"):
        assert "cannot write there" in refusal(bench("run", *FAKE, "--output", name))


def test_a_comparison_ends_with_the_code_that_was_asked_for(bench: Callable[..., Done]) -> None:
    a_folder("before", a_run(TWO_ROUNDS, id="1"))
    a_folder("same", a_run(TWO_ROUNDS, id="2"))
    a_folder("slower", a_run({"alpha": [10.0, 10.1], "beta": [50.0, 51.0]}, id="3"))
    a_folder("lost", a_run({"alpha": [100.0, 101.0]}, id="3"))
    a_folder("other", a_run(TWO_ROUNDS, task="other"))
    for after, plain, gate in (("same", 0, 0), ("slower", 0, 1), ("lost", 0, 1)):
        assert bench("compare", "before", after).code == plain
        done = bench("compare", "before", after, "--fail-on", "slower")
        assert done.code == gate
        assert done.error.startswith("--fail-on slower: mnist_mlp ") == (gate == 1)
        assert "mnist_mlp alpha" in done.out.replace("\\", "")
    assert "before and other: no cell in common" in refusal(bench("compare", "before", "other"))
    assert "there is no verdict 'slow'; did you mean 'slower'?" in refusal(
        bench("compare", "a", "b", "--fail-on", "slow")
    )
    assert "'nowhere' does not exist" in refusal(bench("compare", "before", "nowhere"))
    Path("same/records/half.json").write_text("{")
    done = bench("compare", "before", "same")
    assert (done.code, len(done.error.splitlines())) == (1, 1)
    assert "mnist" in done.out


def test_what_records_say_does_nothing_to_a_terminal(bench: Callable[..., Done]) -> None:
    a_folder("before", a_run(TWO_ROUNDS, task="x\x1b[2J", id="1"))
    lost = [
        changed(one, status="failed", reason="why\x1b[2J", timings=None) if one.cell.kind == "speed" else one
        for one in a_run({"alpha": [100.0, 101.0]}, task="x\x1b[2J", id="3")
    ]
    a_folder("lost", lost)
    done = bench("compare", "before", "lost", "--fail-on", "slower")
    assert done.code == 1
    assert "why?[2J" in done.error
    assert "--fail-on slower: x [2J beta (preset quick) is missing" in done.error
    assert "\x1b" not in done.error
    broken = [a_record(task="x\x1b[2J", round=number, step_flops=number) for number in (1, 2)]
    a_folder("broken", broken)
    for command in (("report", "broken"), ("compare", "broken", "broken")):
        done = bench(*command)
        assert "x?" in done.error
        assert "\x1b" not in done.error


def test_a_report_leaves_out_what_is_not_as_the_journal_says(bench: Callable[..., Done]) -> None:
    """Though the digest was made anew."""
    made = a_run(TWO_ROUNDS)
    folder = a_folder("one", made)
    for one in made:
        Journal(folder).add("end", one.cell, status="ok", sha256=digest.of(files.encode(one)))
    files.write_digest(folder)
    assert bench("report", "one").error == ""
    name = made[1].cell.file_name
    files.write(folder / "records" / name, changed(made[1], timings=a_timing(200)))
    files.write_digest(folder)
    done = bench("report", "one")
    assert done.code == 1
    assert f"{name}: not a record: it was changed after the run ended (journal.jsonl)\n" in done.error
    assert "not ranked: 1 of 2 rounds" in done.out


# The suite's own choice of frameworks (tests/conftest.py).


def test_a_framework_that_is_named_for_testing_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.BACKENDS, "jax", MISSING)  # type: ignore[arg-type]
    with pytest.raises(
        pytest.UsageError, match=f"{TEST_BACKENDS_VARIABLE} names jax, but not installed: no_such_module"
    ):
        backends_under_test("jax")
    with pytest.raises(pytest.UsageError, match="names 'caffe', but there are: pytorch, tensorflow, jax"):
        backends_under_test("caffe")
    assert "jax" not in backends_under_test(None)
    assert backends_under_test("") == []
