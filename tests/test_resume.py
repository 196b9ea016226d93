"""A run that was killed or interrupted at any moment, or filled the disk, is continued: nothing is lost, or done twice."""

import dataclasses
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench.campaign import cooldown, parity_cache, resume
from bench.campaign.journal import Journal, Line
from bench.machine import locks
from bench.process.execute import remove_temporary
from bench.records import digest, files
from bench.records.record import Arm, Cell, Outcome, Record, Target
from tests.builders import a_cell
from tests.children.quick_runs import QuickRuns
from tests.conftest import assert_gone, runs, started, wait_until
from tests.fakes.campaign import FAKE, Answers, a_campaign, a_plan, a_planned_cell, an_arm, good
from tests.test_campaign import which

ROOT = Path(__file__).parent.parent
RUN = ("run", "--task", FAKE, "--backend", FAKE, "--device", "cpu")
AND_FAST = ("--arm", f"{FAKE}:fast")
"""A second arm of the same backend; it comes first."""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[QuickRuns]:
    with QuickRuns(tmp_path) as runs:
        yield runs


def on_disk(folder: Path) -> list[Record]:
    """Every record; each of them can be read."""
    records, problems = files.read_folder(folder)
    assert problems == []
    return records


def finished(folder: Path) -> set[str]:
    return {done.cell.file_name for done in on_disk(folder) if done.outcome.status == "ok"}


def whole(cell: str) -> str:
    """What is made whole or not at all: the round of a speed process's file name, and else the process itself."""
    match = re.match(r".*-speed-round\d+", cell)
    return match[0] if match else cell


def assert_nothing_twice(folder: Path) -> None:
    """No process was started once all of its round, or where it belongs to none its own record, was there."""
    lines = [line for line in Journal(folder).lines() if line.cell]
    members: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        members[whole(line.cell)].add(line.cell)
    ended: set[str] = set()
    for line in lines:
        if line.event == "start":
            assert not members[whole(line.cell)] <= ended, line
            ended.discard(line.cell)
        if line.event == "end" and line.status == "ok":
            assert line.cell not in ended
            ended.add(line.cell)


def assert_complete(folder: Path, *, cells: int) -> None:
    """Every process of the comparison is ok, was finished once, and nothing is left lying about."""
    assert len(finished(folder)) == len(list((folder / "records").iterdir())) == cells
    assert_nothing_twice(folder)
    ends = Counter(line.cell for line in Journal(folder).lines() if line.event == "end" and line.status == "ok")
    assert set(ends) == finished(folder)
    assert {number for cell, number in ends.items() if whole(cell) == cell} == {1}
    assert Journal(folder).crashed() == set()
    assert {path.name for path in folder.iterdir()} - {"corrupt"} == {
        ".framework-bench.lock", "journal.jsonl", "logs", "plan.json", "records", "records.sha256", "table.csv", "table.md",
    }  # fmt: skip
    assert "n=" in (folder / "table.md").read_text()


def assert_nothing_runs(folder: Path) -> None:
    """No process that has to do with this folder is left."""
    own = os.getpid()
    found = [process.pid for process in psutil.process_iter() if process.pid != own and _names(process, str(folder))]
    assert_gone(*found)


def _names(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in word for word in process.cmdline())
    except psutil.Error:
        return False


# What is kept, and what is not.


class Folder:
    """A folder of a run without processes; the cells that ran the last time."""

    def __init__(self, path: Path) -> None:
        self.path, self.ran = path, list[Cell]()
        self.answer: Callable[[Cell], Outcome] = good
        self.cool_down: Callable[[float, int | None], str | None] = cooldown.pause
        (path / "records").mkdir(parents=True)

    def run(self, *arms: str | Arm, retry_failed: bool = False, **changes: Any) -> resume.Found:
        """Starts or continues a comparison of two arms, or of those that are named."""
        chosen = arms or ("a.a", "b.b")
        plans = [a_plan(*chosen, **{"rounds": 2} | changes)]
        earlier = resume.stored(self.path)
        resume.compare(earlier, plans)
        if earlier is None:
            resume.fix(self.path, plans)
        found = resume.find(self.path, plans[0].cells, run_id=plans[0].run.id, retry_failed=retry_failed)
        answers = Answers(self.answer)
        self.ran = answers.ran
        running = a_campaign(
            self.path, *plans, execute=answers, kept=found.kept, cool_down=self.cool_down,
            before_first=lambda: (self.path / digest.NAME).unlink(missing_ok=True),
        )  # fmt: skip
        running.start()
        assert len(running.records) == len(on_disk(self.path)) == 5 * len(chosen)
        return found

    def file(self, cell: str) -> Path:
        (path,) = (self.path / "records").glob(f"*-{cell}-*.json")
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


def failing(*names: str) -> Callable[[Cell], Outcome]:
    """Answers of which those whose file names contain one of these fail."""

    def answer(cell: Cell) -> Outcome:
        if any(name in cell.file_name for name in names):
            return Outcome(status="failed", reason="broken", wall_s=1.0)
        return good(cell)

    return answer


def test_a_finished_comparison_runs_nothing_again(folder: Folder) -> None:
    folder.run()
    assert len(folder.ran) == 10
    before = {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()}
    found = folder.run()
    assert folder.ran == []
    assert (len(found.kept), found.crashed, found.aside) == (10, [], [])
    assert {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()} == before


