"""`framework-bench check`: a sound folder has no finding, and each kind of forgery has one."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.campaign import plan
from bench.checks import review
from bench.records import digest, files
from bench.records.record import Arm, Outcome, Record
from tests.builders import QUIET, a_run, changed
from tests.test_cli import FAKE, NAME, Done, bench

__all__ = ["bench"]  # the fixture

Edit = Callable[[Path], object]

PUBLISHED = Path(__file__).parent.parent / "results" / "2026-11-22-mnist_mlp-standard-cpu-3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run, once there is one."""
    return {"at": tmp_path_factory.mktemp("finished") / "run"}


@pytest.fixture
def folder(finished: dict[str, Path], bench: Callable[..., Done], tmp_path: Path) -> Path:
    """A copy of the folder of a run of two arms that came to its end."""
    if not finished["at"].exists():
        done = bench("run", *FAKE, "--arm", f"{NAME}:fast", "--rounds", 3, "--seeds", 1, "--output", finished["at"])
        assert done.code == 0, done.error
    shutil.copytree(finished["at"], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.slow
@pytest.mark.parametrize(
    "published", sorted(path.name for path in PUBLISHED.parent.iterdir() if path.is_dir() and path.name != "local")
)
def test_every_published_folder_passes(published: str) -> None:
    assert [one for one in review.check(PUBLISHED.parent / published) if not one.gap] == []


def about(folder: Path) -> set[str]:
    """What there are findings about."""
    return {one.about for one in review.check(folder) if not one.gap}


def first(folder: Path, kind: str = "speed") -> Path:
    return min((folder / "records").glob(f"*-{kind}-*.json"))


def rewritten(folder: Path, edit: Callable[[Any], object], kind: str = "speed") -> None:
    """Edits a record, and makes the digest and the tables anew as a forger would."""
    path = first(folder, kind)
    plain = json.loads(path.read_text())
    edit(plain)
    path.write_bytes(files.encode(plain))
    files.write_digest(folder)


def rewritten_as(folder: Path, run_id: str) -> None:
    """The id of the run in all its records, as it stands in JSON."""
    for path in (folder / "records").iterdir():
        path.write_text(re.sub(r'("id": )"[^"]*"', lambda found: f'{found[1]}"{run_id}"', path.read_text()))
    files.write_digest(folder)


def all_faster(folder: Path) -> None:
    """Every figure of the speed of an arm, a hundred times, all of which agree with each other."""
    for path in (folder / "records").glob("*-speed-*-tests.fakes.backend-fast-*.json"):
        plain = json.loads(path.read_text())
        timings = plain["outcome"]["timings"]
        timings["blocks_s"] = [seconds / 1e4 for seconds in timings["blocks_s"]]
        timings["window_s"] = sum(timings["blocks_s"])
        timings["cpu_s"] = 0.0
        timings["unfinished_s"] = 0.0
        path.write_bytes(files.encode(plain))
    files.write_digest(folder)


def swapped(folder: Path) -> None:
    """The places of the two arms of a round, in all but the round's number."""
    for path in (folder / "records").glob("*-speed-round02-*.json"):
        plain = json.loads(path.read_text())
        plain["cell"]["position"] = 3 - plain["cell"]["position"]
        path.write_bytes(files.encode(plain))
    files.write_digest(folder)


def planned_less(folder: Path) -> None:
    """A round that one dislikes is gone, and the plan knows nothing of it."""
    for path in (folder / "records").glob("*-speed-round03-*.json"):
        path.unlink()
    plan = json.loads((folder / "plan.json").read_text())
    plan["facts"][f"--rounds of {NAME}"] = "2"
    (folder / "plan.json").write_text(json.dumps(plan))
    files.write_digest(folder)


def pasted(folder: Path) -> None:
    """The times of one round in another."""
    one, other, *_ = sorted((folder / "records").glob("*-speed-*-tests.fakes.backend-fast-*.json"))
    plain, best = (json.loads(path.read_text()) for path in (one, other))
    plain["outcome"]["timings"] = best["outcome"]["timings"]
    one.write_bytes(files.encode(plain))
    files.write_digest(folder)


def forged(edit: Callable[[Any], object], *, arm: str = "", kind: str = "") -> Edit:
    """Edits the records of an arm and a kind, or leaves out those of which `edit` says False, in all that tells of them."""

    def forge(folder: Path) -> None:
        told: dict[str, str | None] = {}  # name of a record -> its new hash
        for path in sorted((folder / "records").iterdir()):
            plain = json.loads(path.read_bytes())
            if arm not in ("", plain["cell"]["arm"]["name"]) or kind not in ("", plain["cell"]["kind"]):
                continue
            if edit(plain) is False:
                path.unlink()
                told[path.name] = None
            else:
                path.write_bytes(files.encode(plain))
                told[path.name] = digest.of(path.read_bytes())
        files.write_digest(folder)
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        kept = [line for line in lines if told.get(line["cell"], "") is not None]
        for line in kept:
            if line["event"] == "end" and line["cell"] in told:
                line["sha256"] = told[line["cell"]]
        (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))

    return forge


