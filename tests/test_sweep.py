"""Sweeps: points and arms from what is typed, sentences and tables from records, and one that is run and continued."""

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import msgspec
import pytest

from bench.cli import options, sweeping
from bench.cli.options import UserError
from bench.process import interpreters, releases
from bench.records import files, sweep_folder
from bench.records.record import Bytes, Record
from bench.report import sweep, sweep_plot
from tests.builders import a_memory, a_record, a_row, changed
from tests.test_cli import FAKE, Done, bench, refusal
from tests.test_report import HOSTILE

__all__ = ["bench"]  # the fixture


SEEDS = itertools.count()


def noise(value: float, rounds: int = 5) -> list[float]:
    """Throughputs that differ by some thousandths, otherwise in every call."""
    rng = random.Random(next(SEEDS))
    return [value * rng.gauss(1, 0.003) for _ in range(rounds)]


def a_point(speeds: dict[str, Sequence[float]], run: str, **changes: str) -> list[Record]:
    common = {"id": run, "changes": changes, "spec": {"task": "mnist_mlp", **changes}}
    return [
        one for name, values in speeds.items() for one in a_row(name, values, **common) if one.cell.kind != "quality"
    ]


def crossing() -> list[Record]:
    """jax is ahead at small batches, pytorch at large ones, and between nothing is decided."""
    wide = [100.0, 130.0, 80.0, 101.0, 118.0]
    speeds = {"8": (200.0, 100.0), "16": (150.0, 100.0), "64": (100.0, None), "256": (100.0, 180.0)}
    return [
        record
        for number, (size, (jax, torch)) in enumerate(speeds.items())
        for record in a_point(
            {"jax": noise(jax), "pytorch": wide if torch is None else noise(torch)}, f"r{number}", batch_size=size
        )
    ]  # fmt: skip


# What the records say.


def test_a_sentence_says_who_is_ahead_where_and_what_is_not_decided() -> None:
    (found,) = sweep.sweeps(crossing())
    assert found.fields == ["batch_size"]
    assert list(found.points) == [("8",), ("16",), ("64",), ("256",)]  # as numbers
    (sentence,) = sweep.sentences(found)
    assert re.fullmatch(
        r"jax and pytorch: jax is 1[.][45]\d* to [12][.][09]\d* times as fast at batch_size 8 and 16; "
        r"not decided at batch_size 64; pytorch is 1[.][78]\d* times as fast at batch_size 256[.]",
        sentence,
    )


def test_the_table_has_a_line_for_each_arm_at_each_point() -> None:
    (found,) = sweep.sweeps(crossing())
    titles, *lines = sweep.table(found)
    assert titles[:4] == ["batch_size", "arm", "images/s", "relative to the fastest"]
    assert [line[:2] for line in lines][:2] == [["8", "jax"], ["8", "pytorch"]]
    assert lines[0][3] == "1"
    assert lines[1][3].endswith(": slower")
    assert [line[1] for line in lines if line[0] == "256"] == ["pytorch", "jax"]  # the fastest of its point first


def test_quality_is_not_asked_for_but_parity_is() -> None:
    fallen = a_row(
        "third", noise(500), id="r0", changes={"batch_size": "8"}, spec={"task": "mnist_mlp", "batch_size": "8"}, accuracies=(),
    )  # fmt: skip
    fallen = [one for one in fallen if one.cell.kind != "parity"]  # no ladder
    (found,) = sweep.sweeps(crossing() + fallen)
    lines = [line for line in sweep.table(found) if "third" in line]
    assert len(lines) == 1
    assert lines[0][3].startswith("not compared: ")
    assert not any("third" in sentence and "times as fast" in sentence for sentence in sweep.sentences(found))