def test_what_is_missing_runs_in_its_place_with_the_ladder_of_its_backend(folder: Folder) -> None:
    folder.run()
    for cell in ("speed-round02-a.a", "quality-seed0-b.b"):
        folder.file(cell).unlink()
    folder.run()
    assert sorted(map(which, folder.ran)) == [
        ("a.a", "speed", 2, 0), ("b.b", "quality", 1, 0), ("b.b", "speed", 2, 0),
    ]  # fmt: skip
    assert all(len(cell.ladders) == 2 for cell in folder.ran)


def test_a_round_of_which_half_was_measured_anew_is_measured_whole(folder: Folder) -> None:
    folder.run()
    (first, second) = sorted(
        (files.read(folder.file(f"speed-round01-{name}")).cell for name in ("a.a", "b.b")),
        key=lambda cell: cell.position,
    )
    shutil.rmtree(folder.path)
    (folder.path / "records").mkdir(parents=True)
    folder.answer = failing(first.file_name)
    folder.run()

    def interrupted(cell: Cell) -> Outcome:
        if cell.file_name == second.file_name:
            raise KeyboardInterrupt
        return good(cell)

    folder.answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        folder.run(retry_failed=True)
    assert files.read(folder.path / "records" / second.file_name).outcome.status == "ok"  # of the day before
    folder.answer = good
    folder.run()
    assert [which(cell) for cell in folder.ran] == [which(first), which(second)]
    folder.run()
    assert folder.ran == []


def test_a_ladder_that_is_lost_is_taken_from_the_other_records(folder: Folder) -> None:
    folder.run()
    lost = files.read(folder.file("parity-round01-a.a"))
    folder.file("parity-round01-a.a").unlink()
    shutil.rmtree(folder.path.parent / "cache")
    folder.run()
    assert folder.ran == []
    again = files.read(folder.file("parity-round01-a.a"))
    assert (again.ladders, again.cell, again.outcome.settings) == (lost.ladders, lost.cell, {"from cache": True})


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_a_nan(content: bytes) -> bytes:
    return content.replace(b'"wall_s": 2.0', b'"wall_s": NaN')


def without_figures(content: bytes) -> bytes:
    plain = json.loads(content)
    return json.dumps({**plain, "outcome": {**plain["outcome"], "timings": None}}).encode()


def of_another_round(content: bytes) -> bytes:
    return content.replace(b'"key": "', b'"key": "0')


@pytest.mark.parametrize(
    "harm", [half, with_a_nan, without_figures, of_another_round, lambda content: b"", lambda content: b"\x1b[2J\n"]
)
@pytest.mark.slow
def test_a_corrupt_record_is_moved_aside_told_and_made_again(folder: Folder, harm: Callable[[bytes], bytes]) -> None:
    folder.run()
    path = folder.file("speed-round01-a.a")
    harmed = harm(path.read_bytes())
    for number in (1, 2):
        path.write_bytes(harmed)
        found = folder.run()
        assert sorted(map(which, folder.ran)) == [("a.a", "speed", 1, 0), ("b.b", "speed", 1, 0)]  # the whole round
        (line,) = found.aside
        assert path.name in line
        assert line.isprintable()
        assert (folder.path / "corrupt" / f"{path.stem}.{number}.json").read_bytes() == harmed


def test_a_folder_in_the_place_of_a_record_is_moved_aside(folder: Folder) -> None:
    folder.run()
    path = folder.file("memory-round01-b.b")
    path.unlink()
    path.mkdir()
    assert len(folder.run().aside) == len(folder.ran) == 1


def test_what_failed_is_kept_until_it_is_to_be_retried(folder: Folder) -> None:
    folder.answer = failing("speed-round02-a.a")
    folder.run()
    folder.answer = good
    folder.run()
    assert folder.ran == []
    assert files.read(folder.file("speed-round02-a.a")).outcome.reason == "broken"
    folder.run(retry_failed=True)
    assert sorted(map(which, folder.ran)) == [("a.a", "speed", 2, 0), ("b.b", "speed", 2, 0)]
    assert len(finished(folder.path)) == 10


def test_a_failed_parity_keeps_what_was_not_run_for_it_and_a_retry_runs_all_of_it(folder: Folder) -> None:
    folder.answer = failing("parity-round01-b.b")
    folder.run()
    assert len(folder.ran) == 6
    folder.answer = good
    folder.run()
    assert folder.ran == []
    folder.run(retry_failed=True)
    kinds = sorted((cell.arm.name, cell.kind) for cell in folder.ran)
    of_b = [("b.b", kind) for kind in ("memory", "parity", "quality", "speed", "speed")]
    assert kinds == [("a.a", "speed"), ("a.a", "speed"), *of_b]
    assert len(finished(folder.path)) == 10


def test_an_interrupted_retry_leaves_no_process_skipped_for_a_parity_that_passed(folder: Folder) -> None:
    folder.answer = failing("parity-round01-b.b")
    folder.run()

    def interrupt(cell: Cell) -> Outcome:
        if cell.kind == "speed":
            raise KeyboardInterrupt
        return good(cell)

    folder.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        folder.run(retry_failed=True)
    folder.answer = good
    folder.run()
    assert len(finished(folder.path)) == 10


