"""Sweeps among the published results: copied, checked and shown as runs are, and made again from their records."""

import io
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from bench.checks import review
from bench.cli import publishing
from bench.records import digest, files, sweep_folder
from bench.records.record import Record
from bench.report import advice, publish, site, sweep, sweep_plot
from tests.builders import MACHINE, a_run, write_records
from tests.test_cli import FAKE, Done, bench, refusal
from tests.test_report import HOSTILE, TWO
from tests.test_sweep import a_point, noise

__all__ = ["bench"]  # the fixture

NAME = "2026-01-01-mnist_mlp-quick-cpu-sweep"


def write_sweep(folder: Path, records: Sequence[Record], values: Mapping[str, Sequence[str]]) -> Path:
    """A sweep's folder with a folder of a run for each point."""
    for run in dict.fromkeys(one.run.id for one in records):
        write_records(folder / f"point-{run}", [one for one in records if one.run.id == run])
    files.write(folder / sweep_folder.NAME, {name: list(of) for name, of in values.items()})
    return folder


def a_grid(run: str = "r", *, jax: float = 200.0, sizes: Sequence[str] = ("8", "16"), **facts: object) -> list[Record]:
    """Two fields with two values each, in which jax is ahead."""
    points = [(size, width) for size in sizes for width in ("32", "64")]
    return [
        one
        for number, (size, width) in enumerate(points)
        for one in a_point(
            {"jax": noise(jax), "pytorch": noise(100)}, f"{run}{number}", **{"batch_size": size, "model.hidden": width}
        )
    ]  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results of a clone: a run, and a sweep over two fields."""
    folder = tmp_path / "results"
    write_records(folder / "2025-12-31-mnist_mlp-quick-cpu", a_run(TWO))
    write_sweep(folder / NAME, a_grid(), {"batch_size": ["8", "16"], "model.hidden": ["32", "64"]})
    return folder


# What is made of the records.


def test_a_sweep_stands_in_the_results_with_its_table_plots_sentences_and_command(results: Path) -> None:
    made = publish.tables(results)
    place = results / NAME
    assert made[place / "sweep.md"] == sweep.render(publish.sweeps(results)[NAME])
    assert {"sweep1-lines.svg", "sweep1-map.svg"} <= {path.name for path in made if path.parent == place}
    for point in sweep_folder.points(place):
        assert {path.name for path in made if path.parent == point} == {"table.md", "table.csv", digest.NAME}
    index = made[results / "README.md"]
    entry = index[index.index(f"## {NAME}") :]
    assert f"[Sweep: mnist_mlp, preset quick, over batch_size and model.hidden]({NAME}/sweep.md)" in entry
    assert "With model.hidden=32: jax and pytorch: jax is " in entry
    assert f"![Who is ahead where]({NAME}/sweep1-map.svg)" in entry
    assert (
        "Again: `framework-bench sweep --task mnist_mlp --preset quick --vary batch_size=8,16 --vary model.hidden=32,64 "
        "--device cpu --precision float32 --arm jax --arm pytorch --rounds 5`" in entry
    )
    assert index.index(f"## {NAME}") < index.index("## 2025-12-31-mnist_mlp-quick-cpu")
    assert publish.tables(results) == made


@pytest.mark.parametrize("field", ["threads", "processes"])
def test_the_command_of_a_sweep_over_the_arms_names_them_without_the_values(field: str) -> None:
    common = {"id": "r", "spec": {"task": "mnist_mlp"}, "changes": {"model.widths": "784,10"}}
    made = [
        one
        for name, value in (("jax", 1), ("jax", 2), ("pytorch", 1), ("pytorch", 2))
        for one in a_run(
            {name: noise(100)}, name=f"{name}:compile,{field}={value}", mode="compile", **{field: value}, **common
        )
    ]
    (found,) = sweep.sweeps(made)
    assert publish.command_of_sweep(found) == (
        f"framework-bench sweep --task mnist_mlp --preset quick --set model.widths=784,10 --vary {field}=1,2 --device cpu "
        "--precision float32 --arm jax:compile --arm pytorch:compile --rounds 5"
    )


@pytest.mark.parametrize(
    ("later", "is_superseded"),
    [
        (a_grid("s", jax=400.0), True),
        (a_grid("s", sizes=("8", "16", "32")), True),
        (a_grid("s", sizes=("8",)), False),
        ([one for one in a_grid("s") if one.cell.arm.name == "jax"], False),
    ],
    ids=["the same points", "more points", "fewer points", "fewer arms"],
)
def test_a_sweep_is_superseded_by_a_later_one_of_all_its_points_and_arms(
    results: Path, later: list[Record], is_superseded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_plot, "pictures", lambda records: {})  # which take their time
    write_sweep(results / "2026-02-01-again-sweep", later, {"batch_size": ["8"], "model.hidden": ["32", "64"]})
    index = publish.tables(results)[results / "README.md"]
    assert ("Superseded by [2026-02-01-again-sweep]" in index) == is_superseded


def test_a_page_cites_the_sentences_and_the_table_of_a_sweep(results: Path) -> None:
    page = results.parent / "page.md"
    page.write_text(
        f"<!-- sentences: results/{NAME} model.hidden=64 -->\n<!-- end of sentences -->\n"
        f"<!-- table: results/{NAME} -->\n<!-- end of table -->\n"
    )
    text = publish.filled(page)
    told, table = text.split("<!-- end of sentences -->")
    assert told.count("\n- ") == 1
    assert "- With model.hidden=64: jax and pytorch: jax is " in told
    assert "| 8 " in table
    assert sweep.MEANING not in table
    page.write_text(text)
    assert publish.filled(page) == text
    page.write_text(f"<!-- sentences: results/{NAME} within 1 MiB: jax: -->\n<!-- end of sentences -->\n")
    assert "jax: batch_size 8 does not fit into 1.0 MiB (300 MiB)" in publish.filled(page)
    page.write_text(f"<!-- sentences: results/{NAME} tensorflow -->\n<!-- end of sentences -->\n")
    with pytest.raises(files.RecordError, match="no sentence of"):
        publish.filled(page)


def test_the_site_has_a_page_for_a_sweep_with_its_map_and_records(results: Path) -> None:
    made = dict(site.pages(results))
    assert f'<a href="runs/{NAME}.html">Sweep: mnist_mlp' in made["index.html"].decode()
    assert made["index.html"].decode().count("<tr data-arm=") == 2  # of the run alone
    page = made[f"runs/{NAME}.html"].decode()
    assert "With model.hidden=32: jax and pytorch: jax is " in page
    assert page.count("<figure>") == 2
    assert "All published results" in page
    with zipfile.ZipFile(io.BytesIO(made[f"runs/{NAME}.zip"])) as packed:
        assert len([name for name in packed.namelist() if "/records/" in name]) == len(a_grid())
    shutil.rmtree(results / "2025-12-31-mnist_mlp-quick-cpu")
    site.main(results, results.parent / "site")
    assert (results.parent / "site" / "runs" / f"{NAME}.html").is_file()


def test_hostile_records_of_a_sweep_stay_text(tmp_path: Path) -> None:
    evil = HOSTILE["html"]
    machine = type(MACHINE)(evil, 2, 2**33, None, None, "Linux", "3.11")
    made = [one for size in ("8", "16") for one in a_run(TWO, id=size, machine=machine, changes={evil: size})]
    write_sweep(tmp_path / "2026-01-01-x-sweep", made, {evil: ["8", "16"]})
    pages = dict(site.pages(tmp_path))
    for text in (pages["index.html"], pages["runs/2026-01-01-x-sweep.html"]):
        assert b"<script>alert" not in text
    index = publish.tables(tmp_path)[tmp_path / "README.md"]
    assert "<script>alert" not in re.sub(r"`[^`\n]*`", "", index)  # in a code span it is text


def test_advice_has_the_sentences_of_a_sweep_and_no_table_of_each_point(results: Path) -> None:
    told = advice.advice(publish.sweeps(results), advice.Wish(task="mnist_mlp"))
    titles = [title for title, _ in told]
    assert titles == [f"Sweep: mnist_mlp, preset quick, over batch_size and model.hidden ({NAME})", "Never measured"]


def test_a_bad_record_of_a_point_is_named(results: Path) -> None:
    path = results / NAME / "point-r1" / "records" / "half.json"
    path.write_text("{")
    with pytest.raises(files.RecordError, match=r"point-r1/records/half\.json"):
        publish.tables(results)


# What is published and checked.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a sweep, once there is one."""
    return {"at": tmp_path_factory.mktemp("finished") / "sweep"}