def test_decisions_are_holms_over_all_points() -> None:
    """One pair that alone is decided, beside many that are not: the level is that of all together."""
    slight = [100.0, 104.9, 104.0, 107.5, 108.0]
    alone = a_point({"a": slight, "b": [100.0, 99.0, 101.0, 100.5, 99.5]}, "r0", batch_size="1")
    many = [one for number in range(2, 30) for one in a_point({"a": noise(100), "b": [90.0, 115.0, 97.0, 104.0, 99.0]},
                                                              f"r{number}", batch_size=str(number))]  # fmt: skip
    (few,), (all_of_them,) = sweep.sweeps([*alone, *many[: len(alone)]]), sweep.sweeps([*alone, *many])
    level = [found.verdicts[(("1",), "a"), (("1",), "b")].ratio for found in (few, all_of_them)]
    widths = [(one.high or 0) - (one.low or 0) for one in level]
    assert widths[1] > 1.5 * widths[0]


GIB = 2**30


def of_memory(sizes: dict[str, float | None]) -> list[Record]:
    """An arm at batch sizes: its peak in GiB; None where there was too little."""
    made = []
    for number, (size, gib) in enumerate(sizes.items()):
        for one in a_point({"jax": noise(100)}, f"r{number}", batch_size=size):
            if one.cell.kind == "memory" and gib is None:
                one = changed(one, status="oom", reason="out of memory: 9 GiB asked for", memory=None)
            elif one.cell.kind == "memory":
                one = changed(one, memory=a_memory(peak=Bytes(int((gib or 0) * GIB)), imported=Bytes(1)))
            made.append(one)
    return made


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"8": 1, "32": 2, "128": 5}, "32 fits into 4,096 MiB (2,048 MiB); batch_size 128 does not fit (5,120 MiB)."),
        ({"8": 1, "32": 2}, "32, the largest that was measured, fits into 4,096 MiB (2,048 MiB)."),
        ({"8": 5, "32": 6}, "8 does not fit into 4,096 MiB (5,120 MiB)."),
        ({"8": 1, "32": 5, "128": 3}, "8 fits into 4,096 MiB (1,024 MiB); batch_size 32 does not fit (5,120 MiB)."),
        ({"8": 1, "32": None}, "8 fits into 4,096 MiB (1,024 MiB); batch_size 32 does not fit (out of memory)."),
    ],
)  # fmt: skip
def test_the_largest_size_that_fits_a_limit_is_told_by_what_was_measured(
    sizes: dict[str, float | None], said: str
) -> None:
    records = of_memory(sizes)
    (found,) = sweep.sweeps(records)
    assert sweep.fitting(found, 4 * GIB) == [f"jax: batch_size {said}"]
    assert said.split(" ")[0] in sweep.render(records, memory_limit=4 * GIB)
    assert "fit" in sweep.render(records, memory_limit=4 * GIB)
    assert "fits into" not in sweep.render(records)


@pytest.mark.parametrize(("text", "size"), [("512MiB", 2**29), ("16GB", 16 * 10**9), ("1.5TiB", 3 * 2**39)])
def test_a_size_is_typed_with_its_unit(text: str, size: int) -> None:
    assert options.Size().convert(text, None, None) == size
    for wrong in ("16", "GB", "16G", "-1GB", "0GB"):
        with pytest.raises(click.BadParameter, match="is not a size"):
            options.Size().convert(wrong, None, None)


def test_two_fields_make_a_sentence_for_each_value_of_the_other() -> None:
    made = [
        one
        for number, (size, width) in enumerate([("8", "32"), ("8", "64"), ("16", "32"), ("16", "64")])
        for one in a_point(
            {"jax": noise(200), "pytorch": noise(100)}, f"r{number}", **{"batch_size": size, "model.hidden": width}
        )
    ]  # fmt: skip
    (found,) = sweep.sweeps(made)
    assert found.fields == ["batch_size", "model.hidden"]
    told = sweep.sentences(found)
    assert [text.partition(":")[0] for text in told] == ["With model.hidden=32", "With model.hidden=64"]
    assert [plot.name for plot in sweep_plot.drawn(found)] == ["lines", "map"]


