"""A whole comparison with backends that misbehave: every process becomes a record, and the others are not disturbed."""

import dataclasses
import errno
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.campaign import campaign, parity_cache
from bench.campaign.plan import TaskPlan
from bench.machine.signals import deferred, raise_again
from bench.process import execute as process
from bench.process import interpreters, launch
from bench.process.launch import Deadlines
from bench.records import files
from bench.records.record import FIRST_RUNGS, Cell, Kind, Outcome, Record
from bench.report import grouping, markdown
from tests.builders import a_ladder, a_timing
from tests.conftest import assert_gone
from tests.fakes.backend import LATE, NearestCorner
from tests.fakes.campaign import FAKE, Answers, Watcher, a_campaign, a_plan, a_planned_cell, an_arm, good

ROOT = Path(__file__).parent.parent

Misbehave = Callable[[str], None]


def on_disk(folder: Path) -> list[Record]:
    records, problems = files.read_folder(folder)
    assert problems == []
    return records


def which(cell: Cell) -> tuple[str, str, int, int]:
    return cell.arm.name, cell.kind, cell.round, cell.seed


# With real processes.


@pytest.mark.slow
def test_a_comparison_of_good_and_bad_backends(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    fallen, broken = fakes("wrong learning rate"), fakes("raises")
    running = a_campaign(tmp_path / "run", a_plan(FAKE, fallen, broken, rounds=2))
    running.start()
    assert not running.complete

    found = {which(one.cell): one for one in on_disk(tmp_path / "run")}
    cells = {("parity", 1, 0), ("speed", 1, 0), ("speed", 2, 0), ("memory", 1, 0), ("quality", 1, 0)}
    assert set(found) == {(name, *cell) for name in (FAKE, fallen, broken) for cell in cells}
    assert sorted(which(one.cell) for one in running.records) == sorted(found)

    for cell in cells:
        outcome = found[FAKE, *cell].outcome
        assert (outcome.status, outcome.reason) == ("ok", None)
        assert outcome.wall_s > 0
        assert outcome.started_utc.startswith("2")
        assert outcome.versions.keys() == {"numpy", "autograd"}
    assert [ladder.precision for ladder in found[FAKE, "parity", 1, 0].outcome.ladders] == ["float64", "float32"]
    speed = found[FAKE, "speed", 1, 0]
    assert speed.outcome.settings["precision"] == "float32"
    assert speed.cell.ladders == found[FAKE, "parity", 1, 0].outcome.ladders
    training = found[FAKE, "quality", 1, 0]
    assert training.outcome.quality is not None
    assert training.cell.target.reached(training.outcome.quality.metrics["accuracy"])

    # Off the ladder: nothing of it was run, and the reason is in every record.
    climb = found[fallen, "parity", 1, 0].outcome
    assert climb.status == "failed"
    assert climb.reason is not None
    assert climb.reason.startswith("parity: fell at rung 5 (one update) in float64: dense_")
    for cell in cells - {("parity", 1, 0)}:
        assert found[fallen, *cell].outcome.status == "skipped"
        assert found[fallen, *cell].outcome.reason == f"not run: {climb.reason}"

    # Passed parity and broke later.
    assert found[broken, "parity", 1, 0].outcome.status == "ok"
    for cell in cells - {("parity", 1, 0)}:
        assert found[broken, *cell].outcome.status == "failed"

    # The table: no ratio for either.
    (section,) = grouping.sections(running.records)
    assert [row.name for row in section.ranked] == [FAKE]
    assert section.verdicts == {}
    text = markdown.render(running.records)
    assert "not ranked: not run: parity: fell at rung 5" in text
    assert "RuntimeError: the layer is broken" in text

    # And nothing is left lying about.
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["journal.jsonl", "logs", "records"]


@pytest.mark.slow
@pytest.mark.parametrize("misbehaviour", ["goes elsewhere", "uses up its file descriptors"])
def test_what_a_backend_does_to_its_process_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: Callable[[str], str], misbehaviour: str
) -> None:
    """Into a folder that is named relative to the current one."""
    monkeypatch.chdir(tmp_path)
    bad = fakes(misbehaviour)
    running = a_campaign(Path("run"), a_plan(bad, FAKE))
    running.start()
    found = {which(one.cell): one.outcome for one in on_disk(tmp_path / "run")}
    assert {outcome.status for (name, *_), outcome in found.items() if name == FAKE} == {"ok"}
    struck = {outcome.status for (name, kind, *_), outcome in found.items() if (name, kind) != (bad, "parity")}
    if misbehaviour == "goes elsewhere":  # which harms nobody
        assert struck == {"ok"}
    else:
        assert struck == {"ok", "failed"}
        assert "Too many open files" in str(found[bad, "speed", 1, 0].reason)
    assert not list(Path("/").glob(f"*{FAKE}*"))