def exchanged(folder: Path) -> None:
    """Rounds 1 and 2 of an arm, in all that tells of them."""
    names = {path.name: path for path in (folder / "records").glob("*-speed-*-tests.fakes.backend-fast-*.json")}
    one, other, *_ = sorted(names)
    plain = {name: json.loads(names[name].read_bytes()) for name in (one, other)}
    places = [{key: plain[name]["cell"][key] for key in ("round", "position")} for name in (one, other)]
    plain[one]["cell"] |= places[1]
    plain[other]["cell"] |= places[0]
    names[one].write_bytes(files.encode(plain[other]))
    names[other].write_bytes(files.encode(plain[one]))
    text = (folder / "journal.jsonl").read_text()
    text = text.replace(one, "?").replace(other, one).replace("?", other)
    (folder / "journal.jsonl").write_text(text)
    forged(lambda plain: None)(folder)


def longer(plain: Any) -> None:
    """A window that lasts as long as a thousand of its processes, where the others' is what it was."""
    timings = plain["outcome"]["timings"]
    timings["blocks_s"] = [1000 * plain["outcome"]["wall_s"] for _ in timings["blocks_s"]]
    timings["window_s"] = sum(timings["blocks_s"])


def shortened(plain: Any) -> None:
    """Ladders of one rung."""
    for ladder in plain["outcome"]["ladders"] or plain["cell"]["ladders"]:
        ladder |= {"rungs": ladder["rungs"][:1], "height": 1}


def loosened(plain: Any) -> None:
    """A rung that would not have been passed."""
    for ladder in plain["outcome"]["ladders"] or plain["cell"]["ladders"]:
        ladder["rungs"][3] |= {"difference": 0.7, "tolerance": 1.0}


def ended_twice(folder: Path) -> None:
    """A record that was edited, and a line of the journal more that says so."""
    rewritten(folder, lambda plain: plain["outcome"]["timings"].update(barrier_s=0.5))
    path = folder / "journal.jsonl"
    line = next(line for line in map(json.loads, path.read_text().splitlines()) if line["cell"] == first(folder).name)
    line |= {"event": "end", "status": "ok", "sha256": digest.of(first(folder).read_bytes())}
    path.write_text(f"{path.read_text()}{json.dumps(line)}\n")


