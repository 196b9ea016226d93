"""The site of all published results: made of records alone, complete, marked where superseded, and usable in a browser."""

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.records import files, sweep_folder
from bench.report import publish, site
from tests import chromium
from tests.builders import MACHINE, a_run, changed, write_records
from tests.test_explain import an_explained_run
from tests.test_inference import an_asked_run
from tests.test_report import HOSTILE

pytestmark = pytest.mark.slow  # each makes a site, with its plots

ROOT = Path(__file__).parent.parent
TWO = {"pytorch": [200.0, 204.0, 198.0], "jax": [100.0, 101.0, 99.5]}
VERSIONS = {"versions": {"torch": "2.13.0"}}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An older and a newer run of one comparison, one of another machine, and one of `explain`; a correction of the first."""
    folder = tmp_path / "results"
    cpu = "A CPU with a very long name, as some have it, with all its features and its clock at 2.60GHz"
    other = [changed(one, machine=type(MACHINE)(cpu, 8, 2**34, None, None, "Linux", "3.12.1")) for one in a_run(TWO)]
    write_records(folder / "2026-01-01-mnist_mlp-quick-cpu", a_run(TWO, **VERSIONS))
    write_records(folder / "2026-02-01-mnist_mlp-quick-cpu", a_run(TWO, id="5678", **VERSIONS))
    write_records(folder / "2026-03-01-mnist_mlp-quick-cpu", other)
    write_records(
        folder / "2026-04-01-mnist_mlp-quick-cpu-explained", an_explained_run({"pytorch": [10.0, 10.1]}, **VERSIONS)
    )
    note = "What is wrong:\n\n- 2026-05-01: in `2026-01-01-mnist_mlp-quick-cpu`, the\n  memory.\n"
    (folder / "corrections.md").write_text(note)
    return folder


def test_every_row_of_every_run_is_in_the_index_with_its_page_and_records(results: Path) -> None:
    made = dict(site.pages(results))
    index = made["index.html"].decode()
    assert index.count("<tr data-arm=") == 6
    for name in (path.name for path in results.iterdir() if path.is_dir()):
        assert f'href="runs/{name}.html"' in index
        assert "All published results" in made[f"runs/{name}.html"].decode()
        with zipfile.ZipFile(io.BytesIO(made[f"runs/{name}.zip"])) as packed:
            assert {f"{name}/records/{path.name}" for path in (results / name / "records").iterdir()} <= set(
                packed.namelist()
            )
    assert "framework-bench run --task mnist_mlp" in index
    assert "torch 2.13.0" in index


def test_what_is_superseded_or_corrected_is_marked_where_it_stands(results: Path) -> None:
    index = dict(site.pages(results))["index.html"].decode()
    assert index.count("superseded by 2026-02-01-mnist_mlp-quick-cpu") == 2
    assert index.count("corrected, see below") == 2
    assert "in `2026-01-01-mnist_mlp-quick-cpu`, the memory." in index


@pytest.mark.parametrize("kind", ["explained", "inference"])
def test_a_table_beside_training_is_superseded_by_a_later_one_of_its_arms(results: Path, kind: str) -> None:
    made = an_explained_run if kind == "explained" else an_asked_run
    older, later, other = (f"2026-0{month}-01-mnist_mlp-quick-cpu-again" for month in (5, 6, 7))
    write_records(results / older, made({"a": [10.0, 10.1], "b": [12.0, 12.1]}))
    write_records(results / later, [changed(one, id="99") for one in made({"a": [9.0, 9.1], "b": [12.0, 12.1]})])
    write_records(results / other, [changed(one, id="98") for one in made({"a": [9.0, 9.1]})])
    written = publish.tables(results)[results / "README.md"]
    assert (
        written.count("Superseded by [2026-0") - written.count(f"Superseded by [{later}](#{later})") == 1
    )  # training's
    assert written.split(f"## {older}")[1].count("Superseded by") >= 1
    index = dict(site.pages(results))["index.html"].decode()
    assert index.count(f"superseded by {later}") == 1
    assert f"superseded by {other}" not in index


def test_the_same_records_give_the_same_bytes(results: Path) -> None:
    assert dict(site.pages(results)) == dict(site.pages(results))


def test_a_site_is_made_anew_and_nothing_else_is_replaced(results: Path, tmp_path: Path) -> None:
    for _ in range(2):
        site.main(results, tmp_path / "site")
        assert (tmp_path / "site" / "index.html").exists()
    for name in ("CNAME", "runs/mine.html"):
        (tmp_path / "site" / name).write_text("mine")
    shutil.rmtree(results / "2026-01-01-mnist_mlp-quick-cpu")
    with (tmp_path / "site" / site.MADE).open("a") as made:
        made.write("../results/corrections.md\nCNAME\n")  # somebody's edit
    site.main(results, tmp_path / "site")
    assert not (tmp_path / "site" / "runs" / "2026-01-01-mnist_mlp-quick-cpu.html").exists()
    assert [(tmp_path / "site" / name).read_text() for name in ("CNAME", "runs/mine.html")] == ["mine", "mine"]
    assert (results / "corrections.md").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(SystemExit, match="holds something that is no site"):
        site.main(results, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "results", "site"]


def test_what_is_there_of_the_same_files_is_not_made_again(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "site"
    site.main(results, there)
    whole = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    drawn: list[str] = []
    render = site.page.render
    monkeypatch.setattr(
        site.page, "render", lambda records, **rest: drawn.append(records[0].run.id) or render(records, **rest)
    )
    site.main(results, there)
    assert drawn == []
    edited, lost = (there / "runs" / f"2026-0{month}-01-mnist_mlp-quick-cpu.html" for month in (1, 2))
    edited.write_text("nothing")
    lost.unlink()
    site.main(results, there)
    assert len(drawn) == 2
    assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == whole
    (results / "2026-03-01-mnist_mlp-quick-cpu" / "notes.txt").write_text("in its archive")
    site.main(results, there)
    assert len(drawn) == 3
    monkeypatch.setattr(site, "_program", lambda: "another version")
    site.main(results, there)
    assert len(drawn) == 7


def test_a_site_that_was_interrupted_is_finished(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = files.write_bytes, []

    def full(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            site.main(results, tmp_path / "site")
    site.main(results, tmp_path / "site")
    assert {path: (tmp_path / "site" / path).read_bytes() for path, _ in site.pages(results)} == dict(
        site.pages(results)
    )


def test_a_folder_without_runs_makes_no_site(tmp_path: Path) -> None:
    for folder in ("nowhere", "."):
        with pytest.raises(SystemExit, match="holds no runs"):
            site.main(tmp_path / folder, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_bad_record_makes_no_site(results: Path, tmp_path: Path) -> None:
    next((results / "2026-02-01-mnist_mlp-quick-cpu" / "records").iterdir()).write_text("{")
    with pytest.raises(files.RecordError):
        site.main(results, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_hostile_records_stay_text(tmp_path: Path) -> None:
    evil = HOSTILE["html"]
    machine = type(MACHINE)(evil, 2, 2**33, None, None, "Linux", "3.11")
    write_records(tmp_path / "2026-01-01-x", a_run(TWO, machine=machine, versions={"torch": evil}, preset="smoke"))
    index = dict(site.pages(tmp_path))["index.html"].decode()
    assert "<script>alert" not in index
    assert "&lt;script&gt;alert" in index


def test_the_published_results_make_a_site(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.report.site", "results", str(tmp_path / "site")], cwd=ROOT, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (tmp_path / "site" / "runs").glob("*.html")}
    whole = [*(ROOT / "results").glob("*/records"), *(ROOT / "results").glob(f"*/{sweep_folder.NAME}")]
    assert pages == {path.parent.name for path in whole}


# In a browser.

ROWS = "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    if chromium.PROGRAM is None:
        pytest.skip(chromium.WITHOUT)
    with chromium.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_the_index_filters_and_sorts_without_a_request_or_a_complaint(
    browser: chromium.Page, results: Path, tmp_path: Path
) -> None:
    site.main(results, tmp_path / "site")
    address = (tmp_path / "site" / "index.html").as_uri()
    browser.look(width=1280)
    browser.open(address)
    assert len(browser.run(ROWS)) == 6
    browser.run("""{
      const select = document.forms.filters.elements.machine;
      select.selectedIndex = [...select.options].findIndex(option => option.textContent.startsWith("A CPU with"));
      select.dispatchEvent(new Event("change", { bubbles: true }));
    }""")
    assert browser.run("document.getElementById('shown').textContent") == "2 of 6 rows shown"
    browser.run("document.querySelectorAll('th button')[2].click()")  # a second, ascending
    assert browser.run(ROWS) == ["jax", "pytorch"]
    assert browser.requests() == [address]
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_no_wider_than_the_screen(
    browser: chromium.Page, results: Path, tmp_path: Path, width: int
) -> None:
    site.main(results, tmp_path / "site")
    browser.look(width=width)
    browser.open((tmp_path / "site" / "index.html").as_uri())
    assert browser.run("document.documentElement.scrollWidth") <= width


PAIR = """{{
  const [first, second] = document.querySelectorAll("#pair select");
  for (const [select, run] of [[first, {0!r}], [second, {1!r}]]) {{
    select.value = run;
    select.dispatchEvent(new Event("change", {{ bubbles: true }}));
  }}
}}"""
BESIDE = "[...document.querySelectorAll('#two tbody tr')].map(r => [r.cells[0], r.cells[4]].map(c => c.textContent).join(' '))"


def test_two_runs_stand_side_by_side_with_what_they_have_in_common(
    browser: chromium.Page, results: Path, tmp_path: Path
) -> None:
    twice = {name: [2 * value for value in values] for name, values in TWO.items()}
    machine = type(MACHINE)("Twice", 8, 2**34, None, None, "Linux", "3.12.1")
    write_records(
        results / "2026-05-01-mnist_mlp-quick-cpu", a_run({**twice, "third": [1.0, 1.1, 1.0]}, machine=machine)
    )
    write_records(results / "2026-06-01-gru_lm-quick-cpu", a_run(TWO, task="gru_lm"))
    site.main(results, tmp_path / "site")
    browser.open((tmp_path / "site" / "index.html").as_uri())
    said = "document.getElementById('common').textContent"
    assert browser.run(said) == "Choose two runs."
    assert browser.run("document.querySelector('#two table').hidden") is True
    before, after = "2026-02-01-mnist_mlp-quick-cpu", "2026-05-01-mnist_mlp-quick-cpu"
    browser.run(PAIR.format(before, after))
    assert browser.run(BESIDE) == ["pytorch 2.00", "jax 2.00"]
    assert browser.run(said).endswith(f"framework-bench compare results/{before} results/{after}")
    browser.run(PAIR.format(before, "2026-06-01-gru_lm-quick-cpu"))
    assert browser.run(BESIDE) == []
    assert "no row in common" in browser.run(said)
    assert browser.complaints() == []


def test_a_row_leads_to_the_explanation_of_its_step(results: Path) -> None:
    index = dict(site.pages(results))["index.html"].decode()
    explained = 'href="runs/2026-04-01-mnist_mlp-quick-cpu-explained.html">where its step'
    assert index.count(explained) == 2  # of pytorch, in both runs of that machine, and in none of the other


@pytest.mark.parametrize(
    "facts", [{"versions": {"torch": "2.12.0"}}, {"preset": "standard"}, {"environment": {"A": "1"}}], ids=str
)
def test_a_row_leads_to_no_explanation_of_another_version_preset_or_arm(
    results: Path, facts: Mapping[str, Any]
) -> None:
    shutil.rmtree(results / "2026-04-01-mnist_mlp-quick-cpu-explained")
    other = [changed(one, **facts) for one in an_explained_run({"pytorch": [10.0, 10.1]}, **VERSIONS)]
    write_records(results / "2026-05-01-mnist_mlp-quick-cpu-explained", other)
    assert "where its step" not in dict(site.pages(results))["index.html"].decode()


def test_of_two_explanations_of_a_row_the_latest_is_named(results: Path) -> None:
    again = [changed(one, id="8") for one in an_explained_run({"pytorch": [10.0, 10.1]}, **VERSIONS)]
    write_records(results / "2026-05-01-mnist_mlp-quick-cpu-explained", again)
    index = dict(site.pages(results))["index.html"].decode()
    assert index.count('href="runs/2026-05-01-mnist_mlp-quick-cpu-explained.html">where its step') == 2
    assert 'href="runs/2026-04-01-mnist_mlp-quick-cpu-explained.html">where its step' not in index


def test_a_row_that_is_not_ranked_is_set_beside_no_other(results: Path) -> None:
    unproven = [one for one in a_run(TWO, id="9") if one.cell.kind != "parity"]
    write_records(results / "2026-07-01-mnist_mlp-quick-cpu", unproven)
    index = dict(site.pages(results))["index.html"].decode()
    assert 'data-run="2026-02-01-mnist_mlp-quick-cpu"' in index
    assert 'data-run="2026-07-01-mnist_mlp-quick-cpu"' not in index