@pytest.mark.parametrize("field", ["threads", "processes"])
def test_a_field_of_the_arms_varies_within_one_run(field: str) -> None:
    common = {"id": "r", "spec": {"task": "mnist_mlp"}}
    made = [
        one
        for name, count in (("jax", 1), ("jax", 2), ("pytorch", 1), ("pytorch", 2))
        for one in a_row(name, noise(100 * count), name=f"{name}:{field}={count}", **{field: count}, **common)
    ]
    (found,) = sweep.sweeps(made)
    assert (found.fields, list(found.points)) == ([field], [("1",), ("2",)])
    assert found.lines == ["jax", "pytorch"]
    one, other, pair = sweep.sentences(found)
    assert re.match(r"jax is [12][.][09]\d+ \(", one)
    assert one.endswith(f"times as fast with {field}=2 as with {field}=1: faster.")
    assert re.match(r"pytorch is [12][.][09]\d+ \(", other)
    assert pair == f"jax and pytorch: a tie within 3 % at {field} 1 and 2."


def growing() -> list[Record]:
    """One process and two, each on one core, at two batches: with twice the batch two are 1.6 times as fast as one."""
    speeds = {("8", 1): 100.0, ("8", 2): 90.0, ("16", 1): 110.0, ("16", 2): 160.0}
    made = []
    for number, size in enumerate(("8", "16")):
        for count in (1, 2):
            way = {"threads": 1, "processes": count}
            common = {
                "id": f"r{number}",
                "changes": {"batch_size": size},
                "spec": {"task": "mnist_mlp", "batch_size": int(size)},
            }
            rates = noise(speeds[size, count])
            for one in a_row("jax", rates, name=f"jax:threads=1,processes={count}", **way, **common):
                settings = {**one.outcome.settings, "cores": 1}
                made.append(one if one.cell.kind == "quality" else changed(one, settings=settings))
    return [one for one in made if one.cell.kind != "quality"]


def test_with_a_batch_that_grows_with_the_processes_there_is_a_weak_scaling_efficiency() -> None:
    (found,) = sweep.sweeps(growing())
    assert found.fields == ["batch_size", "processes"]
    told = [text for text in sweep.sentences(found) if "weak" in text]
    assert len(told) == 1
    assert re.fullmatch(
        r"jax: weak scaling: 2 processes of 1 core each with batch_size 16 train 1[.](59|60)\d* \([^)]+\) times as fast as one "
        r"of 1 core with batch_size 8, an efficiency of (79|80)[.]\d+ \([^)]+\) % "
        r"\(5 and 5 rounds, which did not take turns\); a step on as many rows each takes [^ ]+ [mµ]?s instead of "
        r"[^ ]+ [mµ]?s, for they exchange gradients, wait for each other and share the machine[.]",
        told[0],
    )


def test_without_the_same_cores_or_the_grown_batch_there_is_none() -> None:
    small = [one for one in growing() if (one.cell.changes["batch_size"], one.cell.arm.processes) != ("16", 2)]
    others = [
        changed(one, settings={**one.outcome.settings, "cores": 2}) if one.cell.arm.processes == 1 else one
        for one in growing()
    ]
    unsteady = [
        changed(
            one,
            timings=msgspec.structs.replace(one.outcome.timings, blocks_s=[0.001] * 5 + [0.002] * 5, window_s=0.015),
        )
        if one.cell.arm.processes == 2 and one.outcome.timings is not None
        else one
        for one in growing()
    ]
    for records in (small, others, unsteady):
        (found,) = sweep.sweeps(records)
        assert not any("weak" in text for text in sweep.sentences(found))


def test_records_of_one_point_are_no_sweep() -> None:
    assert sweep.render(a_point({"jax": noise(100)}, "r", batch_size="8")) == sweep.NOTHING
    assert sweep.render([]) == sweep.NOTHING


