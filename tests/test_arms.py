"""`--arm`: what it may say, what it means beside the other options, and everything that is refused before anything runs."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import backends
from backends import Entry
from bench.cli import arms, request
from bench.cli.arms import Defaults, Typed
from bench.cli.options import UserError
from bench.machine import cores, describe
from bench.records import files
from bench.records.record import Arm
from bench.report import facts, grouping
from tests.fakes.campaign import FAKE, an_arm
from tests.test_cli import MISSING, Done, bench, refusal

__all__ = ["bench"]  # the fixture

CORES = len(cores.usable())
TWO_CORES = pytest.mark.skipif(CORES < 2, reason="this machine has one core")


def resolved(*texts: str, **defaults: object) -> list[Arm]:
    """The arms of `--arm` texts, on the CPU unless they say otherwise."""
    beside = Defaults(**{"device": "cpu"} | defaults)  # type: ignore[arg-type]
    return arms.resolve([arms.parse(text) for text in texts], beside, required=True).arms


# What is typed.


@pytest.mark.parametrize(
    ("text", "backend", "label", "items"),
    [
        ("pytorch", "pytorch", None, {}),
        ("pytorch:compile", "pytorch", None, {"mode": "compile"}),
        ("pytorch:mode=compile", "pytorch", None, {"mode": "compile"}),
        ("old=pytorch", "pytorch", "old", {}),
        ("a=b=pytorch", "pytorch", "a=b", {}),
        ("jax:precision=bfloat16,threads=2", "jax", None, {"precision": "bfloat16", "threads": "2"}),
        ("jax:rbg,device=cpu", "jax", None, {"mode": "rbg", "device": "cpu"}),
        ("old=jax:python=../jax-0.7/bin/python", "jax", "old", {"python": "../jax-0.7/bin/python"}),
        ("jax:python=/odd=place:1/python", "jax", None, {"python": "/odd=place:1/python"}),
        ("jax:env.XLA_FLAGS=--a=b --c", "jax", None, {"env.XLA_FLAGS": "--a=b --c"}),
        (r"jax:env.A=1\,2,env.B=\,", "jax", None, {"env.A": "1,2", "env.B": ","}),
        ("jax:env.A=", "jax", None, {"env.A": ""}),
        (f"mine={FAKE}:fast", FAKE, "mine", {"mode": "fast"}),
    ],
)
def test_an_arm_is_a_label_a_backend_and_items(
    text: str, backend: str, label: str | None, items: dict[str, str]
) -> None:
    assert arms.parse(text) == Typed(f"--arm {text}", backend, label, items)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("jax", "jax"),
        ("jax:default", "jax:default"),
        ("pytorch:compile", "pytorch:compile"),
        ("pytorch:mode=compile", "pytorch:compile"),
        ("jax:precision=bfloat16,threads=1", "jax:precision=bfloat16,threads=1"),
        ("jax:threads=1,processes=2", "jax:threads=1,processes=2"),
        ("jax:env.OMP_NUM_THREADS=1", "jax:env.OMP_NUM_THREADS=1"),
        ("old=jax:precision=bfloat16", "old"),
        ("jax:python=/somebody/secret/bin/python", "jax"),  # a path belongs to this machine
        ("jax:rbg,python=/somebody/secret/bin/python", "jax:rbg"),
    ],
)
def test_a_row_is_named_by_its_label_or_by_what_was_typed(text: str, name: str) -> None:
    assert arms.parse(text).name == name


def test_every_item_arrives_in_the_arm() -> None:
    (found,) = resolved(f"mine={FAKE}:fast,device=cpu,precision=bfloat16,threads=1,env.A=1\\,2,env.B=")
    assert found == Arm(
        name="mine", backend=FAKE, mode="fast", device="cpu", precision="bfloat16", threads=1,
        environment={"A": "1,2", "B": ""},
    )  # fmt: skip


def test_what_an_arm_does_not_say_the_other_options_do() -> None:
    plain, own = resolved(
        FAKE, f"{FAKE}:precision=float64,device=cpu", precision="bfloat16", threads=1, pythons={"another": "x"}
    )
    assert (plain.precision, plain.threads) == ("bfloat16", 1)
    assert (own.precision, own.threads) == ("float64", 1)
    assert plain.mode == own.mode == "default"


def test_a_device_that_is_not_said_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for card, device in ((None, "cpu"), ("A GPU", "gpu")):
        monkeypatch.setattr(describe, "gpu_and_driver", lambda card=card: (card, None))
        assert [arm.device for arm in resolved(FAKE, f"{FAKE}:device=cpu", device="auto")] == [device, "cpu"]


def test_backend_is_short_for_an_arm_and_both_may_be_given() -> None:
    choice = request.parse(arm_texts=(f"{FAKE}:fast",), backend_names=(FAKE, FAKE), device="cpu")
    assert [arm.name for arm in choice.arms] == [f"{FAKE}:fast", FAKE]
    assert choice.arms[1] == an_arm()


def test_parts_of_a_mode_stand_in_the_backends_order_whatever_was_typed() -> None:
    (found,) = resolved(f"{FAKE}:trim+fast")
    assert (found.name, found.mode) == (f"{FAKE}:trim+fast", "fast+trim")


@pytest.mark.parametrize(
    ("track", "modes"), [("default", ["default"]), ("tuned", ["tuned"]), ("both", ["default", "tuned"])]
)
def test_a_track_says_in_which_modes_a_backend_is_compared(
    track: str, modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entry, "missing", lambda self: [])  # as if all were installed
    choice = request.parse(backend_names=("jax", "pytorch"), track=track, device="cpu")
    assert [(arm.backend, arm.mode) for arm in choice.arms] == [
        (backend, mode) for backend in ("jax", "pytorch") for mode in modes
    ]
    assert {arm.name for arm in choice.arms if arm.mode == "tuned"} <= {"jax:tuned", "pytorch:tuned"}
    assert {arm.backend for arm in request.parse(track=track, device="cpu").arms} == set(backends.BACKENDS)


def test_a_track_says_nothing_of_arms() -> None:
    with pytest.raises(
        UserError, match=r"--track tuned applies to --backend only; for an arm, name the mode: --arm .*:tuned"
    ):
        request.parse(arm_texts=(FAKE,), track="tuned", device="cpu")


def test_a_backend_without_tuned_modes_has_no_such_track() -> None:
    with pytest.raises(UserError, match="has no mode 'tuned'"):
        request.parse(backend_names=(FAKE,), track="both", device="cpu")


def test_without_any_the_installed_backends_are_compared_and_the_others_are_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "BACKENDS", {"jax": MISSING, FAKE: Entry(FAKE)})
    choice = request.parse(device="cpu")
    assert [arm.name for arm in choice.arms] == [FAKE]
    ((absent, why),) = choice.absent
    assert absent == an_arm("jax")
    assert why.startswith("no_such_module not installed; add it with: pip install")


def test_an_arm_compared_with_itself_has_two_labels() -> None:
    first, second = resolved(f"a={FAKE}", f"b={FAKE}")
    assert first.way == second.way
    assert first.hash != second.hash


@pytest.mark.slow
def test_an_arm_can_be_typed_again_from_its_record() -> None:
    texts = [FAKE, f"{FAKE}:fast", f"mine={FAKE}:threads=1", f"{FAKE}:precision=float64,env.A=1\\,2"]
    for arm in resolved(*texts):
        typed = arm.typed({"device": "cpu"} | ({"precision": "float32"} if arm.precision == "float32" else {}))
        assert resolved(typed) == [arm]


# What is refused.


def refused(bench: Callable[..., Done], *arguments: str) -> str:
    """The line with which a run is refused, after which there is nothing."""
    line = refusal(bench("run", "--task", FAKE, "--device", "cpu", *arguments, "--output", "run"))
    assert list(Path().iterdir()) == []
    return line.removeprefix("framework-bench: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # Malformed.
        ("", "there is no backend ''"),
        (":", "there is no backend ''"),
        ("=", "'' is no label"),
        (f"={FAKE}", "'' is no label"),
        (f"-x={FAKE}", "'-x' is no label"),
        (f"a|b={FAKE}", "'a|b' is no label"),
        (f"{'x' * 81}={FAKE}", f"{'x' * 80!r} is no label"),
        (f"\x1b[2J={FAKE}", "is no label"),
        (f"a\n={FAKE}", "is no label"),
        (f"{FAKE}:", "an item is empty; expected a mode or one of mode, device, precision"),
        (f"{FAKE}:fast,", "an item is empty"),
        (f"{FAKE}:threads=", "threads has no value"),
        (f"{FAKE}:mode=", "mode has no value"),
        (f"{FAKE}:fast,default", "mode is given twice"),
        (f"{FAKE}:threads=1,threads=1", "threads is given twice"),
        (f"{FAKE}:env.A=1,env.A=2", "env.A is given twice"),
        # Unknown, with the nearest name.
        ("pytroch", "there is no backend 'pytroch'; did you mean 'pytorch'? (there are: pytorch, tensorflow, jax)"),
        ("reference", "there is no backend 'reference'"),
        (f"{FAKE}:fats", "has no mode 'fats'; did you mean 'fast'? (there are: default, fast, trim, huge-pages)"),
        (f"{FAKE}:fast+trimm", "has no mode 'trimm'; did you mean 'trim'?"),
        (f"{FAKE}:fast+default", "default cannot be joined with fast+default"),
        (f"{FAKE}:fast+fast", "fast cannot be joined with fast+fast"),
        ("pytorch:tuned+compile", "tuned cannot be joined with tuned+compile"),
        ("pytorch:complie", "pytorch has no mode 'complie'; did you mean 'compile'?"),
        (f"{FAKE}:compile", f"{FAKE} has no mode 'compile'; it is a mode of pytorch"),
        (f"{FAKE}:thread=1", "an arm has no 'thread'; did you mean 'threads'?"),
        (f"{FAKE}:OMP_NUM_THREADS=1", "an arm has no 'OMP_NUM_THREADS'"),
        (f"{FAKE}:precision=float23", "there is no precision 'float23'; did you mean 'float32'?"),
        (f"{FAKE}:device=gpuu", "there is no device 'gpuu'; did you mean 'gpu'?"),
        # Not to be had.
        (f"{FAKE}:processes=0", "processes '0' is not a number of processes from 1 to 64"),
        (f"{FAKE}:processes=65", "processes '65' is not a number of processes from 1 to 64"),
        (f"{FAKE}:processes=two", "processes 'two' is not a number of processes from 1 to 64"),
        (f"{FAKE}:processes", f"{FAKE} has no mode 'processes'"),
        (
            f"{FAKE}:processes=2,threads={CORES}",
            f"2 processes of {CORES} threads each: {2 * CORES} threads, but this process may use {CORES} cores",
        ),
        (f"{FAKE}:threads=0", "threads '0' is not a number of cores"),
        (f"{FAKE}:threads=-1", "threads '-1' is not a number of cores"),
        (f"{FAKE}:threads=1.5", "threads '1.5' is not a number of cores"),
        (f"{FAKE}:threads=many", "threads 'many' is not a number of cores"),
        (f"{FAKE}:threads=٣", "threads '٣' is not a number of cores"),
        (
            f"{FAKE}:threads=100000",
            f"100000 threads, but this process may use {CORES} cores; ask for no more than that",
        ),
        (f"{FAKE}:precision=tf32", "tf32 is a mode of a GPU's tensor cores, which a CPU does not have; use float32"),
        (f"{FAKE}:env.A={'x' * 100}", "give it a label, LABEL="),
        (f"{FAKE}:env.A=|", "give it a label, LABEL="),
    ],
)
def test_an_arm_that_cannot_be_is_refused_in_one_line(bench: Callable[..., Done], text: str, said: str) -> None:
    line = refused(bench, "--arm", text)
    assert line.startswith("--arm ")
    assert said in line


def test_a_gpu_that_is_not_there_is_refused(bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "gpu_and_driver", lambda: (None, None))
    line = refused(bench, "--arm", f"{FAKE}:device=gpu")
    assert line == f"--arm {FAKE}:device=gpu: device gpu: there is no NVIDIA GPU with a driver here; use device cpu"


def test_the_same_arm_twice_is_refused_with_what_would_compare_it_with_itself(bench: Callable[..., Done]) -> None:
    line = refused(bench, "--arm", FAKE, "--backend", FAKE)
    assert line.endswith(
        f"is given twice: to compare it with itself, give it two labels: --arm a={FAKE} --arm b={FAKE}"
    )
    assert "is given twice" in refused(bench, "--arm", f"x={FAKE}:fast", "--arm", f"x={FAKE}:fast")


def test_two_arms_under_one_name_are_refused(bench: Callable[..., Done]) -> None:
    for one, other, name in (
        (f"x={FAKE}", f"x={FAKE}:fast", "x"),
        (f"{FAKE}", f"{FAKE}:python=/somewhere", FAKE),
        (f"{FAKE}:fast", f"{FAKE}:mode=fast,python=/somewhere", f"{FAKE}:fast"),
    ):
        line = refused(bench, "--arm", one, "--arm", other)
        assert line == (
            f"--arm {one} and --arm {other} have the same name {name!r}: give one of them a label, LABEL={FAKE}:..."
        )


def test_a_default_that_an_arm_cannot_have_is_refused_with_that_arm(bench: Callable[..., Done]) -> None:
    line = refused(bench, "--arm", f"{FAKE}:fast", "--precision", "tf32")
    assert line.startswith(f"--arm {FAKE}:fast: tf32 is a mode of a GPU's tensor cores")


def test_a_named_arm_whose_framework_is_missing_is_refused(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "jax", MISSING)
    line = refused(bench, "--arm", FAKE, "--arm", "old=jax")
    assert line.startswith("--arm old=jax: no_such_module not installed; add it with: pip install")


def test_a_python_for_a_backend_that_is_not_compared_is_refused(bench: Callable[..., Done]) -> None:
    line = refused(bench, "--arm", f"a={FAKE}", "--python", "jax=/somewhere")
    assert line == f"--python 'jax=/somewhere': 'jax' is not in the comparison (there are: {FAKE})"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("os.path", "not a backend: a backend is a Python file with versions() and open_session(...)"),
        ("json.tool", "not a backend: the module has no versions() and no open_session()"),
        ("tests.builders", "not a backend: the module has no versions() and no open_session()"),
        ("importlib.machinery", "not a backend: "),
        ("importlib._bootstrap", "not a backend: a backend is a Python file"),
        ("no.such.module", "there is no such module"),
        ("json.no_such_module", "there is no such module"),
        ("plugged.half", "not a backend: the module has no versions()"),
        ("plugged.empty", "not a backend: the module has no versions() and no open_session()"),
        ("plugged.broken", "broken.py cannot be read: "),
        ("plugged.odd", "plugged.odd.MODES is read without importing the module: write it with literals"),
        ("plugged.entry", "plugged.entry.ENTRY: expected Entry(...) with keyword arguments"),
        ("plugged.more", "unexpected keyword argument 'color'"),
        ("raising.backend", "raising cannot be imported: RuntimeError: not today"),
        ("zipped.backend", "not a backend: a backend is a Python file"),
        ("plugged.folder", "not a backend: a backend is a Python file"),
    ],
)
def test_a_module_that_is_no_backend_is_refused_before_anything_runs(
    bench: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    sources = {
        "plugged/half.py": "def open_session(): ...", "plugged/empty.py": "", "plugged/broken.py": "def (",
        "plugged/odd.py": "MODES = make()\ndef versions(): ...\ndef open_session(): ...",
        "plugged/entry.py": "ENTRY = 1\ndef versions(): ...\ndef open_session(): ...",
        "plugged/more.py": "ENTRY = Entry(color='red')\ndef versions(): ...\ndef open_session(): ...",
        "plugged/folder/below.py": "", "raising/__init__.py": "raise RuntimeError('not today')", "raising/backend.py": "",
    }  # fmt: skip
    for path, source in sources.items():
        (tmp_path / "modules" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "modules" / path).write_text(source)
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as file:
        file.writestr("zipped/__init__.py", "")
        file.writestr("zipped/backend.py", "def versions(): ...\ndef open_session(): ...")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.syspath_prepend(tmp_path / "zipped.zip")
    line = refused(bench, "--arm", name)
    assert line.startswith(f"--arm {name}: ")
    assert said in line


@pytest.mark.parametrize(
    "source",
    [
        "def versions(): ...\ndef open_session(task, params, options): ...",
        "from backends.reference.session import open_session, versions",
        "import a.b as versions, c as open_session",
        "from elsewhere import *",
        "versions = dict\nopen_session = None",
        "from backends import Entry\nENTRY = Entry(module='backends.reference.session')",
        "try:\n    from x import versions\nexcept ImportError:\n    versions = dict\nif True:\n    def open_session(): ...",
    ],
)
def test_a_module_that_binds_the_two_functions_in_any_way_is_taken_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "one.py").write_text(f"{source}\nraise ImportError('nobody should import this')")
    monkeypatch.syspath_prepend(tmp_path)
    assert [one.backend for one in arms.named("taken.one")] == ["taken.one"]


@pytest.mark.slow
def test_backends_of_ones_own_have_modes(bench: Callable[..., Done]) -> None:
    with pytest.raises(UserError, match="has no mode 'compile'"):
        resolved(f"{FAKE}:compile")
    assert [arm.mode for arm in resolved(FAKE, f"{FAKE}:fast")] == ["default", "fast"]


# In a run.


@pytest.mark.slow
@TWO_CORES
def test_several_arms_of_one_backend_stand_in_one_table(bench: Callable[..., Done]) -> None:
    texts = [FAKE, f"again={FAKE}", f"{FAKE}:fast", f"{FAKE}:threads=1", f"{FAKE}:precision=bfloat16"]
    chosen = [word for text in texts for word in ("--arm", text)]
    command = ("run", "--task", FAKE, "--device", "cpu", *chosen, "--rounds", 2, "--seeds", 1, "--output", "run")
    done = bench(*command)
    assert done.code == 0, done.error
    names = {FAKE, "again", *texts[2:]}
    records, problems = files.read_folder(Path("run"))
    assert problems == []
    (section,) = grouping.sections(records)
    assert {row.name: row.excluded for row in section.rows} == dict.fromkeys(names)
    for row in section.rows:
        assert len(row.records) == 5
        (speed, _) = row.of("speed")
        asked = (row.arm.mode, row.arm.precision, row.arm.threads or CORES)
        assert (
            speed.outcome.settings["mode"],
            speed.outcome.settings["precision"],
            speed.outcome.settings["cores"],
        ) == asked
        assert {(ladder.precision, ladder.device) for ladder in row.ladders} == {
            ("float64", "cpu"), (row.arm.precision, "cpu"),
        }  # fmt: skip
    assert f"1 or {CORES} of {CORES} cores" in dict(facts.facts(section))["Machine"]
    text = Path("run/table.md").read_text()
    assert text.count("## ") == 1
    assert all(f"| {name} " in text.replace("\\", "") for name in names)
    # The same command again has nothing to do; with fewer arms it is another comparison.
    assert "continuing: 25 of 25 processes are done" in bench(*command).error
    fewer = [word for text in texts[1:] for word in ("--arm", text)]
    assert "the arms was " in refusal(bench(*command[:5], *fewer, *command[-6:]))
