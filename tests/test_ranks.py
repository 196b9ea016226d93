"""One arm over several processes: what each is given, what they make together, and what becomes of it when one fails."""

import importlib
import os
import queue
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgspec
import numpy as np
import psutil
import pytest

from backends.api import Options
from bench.campaign import plan
from bench.campaign.plan import Choice
from bench.machine import cores
from bench.process import execute, turns
from bench.process.execute import DEADLINES, PHASES_S
from bench.process.launch import Deadlines
from bench.records import rules
from bench.records.record import Outcome, Record
from bench.worker import ranks
from tasks.spec import Batch
from tests.conftest import BACKENDS_UNDER_TEST, wait_until
from tests.fakes import ranked as fake
from tests.fakes.backend import preset
from tests.fakes.campaign import a_planned_cell, an_arm

ROOT = Path(__file__).parent.parent
FAKE = "tests.fakes.ranked"
SETTLED_S = 6.0  # of processor time, after which a framework is imported
STILL_S = 45.0  # a phase's deadline where a rank is stopped


@pytest.fixture
def ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module of the backend tests/fakes/ranked.py that misbehaves; returns its name."""
    folder = tmp_path / "plug-ins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def make(misbehaviour: str) -> str:
        name = "plugged_" + "".join(letter if letter.isalnum() else "_" for letter in misbehaviour)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
        (folder / name / "backend.py").write_text(
            "from functools import partial\nfrom tests.fakes import ranked\nversions = ranked.versions\n"
            f"open_session = partial(ranked.open_session, misbehaviour={misbehaviour!r})\n"
        )
        return f"{name}.backend"

    return make


def two(backend: str = FAKE, **declared: Any) -> Any:
    return an_arm("two", backend=backend, **{"processes": 2} | declared)


def run(folder: Path, arm: Any, kind: str = "speed", **limits: Any) -> Record:
    """The record of one process of an arm; `limits` are the phases' deadlines."""
    planned, cell = a_planned_cell(arm, kind=kind)
    deadlines = {kind: Deadlines(120, {**PHASES_S, **limits}, grace_s=1.0)}
    return execute.execute(planned, cell, folder, data_dir=None, deadlines=deadlines)  # type: ignore[arg-type]


def no_process_is_left() -> bool:
    return psutil.Process().children(recursive=True) == []


# What each rank is given.


@hypothesis.given(
    rows=st.integers(1, 17), processes=st.integers(1, 6), padded=st.integers(0, 5), width=st.integers(1, 3)
)
def test_the_parts_of_a_batch_are_its_rows_in_order_and_padding(
    rows: int, processes: int, padded: int, width: int
) -> None:
    weights = np.ones((rows, width), np.float32)
    weights[max(0, rows - padded) :] = 0
    inputs = {"x": np.arange(rows * 2).reshape(rows, 2)}
    batch = Batch(inputs, np.arange(rows * width, dtype=np.int32).reshape(rows, width), weights, starts_sequence=True)
    parts = ranks.shares_of(batch, processes)
    assert len(parts) == processes
    assert len({part.labels.shape for part in parts}) == len({part.inputs["x"].shape for part in parts}) == 1
    assert {part.total for part in parts} == {float(weights.sum())}
    assert all(part.starts_sequence for part in parts)
    for name in ("labels", "weights"):
        whole = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(whole[:rows], getattr(batch, name))
    assert not np.concatenate([part.weights for part in parts])[rows:].any()
    np.testing.assert_array_equal(np.concatenate([part.inputs["x"] for part in parts])[:rows], inputs["x"])
    np.testing.assert_array_equal(batch.weights, weights)  # the host's batch stays as it is


@pytest.mark.parametrize(
    ("usable", "processes", "threads", "expected"),
    [
        ([0, 1], 2, None, [[0], [1]]),
        ([0, 1, 2, 3], 2, None, [[0, 1], [2, 3]]),
        ([0, 1, 2, 3], 2, 1, [[0], [1]]),
        ([0, 1, 2], 2, None, [[0], [1]]),
        ([4, 7], 3, None, [[4], [7], [4]]),
        ([5], 2, None, [[5], [5]]),
        ([], 2, None, [[], []]),
    ],
)
def test_each_rank_has_cores_of_its_own_where_there_are_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usable: list[int], processes: int, threads: int | None,
    expected: list[list[int]],
) -> None:  # fmt: skip
    monkeypatch.setattr(cores, "usable", lambda: usable)
    monkeypatch.setattr(cores, "granted", lambda: len(usable) or 1)
    assert cores.shares(processes, threads, topology=tmp_path) == expected