def outcome(tmp_path: Path, arm: Any = FAKE, deadlines: Deadlines | None = None, **changes: Any) -> Outcome:
    """The outcome of one real process; its record can be written, read, and says who was asked what."""
    run, cell = a_planned_cell(arm, **{"kind": "speed", "round": 3, "position": 2} | changes)
    limits = process.DEADLINES if deadlines is None else {cell.kind: deadlines}
    done = process.execute(run, cell, tmp_path, data_dir=None, deadlines=limits)
    assert (done.run, done.cell) == (run, cell)
    assert files.decode(files.encode(done)) == done
    reason = done.outcome.reason
    if reason is not None:
        assert "\n" not in reason
        assert str(tmp_path) not in reason
        assert "/home" not in reason
    return done.outcome


@pytest.mark.parametrize(
    ("misbehaviour", "status", "reason"),
    [
        ("raises in open", "failed", "RuntimeError: no session today"),
        ("raises", "failed", "RuntimeError: the layer is broken in …/layer.py"),
        ("unsupported value", "failed", "ValueError"),
        ("exits", "failed", "the process exited with code 3: it printed nothing"),
        (
            "tells settings that are no plain values",
            "failed",
            "settings() has a set as 'odd': expected a text, a number or",
        ),
        ("exits with a path", "failed", "the process exited with code 4: cannot open …/file"),
        ("exits without a record", "failed", "the process exited with code 0 but left no record"),
        ("kills itself", "killed", "the process was ended by SIGKILL"),
        ("segfaults", "killed", "the process was ended by SIGSEGV"),
        ("runs out of host memory", "oom", "out of memory: Unable to allocate 3 TiB"),
        ("runs out of device memory", "oom", "out of memory: RESOURCE_EXHAUSTED: failed to allocate 3 TiB"),
        ("does not wait", "invalid", "the barrier does not wait"),
        ("compiles in every step", "invalid", "compilations inside the timed window"),
        ("wrong device", "invalid", "device cpu was requested, but tpu was in force"),
        ("wrong precision", "invalid", "precision float32 was requested, but bfloat16 was in force"),
        ("writes rubbish", "failed", "the process left no readable record: "),
        ("writes half a record", "failed", "the process left no readable record: "),
        ("writes a record of another cell", "failed", "the process left no readable record: "),
        ("claims success without figures", "failed", "the process answered: status ok without figures of speed"),
        ("fails without a reason", "failed", "the process answered: status failed without a reason"),
        ("uses up its file descriptors", "failed", "the process exited with code 1: the record could not be written"),
    ],
)
@pytest.mark.slow
def test_a_process_that_goes_wrong_is_a_record_with_a_status_and_a_reason(
    tmp_path: Path, misbehave: Misbehave, misbehaviour: str, status: str, reason: str
) -> None:
    misbehave(misbehaviour)
    done = outcome(tmp_path)
    assert done.status == status
    assert done.reason is not None
    assert reason in done.reason


@pytest.mark.slow
def test_a_mode_that_is_not_in_force_makes_a_record_invalid(tmp_path: Path, misbehave: Misbehave) -> None:
    fast = an_arm(mode="fast")
    assert outcome(tmp_path, arm=fast).status == "ok"
    misbehave("ignores its mode")
    done = outcome(tmp_path, arm=fast)
    assert (done.status, done.reason) == ("invalid", "mode fast was requested, but default was in force")


@pytest.mark.slow
@pytest.mark.parametrize("misbehaviour", ["hangs", "hangs with a grandchild"])
def test_a_process_that_hangs_is_stopped_with_all_that_it_started(
    tmp_path: Path, misbehave: Misbehave, misbehaviour: str
) -> None:
    misbehave(misbehaviour)
    done = outcome(tmp_path, deadlines=Deadlines(3, process.PHASES_S, grace_s=0.3))
    assert done.status == "timeout"
    assert str(done.reason).startswith("stopped after its deadline of 3 s, in the phase 'w")  # warm-up or window
    (log,) = (tmp_path / "logs").iterdir()
    started = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("grandchild")]
    assert_gone(*started)