def test_an_interrupted_retry_does_not_lose_why_it_failed(folder: Folder) -> None:
    folder.answer = failing("quality-seed0-b.b")
    folder.run()

    def interrupt(cell: Cell) -> Outcome:
        raise KeyboardInterrupt

    folder.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        folder.run(retry_failed=True)
    assert files.read(folder.file("quality-seed0-b.b")).outcome.reason == "broken"
    folder.answer = good
    assert folder.run().aside == []  # nor is it taken for an edited one
    assert files.read(folder.file("quality-seed0-b.b")).outcome.reason == "broken"


def test_what_is_skipped_after_it_had_failed_is_not_taken_for_an_edited_record(folder: Folder) -> None:
    folder.answer = failing("speed-round01-b.b", "speed-round02-b.b", "memory-round01-b.b", "quality-seed0-b.b")
    folder.run()
    folder.file("parity-round01-b.b").unlink()
    shutil.rmtree(folder.path.parent / "cache")
    folder.answer = failing("parity-round01-b.b")
    folder.run(retry_failed=True)
    assert files.read(folder.file("quality-seed0-b.b")).outcome.status == "skipped"
    assert files.read_folder(folder.path, more={"journal.jsonl": Journal(folder.path).hashes()})[1] == []
    assert folder.run().aside == []


def forge(folder: Folder, cell: str, edit: Callable[[Any], object], *, in_journal: bool = True) -> None:
    """Edits a record, and makes the digest anew, and the journal's hash."""
    path = folder.file(cell)
    plain = json.loads(path.read_bytes())
    planned = files.read(path).cell
    edit(plain)
    path.write_bytes(files.encode(plain))
    files.write_digest(folder.path)
    if in_journal:
        Journal(folder.path).add("end", planned, status="ok", sha256=digest.of(path.read_bytes()))


def made_faster(plain: Any) -> None:
    timings = plain["outcome"]["timings"]
    timings["blocks_s"] = [seconds / 2 for seconds in timings["blocks_s"]]
    timings["window_s"] /= 2


def test_a_record_has_the_hash_of_the_journal_and_that_of_the_digest(folder: Folder) -> None:
    folder.run()
    forge(folder, "speed-round01-a.a", made_faster, in_journal=False)
    (line,) = folder.run().aside
    assert "it was changed after the run ended (journal.jsonl)" in line
    assert sorted(map(which, folder.ran)) == [("a.a", "speed", 1, 0), ("b.b", "speed", 1, 0)]
    files.write_digest(folder.path)
    path = folder.file("memory-round01-a.a")
    path.write_bytes(path.read_bytes() + b"\n")
    (folder.path / "journal.jsonl").write_bytes(b"")
    (line,) = folder.run().aside
    assert "it was changed after the run ended (records.sha256)" in line


@pytest.mark.parametrize(
    "edit",
    [
        lambda plain: plain["run"].update(id="forged"),
        lambda plain: plain["cell"].update(unit="giraffes"),
        lambda plain: plain["cell"].update(spec={**plain["cell"]["spec"], "more": 1}),
        lambda plain: plain["cell"]["target"].update(at_least=0.0),
        lambda plain: plain["cell"].update(step_flops=7),
        lambda plain: [
            data.update(description="other data") for data in (plain["cell"]["data"], plain["cell"]["spec"]["data"])
        ],
    ],
    ids=["run", "unit", "spec", "target", "operations", "data"],
)
def test_a_record_of_another_question_is_made_again_whatever_its_key(
    folder: Folder, edit: Callable[[Any], object]
) -> None:
    folder.run()
    forge(folder, "memory-round01-b.b", edit)
    (line,) = folder.run().aside
    assert "a record of another comparison" in line
    assert [which(cell) for cell in folder.ran] == [("b.b", "memory", 1, 0)]
    assert folder.run().aside == folder.ran == []


def test_what_breaks_a_rule_beside_the_others_is_made_again(folder: Folder) -> None:
    folder.run()
    forge(folder, "quality-seed0-b.b", lambda plain: plain["run"]["machine"].update(cpu="Another CPU"))
    (line,) = folder.run().aside
    assert "quality-seed0-b.b" in line
    assert "its machine differs from that of the others of its run; moved to " in line
    assert [which(cell) for cell in folder.ran] == [("b.b", "quality", 1, 0)]
    assert folder.run().aside == folder.ran == []


# Links.