def test_the_masks_of_two_ranks_have_other_seeds_whatever_the_seed() -> None:
    seeds = [Options(seed=seed, rank=rank, processes=4).masks_seed for seed in range(4) for rank in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert Options(seed=3).masks_seed == Options(seed=3, rank=0, processes=4).masks_seed == 3


# What they make together.


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_several_processes_climb_the_whole_ladder(tmp_path: Path, processes: int) -> None:
    done = run(tmp_path, two(processes=processes, precision="float64"), "parity").outcome
    assert (done.status, done.reason) == ("ok", None)
    assert no_process_is_left()


@pytest.mark.slow
def test_a_round_has_the_figures_of_every_rank(tmp_path: Path) -> None:
    planned, cell = a_planned_cell(two())
    one = msgspec.structs.replace(cell, arm=an_arm("one", backend=FAKE))
    made = turns.execute_round(planned, [cell, one], tmp_path, turns=5, data_dir=None, interpreters={})
    assert [(done.outcome.status, done.outcome.reason) for done in made] == [("ok", None)] * 2
    both, alone = made
    assert both.outcome.timings is not None
    assert alone.outcome.timings is not None
    assert alone.outcome.ranks == []
    first, second = both.outcome.ranks
    assert both.outcome.timings.cpu_s == pytest.approx(first.cpu_s + second.cpu_s)  # type: ignore[operator]
    assert min(first.cpu_s, second.cpu_s) > 0  # type: ignore[type-var]
    assert min(first.host_peak.bytes, second.host_peak.bytes) > 2**20  # type: ignore[type-var]
    assert both.outcome.settings["processes"] == 2
    # The same batches, and the same computation but for the order of sums.
    losses, same = dict(both.outcome.timings.losses), dict(alone.outcome.timings.losses)
    updates = sorted(losses.keys() & same.keys())  # blocks may have other lengths
    assert len(updates) > 50
    np.testing.assert_allclose([losses[at] for at in updates], [same[at] for at in updates], rtol=1e-9)
    assert no_process_is_left()


@pytest.mark.slow
def test_the_memory_of_an_arm_is_that_of_all_its_ranks(tmp_path: Path) -> None:
    done = run(tmp_path, two(), "memory").outcome
    assert (done.status, done.reason) == ("ok", None)
    assert done.memory is not None
    assert done.memory.host_peak.bytes == sum(one.host_peak.bytes or 0 for one in done.ranks)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": []}, "figures of 0 ranks, expected 2"),
        ({"settings": {}}, "processes 2 was requested, but None was in force"),
    ],
)
@pytest.mark.slow
def test_a_record_without_its_ranks_is_no_record_of_several_processes(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    done = run(tmp_path, two(), "memory")
    assert rules.invalid(done) == []
    changed = msgspec.structs.replace(done, outcome=msgspec.structs.replace(done.outcome, **change))
    assert said in rules.invalid(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inference", "explain"])
def test_what_is_of_one_process_is_declined(tmp_path: Path, kind: str) -> None:
    done = run(tmp_path, two(), kind).outcome
    assert done.status == "unsupported"
    assert "leave out processes=2" in str(done.reason)


# Faults that the ladder finds.

CAUGHT = {
    "divides by its own weights": ("rung 3 (loss)", "loss of a padded batch"),
    "sees the rows of rank 0": ("rung 3 (loss)", "loss of a padded batch"),
    "starts from other weights": ("rung 1 (parameters)", "ranks whose parameters are not those of rank 0"),
    "updates by its own gradient": ("rung 6 (trajectory)", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", CAUGHT)
def test_the_ladder_finds_a_fault_of_one_rank(tmp_path: Path, ranked: Callable[[str], str], fault: str) -> None:
    done = run(tmp_path, two(ranked(fault), precision="float64"), "parity").outcome
    assert done.status == "failed"
    assert all(part in str(done.reason) for part in CAUGHT[fault]), done.reason


@pytest.mark.slow
def test_ranks_that_drift_apart_after_the_ladder_make_a_record_invalid(
    tmp_path: Path, ranked: Callable[[str], str]
) -> None:
    done = run(tmp_path, two(ranked("updates by its own gradient")), "quality").outcome
    assert done.status == "invalid"
    assert "the parameters of rank 1 are not those of rank 0" in str(done.reason)


# Ranks that fail.

ENDS = [
    ("raises in warm-up", "failed", "rank 1 of 2: RuntimeError: the layer is broken in rank 1"),
    ("runs out of memory in warm-up", "oom", "rank 1 of 2: out of memory: Unable to allocate 3 TiB"),
    ("exits in warm-up", "failed", "rank 1 of 2: exited with code 3"),
    ("killed in warm-up", "killed", "rank 1 of 2: ended by SIGKILL"),
    ("stopped in warm-up", "timeout", "the deadline of the phase 'warm-up'; 1 of its processes were stopped (SIGSTOP)"),
    ("killed in its turn", "killed", "rank 1 of 2: ended by SIGKILL"),
    ("stopped in its turn", "timeout", "the deadline of the phase 'turn'"),
    ("killed in its sleep", "killed", "rank 1 of 2: ended by SIGKILL"),
    ("stopped in its sleep", "timeout", "the deadline of the phase 'turn'"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("misbehaviour", "status", "reason"), ENDS)
def test_a_rank_that_fails_is_one_record_with_its_words_and_the_other_arms_go_on(
    tmp_path: Path, ranked: Callable[[str], str], misbehaviour: str, status: str, reason: str
) -> None:
    planned, cell = a_planned_cell(two(ranked(misbehaviour)))
    other = msgspec.structs.replace(cell, arm=an_arm("one", backend=FAKE))
    limits = {**PHASES_S, "warm-up": 8.0, "turn": 8.0}
    deadlines = {**DEADLINES, "speed": Deadlines(120, limits, grace_s=1.0)}
    bad, good = turns.execute_round(
        planned, [cell, other], tmp_path, turns=5, data_dir=None, interpreters={}, deadlines=deadlines
    )
    assert bad.outcome.status == status
    assert reason in str(bad.outcome.reason)
    assert (good.outcome.status, good.outcome.reason) == ("ok", None)
    assert no_process_is_left()


@pytest.mark.slow
def test_a_rank_with_another_version_is_refused(
    tmp_path: Path, ranked: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ranked("ok")
    source = tmp_path / "plug-ins" / backend.replace(".", "/")
    with source.with_suffix(".py").open("a") as file:
        file.write("import sys\nif 'bench.worker.ranks' in sys.modules and len(sys.argv) == 1:\n")
        file.write("    versions = lambda: {**ranked.versions(), 'numpy': '0.1'}\n")
    done = run(tmp_path, two(backend), "memory").outcome
    assert done.status == "failed"
    assert "rank 1 has numpy 0.1, and rank 0 has" in str(done.reason)
    assert no_process_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("times", [10, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_killed_at_any_moment_it_is_one_record_and_nothing_is_left(tmp_path: Path, times: int) -> None:
    rng = random.Random(0)
    for number in range(times):
        folder = tmp_path / str(number)
        folder.mkdir()
        found: list[Outcome] = []
        thread = threading.Thread(target=lambda to=folder, into=found: into.append(run(to, two(), "quality").outcome))
        thread.start()
        wait_until(lambda: len(psutil.Process().children(recursive=True)) == 2 or not thread.is_alive())  # noqa: B023
        thread.join(rng.uniform(0, 1.0))
        struck = rng.choice([*psutil.Process().children(recursive=True)] or [None])
        if struck is not None:
            with pytest.MonkeyPatch.context():
                try:
                    os.kill(struck.pid, signal.SIGKILL)
                except ProcessLookupError:
                    struck = None
        thread.join(60)
        assert not thread.is_alive()
        (outcome,) = found
        assert outcome.status in ("ok", "killed")
        assert outcome.status == "ok" or "SIGKILL" in str(outcome.reason)
        assert no_process_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_that_is_taken_is_said_to_be(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    said: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    own = ranks.Ranks(2, FAKE, give_up=said.put)  # type: ignore[arg-type]  # a test goes on
    (free,) = ranks.free_addresses(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        own.start(addresses=[address, free] if rank == 0 else [free, address])
        try:
            backend = own.wrap(fake)  # type: ignore[arg-type]
            task = preset("smoke").task
            opening = threading.Thread(target=lambda: said.put(opened(backend, task)), daemon=True)
            opening.start()
            reason = str(said.get(timeout=60).reason)
        finally:
            own.end()
    assert f"port {address.rpartition(':')[2]}, for rank {rank}: Address already in use" in reason
    assert no_process_is_left()


def opened(backend: Any, task: Any) -> Outcome:
    try:
        backend.open_session(task, task.init_params(0), Options(precision="float64", processes=2))
    except Exception as error:
        return Outcome(status="failed", reason=str(error))
    return Outcome(status="ok")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name in BACKENDS_UNDER_TEST
        for mode in importlib.import_module(f"backends.{name}").OF_SEVERAL_PROCESSES
    ],
)
def test_a_mode_that_a_backend_names_for_several_processes_climbs_in_them(tmp_path: Path, name: str, mode: str) -> None:
    arm = an_arm(name, mode=mode, processes=2)
    (made,) = plan.make(Choice(tasks=["gru_lm"], arms=[arm], preset="smoke", run_id="x"))
    (cell,) = made.of_kind("parity")
    outcome = execute.execute(made.run, cell, tmp_path, data_dir=None).outcome
    assert (outcome.status, outcome.reason) == ("ok", None)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_what_a_framework_tells_of_its_exchange_is_a_part_of_a_step(tmp_path: Path, name: str) -> None:
    arm = an_arm(name, processes=2)
    (made,) = plan.make(Choice(tasks=["mnist_mlp"], arms=[arm], preset="smoke", run_id="x"))
    (cell,) = [one for one in made.of_kind("speed") if one.round == 1]
    outcome = execute.execute(made.run, cell, tmp_path, data_dir=None).outcome
    assert outcome.status == "ok", outcome.reason
    assert outcome.timings is not None
    told = outcome.timings.exchanges_s
    assert len(told) == (len(outcome.timings.blocks_s) if name == "pytorch" else 0)
    assert all(0 < seconds < max(outcome.timings.blocks_s) for seconds in told)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, "killed"), pytest.param(signal.SIGSTOP, "timeout", marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_a_rank_of_a_framework_that_fails_is_one_record(tmp_path: Path, name: str, number: int, status: str) -> None:
    """Whatever its own collectives make of it: hang, raise, or end the process."""
    arm = an_arm(name, processes=2)
    (made,) = plan.make(Choice(tasks=["mnist_mlp"], arms=[arm], preset="smoke", run_id="x"))
    run, cell = made.run, made.cell(arm, kind="quality", seed=0)
    limits = PHASES_S if status == "killed" else dict.fromkeys(PHASES_S, STILL_S)
    deadlines = {"quality": Deadlines(600, limits, grace_s=1.0)}
    cell = msgspec.structs.replace(cell, changes={"epochs": "100000"})
    found: list[Outcome] = []

    def work() -> None:
        found.append(execute.execute(run, cell, tmp_path, data_dir=None, deadlines=deadlines).outcome)  # type: ignore[arg-type]

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: len(psutil.Process().children(recursive=True)) == 2, patience_s=60)
    (rank,) = [one for one in psutil.Process().children(recursive=True) if "bench.worker.rank" in one.cmdline()]
    wait_until(lambda: sum(rank.cpu_times()[:2]) > SETTLED_S or not thread.is_alive(), patience_s=120)
    rank.send_signal(number)
    thread.join(120)
    assert not thread.is_alive()
    reason = str(found[0].reason)
    if (
        number == signal.SIGSTOP and found[0].status == "failed"
    ):  # TensorFlow's own check of its workers' health was earlier
        assert name == "tensorflow", reason
        assert "UnavailableError" in reason
    else:
        assert found[0].status == status, reason
        assert ("ended by SIGKILL" if status == "killed" else "1 of its processes were stopped (SIGSTOP)") in reason
    assert no_process_is_left()


def test_ports_that_are_given_are_free_and_apart() -> None:
    given = ranks.free_addresses(3)
    assert len(set(given)) == 3
    for address in given:
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) in ranks.PORTS
        socket.create_server((host, int(port))).close()


assert set(CAUGHT) < set(fake.FAULTS)  # the masks of rank 0 are found in the real backends, whose models have dropout


def test_one_that_is_gone_before_it_is_asked_says_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def gone(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        child = popen(*arguments, **named)
        child.wait(20)
        return child

    monkeypatch.setattr(ranks, "SETTLE_S", 0.1)
    monkeypatch.setattr(ranks, "ENDING_S", 1.0)
    monkeypatch.setattr(ranks.subprocess, "Popen", gone)
    told: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    with pytest.raises(OSError, match="Broken pipe"):
        ranks._Other(
            ranks.Start("fake", [], 1, 2, elsewhere=True), ["false"],
            lambda rank, failure: told.put((rank, str(failure.reason))),
        )  # fmt: skip
    assert told.get(timeout=20) == (1, "exited with code 1")
