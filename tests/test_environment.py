"""The environment of a measured process: what reaches it, what does not, and what an arm adds to it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import Entry
from bench.campaign import parity_cache
from bench.process import environment, execute
from bench.process.launch import MARK
from bench.process.phases import VARIABLE
from bench.records import files
from bench.records.record import Arm
from bench.records.text import printable
from bench.report import grouping
from tests.fakes.campaign import FAKE, a_planned_cell, an_arm
from tests.test_cli import Done, bench, refusal

__all__ = ["bench"]  # the fixture

ROOT = Path(__file__).parent.parent

HARMFUL = {
    "OMP_NUM_THREADS": "1", "KMP_AFFINITY": "compact", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true", "JAX_COMPILATION_CACHE_DIR": "/tmp/cache", "JAX_ENABLE_X64": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2", "TF_ENABLE_ONEDNN_OPTS": "0", "KERAS_BACKEND": "jax", "TORCHINDUCTOR_CACHE_DIR": "x",
    "PYTORCH_CUDA_ALLOC_CONF": "x", "TRITON_CACHE_DIR": "x", "CUDA_LAUNCH_BLOCKING": "1", "MALLOC_ARENA_MAX": "1",
    "LD_PRELOAD": "", "GLIBC_TUNABLES": "", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": "1",
    "COV_CORE_SOURCE": "bench", "COVERAGE_PROCESS_START": "x", "NPROC": "1",
}  # fmt: skip
"""What a user's shell may hold -> a value of it. A framework, a library or Python obeys each of them."""

TELLS = """
import json, os, sys
from pathlib import Path
from tests.fakes import backend
versions = backend.versions

def open_session(*arguments):
    Path(os.environ["TMPDIR"], "left by a backend").write_text("")
    names = {name: value for name, value in os.environ.items()}
    Path(os.environ["XDG_CACHE_HOME"], f"told-{os.getpid()}.json").write_text(json.dumps(names))
    return backend.open_session(*arguments)
"""


@pytest.fixture
def tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend that writes down the environment of its processes."""
    package = tmp_path / "plug-ins" / "plugged"
    package.mkdir(parents=True)
    (package / "tells.py").write_text(TELLS)
    (tmp_path / "cache").mkdir()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return "plugged.tells"


def told(tmp_path: Path) -> list[dict[str, str]]:
    """The environments that processes of `tells` have written down, and nothing else afterwards."""
    found = []
    for path in sorted((tmp_path / "cache").glob("told-*.json")):
        found.append(json.loads(path.read_text()))
        path.unlink()
    return found


def measured(tmp_path: Path, arm: Arm, **changes: object) -> dict[str, str]:
    """What a process of an arm finds in its environment."""
    run, cell = a_planned_cell(arm, **{"kind": "memory"} | changes)
    done = execute.execute(run, cell, tmp_path, data_dir=None)
    assert (done.outcome.status, done.outcome.reason) == ("ok", None)
    (found,) = told(tmp_path)
    return found


# What reaches a process.


@pytest.mark.slow
def test_nothing_reaches_a_process_that_is_not_on_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: str
) -> None:
    for name, value in {**HARMFUL, "SOME_VARIABLE_OF_THE_USER": "1", "DISPLAY": ":0"}.items():
        monkeypatch.setenv(name, value)
    found = measured(tmp_path, an_arm(tells))
    expected = {"LC_CTYPE", MARK}  # PEP 538, where the locale is C; and by which its own children are known
    unexpected = {name for name in found if not environment.ALLOWED.fullmatch(name)} - expected
    assert unexpected == set()
    assert not {name for name in found if name in HARMFUL}
    assert VARIABLE not in found  # the worker has taken it over
    assert found["CUDA_VISIBLE_DEVICES"] == "-1"
    assert found["PATH"] == os.environ["PATH"]


def test_what_programs_need_to_find_their_things_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "HOME": "/home/x", "LANG": "C.UTF-8", "LC_ALL": "C", "TZ": "UTC", "LD_LIBRARY_PATH": "/opt/lib", "https_proxy": "http://x",
        "SSL_CERT_FILE": "x", "HF_HOME": "x", "XDG_CACHE_HOME": "x", "FRAMEWORK_BENCH_OFFLINE": "1",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = environment.for_child(Entry(FAKE), an_arm())
    assert given.items() <= found.items()


def test_an_entry_says_what_its_processes_need_and_the_shell_does_not_change_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    entry = Entry("a", env={"KERAS_BACKEND": "tensorflow"}, env_cpu={"CPU": "1"}, env_memory={"MEMORY": "1"})
    on_cpu, on_gpu = an_arm(), an_arm(device="gpu")
    for arm, shares, names in (
        (on_cpu, False, {"KERAS_BACKEND", "CPU"}), (on_cpu, True, {"KERAS_BACKEND", "CPU", "MEMORY"}),
        (on_gpu, False, {"KERAS_BACKEND"}), (on_gpu, True, {"KERAS_BACKEND", "MEMORY"}),
    ):  # fmt: skip
        found = environment.for_child(entry, arm, shares_device=shares)
        assert {name for name in found if name in ("KERAS_BACKEND", "CPU", "MEMORY")} == names
        assert found["KERAS_BACKEND"] == "tensorflow"


def test_no_gpu_is_in_sight_where_the_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert environment.for_child(Entry(FAKE), an_arm())["CUDA_VISIBLE_DEVICES"] == "-1"
    assert environment.for_child(Entry(FAKE), an_arm(device="gpu"))["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("before", [None, "/somewhere/else"])
def test_a_clone_is_importable_and_the_users_path_stays(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    if before is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", before)
    path = environment.for_child(Entry(FAKE), an_arm())["PYTHONPATH"].split(os.pathsep)
    assert path == [str(ROOT), *filter(None, [before])]


@pytest.mark.slow
def test_a_temporary_folder_is_a_process_own_and_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: str
) -> None:
    """Else a cache of compiled code would be found by the next process."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    folders = [Path(measured(tmp_path, an_arm(tells))["TMPDIR"]) for _ in range(2)]
    assert folders[0] != folders[1]
    assert {folder.parent for folder in folders} == {tmp_path / "temporary"}
    assert list((tmp_path / "temporary").iterdir()) == []


