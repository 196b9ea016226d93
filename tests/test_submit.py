"""Whole runs handed to a cluster: submitit's executor on this machine, and a Slurm that is made of scripts."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from bench.cli import submitting
from bench.cli.commands import cli
from bench.cli.submitting import JOBS, SUBMITTED
from bench.records import files
from tests.conftest import wait_until
from tests.fakes.campaign import FAKE

ROOT = Path(__file__).parent.parent
RUN = ("--task", FAKE, "--backend", FAKE, "--device", "cpu", "--rounds", "2")


@pytest.fixture(autouse=True)
def from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def submit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["submit", *map(str, arguments)])


def submit_live(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """In a process that ends: the jobs outlive it, and have its output, so that a pipe would wait for them."""
    command = [sys.executable, "-P", "-m", "bench", "submit", *map(str, arguments)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=120, check=False)
        output.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, output.read())


def a_launcher(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return path


def states(folder: Path) -> dict[str, str]:
    return {one.name: one.state for one in submitting.status(folder)}


def tasks_of(folder: Path, name: str) -> list[psutil.Process]:
    """The processes of a machine's job: its controller's children."""
    job = json.loads((folder / JOBS / SUBMITTED).read_text())[name]["job"]
    return psutil.Process(int(job)).children()


@pytest.mark.slow
def test_a_campaign_of_three_machines_of_which_one_is_killed_and_one_preempted(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, "executor = 'local'\n[machines.one]\n[machines.killed]\n[machines.preempted]\n")
    out = tmp_path / "out"
    slowly = (*RUN, "--cool-down", "2")
    first = submit_live("--launcher", launcher, "--output", out, *slowly)
    assert first.returncode == 0, first.stdout
    assert set(states(out)) == {"one", "killed", "preempted"}

    wait_until(lambda: bool(tasks_of(out, "killed") and tasks_of(out, "preempted")), patience_s=60)
    job = psutil.Process(int(submitting.submitted(out)["killed"].job))
    for process in [job, *job.children(recursive=True)]:
        process.kill()
    wait_until(lambda: states(out)["killed"] == "gone", patience_s=60)
    told = submit_live("--status", "--output", out)
    assert told.returncode == 1
    assert "killed     gone" in told.stdout

    (task,) = tasks_of(out, "preempted")
    wait_until(lambda: bool(task.children()), patience_s=60)
    task.send_signal(signal.SIGUSR2)
    wait_until(lambda: "preempted" in log_of(out, "preempted"), patience_s=60)

    again = submit_live("--launcher", launcher, "--output", out, *slowly)
    assert again.returncode == 0, again.stdout
    wait_until(lambda: set(states(out).values()) == {"complete"}, patience_s=300)
    gathered = submit_live("--gather", "--output", out)
    assert gathered.returncode == 0, gathered.stdout
    assert gathered.stdout.count("complete") == 3
    for name in states(out):
        records, problems = files.read_folder(out / name)
        assert problems == []
        assert {one.outcome.status for one in records} == {"ok"}, name

    known = submitting.submitted(out)
    submit_live("--launcher", launcher, "--output", out, *slowly)
    assert submitting.submitted(out) == known  # what is complete is left alone


def log_of(folder: Path, name: str) -> str:
    job = submitting.submitted(folder)[name].job
    return "".join(path.read_text() for path in (folder / JOBS).glob(f"{job}_*_log.out"))


@pytest.mark.slow
def test_a_machine_that_lacks_what_is_asked_for_is_a_line_with_its_log(tmp_path: Path) -> None:
    without = tmp_path / "python"
    without.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    without.chmod(0o755)
    launcher = a_launcher(tmp_path, f"executor = 'local'\n[machines.bare]\npython = '{without}'\n")
    out = tmp_path / "out"
    assert submit_live("--launcher", launcher, "--output", out, *RUN).returncode == 0
    wait_until(lambda: states(out)["bare"] == "failed", patience_s=60)
    told = submit_live("--status", "--output", out)
    assert told.returncode == 1
    assert "No module named" in told.stdout
    assert "_log.err" in told.stdout


def test_slurm_gets_a_whole_machine_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm, scripts = tmp_path / "bin", tmp_path / "scripts"
    slurm.mkdir()
    scripts.mkdir()
    programs = {
        "srun": "exit 0",
        "sbatch": f'number=$(ls {scripts} | wc -l)\ncp "$1" {scripts}/$number\necho "Submitted batch job 7$number"',
        "squeue": f"test -e {tmp_path}/over || echo PENDING",
    }
    for name, text in programs.items():
        (slurm / name).write_text(f"#!/bin/sh\n{text}\n")
        (slurm / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{slurm}:{os.environ['PATH']}")
    launcher = a_launcher(
        tmp_path,
        "[parameters]\ntimeout_min = 90\nslurm_partition = 'bench'\n"
        "[machines.epyc]\nslurm_constraint = 'epyc'\n[machines.xeon]\nslurm_exclusive = false\n",
    )
    out = tmp_path / "out"
    done = submit("--launcher", launcher, "--output", out, *RUN)
    assert done.exit_code == 0, done.output
    assert {name: job.job for name, job in submitting.submitted(out).items()} == {"epyc": "70", "xeon": "71"}
    epyc, xeon = ((scripts / number).read_text() for number in "01")
    for line in ("--exclusive", "--constraint=epyc", "--partition=bench", "--time=90", "--nodes=1"):
        assert f"#SBATCH {line}\n" in epyc
    assert "--exclusive" not in xeon
    assert "--job-name=framework-bench-xeon" in xeon
    assert states(out) == {"epyc": "waiting", "xeon": "waiting"}
    (tmp_path / "over").touch()
    assert states(out) == {"epyc": "gone", "xeon": "gone"}


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = submit("--launcher", a_launcher(tmp_path, "[machines.one]\n"), "--output", tmp_path / "out", *RUN)
    assert done.exit_code == 2
    assert "srun" in done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machines = 3", "Expected `object`"),
        ("[machines.one", "--launcher"),
        ("[machines.one]\n[colour]\n", "unknown field `colour`"),
        ("executor = 'pigeon'\n[machines.one]\n", "pigeon"),
        ("[machines]\n", "names no machine"),
        ("executor = 'local'\n[machines.'../up']\n", "no name for a machine's folder"),
        ("executor = 'local'\n[machines.jobs]\n", "no name for a machine's folder"),
        ("executor = 'local'\n[machines.one]\nwings = 2\n", "wings"),
        ("executor = 'local'\n[machines.one]\npython = 3\n", "python of one is 3: expected a path"),
        ("executor = 'local'\n[machines.one]\ntimeout_min = 'x'\n", "timeout_min"),
    ],
)  # fmt: skip
def test_a_launcher_that_cannot_be_used_submits_nothing(tmp_path: Path, text: str, said: str) -> None:
    out = tmp_path / "out"
    done = submit("--launcher", a_launcher(tmp_path, text), "--output", out, *RUN)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert submitting.submitted(out) == {}


def test_a_wrong_option_of_the_run_is_said_before_anything_is_submitted(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, "executor = 'local'\n[machines.one]\n")
    done = submit("--launcher", launcher, "--output", tmp_path / "out", "--task", "mnist_mpl")
    assert done.exit_code == 2
    assert "did you mean 'mnist_mlp'?" in done.output
    done = submit("--launcher", launcher, "--output", tmp_path / "out", "--arm", "nonsense")
    assert done.exit_code == 2
    assert "nonsense" in done.output
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, "executor = 'local'\n[machines.one]\n")
    done = submit("--launcher", launcher, "--output", "/proc/nowhere", *RUN)
    assert done.exit_code == 2
    assert "cannot write there" in done.output


def test_what_was_not_submitted_has_no_status(tmp_path: Path) -> None:
    done = submit("--status", "--output", tmp_path)
    assert done.exit_code == 2
    assert "nothing was submitted" in done.output
    assert submit("--output", tmp_path, *RUN).exit_code == 2  # no launcher


def test_without_submitit_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = submit("--launcher", a_launcher(tmp_path, "[machines.one]\n"), "--output", tmp_path / "out", *RUN)
    assert done.exit_code == 2
    assert 'pip install "framework-bench[cluster]"' in done.output