@pytest.fixture
def swept(finished: dict[str, Path], bench: Callable[..., Done], tmp_path: Path) -> Path:
    """A copy of the folder of a sweep of two arms at two points that came to its end."""
    if not finished["at"].exists():
        arms = (*FAKE, "--arm", "tests.fakes.backend:fast")
        done = bench("sweep", *arms, "--vary", "batch_size=8,16", "--rounds", 2, "--output", finished["at"])
        assert done.code == 0, done.error
    shutil.copytree(finished["at"], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.slow
def test_a_sweep_that_passes_check_is_published_and_made_again_byte_for_byte(
    bench: Callable[..., Done], swept: Path, tmp_path: Path
) -> None:
    results = tmp_path / "clone" / "results"
    results.mkdir(parents=True)
    (results / "README.md").write_text("# Published results\n")
    assert "0 findings" in bench("check", swept).out
    done = bench("publish", swept, "--results", results)
    assert done.code == 0, done.error
    (place,) = (path for path in results.iterdir() if path.is_dir())
    assert place.name.endswith("-cpu-sweep")
    assert (place / "sweep.md").read_bytes() == (swept / "sweep.md").read_bytes()
    assert {path.name for path in place.iterdir() if path.is_file()} == {"sweep.json", "sweep.md", "sweep1-lines.svg"}
    points = sweep_folder.points(place)
    assert len(points) == 2
    for point in points:
        assert {path.name for path in point.iterdir()} == {
            "records", "records.sha256", "plan.json", "journal.jsonl", "table.md", "table.csv",
        }  # fmt: skip
    for path, text in publish.tables(results).items():
        assert path.read_text(encoding="utf-8") == text, path
    assert "0 findings" in bench("check", place).out
    assert bench("report", place, "--format", "sweep").out == (place / "sweep.md").read_text(encoding="utf-8")
    assert "Sweep: tests.fakes.backend" in bench("advise", results).out


def of_another_point(swept: Path) -> None:
    shutil.copytree(sweep_folder.points(swept)[0], swept / "again")


def of_other_values(swept: Path) -> None:
    files.write(swept / sweep_folder.NAME, {"batch_size": ["16", "32"]})


def with_another_sentence(swept: Path) -> None:
    path = swept / "sweep.md"
    path.write_text(path.read_text().replace("tests.fakes.backend", "mine"))


def with_an_address(swept: Path) -> None:
    files.write(swept / sweep_folder.NAME, {"batch_size": ["8", "16"], "precision": ["someone@example.org"]})


def of_no_json(swept: Path) -> None:
    (swept / sweep_folder.NAME).write_text('{"batch_size": 8}')


def of_endless_values(swept: Path) -> None:
    files.write(swept / sweep_folder.NAME, {f"field{number}": ["1", "2"] for number in range(60)})


def without_records(swept: Path) -> None:
    for point in sweep_folder.points(swept):
        shutil.rmtree(point)


def edited(swept: Path) -> None:
    path = next((sweep_folder.points(swept)[1] / "records").glob("*-memory-*"))
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (of_another_point, "belong to the same run"),
        (of_other_values, "the point batch_size=8 was not asked for by sweep.json"),
        (with_another_sentence, "sweep.md is not what the records give"),
        (with_an_address, "sweep.json has 'someone@example.org'"),
        (of_no_json, "sweep.json: "),
        (of_endless_values, "sweep.json has more than 500 points"),
        (without_records, "records: there are none"),
        (edited, "it has been deleted since the run ended"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_a_sweep_is_found_and_keeps_it_from_being_published(
    bench: Callable[..., Done], swept: Path, tmp_path: Path, forge: Callable[[Path], None], said: str
) -> None:
    forge(swept)
    found = [one for one in review.check(swept) if not one.gap]
    assert any(said in f"{one.about}: {one.text}" for one in found), found
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").write_text("")
    assert bench("publish", swept, "--results", tmp_path / "results").code == 1
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]


@pytest.mark.slow
def test_a_point_that_a_budget_left_out_is_told_and_no_finding(swept: Path) -> None:
    files.write(swept / sweep_folder.NAME, {"batch_size": ["8", "16", "32"]})
    found = review.check(swept)
    assert [one for one in found if not one.gap] == []
    assert any(one.text == "the point batch_size=32 was not measured" for one in found)


@pytest.mark.slow
def test_a_sweep_of_one_value_has_nothing_to_publish(bench: Callable[..., Done], tmp_path: Path) -> None:
    assert bench("sweep", *FAKE, "--vary", "batch_size=8", "--rounds", 1, "--output", tmp_path / "one").code == 0
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "README.md").write_text("")
    said = refusal(bench("publish", tmp_path / "one", "--results", tmp_path / "results"))
    assert "no field has more than one value in its records" in said


@pytest.mark.slow
def test_too_little_memory_is_a_finding_of_the_sweeps_and_none_of_the_check(
    bench: Callable[..., Done], misbehave: Callable[[str], None], tmp_path: Path
) -> None:
    misbehave("runs out of host memory")
    done = bench("sweep", *FAKE, "--vary", "batch_size=8,16", "--rounds", 1, "--output", tmp_path / "small")
    assert done.code == 0, done.error
    assert [one for one in review.check(tmp_path / "small") if not one.gap] == []


def test_a_published_sweep_is_named_so() -> None:
    assert publishing.name_of(a_grid(), swept=True) == "2026-01-01-mnist_mlp-quick-cpu-sweep"