def test_the_same_records_give_the_same_bytes_and_hostile_ones_stay_text() -> None:
    made = crossing()
    assert sweep.render(made) == sweep.render(made[::-1])
    assert dict(sweep_plot.files(made)) == dict(sweep_plot.files(made[::-1]))
    evil = [one for size in ("8", "16") for one in a_point({"jax": noise(100)}, size, **{HOSTILE["html"]: size})]
    assert "<script>alert" not in sweep.render(evil)
    assert list(sweep_plot.files(evil))


# What is typed.


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "nothing to vary: name a field and its values, as in --vary batch_size=16,32,64"),
        (["batch_size"], "expected FIELD=VALUE,VALUE,..."),
        (["=1,2"], "expected FIELD=VALUE,VALUE,..."),
        (["batch_size=1,,2"], "expected FIELD=VALUE,VALUE,..."),
        (["batch_size=1,1"], "a value is given twice"),
        (["batch_size=1", "batch_size=2"], "batch_size already varies over 1"),
        ([f"batch_size={','.join(map(str, range(1, 600)))}"], "599 points are too many; a sweep may have 500"),
    ],
)
def test_what_varies_nothing_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        sweeping.parse(texts)
    assert said in str(caught.value)


def test_values_have_commas_behind_a_backslash() -> None:
    assert sweeping.parse([r"model.widths=784\,10,784\,64\,10"]) == {"model.widths": ["784,10", "784,64,10"]}


def test_an_unknown_field_is_refused_with_the_nearest_name_before_anything_runs(bench: Callable[..., Done]) -> None:
    line = refusal(bench("sweep", *FAKE, "--vary", "batch_sise=8,16", "--output", "sweep"))
    assert "--vary batch_sise=8" in line
    assert "batch_size" in line
    assert not Path("sweep").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vary", "batch_size=8", "--set", "batch_size=9"], "--set and --vary both name batch_size"),
        (["--vary", "threads=1", "--track", "both"], "vary mode instead"),
        (["--vary", "threads=1", "--arm", "a=tests.fakes.backend"], "has no label"),
        (["--vary", "batch_size=8", "--budget", "1s"], "--budget: a point takes about"),
        (["--vary", "batch_size=8", "--budget", "soon"], "'soon' is not a duration; write it as 90s, 20m or 1.5h"),
    ],
)
def test_what_does_not_go_together_is_refused(bench: Callable[..., Done], options: list[str], said: str) -> None:
    assert said in refusal(bench("sweep", *FAKE, *options, "--output", "sweep"))


def test_a_refused_sweep_leaves_no_folder(bench: Callable[..., Done]) -> None:
    refusal(bench("sweep", *FAKE, "--vary", "batch_size=8", "--budget", "1s", "--output", "sweep"))
    assert not Path("sweep").exists()


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A sweep's folder with a point."""
    folder = tmp_path / "measured"
    (folder / "batch_size=8" / "records").mkdir(parents=True)
    files.write(folder / sweep_folder.NAME, {"batch_size": ["8", "16"], "mode": ["default", "fast"]})
    files.write(folder / "batch_size=8" / "records" / "one.json", a_record())
    return folder


@pytest.mark.parametrize(
    "vary",
    [
        ["batch_size=8,16"],
        ["batch_size=8,16", "mode=default,fast", "threads=1,2"],
        ["batch_size=8,16", "mode=default"],
        ["model.hidden=8,16", "mode=default,fast"],
    ],
)
def test_a_sweep_keeps_what_it_was_asked_for_when_another_one_is_refused(measured: Path, vary: list[str]) -> None:
    before = (measured / sweep_folder.NAME).read_bytes()
    with pytest.raises(UserError, match="holds a sweep with --vary batch_size=8,16 --vary mode=default,fast"):
        sweeping._own(measured, sweeping.parse(vary))
    assert (measured / sweep_folder.NAME).read_bytes() == before


def test_a_sweep_that_goes_on_has_the_values_of_both_commands(measured: Path) -> None:
    sweeping._own(measured, sweeping.parse(["batch_size=16,32", "mode=fast,default"]))
    assert sweep_folder.values(measured) == {"batch_size": ["8", "16", "32"], "mode": ["default", "fast"]}