@pytest.mark.parametrize(
    "name",
    [
        ".framework-bench.lock", "journal.jsonl", "plan.json", "table.md", "records.sha256", "notes", "records", "logs",
        "corrupt", ".framework-bench-scratch", "records/one.json", "logs/one.log", "corrupt/one.1.json",
        ".framework-bench-scratch/answer-one.json", ".framework-bench-scratch/temporary-0/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_new", [True, False])
def test_a_link_in_a_runs_folder_is_refused_by_name(folder: Folder, tmp_path: Path, name: str, is_new: bool) -> None:
    if not is_new:
        folder.run()
    path, mine = folder.path / name, tmp_path / "mine"
    mine.mkdir()
    if name.endswith("/x"):  # which leads to nothing, and is no name of the program's own either
        path = folder.path / ".framework-bench-scratch" / "temporary-0.x"
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(mine)
    with pytest.raises(resume.Mismatch, match=f"holds '{path.relative_to(folder.path)}', which is a link"):
        resume.stored(folder.path)


def test_a_folder_that_is_a_link_itself_is_a_runs_folder(folder: Folder, tmp_path: Path) -> None:
    folder.run()
    (tmp_path / "link").symlink_to(folder.path)
    assert resume.stored(tmp_path / "link") == resume.stored(folder.path)


def test_only_a_temporary_folder_with_the_links_token_is_removed(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch = folder.path / files.SCRATCH
    scratch.mkdir()
    for name in ("framework-bench-anything", "framework-bench-3k_x9a2b", "elsewhere"):
        (tmp_path / name).mkdir()
    links = {
        "temporary-0": "framework-bench-anything", "temporary-3k_x9a2b": "framework-bench-3k_x9a2b",
        "temporary-1": "elsewhere", "temporary-2": "mine/../framework-bench-2",
    }  # fmt: skip
    (tmp_path / "framework-bench-2").mkdir()
    for link, target in links.items():
        (scratch / link).symlink_to(f"{tmp_path}/{target}")
    remove_temporary(folder.path)
    left = {path.name for path in tmp_path.iterdir()}
    assert {"framework-bench-anything", "framework-bench-2", "elsewhere"} <= left
    assert "framework-bench-3k_x9a2b" not in left
    assert list(scratch.iterdir()) == []


def test_neither_a_lock_nor_a_journal_is_written_through_a_link(tmp_path: Path) -> None:
    """Though it was put there after the folder had been looked at."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / locks.NAME).symlink_to(mine)
    (tmp_path / "journal.jsonl").symlink_to(mine)
    with pytest.raises(OSError, match="symbolic links"), locks.folder(tmp_path):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        Journal(tmp_path).add("run")
    told: list[str] = []
    with locks.device("cpu", purpose="", tell=told.append):
        pass
    (lock,) = (tmp_path / "cache" / "framework-bench" / "locks").iterdir()
    lock.unlink()
    lock.symlink_to(mine)
    with locks.device("cpu", purpose="", tell=told.append):
        pass
    assert [line.partition(":")[0] for line in told] == ["nothing keeps other runs from the cpu"]
    assert mine.read_text() == "mine"


# What was asked.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 3}, f"--rounds of {FAKE} was 2, now 3"),
        ({"seeds": 2}, f"--seeds of {FAKE} was 1, now 2"),
        ({"preset": "quick"}, "--preset was smoke, now quick"),
        ({"cool_down_s": 5}, "--cool-down was 0, now 5"),
        ({"energy": True}, "--energy was False, now True"),
        ({"effect": 0.05}, "--effect was None, now 0.05"),
        ({"changes": {"batch_size": "8"}}, "--set was nothing, now batch_size=8"),
    ],
    ids=str,
)
@pytest.mark.slow
def test_another_request_is_refused_with_what_differs(folder: Folder, change: dict[str, Any], said: str) -> None:
    folder.run()
    with pytest.raises(resume.Mismatch) as caught:
        folder.run(**change)
    assert said in str(caught.value)
    assert len(finished(folder.path)) == 10


def test_other_arms_are_another_request(folder: Folder) -> None:
    folder.run()
    with pytest.raises(resume.Mismatch, match=r"the arms was a\.a, b\.b, now a\.a"):
        folder.run("a.a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "float64"}, "precision of b.b was float32, now float64"),
        ({"device": "gpu"}, "device of b.b was cpu, now gpu"),
        ({"mode": "fast"}, "mode of b.b was default, now fast"),
        ({"threads": 1}, "threads of b.b was None, now 1"),
        ({"environment": {"OMP_NUM_THREADS": "1"}}, "environment of b.b was None, now OMP_NUM_THREADS=1"),
        ({"python": "3.99.0"}, "python of b.b was None, now 3.99.0"),
    ],
    ids=str,
)
@pytest.mark.slow
def test_an_arm_that_is_used_in_another_way_is_another_request(
    folder: Folder, change: dict[str, Any], said: str
) -> None:
    folder.run()
    with pytest.raises(resume.Mismatch) as caught:
        folder.run("a.a", an_arm("b.b", **change))
    assert said in str(caught.value)


def test_the_arms_of_one_backend_are_continued_each_for_itself(folder: Folder) -> None:
    arms = [an_arm(name, backend="a.a", threads=threads) for name, threads in (("one", 1), ("two", 2))]
    folder.answer = failing("speed-round02-two")
    folder.run(*arms)
    for cell in ("speed-round01-one", "memory-round01-two"):
        folder.file(cell).unlink()
    folder.answer = good
    folder.run(*arms)
    assert sorted(map(which, folder.ran)) == [
        ("one", "speed", 1, 0), ("two", "memory", 1, 0), ("two", "speed", 1, 0),
    ]  # fmt: skip
    folder.run(*arms, retry_failed=True)
    assert sorted(map(which, folder.ran)) == [("one", "speed", 2, 0), ("two", "speed", 2, 0)]


def test_the_presets_own_rounds_are_the_same_request_as_their_number(folder: Folder) -> None:
    folder.run(rounds=None)
    folder.run(rounds=2)
    assert folder.ran == []


@pytest.mark.parametrize("name", ["plan.json", "journal.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(folder: Folder, name: str) -> None:
    os.mkfifo(folder.path / name)
    with pytest.raises(resume.Mismatch, match=f"holds a {name} that is no regular file"):
        folder.run()


def test_another_release_is_another_comparison(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.run()
    (tmp_path / "site" / "numpy-99.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "numpy-99.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 99\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(resume.Mismatch, match=r"numpy of a\.a was .*, now 99"):
        folder.run()


@pytest.mark.usefixtures("fresh_hashes")
def test_another_source_is_another_comparison(folder: Folder, tmp_path: Path, fakes: Callable[[str], str]) -> None:
    name = fakes("ok")
    folder.run(name, "b.b")
    with (tmp_path / "plug-ins" / "plugged" / "ok.py").open("a") as file:
        file.write("# a change\n")
    parity_cache.source_hash.cache_clear()
    with pytest.raises(resume.Mismatch, match=f"the source code of {FAKE} in {name} was "):
        folder.run(name, "b.b")


@pytest.mark.slow
def test_the_order_of_the_first_start_is_kept(folder: Folder, quick: QuickRuns) -> None:
    """Each start draws a seed; the command line takes the stored one."""
    command = (*RUN, *AND_FAST, "--rounds", 9, "--seeds", 1, "--output", folder.path)
    assert quick.run(*command, fate=("killed", 30))[0] == -signal.SIGKILL
    (run_id,) = {done.run.id for done in on_disk(folder.path)}
    assert quick.run(*command)[0] == 0
    speed = [line.cell for line in Journal(folder.path).lines() if line.event == "start" and "-speed-" in line.cell]
    fast = an_arm(f"{FAKE}:fast", backend=FAKE, mode="fast")
    planned = a_plan(fast, FAKE, rounds=9, run_id=run_id, preset="quick").of_kind("speed")
    assert list(dict.fromkeys(speed)) == [cell.file_name for cell in planned]


@pytest.mark.parametrize("content", [b"", b"[", b'{"run_id": 1, "facts": {}}', b'{"run_id": "1"}', b"\x1b[2J"])
def test_a_plan_that_cannot_be_read_is_refused(folder: Folder, content: bytes) -> None:
    (folder.path / "plan.json").write_bytes(content)
    with pytest.raises(resume.Mismatch, match=r"plan\.json that cannot be read") as caught:
        resume.stored(folder.path)
    assert str(caught.value).isprintable()


def test_hostile_facts_in_a_plan_are_harmless(folder: Folder) -> None:
    files.write(folder.path / "plan.json", resume.Fixed("1", {"\x1b[2J": "\n", "--rounds": "\u202e"}))
    with pytest.raises(resume.Mismatch) as caught:
        folder.run()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "memory"}, {"round": 2}, {"position": 2}, {"seed": 1}, {"preset": "full"}, {"energy": True},
        {"spec": {"task": "another"}}, {"target": Target("accuracy", at_least=0.1)}, {"data": a_cell().data},
    ],
    ids=str,
)  # fmt: skip
def test_everything_that_a_record_depends_on_is_in_its_key(change: dict[str, Any]) -> None:
    made = a_plan()
    (arm,) = made.choice.arms
    changed = dataclasses.replace(made, template=msgspec.structs.replace(made.template, **change))
    assert changed.cell(arm).key != made.cell(arm).key
    assert made.cell(arm).key == a_plan().cell(arm).key


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another name"}, {"backend": "backends.reference"}, {"mode": "fast"}, {"device": "gpu"},
        {"precision": "float64"}, {"threads": 1}, {"python": "3.99.0"}, {"environment": {"A": "1"}}, {"slow_down": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_the_arm_is_in_the_key_of_a_record(change: dict[str, Any]) -> None:
    arm = an_arm()
    assert a_planned_cell(msgspec.structs.replace(arm, **change))[1].key != a_planned_cell(arm)[1].key


def with_run(**changes: Any) -> str:
    """The key of a cell of a run with changes."""
    made = a_plan()
    return dataclasses.replace(made, run=msgspec.structs.replace(made.run, **changes)).cell(made.choice.arms[0]).key


def test_the_run_is_in_the_key_of_a_record() -> None:
    assert len({with_run(), with_run(id="1"), with_run(measurement=99)}) == 3


@pytest.mark.parametrize("change", [{"cpu": "x"}, {"gpu": "x"}, {"gpu_driver": "x"}, {"python": "3"}, {"cores": 99}])
def test_the_machine_is_in_the_key_of_a_record(change: dict[str, Any]) -> None:
    assert with_run(machine=msgspec.structs.replace(a_plan().run.machine, **change)) != with_run()


# The journal.


def test_a_journal_has_a_line_before_and_after_each_process(folder: Folder) -> None:
    folder.answer = failing("memory-round01-b.b")
    folder.run()
    lines = Journal(folder.path).lines()
    assert [line.event for line in lines] == ["run", *["start", "end"] * 10]
    for start, end in zip(lines[1::2], lines[2::2], strict=True):
        assert (start.cell, start.key) == (end.cell, end.key)
        assert start.at < end.at
        assert files.read(folder.path / "records" / start.cell).cell.key == start.key
    assert Counter(line.status for line in lines[2::2]) == {"ok": 9, "failed": 1}


@pytest.mark.slow
def test_a_torn_line_is_passed_over_and_the_next_one_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    cell = a_cell(key="k")
    journal.add("start", cell)
    whole = journal.path.read_bytes()
    for length in range(1, len(whole)):
        journal.path.write_bytes(whole + whole[:length])
        assert [line.event for line in journal.lines()] == ["start", *["start"] * (length == len(whole) - 1)]
        assert journal.crashed() == {cell.file_name}
        journal.add("end", cell)
        assert journal.lines()[-1].event == "end"
        assert journal.crashed() == set()


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"[" * 100_000, b"{}", b'{"event": "start"}', b'{"event": "boom", "at": ""}', b"NaN", b"\0" * 99],
)
def test_a_line_that_is_none_is_passed_over(tmp_path: Path, text: bytes) -> None:
    journal = Journal(tmp_path)
    journal.path.write_bytes(text + b"\n")
    journal.add("run")
    assert [line.event for line in journal.lines()] == ["run"]


def test_a_journal_of_something_else_is_not_read_to_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("run")
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + b"0\n" * 1_000 + whole)
    assert len(journal.lines()) == 2
    journal.path.write_bytes(whole + b"0\n" * 2**22 + whole)
    began = time.monotonic()
    assert len(journal.lines()) == 1
    assert time.monotonic() - began < 10


def test_a_process_that_was_killed_before_its_line_has_its_records_hash_in_the_journal(folder: Folder) -> None:
    folder.run()
    path = folder.file("memory-round01-a.a")
    Journal(folder.path).add("start", files.read(path).cell)
    folder.run()
    assert folder.ran == []
    assert Journal(folder.path).ended()[path.name].sha256 == digest.of(path.read_bytes())


def test_a_process_that_began_again_has_no_end_in_the_journal(folder: Folder) -> None:
    """Its record may be newer than the end that is known: it is not taken for an edited one."""
    folder.run()
    journal = Journal(folder.path)
    name = next(iter(journal.ended()))
    (cell,) = [one.cell for one in on_disk(folder.path) if one.cell.file_name == name]
    assert journal.ended()[name].sha256
    journal.add("start", cell)
    assert name not in journal.ended()


def test_a_journal_names_no_machine_and_no_user(folder: Folder) -> None:
    folder.run()
    text = (folder.path / "journal.jsonl").read_text() + (folder.path / "plan.json").read_text()
    assert str(folder.path) not in text
    assert Line.__struct_fields__ == ("event", "at", "cell", "key", "status", "sha256")


# Killed and interrupted for real.


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_that_is_killed_at_any_step_of_writing_is_continued_to_the_whole_table(
    quick: QuickRuns, tmp_path: Path
) -> None:
    command = (*RUN, "--rounds", 1, "--seeds", 1, "--output", tmp_path / "run")
    steps = 0
    for step in range(1, 100):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        code, _ = quick.run(*command, fate=("killed", step))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        steps += 1
        done = finished(tmp_path / "run")
        crashed = Journal(tmp_path / "run").crashed() - done
        code, said = quick.run(*command)
        assert code == 0, said
        assert said.count("was running when the last run was killed") == len(crashed)
        assert_complete(tmp_path / "run", cells=4)
        starts = Counter(line.cell for line in Journal(tmp_path / "run").lines() if line.event == "start")
        assert starts == Counter({name: 1 + (name in crashed) for name in finished(tmp_path / "run")})
    assert steps > 20  # four processes, each with a request, two lines and a record
    assert_nothing_runs(tmp_path)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(quick: QuickRuns, tmp_path: Path) -> None:
    command = (*RUN, *AND_FAST, "--rounds", 8, "--seeds", 2, "--output", tmp_path / "run")
    rng = random.Random(20260101)
    kills = 0
    before: set[str] = set()
    while quick.run(*command, fate=("killed", rng.randrange(5, 40)))[0] != 0:
        kills += 1
        assert before <= finished(tmp_path / "run")
        before = finished(tmp_path / "run")
    assert kills >= 3
    assert_complete(tmp_path / "run", cells=2 * (1 + 8 + 1 + 2))
    assert_nothing_runs(tmp_path)


@pytest.mark.slow
def test_a_file_that_cannot_grow_ends_a_run_with_a_reason_and_it_is_continued(quick: QuickRuns, tmp_path: Path) -> None:
    """The kernel's own limit stands for a full disk: RLIMIT_FSIZE."""
    command = (*RUN, "--rounds", 1, "--seeds", 1, "--output", tmp_path / "run")
    ended = 0
    for step in (1, 2, 3, 5, 8, 11, 14, 17):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        code, said = quick.run(*command, fate=("full", step))
        assert code == 1
        (line,) = [line for line in said.splitlines() if line.startswith("framework-bench: ")]
        assert "File too large" in line
        assert "every finished record is intact" in line
        assert "Traceback" not in said
        before = finished(tmp_path / "run")
        ended += len(before)
        code, said = quick.run(*command)
        assert code == 0, said
        assert_complete(tmp_path / "run", cells=4)
    assert ended  # some were stopped after a record


@pytest.mark.slow
@pytest.mark.exhaustive
def test_fifty_interruptions_at_any_moment_lose_nothing_and_leave_nothing(quick: QuickRuns, tmp_path: Path) -> None:
    command = (*RUN, *AND_FAST, "--rounds", 120, "--seeds", 1, "--output", tmp_path / "run")

    def done() -> int:
        return sum(line.event == "end" and line.status == "ok" for line in Journal(tmp_path / "run").lines())

    rng = random.Random(20260101)
    before: set[str] = set()
    codes: Counter[int] = Counter()
    for number in range(50):
        run = quick.start(*command)
        # Early ones strike while a run starts, the others when processes have ended, however slow the machine.
        stop, most = time.monotonic() + rng.choice((rng.uniform(0.0, 0.35), 20)), done() + rng.randrange(1, 5)
        while time.monotonic() < stop and done() < most:  # a fast machine must not come to the end in these seconds
            time.sleep(0.005)
        os.kill(run.pid, rng.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM)))
        codes[run.wait()] += 1
        assert "Traceback" not in run.said, (number, run.said)
        if not (tmp_path / "run" / "records").exists():
            continue
        now = finished(tmp_path / "run")
        assert before <= now
        before = now
        assert_nothing_twice(tmp_path / "run")
        assert {one.outcome.status for one in on_disk(tmp_path / "run")} <= {"ok", "interrupted"}
    assert codes[130] + codes[143] > 40, codes
    assert before
    assert len(before) < 246, "the interruptions came too late"
    assert_nothing_runs(tmp_path)
    assert quick.run(*command)[0] == 0
    assert_complete(tmp_path / "run", cells=2 * (1 + 120 + 1 + 1))
    assert_nothing_runs(tmp_path)


