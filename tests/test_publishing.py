"""`framework-bench publish`: what passes `check` becomes a published result; everything else leaves nothing behind."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click import ClickException

from bench.cli import publishing
from bench.records import files
from bench.report import publish
from tests.builders import a_record
from tests.fakes.campaign import FAKE as NAME
from tests.test_cli import FAKE, Done, bench

__all__ = ["bench"]  # the fixture


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The published results of a clone, with none in them."""
    folder = tmp_path / "clone" / "results"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# Published results\n")
    return folder


def test_a_folder_is_named_by_day_tasks_preset_and_device() -> None:
    one = a_record(started_utc="2026-01-02T03:04:05Z")
    assert publishing.name_of([one]) == "2026-01-02-mnist_mlp-quick-cpu"
    other = a_record(task="gru_lm", device="gpu", started_utc="2026-01-01T00:00:00Z")
    assert publishing.name_of([one, other]) == "2026-01-01-mnist_mlp+gru_lm-quick-cpu+gpu"
    assert "/" not in publishing.name_of([a_record(preset="../../x", task="a.b/../c")])
    assert publishing.name_of([a_record(kind="explain", status="failed", reason="no")]).endswith("-cpu-explained")


@pytest.mark.slow
def test_a_run_that_passes_check_is_published_and_can_be_checked_there(
    bench: Callable[..., Done], results: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = bench("run", *FAKE, "--arm", f"{NAME}:fast", "--preset", "smoke", "--output", run)
    assert done.code == 0, done.error
    again = tmp_path / "again"
    done = bench("run", *FAKE, "--arm", f"{NAME}:fast", "--preset", "smoke", "--output", again)
    assert done.code == 0, done.error
    for number, folder in enumerate((run, again), start=1):
        done = bench("publish", folder, "--results", results)
        assert done.code == 0, done.error
        (place,) = [path for path in results.iterdir() if path.is_dir() and (number == 1 or path.name.endswith("-2"))]
        assert f"published: {place}" in done.out
        assert {path.name for path in place.iterdir()} == {
            "records", "records.sha256", "plan.json", "journal.jsonl", "table.md", "table.csv",
        }  # fmt: skip
        assert (place / "table.md").read_bytes() == (folder / "table.md").read_bytes()
        assert bench("check", place).code == 0
    for folder in (run, place):
        done = bench("publish", folder, "--results", results)
        assert done.code == 2
        assert f"{folder} is published already: {results}" in done.error
    assert len([path for path in results.iterdir() if path.is_dir()]) == 2
    index = (results / "README.md").read_text()
    assert index == publish.tables(results)[results / "README.md"]
    assert f"{place.name}/table.md" in index


@pytest.mark.slow
def test_what_check_objects_to_is_not_published(bench: Callable[..., Done], results: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert bench("run", *FAKE, "--preset", "smoke", "--output", run).code == 0
    next((run / "records").glob("*-memory-*")).unlink()
    before = sorted(results.rglob("*"))
    done = bench("publish", run, "--results", results)
    assert done.code == 1
    assert "it has been deleted since the run ended" in done.error
    assert f"see framework-bench check {run}" in done.error
    assert sorted(results.rglob("*")) == before


def test_results_that_are_no_clones_are_refused(bench: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = bench("publish", tmp_path / "run", "--results", tmp_path / "elsewhere")
    assert done.code == 2
    assert "there is no README.md" in done.error
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_where_the_index_cannot_be_made_nothing_is_copied(
    bench: Callable[..., Done], results: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert bench("run", *FAKE, "--preset", "smoke", "--output", run).code == 0
    (results / "broken" / "records").mkdir(parents=True)
    (results / "broken" / "records" / "half.json").write_text("{")
    before = sorted(results.rglob("*"))
    done = bench("publish", run, "--results", results)
    assert done.code == 2
    assert "its index cannot be made" in done.error
    assert sorted(results.rglob("*")) == before


def a_program(folder: Path, name: str, code: int) -> None:
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $@" >> "$(dirname "$0")/said"\nexit {code}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.slow
def test_a_copy_whose_tables_cannot_be_made_or_written_does_not_stay(
    bench: Callable[..., Done], results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, before = tmp_path / "run", sorted(results.rglob("*"))
    assert bench("run", *FAKE, "--preset", "smoke", "--output", run).code == 0

    def breaks(*_: object) -> dict[Path, str]:
        raise KeyError("processes")

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(publish, "tables", breaks)
        with pytest.raises(KeyError):
            publishing.into(results, run, data_dir=None)
    assert sorted(results.rglob("*")) == before
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_bytes", full)
        with pytest.raises(ClickException, match="No space left on device"):
            publishing.into(results, run, data_dir=None)
    assert sorted(results.rglob("*")) == before
    assert (results / "README.md").read_text() == "# Published results\n"


@pytest.mark.parametrize(("code", "ran"), [(0, 5), (1, 1)])
def test_a_pull_request_is_made_when_the_user_agrees_and_stops_at_what_fails(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ran: int
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "gh"):
        a_program(programs, name, code)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    place = results / "2026-01-01-mnist_mlp-quick-cpu"
    place.mkdir()
    monkeypatch.setattr(publishing.click, "confirm", lambda *_, **__: True)
    if code:
        with pytest.raises(publishing.click.ClickException, match="git switch"):
            publishing.request_pull(place)
    else:
        publishing.request_pull(place)
    said = (programs / "said").read_text().splitlines()
    assert len(said) == ran
    assert said[0] == f"git switch -c results/{place.name}"


def test_without_gh_or_agreement_nothing_runs(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("ran")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(publishing.click.ClickException, match="there is no gh"):
        publishing.request_pull(results)
    a_program(tmp_path, "gh", 0)

    def disagree(*_: object, **__: object) -> None:
        raise publishing.click.Abort

    monkeypatch.setattr(publishing.click, "confirm", disagree)
    with pytest.raises(publishing.click.Abort):
        publishing.request_pull(results)