def test_a_sweep_whose_values_cannot_be_read_is_not_written_over(measured: Path) -> None:
    (measured / sweep_folder.NAME).write_text("[]")
    with pytest.raises(UserError, match="name a new folder"):
        sweeping._own(measured, {"batch_size": ["8"]})
    assert (measured / sweep_folder.NAME).read_text() == "[]"


def test_two_spellings_of_a_value_are_one_point(bench: Callable[..., Done]) -> None:
    said = refusal(bench("sweep", *FAKE, "--vary", "batch_size=016,16", "--output", "sweep"))
    assert "batch_size=016 and batch_size=16 are the same point" in said


def test_a_folder_of_somebody_elses_is_left_alone(bench: Callable[..., Done]) -> None:
    Path("mine").mkdir()
    Path("mine", "letter.txt").write_text("dear")
    assert "holds something other than a sweep" in refusal(
        bench("sweep", *FAKE, "--vary", "batch_size=8", "--output", "mine")
    )
    assert Path("mine", "letter.txt").read_text() == "dear"


# What is run.


@pytest.mark.slow
def test_a_sweep_is_run_told_and_made_again_from_its_records(bench: Callable[..., Done]) -> None:
    arms = (*FAKE, "--arm", "tests.fakes.backend:fast")
    asked = ("sweep", *arms, "--vary", "batch_size=8,16", "--rounds", 2, "--output", "sweep")
    done = bench(*asked)
    assert done.code == 0, done.error
    assert "2 points of 2 arms" in done.error
    assert "point 2 of 2: batch_size=16" in done.error
    assert "## Sweep: tests.fakes.backend, preset quick, over batch_size" in done.out
    text = Path("sweep", "sweep.md").read_text(encoding="utf-8")
    points = sorted(path for path in Path("sweep").iterdir() if path.is_dir())
    assert len(points) == 2
    assert bench("report", *points, "--format", "sweep").out == text
    assert Path("sweep", "sweep1-lines.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in points if "quality" in " ".join(name.name for name in (path / "records").iterdir())]
    for point in points:
        checked = bench("check", point)
        assert "no record" not in checked.out, checked.out

    records = {path: path.read_bytes() for path in Path("sweep").glob("*/records/*.json")}
    assert bench(*asked).code == 0  # everything is there
    assert {path: path.read_bytes() for path in Path("sweep").glob("*/records/*.json")} == records
    wider = bench("sweep", *arms, "--vary", "batch_size=16,32", "--rounds", 2, "--output", "sweep")
    assert wider.code == 0, wider.error
    assert len([path for path in Path("sweep").iterdir() if path.is_dir()]) == 3
    assert sweep_folder.values(Path("sweep")) == {"batch_size": ["8", "16", "32"]}
    before = Path("sweep", sweep_folder.NAME).read_bytes()
    other = bench("sweep", *arms, "--vary", "batch_size=32,64", "--rounds", 3, "--output", "sweep")
    assert "holds another comparison" in refusal(other)
    assert Path("sweep", sweep_folder.NAME).read_bytes() == before
    assert "| 32 " in wider.out


@pytest.mark.slow
def test_a_budget_leaves_points_out_and_the_same_command_continues(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("sweep", *FAKE, "--vary", "batch_size=8,16,32", "--rounds", 1, "--output", "sweep", "--budget", "20s")
    monkeypatch.setattr(sweeping.time, "monotonic", iter(range(0, 100_000, 15)).__next__)
    done = bench(*asked)
    assert done.code == 1
    assert "the budget is used: " in done.error
    first = len([path for path in Path("sweep").iterdir() if path.is_dir()])
    assert first < 3
    done = bench(*asked[:-2])
    assert done.code == 0, done.error
    assert len([path for path in Path("sweep").iterdir() if path.is_dir()]) == 3


def of_modes(backend: str, speeds: Mapping[str, float]) -> sweep.Sweep:
    """The sweep of a backend's modes in one run."""
    made = [
        one
        for mode, speed in speeds.items()
        for one in a_row(backend, noise(speed), name=f"{backend}:{mode}", mode=mode, id="r", spec={"task": "mnist_mlp"})
    ]
    (found,) = sweep.sweeps(made)
    return found


def test_modes_are_compared_with_the_default_one_in_the_same_rounds() -> None:
    found = of_modes("pytorch", {"compile": 150, "default": 100, "aot": 100})
    assert list(found.points) == [("default",), ("aot",), ("compile",)]
    tie, faster = sweep.sentences(found)
    assert tie.endswith("times as fast with mode=aot as with mode=default: tie.")
    assert re.match(r"pytorch is 1[.][45]\d+ \(", faster)
    assert faster.endswith("times as fast with mode=compile as with mode=default: faster.")


def test_without_the_default_joined_modes_are_compared_with_the_one_that_has_the_fewest_parts() -> None:
    found = of_modes("jax", {"flat+trim+huge-pages": 100, "trim+huge-pages": 100, "rbg+trim+huge-pages": 50})
    tie, slower = sweep.sentences(found)
    assert tie.endswith("times as fast with mode=flat+trim+huge-pages as with mode=trim+huge-pages: tie.")
    assert slower.endswith("times as fast with mode=rbg+trim+huge-pages as with mode=trim+huge-pages: slower.")


def test_releases_stand_in_the_order_of_their_numbers_and_are_compared_with_the_one_before() -> None:
    common = {"id": "r", "spec": {"task": "mnist_mlp"}}
    made = [
        one
        for release, speed in (("0.10.0", 150), ("0.9.2", 100), ("0.10.1", 150))
        for one in a_row("jax", noise(speed), name=f"jax=={release}", versions={"jax": release}, **common)
    ]
    (found,) = sweep.sweeps(made)
    assert (found.fields, list(found.points)) == (["release"], [("0.9.2",), ("0.10.0",), ("0.10.1",)])
    faster, tie = sweep.sentences(found)
    assert faster.endswith("times as fast with release=0.10.0 as with release=0.9.2: faster.")
    assert tie.endswith("times as fast with release=0.10.1 as with release=0.10.0: tie.")


def test_the_build_that_a_release_names_does_not_change_its_place() -> None:
    assert sorted(["2.13.0", "2.12.0+cpu", "2.9.1+cu130"], key=sweep.key) == ["2.9.1+cu130", "2.12.0+cpu", "2.13.0"]


def test_a_release_that_cannot_be_had_is_told_and_left_out(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def python_of(backend: str, release: str, *, said: str, tell: object) -> Path:
        if release == "9.9":
            raise interpreters.InterpreterError(f"{said}: pip cannot install jax==9.9: there is none")
        return Path("/cache", release)

    monkeypatch.setattr(releases, "python_of", python_of)
    assert sweeping._releases("jax:rbg", ["0.10.1", "9.9"]) == ["jax==0.10.1:rbg"]
    assert "pip cannot install jax==9.9: there is none; skipped" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none of 9\.9 can be had for jax"):
        sweeping._releases("jax", ["9.9"])


def test_two_runs_of_one_point_are_two_points_and_are_not_compared_with_each_other() -> None:
    again = a_point({"jax": noise(400), "pytorch": noise(100)}, "again", batch_size="8")
    (found,) = sweep.sweeps([*crossing(), *again])
    assert found.fields == ["batch_size", "run"]
    assert {point for point in found.points if point[0] == "8"} == {("8", "again"), ("8", "r0")}
    assert all(one[0] == other[0] for one, other in found.verdicts)


def test_every_line_has_its_parity() -> None:
    titles, *lines = sweep.table(sweep.sweeps(crossing())[0])
    assert titles[-1] == "parity"
    assert {line[-1] for line in lines} == {"float64 10/10, float32 10/10"}