FORGERIES: dict[str, tuple[str, Edit]] = {
    "a record edited": ("records", lambda folder: first(folder).write_bytes(first(folder).read_bytes() + b" ")),
    "a record added": ("records", lambda folder: shutil.copy(first(folder), folder / "records" / "more.json")),
    "a record deleted": ("records", lambda folder: first(folder).unlink()),
    "a record deleted, and the digest made anew": (
        "plan", lambda folder: (first(folder).unlink(), files.write_digest(folder)),
    ),
    "a round deleted, in the plan too": ("records", planned_less),
    "times pasted": ("records", pasted),
    "a version of another": (
        "plan", lambda folder: rewritten(folder, lambda plain: plain["outcome"]["versions"].update(numpy="0.1")),
    ),
    "times left out": ("times", lambda folder: rewritten(folder, lambda plain: plain["outcome"].update(started_utc=""))),
    "an absurd plan": (
        "plan",
        lambda folder: (folder / "plan.json").write_text(
            re.sub(r'("--rounds of [^"]+": )"3"', r'\1"99999999999"', (folder / "plan.json").read_text())
        ),
    ),
    "a journal of nothing": ("times", lambda folder: (folder / "journal.jsonl").write_bytes(b"\n" * 2**24)),
    "a table that grows": ("tables", lambda folder: os.truncate(folder / "table.md", 2**36)),
    "no digest": ("digest", lambda folder: (folder / digest.NAME).unlink()),
    "another run's id": ("plan", lambda folder: rewritten(folder, lambda plain: plain["run"].update(id="other"))),
    "another source": ("plan", lambda folder: rewritten(folder, lambda plain: plain["run"].update(source="0" * 64))),
    "another Python": (
        "plan", lambda folder: rewritten(folder, lambda plain: plain["run"]["machine"].update(python="3.99.0")),
    ),
    "the winner left out": ("plan", forged(lambda plain: False, arm=f"{NAME}:fast")),
    "rounds of an arm exchanged": ("times", exchanged),
    "a window longer than its process": ("records", forged(longer, arm=NAME, kind="speed")),
    "ladders of one rung": ("records", forged(shortened)),
    "a tolerance of a hundred percent": ("records", forged(loosened)),
    "another target": ("plan", forged(lambda plain: plain["cell"]["target"].update(at_least=0.0))),
    "another preset": ("plan", forged(lambda plain: plain["cell"].update(preset="full"))),
    "another environment": ("plan", forged(lambda plain: plain["cell"]["arm"].update(environment={"A": "b"}))),
    "another GPU": ("plan", forged(lambda plain: plain["run"]["machine"].update(gpu="a card"))),
    "more in the window": (
        "losses",
        forged(
            lambda plain: plain["outcome"]["timings"].update(
                losses=[[update, 1.2 * loss] for update, loss in plain["outcome"]["timings"]["losses"]]
            ),
            arm=NAME, kind="speed",
        ),
    ),
    "an end too many": ("times", ended_twice),
    "a journal without hashes": (
        "times",
        lambda folder: (folder / "journal.jsonl").write_text(
            re.sub(r'"sha256": "[0-9a-f]+"', '"sha256": ""', (folder / "journal.jsonl").read_text())
        ),
    ),
    "as if it were old": (
        "plan",
        lambda folder: (
            forged(lambda plain: plain["run"].update(source=None, harness=None))(folder),
            (folder / "plan.json").unlink(), (folder / "journal.jsonl").unlink(),
        ),
    ),
    "tasks without end": (
        "plan",
        lambda folder: (folder / "plan.json").write_text(
            json.dumps({**(told := json.loads((folder / "plan.json").read_text())),
                        "facts": told["facts"] | {"--task": ", " * 5000, "--rounds of ": "9999", "--seeds of ": "9999"}})
        ),
    ),
    "a plan that is none": ("plan", lambda folder: (folder / "plan.json").write_text("{}")),
    "an id that is no text": ("plan", lambda folder: [rewritten_as(folder, "\\ud800")]),
    "another order": ("order", swapped),
    "two at one place": (
        "order",
        lambda folder: rewritten(folder, lambda plain: plain["cell"].update(position=3 - plain["cell"]["position"])),
    ),
    "another time": (
        "times", lambda folder: rewritten(folder, lambda plain: plain["outcome"].update(started_utc="2020-01-01T00:00:00Z")),
    ),
    "a longer time": ("times", lambda folder: rewritten(folder, lambda plain: plain["outcome"].update(wall_s=1e4))),
    "a failure hidden": (
        "times",
        lambda folder: (folder / "journal.jsonl").write_text(
            (folder / "journal.jsonl").read_text().replace('"status": "ok"', '"status": "killed"', 1)
        ),
    ),
    "a speed that no clock sees": ("limits", all_faster),
    "another table": ("tables", lambda folder: (folder / "table.md").write_text("fast is fastest\n")),
    "another csv": ("tables", lambda folder: (folder / "table.csv").write_text("backend\nfast\n")),
    "a person's folder": (
        "privacy",
        lambda folder: rewritten(folder, lambda plain: plain["outcome"].update(remarks=["see /home/somebody/notes"])),
    ),
    "an address": (
        "privacy", lambda folder: rewritten(folder, lambda plain: plain["outcome"].update(remarks=["ask me@example.org"])),
    ),
}  # fmt: skip