@pytest.mark.slow
def test_a_daemon_is_ended_and_told_and_costs_no_time(tmp_path: Path, misbehave: Misbehave) -> None:
    misbehave("leaves a daemon")
    done = outcome(tmp_path, deadlines=Deadlines(60, process.PHASES_S, grace_s=30.0))
    assert (done.status, done.reason) == ("ok", None)
    assert done.remarks == ["1 process that it had started outlived it and had to be killed"]
    assert done.wall_s < 30
    (log,) = (tmp_path / "logs").iterdir()
    assert_gone(*(int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("grandchild")))


PHASES = [
    *(("speed", phase) for phase in ("data", "import", "build", "first step", "warm-up", "window", "checks")),
    ("memory", "memory"), ("quality", "training"), ("quality", "evaluation"), ("parity", "parity"), ("explain", "parts"),
    ("explain", "profile"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "phase"), PHASES)
def test_a_process_that_is_killed_in_any_phase_is_a_record(
    tmp_path: Path, misbehave: Misbehave, kind: Kind, phase: str
) -> None:
    misbehave(f"kills itself in {phase}")
    done = outcome(tmp_path, kind=kind)
    assert done.status == "killed"
    assert str(done.reason).startswith("the process was ended by SIGKILL")


@pytest.mark.parametrize(("kind", "phase"), [("speed", "import"), ("speed", "window"), ("quality", "evaluation")])
@pytest.mark.slow
def test_a_phase_that_lasts_too_long_is_named(tmp_path: Path, misbehave: Misbehave, kind: Kind, phase: str) -> None:
    misbehave(f"hangs in {phase}")
    deadlines = Deadlines(120, {**process.PHASES_S, phase: 0.4})
    done = outcome(tmp_path, kind=kind, deadlines=deadlines)
    assert (done.status, done.reason) == ("timeout", f"stopped after 0.4 s, the deadline of the phase '{phase}'")


def test_every_phase_has_a_deadline() -> None:
    """Else it would be counted with the one before it."""
    sources = [ROOT / "bench" / "worker" / f"{name}.py" for name in ("answer", "loop", "inference", "explain")]
    told = {name for path in sources for name in re.findall(r'phases\.enter\("([^"]+)"\)', path.read_text())}
    assert told == {phase for _, phase in PHASES}
    assert process.PHASES_S.keys() == told | {"start", "turn"}  # which the parent says


@pytest.mark.slow
def test_a_record_that_a_process_could_not_write_is_no_finding_about_the_backend(
    tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave("fills the disk")
    with pytest.raises(OSError, match=r"a process could not write its record: .* File too large"):
        outcome(tmp_path)


@pytest.mark.slow
def test_much_output_disturbs_nothing(tmp_path: Path, misbehave: Misbehave) -> None:
    misbehave("prints much")
    assert outcome(tmp_path).status == "ok"
    (log,) = (tmp_path / "logs").iterdir()
    assert log.stat().st_size < 3 * launch.LOG_BYTES + 100


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, misbehave: Misbehave) -> None:
    misbehave("nan loss")
    done = outcome(tmp_path, kind="quality", round=1)
    assert (done.status, done.reason) == ("failed", f"the training loss was nan at step {LATE}")
    assert done.quality is None


@pytest.mark.slow
def test_a_target_that_was_missed_is_a_finding_and_no_failure(tmp_path: Path, misbehave: Misbehave) -> None:
    misbehave("misses the target")
    done = outcome(tmp_path, kind="quality", round=1)
    assert done.status == "ok"
    assert done.quality is not None
    assert done.quality.metrics["accuracy"] < 0.1
    _, cell = a_planned_cell()
    assert not cell.target.reached(done.quality.metrics["accuracy"])