def whole_rounds(folder: Path) -> dict[str, bytes]:
    """The records of rounds that ended whole, by the journal: name of the file -> its content."""
    ended = {name for name, line in Journal(folder).ended().items() if line.status == "ok"}
    rounds: dict[tuple[str, int, int], list[str]] = {}
    for one in on_disk(folder):
        cell = one.cell
        rounds.setdefault((cell.kind, cell.round, cell.seed), []).append(cell.file_name)
    names = [name for names in rounds.values() if len(names) == 2 and ended.issuperset(names) for name in names]
    return {name: (folder / "records" / name).read_bytes() for name in names}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_hundred_kills_lose_no_finished_round_and_pair_none_with_anothers_half(
    quick: QuickRuns, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = (*RUN, *AND_FAST, "--rounds", 300, "--seeds", 1, "--output", folder)
    rng = random.Random(20260102)
    kept: dict[str, bytes] = {}
    for number in range(200):
        run = quick.start(*command)
        begun = len(Journal(folder).ended())
        stop, most = time.monotonic() + rng.choice((rng.uniform(0.0, 0.35), 20)), begun + rng.randrange(1, 4)
        while time.monotonic() < stop and len(Journal(folder).ended()) < most:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, (number, run.said)
        assert_nothing_runs(tmp_path)
        if (folder / "records").exists():
            for name, content in kept.items():
                assert (folder / "records" / name).read_bytes() == content, (number, name)
            kept |= whole_rounds(folder)
    assert len(kept) > 50
    run = quick.start(*command)
    wait_until(lambda: not runs(run.pid), patience_s=600)  # hundreds of rounds, each of which is told
    assert run.wait() == 0
    for name, content in kept.items():
        assert (folder / "records" / name).read_bytes() == content, name
    assert_complete(folder, cells=2 * (1 + 300 + 1 + 1))
    records = [files.read(path) for path in sorted((folder / "records").glob("*.json"))]
    assert resume._of_two_days(folder, records, Journal(folder)) <= {None}  # of no round
    assert_nothing_runs(tmp_path)


@pytest.mark.slow
def test_a_parent_that_is_killed_takes_a_child_that_hangs_and_its_child_along(
    tmp_path: Path, misbehave: Callable[[str], None]
) -> None:
    """With the real worker, and with a grandchild that ignores SIGTERM."""
    misbehave("hangs with a grandchild")
    command = [sys.executable, "-m", "bench", *RUN, "--rounds", "2", "--seeds", "1", "--output", str(tmp_path / "run")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}
    with started(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: len(psutil.Process(running.pid).children(recursive=True)) == 2)
        children = psutil.Process(running.pid).children(recursive=True)
        running.kill()
    assert_gone(*[child.pid for child in children])
    assert [line.event for line in Journal(tmp_path / "run").lines()] == ["run", "start", "end", "start"]

    assert [path.name.startswith("framework-bench-") for path in temporary.iterdir()] == [True]

    misbehave("ok")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(temporary.iterdir()) == []
    assert done.stderr.splitlines()[:2] == [
        "continuing: 1 of 5 processes are done",
        f"{FAKE} {FAKE} speed round 1 was running when the last run was killed; it runs again",
    ]
    assert_complete(tmp_path / "run", cells=5)


# Several at once.


@pytest.mark.slow
def test_of_four_runs_into_one_folder_one_runs_and_the_others_are_told_of_it(quick: QuickRuns, tmp_path: Path) -> None:
    command = (*RUN, "--rounds", 5, "--seeds", 1, "--output", tmp_path / "run")
    runs = [quick.start(*command) for _ in range(4)]
    codes = {run: run.wait() for run in runs}
    assert sorted(codes.values()) == [0, 2, 2, 2]
    for run, code in codes.items():
        if code == 2:
            assert "another run is using it: " in run.said
            assert len(run.said.splitlines()) == 1
    assert_complete(tmp_path / "run", cells=8)


@pytest.mark.slow
def test_four_runs_on_one_device_follow_one_another(quick: QuickRuns, tmp_path: Path) -> None:
    folders = [tmp_path / f"run-{number}" for number in range(4)]
    with locks.device("cpu", purpose="a test", tell=print):
        runs = [quick.start(*RUN, "--rounds", 4, "--seeds", 1, "--output", folder) for folder in folders]
        wait_until(lambda: all("waiting for the cpu: process " in run.said for run in runs))
    assert [run.wait() for run in runs] == [0, 0, 0, 0]
    times = []
    for folder in folders:
        assert_complete(folder, cells=7)
        lines = Journal(folder).lines()
        times.append((lines[1].at, lines[-1].at))  # from the start of the first process
    times.sort()
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(times))