def of_an_older_version(folder: Path) -> Path:
    """A copy of a published folder that has neither plan nor journal."""
    return Path(shutil.copytree(PUBLISHED, folder / "older"))


def test_rounds_of_an_older_folder_are_not_to_be_chosen(tmp_path: Path) -> None:
    folder = of_an_older_version(tmp_path)
    for path in (folder / "records").glob("*-speed-round02-*.json"):
        path.unlink()
    files.write_digest(folder)
    assert "order" in about(folder)


def test_rounds_of_an_older_folder_are_not_to_be_exchanged(tmp_path: Path) -> None:
    folder = of_an_older_version(tmp_path)
    one, other = (next((folder / "records").glob(f"*-speed-round0{number}-jax.json")) for number in (1, 2))
    plain = {path: json.loads(path.read_bytes()) for path in (one, other)}
    kept = {path: {key: plain[path][key] for key in ("round", "position")} for path in (one, other)}
    one.write_bytes(files.encode(plain[other] | kept[one]))
    other.write_bytes(files.encode(plain[one] | kept[other]))
    files.write_digest(folder)
    assert "times" in about(folder)


@pytest.mark.slow
def test_a_run_that_came_to_its_end_has_no_finding(folder: Path, bench: Callable[..., Done]) -> None:
    done = bench("check", folder)
    assert done.code == 0, done.out
    *gaps, last = done.out.splitlines()
    assert {line.split(": ")[1] for line in gaps} == {"self-test", "control", "task"}
    assert last == "1 folder, 0 findings"
    subprocess.run(["sha256sum", "--check", "--quiet", digest.NAME], cwd=folder, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(folder: Path, bench: Callable[..., Done], name: str) -> None:
    what, forge = FORGERIES[name]
    forge(folder)
    assert what in about(folder)
    assert bench("check", folder).code == 1


def declared(folder: Path, edit: Callable[[Any], object] = lambda plain: None) -> list[tuple[str, bool]]:
    """What is said of the task of a record as a run would make it, and then edited."""
    choice = plan.Choice(tasks=["mnist_mlp"], arms=[Arm(name="jax", backend="jax")], preset="smoke", run_id="one")
    (task_plan,) = plan.make(choice)
    record = Record(run=task_plan.run, cell=task_plan.template, outcome=Outcome(status="failed", reason="of a test"))
    plain = json.loads(files.encode(record))
    edit(plain)
    path = folder / "records" / record.cell.file_name
    path.parent.mkdir()
    path.write_bytes(files.encode(plain))
    return [(one.text, one.gap) for one in review.check(folder) if one.about == "task"]


def test_a_task_that_is_the_presets_has_no_finding(tmp_path: Path) -> None:
    assert declared(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "edit"),
    {
        "batch_size": lambda plain: plain["cell"]["spec"].update(batch_size=64),
        "model": lambda plain: plain["cell"]["spec"]["model"].update(widths=[784, 64, 10]),
        "train_steps": lambda plain: plain["cell"]["spec"].update(train_steps=9),
        "data": lambda plain: plain["cell"]["spec"]["data"].update(sha256="0" * 64),
        "unit": lambda plain: plain["cell"].update(unit="pixels"),
        "target": lambda plain: plain["cell"]["target"].update(at_least=0.1),
        "more": lambda plain: plain["cell"]["spec"].update(more=1),
    }.items(),
)
def test_a_task_that_is_not_the_presets_is_a_finding(tmp_path: Path, field: str, edit: Callable[[Any], object]) -> None:
    assert declared(tmp_path, edit) == [(f"mnist_mlp, preset smoke: its {field} is not that of the preset", False)]


