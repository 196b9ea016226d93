"""A whole comparison with backends that misbehave: every process becomes a record, and the others are not disturbed."""

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.campaign import campaign, parity_cache, plan
from bench.campaign.campaign import Campaign
from bench.campaign.plan import Choice, TaskPlan
from bench.process import interpreters, launch
from bench.records import record
from bench.records.record import Kind, Record
from bench.report import grouping, markdown
from tests.conftest import a_ladder, a_memory, a_quality, a_timing, assert_gone
from tests.fake_backend import NearestCorner

TASK = GOOD = "tests.fake_backend"
ROOT = Path(__file__).parent.parent


def a_choice(*names: str, **changes: Any) -> Choice:
    asked: dict[str, Any] = {
        "tasks": [TASK], "backends": names or (GOOD,), "absent": [], "preset": "smoke", "device": "cpu",
        "precision": "float32", "rounds": 1, "seeds": 1, "data_dir": None, "order_seed": 20260101,
    }  # fmt: skip
    return Choice(**asked | changes)


def a_plan(choice: Choice) -> TaskPlan:
    return plan.make(TASK, choice)


def a_cell(backend: str = GOOD, **changes: Any) -> Record:
    return a_plan(a_choice(backend)).cell(backend, **changes)


class Watcher:
    """Progress that writes down what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str, int, int, float]] = []
        self.done: list[Record] = []

    def started(self, cell: Record, *, done: int, total: int, left_s: float) -> None:
        self.begun.append((cell.backend, cell.kind, done, total, left_s))

    def finished(self, finished: Record) -> None:
        self.done.append(finished)


def a_campaign(folder: Path, choice: Choice) -> Campaign:
    (folder / "records").mkdir(parents=True, exist_ok=True)
    return Campaign([a_plan(choice)], choice, folder, Watcher())


def on_disk(folder: Path) -> list[Record]:
    records, problems = record.read_folder(folder)
    assert problems == []
    return records


def which(cell: Record) -> tuple[str, str, int, int]:
    return cell.backend, cell.kind, cell.round, cell.seed


def succeed(cell: Record, folder: Path, *, data_dir: Path | None, interpreter: object = None) -> Record:
    """In place of a process: what a good one would have answered."""
    figures: dict[str, dict[str, Any]] = {
        "parity": {"parity": [a_ladder(precision="float64"), a_ladder()]},
        "speed": {"timings": a_timing(1000)},
        "memory": {"memory": a_memory()},
        "quality": {"quality": a_quality(0.95), "target_reached": True},
    }
    return msgspec.structs.replace(cell, status="ok", reason=None, wall_s=2.0, **figures[cell.kind])


def without_processes(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Record] = succeed) -> None:
    """Answers come from a function, without a process and without the cache of parity."""
    monkeypatch.setattr(campaign, "execute", answer)
    monkeypatch.setattr(campaign, "climb", answer)


# With real processes.


def test_a_comparison_of_good_and_bad_backends(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    fallen, broken = fakes("wrong learning rate"), fakes("raises")
    choice = a_choice(GOOD, fallen, broken, rounds=2)
    running = a_campaign(tmp_path / "run", choice)
    running.run()
    assert not running.complete

    found = {which(cell): cell for cell in on_disk(tmp_path / "run")}
    cells = {("parity", 1, 0), ("speed", 1, 0), ("speed", 2, 0), ("memory", 1, 0), ("quality", 1, 0)}
    assert set(found) == {(name, *cell) for name in (GOOD, fallen, broken) for cell in cells}
    assert sorted(map(which, running.records)) == sorted(found)

    for cell in cells:
        good = found[GOOD, *cell]
        assert (good.status, good.reason) == ("ok", None)
        assert good.wall_s > 0
        assert good.started_utc.startswith("2")
        assert good.versions.keys() == {"numpy", "autograd"}
    assert [ladder.precision for ladder in found[GOOD, "parity", 1, 0].parity] == ["float64", "float32"]
    assert found[GOOD, "speed", 1, 0].settings["precision"] == "float32"
    assert found[GOOD, "quality", 1, 0].target_reached is True

    # Off the ladder: nothing of it was run, and the reason is in every record.
    climb = found[fallen, "parity", 1, 0]
    assert climb.status == "failed"
    assert climb.reason is not None
    assert climb.reason.startswith("parity: fell at rung 5 (one update) in float64: dense_")
    for cell in cells - {("parity", 1, 0)}:
        assert found[fallen, *cell].status == "skipped"
        assert found[fallen, *cell].reason == f"not run: {climb.reason}"

    # Passed parity and broke later.
    assert found[broken, "parity", 1, 0].status == "ok"
    for cell in cells - {("parity", 1, 0)}:
        assert found[broken, *cell].status == "failed"

    # The table: no ratio for either.
    (section,) = grouping.sections(running.records)
    assert [row.backend for row in section.ranked] == [GOOD]
    assert section.verdicts == {}
    text = markdown.render(running.records)
    assert "not ranked: not run: parity: fell at rung 5" in text
    assert "RuntimeError: the layer is broken" in text

    # And nothing is left lying about.
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["journal.jsonl", "logs", "records"]


def outcome(tmp_path: Path, backend: str, **changes: Any) -> Record:
    """The record of one real process; it can be written, read, and says who was asked what."""
    cell = a_cell(backend, **{"kind": "speed", "round": 3, "position": 2} | changes)
    done = campaign.execute(cell, tmp_path, data_dir=None)
    changed = {name for name in Record.__struct_fields__ if getattr(done, name) != getattr(cell, name)}
    assert changed <= {*campaign.SAID, "wall_s", "started_utc"}
    assert record.decode(record.encode(done)) == done
    if done.reason is not None:
        assert "\n" not in done.reason
        assert str(tmp_path) not in done.reason
        assert "/home" not in done.reason
    return done


@pytest.mark.parametrize(
    ("misbehaviour", "status", "reason"),
    [
        ("raises in open", "failed", "RuntimeError: no session today"),
        ("raises", "failed", "RuntimeError: the layer is broken in …/layer.py"),
        ("unsupported value", "failed", "ValueError"),
        ("exits", "failed", "the process exited with code 3: it printed nothing"),
        ("exits with a path", "failed", "the process exited with code 4: cannot open …/file"),
        ("exits without a record", "failed", "the process left no readable record: "),
        ("kills itself", "killed", "the process was ended by SIGKILL"),
        ("segfaults", "killed", "the process was ended by SIGSEGV"),
        ("runs out of host memory", "oom", "out of memory: Unable to allocate 3 TiB"),
        ("runs out of device memory", "oom", "out of memory: RESOURCE_EXHAUSTED: failed to allocate 3 TiB"),
        ("does not wait", "invalid", "the barrier does not wait"),
        ("compiles in every step", "invalid", "30 compilations inside the timed window"),
        ("wrong device", "invalid", "device cpu was asked for, tpu was in force"),
        ("wrong precision", "invalid", "precision float32 was asked for, bfloat16 was in force"),
        ("writes rubbish", "failed", "the process left no readable record: "),
        ("writes half a record", "failed", "the process left no readable record: "),
        ("writes a foreign record", "failed", "a foreign record"),
    ],
)
def test_a_process_that_goes_wrong_is_a_record_with_a_status_and_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misbehaviour: str, status: str, reason: str
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", misbehaviour)
    done = outcome(tmp_path, GOOD)
    assert done.status == status
    assert done.reason is not None
    assert done.reason.startswith(reason)


def test_a_process_that_left_no_record_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "exits without a record")
    assert "No such file" in str(outcome(tmp_path, GOOD).reason)


def test_success_without_figures_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "claims success without figures")
    assert outcome(tmp_path, GOOD).status != "ok"


@pytest.mark.parametrize("misbehaviour", ["hangs", "hangs with a grandchild"])
def test_a_process_that_hangs_is_stopped_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misbehaviour: str
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", misbehaviour)
    monkeypatch.setattr(campaign, "DEADLINES_S", {"speed": 3})
    monkeypatch.setattr(launch, "GRACE_S", 0.3)
    done = outcome(tmp_path, GOOD)
    assert done.status == "timeout"
    assert str(done.reason).startswith("stopped after its deadline of 3 s, in the phase 'w")  # warm-up or window
    (log,) = (tmp_path / "logs").iterdir()
    started = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("grandchild")]
    assert_gone(*started)


PHASES = [
    *(("speed", phase) for phase in ("data", "import", "build", "first step", "warm-up", "window", "checks")),
    ("memory", "memory"), ("quality", "training"), ("quality", "evaluation"), ("parity", "parity"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "phase"), PHASES)
def test_a_process_that_is_killed_in_any_phase_is_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, phase: str
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", f"kills itself in {phase}")
    done = outcome(tmp_path, GOOD, kind=kind)
    assert done.status == "killed"
    assert str(done.reason).startswith("the process was ended by SIGKILL")


@pytest.mark.parametrize(("kind", "phase"), [("speed", "import"), ("speed", "window"), ("quality", "evaluation")])
def test_a_phase_that_lasts_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, phase: str
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", f"hangs in {phase}")
    monkeypatch.setattr(campaign, "PHASE_DEADLINES_S", {**campaign.PHASE_DEADLINES_S, phase: 0.4})
    done = outcome(tmp_path, GOOD, kind=kind)
    assert (done.status, done.reason) == ("timeout", f"stopped after 0.4 s, the deadline of the phase '{phase}'")


def test_every_phase_has_a_deadline() -> None:
    """Else it would be counted with the one before it."""
    sources = [ROOT / "bench" / "worker" / "answer.py", ROOT / "bench" / "worker" / "loop.py"]
    told = {name for path in sources for name in re.findall(r'phases\.enter\("([^"]+)"\)', path.read_text())}
    assert told == {phase for _, phase in PHASES}
    assert campaign.PHASE_DEADLINES_S.keys() == told | {"start"}


def test_a_record_that_a_process_could_not_write_is_no_finding_about_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "fills the disk")
    with pytest.raises(OSError, match=r"a process could not write its record: .* File too large"):
        outcome(tmp_path, GOOD)


def test_much_output_disturbs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "prints much")
    assert outcome(tmp_path, GOOD).status == "ok"
    (log,) = (tmp_path / "logs").iterdir()
    assert log.stat().st_size < 3 * launch.LOG_BYTES + 100


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "nan loss")
    done = outcome(tmp_path, GOOD, kind="quality", round=1)
    assert (done.status, done.reason) == ("failed", "the training loss was nan at step 25")
    assert done.target_reached is None


def test_a_target_that_was_missed_is_a_finding_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BACKEND", "misses the target")
    done = outcome(tmp_path, GOOD, kind="quality", round=1)
    assert (done.status, done.target_reached) == ("ok", False)
    assert done.quality is not None
    assert done.quality.metrics["accuracy"] < 0.1


def test_a_backend_that_cannot_be_imported_is_a_record_too(tmp_path: Path, fakes: Callable[[str], str]) -> None:
    done = outcome(tmp_path, fakes("ok").replace("ok", "absent"))
    assert done.status == "failed"
    assert "No module named 'fakes.absent'" in str(done.reason)


def test_speed_memory_and_quality_hold_what_they_are_for(tmp_path: Path) -> None:
    speed, memory = outcome(tmp_path, GOOD), outcome(tmp_path, GOOD, kind="memory", round=1)
    assert (speed.memory, speed.quality, memory.timings, memory.quality) == (None, None, None, None)
    timings = speed.timings
    assert timings is not None
    assert timings.block_steps == 3
    assert len(timings.blocks_s) >= 10
    assert sum(timings.blocks_s) == pytest.approx(timings.window_s, abs=0.01)
    # Of 16, or of 10 in the padded last batch of an epoch: whole blocks of three steps.
    steps = 3 * len(timings.blocks_s)
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


@pytest.mark.parametrize("rounds", [1, 5, 12])
def test_every_round_holds_every_backend_once_in_a_stored_order(rounds: int) -> None:
    choice = a_choice("a.a", "b.b", "c.c", rounds=rounds)
    drawn = list(a_plan(choice).rounds(choice))
    assert len(drawn) == rounds
    for number, cells in enumerate(drawn, start=1):
        assert sorted(cell.backend for cell in cells) == ["a.a", "b.b", "c.c"]
        assert [cell.position for cell in cells] == [1, 2, 3]
        assert {(cell.round, cell.order_seed, cell.kind) for cell in cells} == {(number, choice.order_seed, "speed")}


def order(choice: Choice, task: TaskPlan | None = None) -> list[list[str]]:
    return [[cell.backend for cell in cells] for cells in (task or a_plan(choice)).rounds(choice)]


def test_the_order_seed_gives_the_same_order_again_and_another_seed_another() -> None:
    choice = a_choice("a.a", "b.b", "c.c", rounds=10)
    assert order(choice) == order(a_choice("a.a", "b.b", "c.c", rounds=10))
    assert order(choice) != order(a_choice("a.a", "b.b", "c.c", rounds=10, order_seed=1))
    assert len(set(map(tuple, order(choice)))) > 2


def test_no_backend_is_favoured_by_the_order() -> None:
    task = a_plan(a_choice())
    firsts: Counter[str] = Counter()
    for seed in range(300):
        choice = a_choice("a.a", "b.b", "c.c", rounds=2, order_seed=seed)
        firsts.update(names[0] for names in order(choice, task))
    assert all(150 < count < 250 for count in firsts.values())


def test_processes_run_in_the_planned_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    choice = a_choice("a.a", "b.b", "c.c", rounds=4, seeds=2)
    running = a_campaign(tmp_path, choice)
    running.run()
    speed = [cell for cell in running.records if cell.kind == "speed"]
    assert [cell.backend for cell in speed] == [name for names in order(choice) for name in names]
    kinds = [cell.kind for cell in running.records]
    assert kinds == ["parity"] * 3 + ["speed"] * 12 + ["memory"] * 3 + ["quality"] * 6
    assert running.complete


def test_rounds_and_seeds_are_the_presets_unless_others_are_asked() -> None:
    choice = a_choice(rounds=None, seeds=None)
    assert len(list(a_plan(choice).rounds(choice))) == 2
    assert [cell.seed for cell in a_plan(choice).quality(choice)] == [0]
    choice = a_choice(rounds=7, seeds=3)
    assert len(list(a_plan(choice).rounds(choice))) == 7
    assert [cell.seed for cell in a_plan(choice).quality(choice)] == [0, 1, 2]


def test_an_absent_backend_is_a_record_and_does_not_spoil_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_processes(monkeypatch)
    running = a_campaign(tmp_path, a_choice(absent=[("jax", "jax not installed; add it with: pip")]))
    running.run()
    assert running.complete
    (absent,) = [cell for cell in on_disk(tmp_path) if cell.backend == "jax"]
    assert (absent.status, absent.reason) == ("skipped", "jax not installed; add it with: pip")


def test_progress_is_told_of_every_process_and_the_estimate_follows_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_processes(monkeypatch)  # 2 seconds each
    running = a_campaign(tmp_path, a_choice("a.a", "b.b", rounds=3, seeds=1))
    running.run()
    assert isinstance(running.progress, Watcher)
    begun = running.progress.begun
    assert [(done, total) for _, _, done, total, _ in begun] == [(number, 12) for number in range(12)]
    assert running.progress.done == running.records
    guesses = campaign.ESTIMATES_S
    expected_first = 2 * (guesses["parity"] + 3 * guesses["speed"] + guesses["memory"] + guesses["quality"])
    assert begun[0][-1] == expected_first
    assert begun[3][-1] == 2 * 5 + 2 * (guesses["memory"] + guesses["quality"])  # the first speed process was seen
    assert begun[-1][-1] == 2.0


# The cache of parity.


def counting(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Record]:
    """Replaces processes by good answers, changed as told; returns the list of what was run."""
    ran: list[Record] = []

    def execute(cell: Record, folder: Path, *, data_dir: Path | None, interpreter: object = None) -> Record:
        ran.append(cell)
        return msgspec.structs.replace(succeed(cell, folder, data_dir=data_dir), **changes)

    monkeypatch.setattr(campaign, "execute", execute)
    return ran


def climb(cell: Record, folder: Path) -> Record:
    return campaign.climb(cell, folder, data_dir=None)


def cache_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").rglob("*.json")
    return path


def test_a_second_run_recalls_a_passed_climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counting(monkeypatch, versions={"fake": "1"})
    first, second = climb(a_cell(kind="parity"), tmp_path), climb(a_cell(kind="parity"), tmp_path)
    assert len(ran) == 1
    assert (second.status, second.parity, second.versions) == ("ok", first.parity, first.versions)
    assert second.settings == {"from cache": True}
    assert second.started_utc
    assert record.decode(record.encode(second)) == second


def test_a_failed_climb_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counting(monkeypatch, status="failed", reason="fell", parity=[a_ladder(passed=3)])
    climb(a_cell(kind="parity"), tmp_path)
    climb(a_cell(kind="parity"), tmp_path)
    assert len(ran) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"ladders": [], "versions": {}}', b"[" * 100_000])
def test_a_corrupt_cache_is_ignored_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    ran = counting(monkeypatch)
    climb(a_cell(kind="parity"), tmp_path)
    cache_file(tmp_path).write_bytes(content)
    assert climb(a_cell(kind="parity"), tmp_path).status == "ok"
    assert climb(a_cell(kind="parity"), tmp_path).settings == {"from cache": True}
    assert len(ran) == 2


@pytest.mark.parametrize("rungs", [[], a_ladder().rungs[:3], a_ladder(passed=5).rungs])
def test_a_cached_ladder_that_was_not_passed_to_the_top_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rungs: list[Any]
) -> None:
    ran = counting(monkeypatch)
    climb(a_cell(kind="parity"), tmp_path)
    stored = json.loads(cache_file(tmp_path).read_bytes())
    stored["ladders"][1]["rungs"] = msgspec.to_builtins(rungs)
    cache_file(tmp_path).write_text(json.dumps(stored))
    assert climb(a_cell(kind="parity"), tmp_path).settings != {"from cache": True}
    assert len(ran) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    ran = counting(monkeypatch)
    assert climb(a_cell(kind="parity"), tmp_path).status == "ok"
    assert climb(a_cell(kind="parity"), tmp_path).status == "ok"
    assert len(ran) == 2


@pytest.mark.parametrize(
    "change",
    [{"spec_hash": "0"}, {"device": "gpu"}, {"precision": "float64"}, {"backend": "backends.reference"}],
    ids=str,
)
def test_what_decides_a_climb_is_in_its_key(change: dict[str, Any]) -> None:
    cell = a_cell(kind="parity")
    assert parity_cache.key(msgspec.structs.replace(cell, **change)) != parity_cache.key(cell)


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"gpu": "another"}, {"python": "3.99.0"}], ids=str)
def test_the_machine_is_in_the_key(change: dict[str, Any]) -> None:
    cell = a_cell(kind="parity")
    moved = msgspec.structs.replace(cell, machine=msgspec.structs.replace(cell.machine, **change))
    assert parity_cache.key(moved) != parity_cache.key(cell)


def test_what_decides_nothing_is_not_in_the_key() -> None:
    cell = a_cell(kind="parity")
    other = msgspec.structs.replace(cell, round=2, seed=3, order_seed=4, position=5, started_utc="later", preset="full")
    assert parity_cache.key(other) == parity_cache.key(cell)


def test_versions_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = a_cell("backends.reference", kind="parity")
    before = parity_cache.key(cell)
    for name in interpreters.DISTRIBUTIONS:
        with monkeypatch.context() as patch:
            patch.setattr(parity_cache, "version", lambda asked, name=name: "99" if asked == name else "1")
            changed = parity_cache.key(cell)
        with monkeypatch.context() as patch:
            patch.setattr(parity_cache, "version", lambda asked: "1")
            assert changed != parity_cache.key(cell)
    assert parity_cache.key(cell) == before


def test_a_changed_source_changes_the_key(fakes: Callable[[str], str], tmp_path: Path) -> None:
    cell = a_cell(fakes("ok"), kind="parity")
    before = parity_cache.key(cell)
    assert parity_cache.key(cell) == before
    with (tmp_path / "plug-ins" / "fakes" / "ok.py").open("a") as file:
        file.write("# a change\n")
    assert parity_cache.key(cell) != before


@pytest.mark.parametrize(
    "path",
    [
        "tasks/mnist_mlp.py", "tasks/batching.py", "tasks/spec.py", "backends/__init__.py", "backends/api.py",
        "backends/reference/session.py", "backends/reference/mlp.py", "backends/jax/session.py", "backends/jax/mlp.py",
        "bench/worker/parity.py", "bench/worker/loop.py",
    ],
)  # fmt: skip
def test_every_source_that_decides_a_climb_is_among_those_hashed(path: str) -> None:
    assert ROOT / path in parity_cache._sources("backends.jax")


def test_a_task_outside_of_the_project_is_among_the_sources_of_its_climb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its spec may say the same while its code says something else."""
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "outside_task.py"
    source.write_text("from tests.fake_backend import preset")
    cell = msgspec.structs.replace(a_cell("backends.reference", kind="parity"), task="outside_task")
    before = parity_cache.key(cell)
    source.write_text("from tests.fake_backend import preset  # and something else")
    assert parity_cache.key(cell) != before