# What does not, and is told.


def test_the_known_variables_that_are_left_out_are_named_with_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.left_out() == []  # the tests' own fixture sees to that
    for name, value in {**HARMFUL, "PATH": "/bin", "LANG": "C", "EDITOR": "vi"}.items():
        monkeypatch.setenv(name, value)
    assert environment.left_out() == sorted(f"{name}={value}" for name, value in HARMFUL.items())


def test_what_an_image_of_python_or_cuda_sets_about_itself_is_not_worth_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHON_VERSION", "PYTHON_SHA256", "PYTHON_PIP_VERSION", "CUDA_VERSION", "NVIDIA_REQUIRE_CUDA"):
        monkeypatch.setenv(name, "x")
    assert environment.left_out() == []


@pytest.mark.slow
def test_a_run_tells_in_one_line_what_it_does_not_pass_on(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XLA_FLAGS", "--a\x1b[2J\n=b")
    done = bench("verify", "--task", FAKE, "--backend", FAKE, "--device", "cpu")
    assert done.code == 0, done.error
    (line,) = done.error.splitlines()
    assert line.startswith("not passed on to the measured processes: OMP_NUM_THREADS=1, XLA_FLAGS=--a")
    assert line.endswith(f"to measure what one does, --arm {FAKE}:env.OMP_NUM_THREADS=...")
    assert line.isprintable()


# What an arm adds.

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_an_arms_variables_reach_its_own_processes_only(tmp_path: Path, tells: str) -> None:
    arm = an_arm("one", backend=tells, environment={"OMP_NUM_THREADS": "1", "EMPTY": "", "ODD": "a,b=c d"})
    found = measured(tmp_path, arm)
    assert arm.environment.items() <= found.items()
    assert not set(arm.environment) & set(measured(tmp_path, an_arm(tells)))
    assert not set(arm.environment) & set(os.environ)


def test_an_arms_variables_are_in_its_keys_and_its_file_names() -> None:
    run, plain = a_planned_cell(an_arm())
    _, other = a_planned_cell(an_arm(environment=ONE_THREAD))
    assert plain.key != other.key
    assert plain.file_name != other.file_name
    assert parity_cache.key(plain, run.machine) != parity_cache.key(other, run.machine)


@pytest.mark.slow
def test_an_arms_variables_are_in_its_records_and_its_row_and_the_shell_does_not_change_a_run(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tells: str
) -> None:
    command = (
        "run", "--task", FAKE, "--device", "cpu", "--arm", tells, "--arm", f"{tells}:env.OMP_NUM_THREADS=1", "--rounds", 1,
        "--seeds", 1, "--output", "run",
    )  # fmt: skip
    done = bench(*command)
    assert done.code == 0, done.error
    name = f"{tells}:env.OMP_NUM_THREADS=1"
    found = {one.cell.file_name: one for one in files.read_folder(Path("run"))[0]}
    assert {one.cell.arm.name: one.cell.arm.environment for one in found.values()} == {tells: {}, name: ONE_THREAD}
    (section,) = grouping.sections(found.values())
    assert sorted(row.name for row in section.rows) == [tells, name]
    before = told(tmp_path)
    assert [env.get("OMP_NUM_THREADS") for env in before].count("1") == len(before) / 2

    # Continued from another shell, it is the same comparison, and its processes find the same environment.
    for variable, value in HARMFUL.items():
        monkeypatch.setenv(variable, value)
    for path in Path("run/records").glob("*-memory-*"):
        path.unlink()
    done = bench(*command)
    assert done.code == 0, done.error
    assert "continuing: 6 of 8 processes are done" in done.error

    def ways(environments: list[dict[str, str]]) -> set[str]:
        return {json.dumps({**env, "TMPDIR": "", MARK: ""}, sort_keys=True) for env in environments}

    again = told(tmp_path)
    assert len(again) == 2
    assert ways(again) <= ways(before)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("env.PATH=/bin", "is set by framework-bench itself"),
        ("env.TMPDIR=/tmp", "is set by framework-bench itself"),
        ("env.PYTHONPATH=x", "is set by framework-bench itself"),
        ("env.PYTHONHASHSEED=0", "is set by framework-bench itself"),
        ("env.CUDA_VISIBLE_DEVICES=0", "is set by framework-bench itself"),
        ("env.LD_LIBRARY_PATH=x", "is set by framework-bench itself"),
        (f"env.{VARIABLE}=1", "is set by framework-bench itself"),
        ("env.=1", "is no name of a variable"),
        ("env.A B=1", "is no name of a variable"),
        ("env.1A=1", "is no name of a variable"),
        ("env.A-B=1", "is no name of a variable"),
        ("env.Ä=1", "is no name of a variable"),
        ("env.A=\u202e", "has a value with characters that cannot be shown"),
        ("env.A=a\nb", "has a value with characters that cannot be shown"),
        ("env.A=\udcff", "has a value with characters that cannot be shown"),
    ],
)
def test_a_variable_that_an_arm_may_not_set_is_refused(bench: Callable[..., Done], item: str, why: str) -> None:
    line = refusal(bench("run", "--task", FAKE, "--device", "cpu", "--arm", f"a={FAKE}:{item}", "--output", "run"))
    assert f"--arm a={FAKE}:{printable(item)}: " in line
    assert why in line
    assert list(Path().iterdir()) == []