@pytest.mark.slow
def test_a_backend_that_cannot_be_imported_is_a_record_too(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    done = outcome(tmp_path, fakes("ok").replace("ok", "absent"))
    assert done.status == "failed"
    assert "No module named 'plugged.absent'" in str(done.reason)


@pytest.mark.slow
def test_speed_memory_and_quality_hold_what_they_are_for(tmp_path: Path) -> None:
    speed, memory = outcome(tmp_path), outcome(tmp_path, kind="memory", round=1)
    assert (speed.memory, speed.quality, memory.timings, memory.quality) == (None, None, None, None)
    timings = speed.timings
    assert timings is not None
    assert len(timings.blocks_s) == 10
    assert sum(timings.blocks_s) == pytest.approx(timings.window_s, abs=0.01)
    # Of 16, or of 10 in the padded last batch of an epoch: whole blocks.
    steps = timings.block_steps * len(timings.blocks_s)
    assert 10 * steps < timings.items < 16 * steps
    assert min(timings.import_s, timings.build_s, timings.first_step_s, timings.warmup_s) > 0
    assert memory.memory is not None
    peak, imported = memory.memory.host_peak.bytes, memory.memory.host_import.bytes
    assert peak is not None
    assert imported is not None
    assert peak >= imported > 10 * 2**20
    assert memory.memory.device_peak_allocated.bytes is None
    assert memory.memory.device_peak_allocated.reason


# The order.

ABC = ("a.a", "b.b", "c.c")


def blocks(made: TaskPlan) -> list[list[Cell]]:
    """The speed processes, round by round."""
    cells = made.of_kind("speed")
    return [[cell for cell in cells if cell.round == number] for number in sorted({cell.round for cell in cells})]


def order(made: TaskPlan) -> list[list[str]]:
    return [[cell.arm.name for cell in block] for block in blocks(made)]


@pytest.mark.parametrize("rounds", [1, 5, 12])
def test_every_round_holds_every_backend_once_in_a_stored_order(rounds: int) -> None:
    made = a_plan(*ABC, rounds=rounds)
    drawn = blocks(made)
    assert [cell for block in drawn for cell in block] == made.of_kind("speed")  # round by round
    assert len(drawn) == rounds
    for number, cells in enumerate(drawn, start=1):
        assert sorted(cell.arm.name for cell in cells) == ["a.a", "b.b", "c.c"]
        assert [cell.position for cell in cells] == [1, 2, 3]
        assert {(cell.round, cell.kind) for cell in cells} == {(number, "speed")}
    assert made.run.id == made.choice.run_id


def test_the_runs_id_gives_the_same_order_again_and_another_one_another() -> None:
    first = order(a_plan(*ABC, rounds=10))
    assert first == order(a_plan(*ABC, rounds=10))
    assert first != order(a_plan(*ABC, rounds=10, run_id="1"))
    assert len(set(map(tuple, first))) > 2


@pytest.mark.slow
def test_no_backend_is_favoured_by_the_order() -> None:
    firsts: Counter[str] = Counter()
    made = a_plan(*ABC, rounds=2)
    for number in range(300):
        drawn = dataclasses.replace(made, run=msgspec.structs.replace(made.run, id=str(number)))
        firsts.update(names[0] for names in order(drawn))
    assert all(150 < count < 250 for count in firsts.values())


def test_processes_run_in_the_planned_order(tmp_path: Path) -> None:
    made = a_plan(*ABC, rounds=4, seeds=2)
    answers = Answers()
    running = a_campaign(tmp_path, made, execute=answers)
    running.start()
    speed = [one.cell for one in running.records if one.cell.kind == "speed"]
    assert [cell.arm.name for cell in speed] == [name for names in order(made) for name in names]
    kinds = [one.cell.kind for one in running.records]
    assert kinds == ["parity"] * 3 + ["speed"] * 12 + ["memory"] * 3 + ["quality"] * 6
    assert [which(cell) for cell in answers.ran] == [which(one.cell) for one in running.records]
    assert running.complete


def test_every_cell_of_a_plan_has_a_key_and_a_file_of_its_own() -> None:
    cells = a_plan(*ABC, an_arm("fast", backend="a.a", mode="fast"), rounds=3, seeds=2, effect=0.05).cells
    assert len(cells) == 4 * (1 + 3 + 3 + 1 + 2)
    assert len({cell.key for cell in cells}) == len({cell.file_name for cell in cells}) == len(cells)


def test_rounds_and_seeds_are_the_presets_unless_others_are_asked() -> None:
    made = a_plan(rounds=None, seeds=None)
    assert len(made.of_kind("speed")) == 2
    assert [cell.seed for cell in made.of_kind("quality")] == [0]
    made = a_plan(rounds=7, seeds=3)
    assert len(made.of_kind("speed")) == 7
    assert [cell.seed for cell in made.of_kind("quality")] == [0, 1, 2]


def test_an_absent_backend_is_a_record_and_does_not_spoil_the_run(tmp_path: Path) -> None:
    why = "jax not installed; add it with: pip"
    running = a_campaign(tmp_path, a_plan(absent=[(an_arm("jax"), why)]), execute=Answers())
    running.start()
    assert running.complete
    (absent,) = [one for one in on_disk(tmp_path) if one.cell.arm.name == "jax"]
    assert (absent.outcome.status, absent.outcome.reason) == ("skipped", why)


@pytest.mark.parametrize(
    ("kinds", "told"),
    [(("parity", "inference"), "inference"), (("parity", "explain"), "explain"), (("parity",), "speed")],
)
def test_an_absent_backend_is_told_by_what_was_asked_for(tmp_path: Path, kinds: Any, told: str) -> None:
    """A table of training must not appear where none was wanted."""
    running = a_campaign(tmp_path, a_plan(absent=[(an_arm("jax"), "not here")], kinds=kinds), execute=Answers())
    running.start()
    (path,) = (tmp_path / "records").glob("*-jax-*")
    absent = files.read(path)
    assert (absent.cell.kind, absent.outcome.status) == (told, "skipped")
    assert (grouping.sections([absent]) == []) is (told != "speed")


def a_timed_step() -> float:
    """Seconds of a step of a good process."""
    timings = good(a_planned_cell()[1]).timings
    assert timings is not None
    return timings.step_s


def test_progress_is_told_of_every_process_and_the_estimate_follows_what_was_seen(tmp_path: Path) -> None:
    running = a_campaign(tmp_path, a_plan("a.a", "b.b", rounds=3), execute=Answers())  # 2 seconds each
    running.start()
    assert isinstance(running.progress, Watcher)
    begun = running.progress.begun
    assert [(done, total) for _, _, done, total, _ in begun] == [(number, 12) for number in range(12)]
    assert running.progress.done == running.records
    guesses = campaign.ESTIMATES_S
    expected_first = 2 * (guesses["parity"] + 3 * guesses["speed"] + guesses["memory"] + guesses["quality"])
    assert begun[0][-1] == expected_first
    # The first speed process was seen, and tells what the steps of its arm take.
    steps = campaign.FEW_STEPS + 60  # of the memory's process and the training's
    known = 2 * campaign.START_S + steps * a_timed_step()
    assert begun[3][-1] == pytest.approx(2 * 5 + known + guesses["memory"] + guesses["quality"])
    assert begun[-1][-1] == 2.0


# The cache of parity.


def climb(folder: Path, answers: Answers, arm: Any = FAKE) -> Record:
    """The parity record of a campaign of its own."""
    running = a_campaign(folder, a_plan(arm, kinds=("parity",)), execute=answers)
    running.start()
    (record,) = running.records
    return record


def cache_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").rglob("*.json")
    return path


def test_a_second_run_recalls_a_passed_climb(tmp_path: Path) -> None:
    answers = Answers(versions={"fake": "1"})
    first, second = climb(tmp_path, answers), climb(tmp_path, answers)
    assert len(answers.ran) == 1
    assert (second.outcome.status, second.ladders, second.outcome.versions) == ("ok", first.ladders, {"fake": "1"})
    assert second.outcome.settings == {"from cache": True}
    assert files.decode(files.encode(second)) == second


def test_a_failed_climb_is_made_again(tmp_path: Path) -> None:
    answers = Answers(status="failed", reason="fell", ladders=[a_ladder(passed=3)])
    climb(tmp_path, answers)
    climb(tmp_path, answers)
    assert len(answers.ran) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"ladders": [], "versions": {}}', b"[" * 100_000])