# Interruptions and full disks.


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(143)], ids=repr)
@pytest.mark.parametrize("at", [1, 4, 8])
def test_an_interruption_keeps_what_is_finished_and_marks_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, interruption: BaseException
) -> None:
    calls: list[Record] = []

    def execute(cell: Record, folder: Path, *, data_dir: Path | None, interpreter: object = None) -> Record:
        calls.append(cell)
        if len(calls) == at:
            raise interruption
        return succeed(cell, folder, data_dir=data_dir)

    without_processes(monkeypatch, execute)
    running = a_campaign(tmp_path, a_choice("a.a", "b.b"))
    with pytest.raises(type(interruption)):
        running.run()
    found = on_disk(tmp_path)
    assert len(found) == len({which(cell) for cell in found}) == 8
    finished = [cell for cell in found if cell.status == "ok"]
    assert sorted(map(which, finished)) == sorted(map(which, calls[: at - 1]))
    for cell in found:
        if cell.status != "ok":
            assert (cell.status, cell.reason) == ("interrupted", "the run was interrupted")
    assert not running.complete


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interruption_while_a_record_is_written_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write, calls = record.write, []

    def interrupted(path: Path, value: Any) -> None:
        calls.append(path)
        if len(calls) == at:
            raise KeyboardInterrupt
        write(path, value)

    without_processes(monkeypatch)
    monkeypatch.setattr(record, "write", interrupted)
    running = a_campaign(tmp_path, a_choice("a.a", "b.b"))
    with pytest.raises(KeyboardInterrupt):
        running.run()
    assert len(on_disk(tmp_path)) == 8


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_full_disk_is_an_error_and_every_earlier_record_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write, calls = record.write_bytes, []

    def full(path: Path, content: bytes, *, via: Path | None = None) -> None:
        calls.append(path)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, via=via)

    without_processes(monkeypatch)
    monkeypatch.setattr(record, "write_bytes", full)
    running = a_campaign(tmp_path, a_choice("a.a", "b.b"))
    with pytest.raises(OSError, match="No space left on device"):
        running.run()
    assert len(on_disk(tmp_path)) == after
    assert [path.suffix for path in (tmp_path / "records").iterdir()] == [".json"] * after


def test_a_disk_that_is_full_before_a_process_starts_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, *, via: Path | None = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        campaign.execute(a_cell(), tmp_path, data_dir=None)


def test_the_fake_task_is_what_a_task_must_be() -> None:
    """Else the tests above would test something else."""
    task = NearestCorner()
    batches = list(task.eval_batches())
    assert [batch.items for batch in batches] == [16, 4]
    assert task.train_steps > 50