@pytest.mark.slow
def test_a_run_and_verify_wait_for_whoever_measures_on_the_device(quick: QuickRuns, tmp_path: Path) -> None:
    with locks.device("cpu", purpose="a test\x1b[2J", tell=print):
        runs = [
            quick.start(*RUN, "--rounds", 1, "--seeds", 1, "--output", tmp_path / "run"),
            quick.start("verify", *RUN[1:]),
        ]
        wait_until(lambda: all("waiting for the cpu" in run.said for run in runs))
        for run in runs:
            assert f"waiting for the cpu: process {os.getpid()}, since " in run.said
            assert run.said.rstrip("\n").endswith("a test?[2J")
        assert not finished(tmp_path / "run")
    assert [run.wait() for run in runs] == [0, 0]


@pytest.mark.slow
def test_whoever_waits_for_a_device_can_be_interrupted(quick: QuickRuns, tmp_path: Path) -> None:
    with locks.device("cpu", purpose="a test", tell=print):
        run = quick.start(*RUN, "--rounds", 1, "--seeds", 1, "--output", tmp_path / "run")
        wait_until(lambda: "waiting for the cpu" in run.said)
        os.kill(run.pid, signal.SIGINT)
        assert run.wait() == 130


@pytest.mark.slow
def test_a_whole_comparison_is_shown_without_waiting_for_the_device(quick: QuickRuns, tmp_path: Path) -> None:
    command = (*RUN, "--rounds", 1, "--seeds", 1, "--output", tmp_path / "run")
    assert quick.run(*command)[0] == 0
    with locks.device("cpu", purpose="a test", tell=print):
        code, said = quick.run(*command)
    assert code == 0
    assert "continuing: 4 of 4 processes are done" in said
    assert_complete(tmp_path / "run", cells=4)


