"""The mode `huge-pages`: whether a process is given large pages is asked of the kernel, and a machine without them says so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import backends
import tasks
from backends import huge_pages
from backends.api import Options, Session, Unsupported
from bench.process import environment
from bench.report import markdown
from bench.worker.pages import Paging
from tests.builders import MACHINE, a_run
from tests.fakes.campaign import FAKE, an_arm
from tests.test_cli import Done, bench, records_in

__all__ = ["bench"]  # the fixture

ROOT = Path(__file__).parent.parent
TASK = tasks.load("mnist_mlp", "smoke").task.for_parity()
HERE = pytest.mark.skipif(huge_pages.missing() is not None, reason=str(huge_pages.missing()))
LEFT_TO_PROGRAMS = "always [madvise] never\n"


def session(**options: object) -> Session:
    given = {"precision": "float64", "mode": huge_pages.MODE} | options
    return Paging(backends.load("reference")).open_session(TASK, TASK.init_params(0), Options(**given))  # type: ignore[arg-type]


@HERE
@pytest.mark.slow
@pytest.mark.skipif("[madvise]" not in huge_pages.KERNELS.read_text(), reason="here every process is given huge pages")
@pytest.mark.parametrize(("mode", "given"), [("huge-pages", "True"), ("trim+huge-pages", "True"), ("trim", "False")])
def test_a_process_is_given_them_only_if_its_environment_asks(mode: str, given: str) -> None:
    env = environment.for_child(backends.find(FAKE), an_arm(), mode=mode)
    code = "from backends import huge_pages; print(huge_pages.in_force())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (given, "")


def test_a_tunable_of_the_arms_own_stays() -> None:
    arm = an_arm(environment={"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"})
    found = environment.for_child(backends.find(FAKE), arm, mode="huge-pages")
    assert found["GLIBC_TUNABLES"].startswith("glibc.malloc.tcache_count=0:glibc.malloc.hugetlb=1:")
    assert environment.for_child(backends.find(FAKE), arm)["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=0"
    assert "GLIBC_TUNABLES" not in environment.for_child(backends.find(FAKE), an_arm())


SMAPS = """\
7f0000000000-7f0004000000 rw-p 00000000 00:00 0                          [heap]
Size:              65536 kB
AnonHugePages:     63488 kB
7f0004000000-7f0008000000 rw-p 00000000 00:00 0
AnonHugePages:     65536 kB
"""


def test_of_all_mappings_only_the_heap_with_the_address_counts() -> None:
    addresses = (0x7F0000000000, 0x7F0003FFFFFF, 0x7F0004000000, 0x7F0008000000)
    assert [huge_pages.huge_bytes(SMAPS, one) // 2**20 for one in addresses] == [62, 62, 0, 0]


@pytest.mark.parametrize(
    ("glibc", "allowed", "why"),
    [
        ((2, 36), LEFT_TO_PROGRAMS, None),
        ((2, 36), "[always] madvise never\n", None),
        ((2, 36), "always madvise [never]\n", "the kernel gives no huge pages"),
        ((2, 36), None, "this kernel has no"),
        ((2, 31), LEFT_TO_PROGRAMS, r"glibc 2\.35 or newer is needed"),
        ((), LEFT_TO_PROGRAMS, r"glibc 2\.35 or newer is needed"),
    ],
)
def test_a_machine_without_them_says_why_and_tunes_without_them(
    glibc: tuple[int, ...], allowed: str | None, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tmp_path / "enabled"
    if allowed is not None:
        kernels.write_text(allowed)
    monkeypatch.setattr(huge_pages, "KERNELS", kernels)
    monkeypatch.setattr(huge_pages, "_glibc", lambda: glibc)
    tuned = backends.mode_for("jax", backends.TUNED, task="gru_lm", device="cpu")
    assert tuned == ("default" if why else "huge-pages")
    if why is None:
        session()
    else:
        with pytest.raises(Unsupported, match=f"^huge-pages: .*{why}"):
            session()


@pytest.mark.slow
def test_a_table_says_who_gets_them_and_a_run_goes_on_where_that_is_the_same(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [
        markdown.render(a_run({"a": [1.0, 1.1, 1.0]}, machine=msgspec.structs.replace(MACHINE, huge_pages=word)))
        for word in ("madvise", None)
    ]
    assert ["huge pages on request" in text for text in told] == [True, False]
    monkeypatch.setattr(huge_pages, "allowed", lambda: "always")
    command = (
        "run",
        "--task",
        FAKE,
        "--device",
        "cpu",
        "--preset",
        "smoke",
        "--arm",
        FAKE,
        "--rounds",
        2,
        "--output",
        "run",
    )
    assert bench(*command).code == 0
    assert records_in(Path("run"))[0].run.machine.huge_pages == "always"
    monkeypatch.setattr(huge_pages, "allowed", lambda: "madvise")
    assert "the kernel's huge pages was always, now madvise" in bench(*command).error


@pytest.mark.parametrize(
    ("options", "why"),
    [({"device": "gpu"}, "a mode of a CPU's memory"), ({"processes": 2}, "does not go with several processes")],
)
def test_what_it_would_not_change_or_was_not_proven_for_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        session(**options)


@pytest.mark.parametrize(("given", "mode"), [(True, "huge-pages"), (False, "default")])
def test_the_mode_that_is_told_is_the_one_that_was_found(
    given: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "missing", lambda: None)
    monkeypatch.setattr(huge_pages, "in_force", lambda: given)
    assert session().settings()["mode"] == mode
    assert session(mode="default").settings()["mode"] == "default"


@HERE
@pytest.mark.slow
def test_an_arm_in_this_mode_is_measured_in_it(bench: Callable[..., Done]) -> None:
    done = bench(
        "run", "--task", FAKE, "--device", "cpu", "--preset", "smoke", "--arm", FAKE, "--arm", f"{FAKE}:huge-pages",
        "--rounds", 2, "--seeds", 1, "--output", "run",
    )  # fmt: skip
    assert done.code == 0, done.error
    modes = {
        one.cell.arm.name: one.outcome.settings["mode"] for one in records_in(Path("run")) if one.cell.kind == "speed"
    }
    assert modes == {FAKE: "default", f"{FAKE}:huge-pages": "huge-pages"}
    told = {
        one.cell.arm.name: one.outcome.settings.get("malloc")
        for one in records_in(Path("run"))
        if one.cell.kind == "speed"
    }
    assert told == {FAKE: None, f"{FAKE}:huge-pages": huge_pages.SETTING}