@pytest.mark.slow
def test_a_corrupt_cache_is_ignored_and_mended(tmp_path: Path, content: bytes) -> None:
    answers = Answers()
    climb(tmp_path, answers)
    cache_file(tmp_path).write_bytes(content)
    assert climb(tmp_path, answers).outcome.status == "ok"
    assert climb(tmp_path, answers).outcome.settings == {"from cache": True}
    assert len(answers.ran) == 2


@pytest.mark.parametrize("rungs", [[], a_ladder().rungs[:3], a_ladder(passed=FIRST_RUNGS - 2).rungs])
def test_a_cached_ladder_that_was_not_passed_to_the_top_is_ignored(tmp_path: Path, rungs: list[Any]) -> None:
    answers = Answers()
    climb(tmp_path, answers)
    stored = json.loads(cache_file(tmp_path).read_bytes())
    stored["ladders"][1]["rungs"] = msgspec.to_builtins(rungs)
    cache_file(tmp_path).write_text(json.dumps(stored))
    assert climb(tmp_path, answers).outcome.settings != {"from cache": True}
    assert len(answers.ran) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    answers = Answers()
    assert climb(tmp_path, answers).outcome.status == "ok"
    assert climb(tmp_path, answers).outcome.status == "ok"
    assert len(answers.ran) == 2