def test_a_lock_ends_with_its_process_and_no_child_inherits_it(tmp_path: Path) -> None:
    program = """
import subprocess, sys, time
from pathlib import Path
from bench.machine import locks
with locks.folder(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], start_new_session=True, close_fds=False)
    print(child.pid, flush=True)
    time.sleep(60)
"""
    with started([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(locks.Held, match=f"process {holder.pid}, since .* UTC, run"), locks.folder(tmp_path):
                pass
            holder.kill()
            holder.wait(20)
            assert psutil.pid_exists(child)
            with locks.folder(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_two_gpus_are_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for other in ("1", "1,0", "GPU-8a/../x"):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with locks.device("gpu", purpose="first", tell=told.append):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", other)
            with (
                locks.device("gpu", purpose="second", tell=told.append),
                locks.device("cpu", purpose="", tell=told.append),
            ):
                pass
    assert told == []


def test_without_a_writable_cache_there_is_no_lock_and_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    told: list[str] = []
    with locks.device("cpu", purpose="", tell=told.append):
        pass
    (line,) = told
    assert line.startswith("nothing keeps other runs from the cpu: ")


# Between two processes.


def test_a_cool_down_lies_between_processes_that_ran(folder: Folder) -> None:
    slept: list[float] = []
    folder.cool_down = lambda seconds, memory: slept.append(seconds)
    folder.run(cool_down_s=7)
    assert slept == [7] * 9
    folder.run(cool_down_s=7)
    assert len(slept) == 9


def test_what_comes_back_late_is_said_in_the_record(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooldown, "gpu_memory", lambda: 1000)
    asked: list[int | None] = []

    def late_once(seconds: float, before: int | None) -> str | None:
        asked.append(before)
        return "12 MiB more" if len(asked) == 3 else None

    folder.cool_down = late_once
    folder.run(an_arm("a.a", device="gpu"), an_arm("b.b", device="gpu"))
    assert asked == [1000] * 9
    assert [done.outcome.remarks for done in on_disk(folder.path)].count(["12 MiB more"]) == 1


@pytest.mark.parametrize(
    ("used", "said"),
    [
        ([1000], None), ([9 * 2**30, 2**30, 1000], None), ([None], None), ([3 * 2**30 + 1000], "3,072 MiB more of the GPU's"),
    ],
)  # fmt: skip
def test_memory_of_a_gpu_is_waited_for_within_bounds(used: list[int | None], said: str | None) -> None:
    readings = itertools.chain(used, itertools.repeat(used[-1]))
    slept: list[float] = []
    late = cooldown.until_free(1000, used=lambda: next(readings), sleep=slept.append)
    assert (late or "").startswith(said or "")
    assert (late is None) == (said is None)
    assert sum(slept) <= cooldown.FREE_WITHIN_S + 1e-6
    assert len(slept) == (len(used) - 1 if said is None else round(cooldown.FREE_WITHIN_S / cooldown.LOOK_EVERY_S))


def test_without_a_gpu_there_is_nothing_to_wait_for() -> None:
    assert cooldown.until_free(None, used=lambda: pytest.fail("asked")) is None