def test_a_variable_that_a_backend_declares_is_refused(bench: Callable[..., Done]) -> None:
    import backends

    variables = {name: next(iter(entry.env), None) for name, entry in backends.BACKENDS.items()}
    name, variable = next((name, variable) for name, variable in variables.items() if variable)
    line = refusal(bench("run", "--task", FAKE, "--device", "cpu", "--arm", f"{name}:env.{variable}=x"))
    assert f"'{variable}' is set by the backend itself" in line


def test_a_variable_without_a_value_is_an_empty_one(bench: Callable[..., Done]) -> None:
    from bench.cli import arms

    typed = arms.parse(f"a={FAKE}:env.XLA_FLAGS=")
    found = arms.resolve([typed], arms.Defaults(device="cpu"), required=True)
    assert found.arms[0].environment == {"XLA_FLAGS": ""}


def test_a_worker_that_is_started_by_hand_needs_none_of_this() -> None:
    program = "import bench.worker.answer; print('well')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "well\n", done.stderr


def test_variables_of_other_programs_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TF_CLI_CONFIG_FILE", "TF_VAR_region", "TF_LOG", "TF_XLA_FLAGS"):
        monkeypatch.setenv(name, "x")
    assert environment.left_out() == ["TF_XLA_FLAGS=x"]