def parity_key(arm: Any = FAKE, *, machine: dict[str, Any] | None = None, **changes: Any) -> str:
    run, cell = a_planned_cell(arm, kind="parity")
    cell = msgspec.structs.replace(cell, **changes)
    return parity_cache.key(cell, msgspec.structs.replace(run.machine, **machine or {}))


@pytest.mark.parametrize(
    "change",
    [
        {"device": "gpu"}, {"precision": "float64"}, {"backend": "backends.reference"}, {"mode": "fast"}, {"threads": 1},
        {"environment": {"OMP_NUM_THREADS": "1"}}, {"python": "3.99.0"}, {"slow_down": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_a_climb_is_in_its_key(change: dict[str, Any]) -> None:
    assert parity_key(an_arm(**change)) != parity_key()


def test_the_spec_is_in_the_key() -> None:
    assert parity_key(spec={"task": "another"}) != parity_key()


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"gpu": "another"}, {"python": "3.99.0"}], ids=str)
def test_the_machine_is_in_the_key(change: dict[str, Any]) -> None:
    assert parity_key(machine=change) != parity_key()


def test_what_decides_nothing_is_not_in_the_key() -> None:
    assert parity_key(an_arm("another name", backend=FAKE), round=2, seed=3, position=5, preset="full") == parity_key()


def test_versions_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parity_key("backends.reference")
    for name in interpreters.DISTRIBUTIONS:
        with monkeypatch.context() as patch:
            patch.setattr(parity_cache, "version", lambda asked, name=name: "99" if asked == name else "1")
            changed = parity_key("backends.reference")
        with monkeypatch.context() as patch:
            patch.setattr(parity_cache, "version", lambda asked: "1")
            assert changed != parity_key("backends.reference")
    assert parity_key("backends.reference") == before


@pytest.mark.usefixtures("fresh_hashes")
def test_a_changed_source_changes_the_key(fakes: Callable[[str], str], tmp_path: Path) -> None:
    name = fakes("ok")
    before = parity_key(name)
    assert parity_key(name) == before
    with (tmp_path / "plug-ins" / "plugged" / "ok.py").open("a") as file:
        file.write("# a change\n")
    parity_cache.source_hash.cache_clear()
    assert parity_key(name) != before


def test_every_source_that_decides_a_climb_is_among_those_hashed() -> None:
    hashed = parity_cache.sources("mnist_mlp", "jax")
    for path in (
        "tasks/mnist_mlp.py", "tasks/batching.py", "tasks/spec.py", "backends/__init__.py", "backends/api.py",
        "backends/reference/session.py", "backends/reference/mlp.py", "backends/jax/session.py", "backends/jax/mlp.py",
        "bench/worker/parity.py", "bench/worker/loop.py",
    ):  # fmt: skip
        assert ROOT / path in hashed