def test_a_task_of_another_version_or_with_other_data_is_a_gap(tmp_path: Path) -> None:
    def older(plain: Any) -> None:
        plain["run"]["source"] = "0" * 64
        plain["cell"]["spec"]["batch_size"] = 64

    ((told, is_gap),) = declared(tmp_path, older)
    assert is_gap
    assert told.endswith("in this version of framework-bench, which is not the run's")


def test_changes_that_no_task_takes_are_a_finding(tmp_path: Path) -> None:
    ((told, is_gap),) = declared(tmp_path, lambda plain: plain["cell"].update(changes={"batch_size": "-1"}))
    assert not is_gap
    assert "batch_size" in told


@pytest.mark.slow
def test_findings_are_told_to_programs(folder: Path, bench: Callable[..., Done]) -> None:
    first(folder).unlink()
    done = bench("check", folder, folder, "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert {one["about"] for one in found if not one["gap"]} == {"order", "plan", "records", "tables"}
    assert all(one["folder"] == str(folder) for one in found)


def test_a_folder_without_records_is_a_finding(tmp_path: Path) -> None:
    assert about(tmp_path) == {"records"}


@pytest.mark.slow
def test_a_record_that_was_edited_is_measured_again(folder: Path, bench: Callable[..., Done]) -> None:
    path = first(folder)
    path.write_bytes(path.read_bytes().replace(b'"barrier_s"', b' "barrier_s"'))
    done = bench("run", *FAKE, "--arm", f"{NAME}:fast", "--rounds", 3, "--seeds", 1, "--output", folder)
    assert done.code == 0, done.error
    assert "it was changed after the run ended (records.sha256); moved to " in done.error
    assert about(folder) == set()


@pytest.mark.slow
def test_a_report_names_what_was_changed_after_the_run(folder: Path, bench: Callable[..., Done]) -> None:
    path = first(folder)
    path.write_bytes(path.read_bytes() + b"\n")
    done = bench("report", folder)
    assert done.code == 1
    assert "it was changed after the run ended (records.sha256)" in done.error
    assert "not ranked: 2 of 3 rounds" in done.out


def test_windows_without_losses_are_objected_to_where_they_count_and_not_where_all_were_disturbed() -> None:
    def objections(records: list[Record]) -> list[str]:
        return [text for about, text, gap in review._sections(records) if about == "records" and not gap]

    told = [f"mnist_mlp {name}: its windows hold no losses, which prove the work" for name in ("alpha", "beta")]
    counted = a_run({"alpha": [100.0, 101.0], "beta": [100.0, 101.0]}, versions={"torch": "2"})
    assert sorted(objections(counted)) == told
    busy = msgspec.structs.replace(QUIET, others_share=0.5, disturbed="others had half of the cores")
    disturbed = [changed(one, disturbance=busy) if one.cell.kind == "speed" else one for one in counted]
    assert objections(disturbed) == []


def test_a_data_set_is_read_once_for_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand runs of a task would read it for a quarter of an hour."""
    loaded = []
    load = review.tasks.load

    def counting(*arguments: Any, **options: Any) -> Any:
        loaded.append(arguments)
        return load(*arguments, **options)

    monkeypatch.setattr(review.tasks, "load", counting)
    review._declared.cache_clear()
    for name in ("a", "b"):
        records = a_run({"alpha": [100.0]}, id=name)
        assert any("is not that of the preset" in text for _, text, _ in review._tasks(records, None))
    assert loaded == [("mnist_mlp", "quick")]
