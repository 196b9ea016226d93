"""Memory: a planted tensor shows at its size in every framework, and the driver's view of a card through a fake driver."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import backends
from bench.process import environment
from bench.records.record import Arm, Bytes
from bench.report import facts, grouping
from bench.worker import memory
from bench.worker.memory import CardWatch
from tests.builders import a_memory, a_row, changed
from tests.conftest import BACKENDS_UNDER_TEST
from tests.fakes import nvml as fake_nvml

ROOT = Path(__file__).parent.parent
MIB = 2**20
PLANTED = 512  # TensorFlow's peak varies by some 10 MiB from process to process


def measured(name: str, *, planted: int) -> dict[str, Any]:
    env = environment.for_child(backends.find(name), Arm(name=name, backend=name), shares_device=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.children.plants_memory", name, str(planted)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert answer["status"] == "ok", answer["reason"]
    figures: dict[str, Any] = answer["memory"]
    return figures


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps these counters")
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_a_planted_tensor_shows_at_its_size(name: str) -> None:
    # The least of two each: what else a process happens to hold at its peak only adds.
    without, planted = (
        min((measured(name, planted=size) for _ in range(2)), key=lambda figures: figures["host_peak"]["bytes"])
        for size in (0, PLANTED)
    )
    for peak in ("host_peak", "host_peak_training"):
        found = planted[peak]["bytes"] - without[peak]["bytes"]
        assert found / MIB == pytest.approx(PLANTED, rel=0.05), peak
    # The baseline stands beside the peak, and nothing was planted there.
    for figures in (without, planted):
        assert 0 < figures["host_import"]["bytes"] < without["host_peak"]["bytes"]
    assert planted["host_import"]["bytes"] == pytest.approx(without["host_import"]["bytes"], rel=0.05)
    for missing in ("device_peak_allocated", "device_peak_reserved", "device_peak_process"):
        assert planted[missing]["bytes"] is None
        assert planted[missing]["reason"]


# The driver's view of a card.


def a_card(monkeypatch: pytest.MonkeyPatch, *, used: Sequence[int | None], processes: Sequence[Any]) -> None:
    fake_nvml.install(
        monkeypatch,
        nvmlDeviceGetMemoryInfo=[None if size is None else SimpleNamespace(used=size) for size in used],
        nvmlDeviceGetComputeRunningProcesses=[
            None if sizes is None else [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in sizes.items()]
            for sizes in processes
        ],
    )


def watched() -> Bytes:
    watch = CardWatch(device="gpu")
    watch.look()
    watch.look()
    return watch.peak()


OWN = 4711  # the id that the driver gives this process, which in a container is another one than its own


@pytest.mark.parametrize("used", [[300, 800, 1300], [300, 1300, 700]])
def test_a_cards_peak_is_the_most_in_use_less_the_idle_baseline(
    monkeypatch: pytest.MonkeyPatch, used: list[int]
) -> None:
    a_card(monkeypatch, used=used, processes=[{}, {OWN: 500}, {OWN: 1000}])
    assert watched() == Bytes(1000)


def test_what_was_on_the_card_before_and_stays_as_it_was_belongs_to_the_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_card(monkeypatch, used=[300, 1300], processes=[{7: 200}, {7: 200, OWN: 500}, {7: 200, OWN: 1000}])
    assert watched() == Bytes(1000)


@pytest.mark.parametrize(
    "processes",
    [
        [{}, {OWN: 500, 8: 100}],  # it came meanwhile
        [{}, {OWN: 500}, {OWN: 500, 8: 100}],
        [{7: 200}, {7: 300, OWN: 500}],  # it was there, and grew
        [{7: 200}, {OWN: 500}],  # it was there, and ended
        [{7: 200}, {8: 200, OWN: 500}],
    ],
)
def test_what_another_process_takes_meanwhile_is_not_counted_as_this_ones(
    monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    a_card(monkeypatch, used=[300, 1300], processes=processes)
    assert watched() == Bytes(None, memory.SHARED_CARD)


def test_a_driver_that_lists_no_processes_still_has_the_cards_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    a_card(monkeypatch, used=[300, 1300], processes=[None])
    assert watched() == Bytes(1000)


@pytest.mark.parametrize("used", [[None], [300, None], [300, 1300, None]])
def test_a_driver_that_does_not_tell_is_no_zero(monkeypatch: pytest.MonkeyPatch, used: list[int | None]) -> None:
    a_card(monkeypatch, used=used, processes=[{}])
    assert watched() == Bytes(None, memory.NO_DRIVER)


def test_a_card_that_nothing_was_taken_from_is_not_the_one_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    a_card(monkeypatch, used=[300], processes=[{}])
    assert watched() == Bytes(None, memory.NOTHING_TAKEN)


def test_a_table_tells_the_drivers_view_only_where_there_is_one() -> None:
    title = "Device memory in the driver's view, libraries included"
    (section,) = grouping.sections(a_row("alpha", [100.0]))
    assert title not in dict(facts.facts(section))
    seen = msgspec.structs.replace(a_memory(), device_peak_process=Bytes(1500 * MIB))
    made = [changed(one, memory=seen) if one.outcome.memory else one for one in a_row("alpha", [100.0])]
    (section,) = grouping.sections(made)
    assert dict(facts.facts(section))[title] == "alpha 1,500 MiB"


def test_without_a_driver_or_a_card_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.uninstall(monkeypatch)
    assert watched() == Bytes(None, memory.NO_DRIVER)
    assert CardWatch(device="cpu").peak() == Bytes(None, memory.NO_CARD)