@pytest.mark.usefixtures("fresh_hashes")
def test_a_task_outside_of_the_project_is_among_the_sources_of_its_climb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its spec may say the same while its code says something else."""
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "outside_task.py"
    source.write_text("from tests.fakes.backend import preset")
    before = parity_key("backends.reference", task="outside_task")
    source.write_text("from tests.fakes.backend import preset  # and something else")
    parity_cache.source_hash.cache_clear()
    assert parity_key("backends.reference", task="outside_task") != before


# Interruptions and full disks.


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(143)], ids=repr)
@pytest.mark.parametrize("at", [1, 4, 8])
def test_an_interruption_keeps_what_is_finished_and_marks_the_rest(
    tmp_path: Path, at: int, interruption: BaseException
) -> None:
    calls: list[Cell] = []

    def answer(cell: Cell) -> Outcome:
        calls.append(cell)
        if len(calls) == at:
            raise interruption
        return good(cell)

    running = a_campaign(tmp_path, a_plan("a.a", "b.b"), execute=Answers(answer))
    with pytest.raises(type(interruption)):
        running.start()
    found = on_disk(tmp_path)
    assert len(found) == len({which(one.cell) for one in found}) == 8
    finished = [one.cell for one in found if one.outcome.status == "ok"]
    assert sorted(map(which, finished)) == sorted(map(which, calls[: at - 1]))
    for one in found:
        if one.outcome.status != "ok":
            assert (one.outcome.status, one.outcome.reason) == ("interrupted", "the run was interrupted")
    assert not running.complete


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interruption_while_a_record_is_written_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write, calls = files.write, []

    def interrupted(path: Path, value: Any) -> None:
        calls.append(path)
        if len(calls) == at:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(files, "write", interrupted)
    running = a_campaign(tmp_path, a_plan("a.a", "b.b"), execute=Answers())
    with pytest.raises(KeyboardInterrupt):
        running.start()
    assert len(on_disk(tmp_path)) == 8


def test_sigterm_is_not_lost_behind_a_ctrl_c_that_is_ignored() -> None:
    got: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
        with deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert got == []
        assert got == [signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interruption_that_a_finalizer_swallows_comes_again(
    monkeypatch: pytest.MonkeyPatch, number: int, raised: type[BaseException]
) -> None:
    class Struck:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def interrupt(*_: Any) -> None:
        raise raised

    def wait() -> None:
        Struck()  # raises nothing: Python would only write of an "Exception ignored"
        time.sleep(10)

    monkeypatch.setattr(sys, "unraisablehook", raise_again)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(raised):
            wait()
    finally:
        signal.signal(number, before)


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_full_disk_is_an_error_and_every_earlier_record_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write, calls = files.write_bytes, []

    def filling(path: Path, content: bytes, *, via: Path | None = None) -> None:
        if path.parent.name == "records":  # not the cache's
            calls.append(path)
        if len(calls) > after:
            full()
        write(path, content, via=via)

    monkeypatch.setattr(files, "write_bytes", filling)
    running = a_campaign(tmp_path, a_plan("a.a", "b.b"), execute=Answers())
    with pytest.raises(OSError, match="No space left on device"):
        running.start()
    assert len(on_disk(tmp_path)) == after
    assert [path.suffix for path in (tmp_path / "records").iterdir()] == [".json"] * after


def test_a_disk_that_is_full_before_a_process_starts_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cell = a_planned_cell()
    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        process.execute(run, cell, tmp_path, data_dir=None)


def test_the_fake_task_is_what_a_task_must_be() -> None:
    """Else the tests above would test something else."""
    task = NearestCorner()
    batches = list(task.eval_batches())
    assert [batch.items for batch in batches] == [16, 4]
    assert task.train_steps > 50


def test_an_outcome_is_checked_against_its_cell() -> None:
    run, cell = a_planned_cell(kind="memory")
    timed = good(msgspec.structs.replace(cell, kind="speed"))
    with pytest.raises(files.RecordError, match="status ok without figures of memory"):
        files.check(Record(run=run, cell=cell, outcome=timed))


def test_a_disturbed_process_says_nothing_about_the_length_of_the_next_blocks(tmp_path: Path) -> None:
    """A step that took seventy times as long left a run whose blocks had one step each."""

    def answer(cell: Cell) -> Outcome:
        made = good(cell)
        if cell.kind != "speed" or cell.round > 1 or made.disturbance is None:
            return made
        lost = msgspec.structs.replace(made.disturbance, disturbed="lost 40 % of the cores' time to other processes")
        return msgspec.structs.replace(made, timings=a_timing(1000, block_steps=1), disturbance=lost)

    answers, steps = Answers(answer), 100
    a_campaign(tmp_path, a_plan("a.a", "b.b", rounds=3), execute=answers).start()
    asked = {(cell.round, cell.block_steps) for cell in answers.ran if cell.kind == "speed"}
    assert asked == {(1, None), (2, None), (3, steps), (4, steps)}  # the fourth is in place of the first
