"""Energy from counters: fake trees of the kernel's and a fake driver, on a scripted clock."""

import csv
import io
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from bench.process.execute import execute
from bench.records.record import Energy
from bench.worker import answer as worker
from bench.worker import disturbance, energy, loop
from bench.worker.energy import Meter
from tests.builders import a_record, a_row, a_timing
from tests.fakes import nvml as fake_nvml
from tests.fakes.campaign import FAKE, a_plan, a_planned_cell

SECOND = 10**6  # microjoules in a joule


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def a_zone(powercap: Path, zone: str, name: str, *, microjoules: int, limit: int | None = 10**9) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    if limit is not None:
        (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def measured(powercap: Path, change: Callable[[], object], *, seconds: float = 10.0, device: str = "cpu") -> Energy:
    clock = Clock()
    with Meter(device=device, powercap=powercap, clock=clock) as meter:
        change()
        clock.now += seconds
    return meter.energy


def test_packages_are_added_up_and_what_is_inside_of_them_is_not_counted_again(tmp_path: Path) -> None:
    first = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=5 * SECOND)
    second = a_zone(tmp_path, "intel-rapl:1", "package-1", microjoules=7 * SECOND)
    inside = a_zone(tmp_path, "intel-rapl:0:0", "core", microjoules=0)
    platform = a_zone(tmp_path, "intel-rapl:2", "psys", microjoules=0)

    def work() -> None:
        (first / "energy_uj").write_text(str(105 * SECOND))
        (second / "energy_uj").write_text(str(57 * SECOND))
        for other in (inside, platform):
            (other / "energy_uj").write_text(str(500 * SECOND))

    assert measured(tmp_path, work) == Energy(150.0, source="RAPL, all processor packages")


def test_a_counter_that_starts_again_goes_on_from_its_range(tmp_path: Path) -> None:
    zone = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=990 * SECOND, limit=1000 * SECOND)
    found = measured(tmp_path, lambda: (zone / "energy_uj").write_text(str(30 * SECOND)))
    assert found.joules == pytest.approx(40.0)


def test_a_counter_that_starts_again_at_nobody_knows_what_is_no_figure(tmp_path: Path) -> None:
    zone = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=990 * SECOND, limit=None)
    found = measured(tmp_path, lambda: (zone / "energy_uj").write_text(str(30 * SECOND)))
    assert (found.joules, found.reason) == (None, "the counter restarted during the window")


def test_a_counter_that_does_not_move_is_no_figure(tmp_path: Path) -> None:
    a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=5)
    assert measured(tmp_path, lambda: None) == Energy(None, reason="the counter did not move")


@pytest.mark.parametrize(("seconds", "known"), [(9.99, False), (10.0, True)])
def test_a_window_has_to_be_long_enough(tmp_path: Path, seconds: float, known: bool) -> None:
    zone = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0)
    found = measured(tmp_path, lambda: (zone / "energy_uj").write_text(str(SECOND)), seconds=seconds)
    assert (found.joules is not None) == known
    assert known or "the window lasted 10.0 s" in str(found.reason)


def test_no_counter_is_told_before_the_window(tmp_path: Path) -> None:
    meter = Meter(device="cpu", powercap=tmp_path)
    assert meter.missing == energy.NO_RAPL
    assert measured(tmp_path, lambda: None) == Energy(None, reason=energy.NO_RAPL)


def test_a_counter_that_only_root_may_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0)
    read = Path.read_text

    def locked(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "energy_uj":  # root, who runs tests in containers, may read everything
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", locked)
    assert Meter(device="cpu", powercap=tmp_path).missing == energy.RAPL_LOCKED


def test_rubbish_in_a_counter_is_no_figure(tmp_path: Path) -> None:
    zone = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0)
    (zone / "energy_uj").write_text("many\n")
    assert Meter(device="cpu", powercap=tmp_path).missing == energy.NO_RAPL


def test_a_card_is_read_in_millijoules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.install(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=[1_000, 1_000, 3_501_000])
    assert measured(tmp_path, lambda: None, device="gpu") == Energy(3500.0, source="NVML, the whole card")


def test_a_card_without_a_counter_and_a_machine_without_a_driver_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml.install(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=[None])
    assert measured(tmp_path, lambda: None, device="gpu") == Energy(None, reason=energy.NO_CARD_COUNTER)
    fake_nvml.uninstall(monkeypatch)
    assert measured(tmp_path, lambda: None, device="gpu") == Energy(None, reason=energy.NO_CARD)


# In a run.


def test_a_meter_that_is_stopped_counts_nothing_meanwhile_and_tells_all_so_far(tmp_path: Path) -> None:
    zone = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0, limit=1000 * SECOND)
    clock, found = Clock(), []
    meter = Meter(device="cpu", powercap=tmp_path, clock=clock)
    for before, after, seconds in ((0, 40, 6.0), (500, 590, 6.0), (990, 10, 1.0)):
        (zone / "energy_uj").write_text(str(before * SECOND))
        with meter:
            (zone / "energy_uj").write_text(str(after * SECOND))
            clock.now += seconds
        found.append(meter.energy)
    assert "the window lasted 6.0 s" in str(found[0].reason)
    assert [energy.joules for energy in found[1:]] == [pytest.approx(130.0), pytest.approx(150.0)]


class Trains:
    """A session whose steps use a joule and whose evaluations use a hundred, each in a second."""

    def __init__(self, zone: Path, clock: Clock) -> None:
        self.zone, self.clock, self.steps = zone, clock, 0

    def use(self, joules: int) -> None:
        counter = self.zone / "energy_uj"
        counter.write_text(str(int(counter.read_text()) + joules * SECOND))
        self.clock.now += 1

    def prepare(self, batch: Any) -> Any:
        return batch

    put = prepare

    def train_step(self, batch: Any) -> float:
        self.use(1)
        return 0.5

    def fetch(self, value: float) -> float:
        return value

    def wait(self) -> None: ...


def test_the_energy_of_a_training_has_none_of_its_evaluations(tmp_path: Path) -> None:
    zone, clock = a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0), Clock()
    session: Any = Trains(zone, clock)

    def validate() -> float:
        session.use(100)
        return 0.9

    batch: Any = SimpleNamespace(starts_sequence=False)
    meter = Meter(device="cpu", powercap=tmp_path, clock=clock)
    common: dict[str, Any] = {"steps": 60, "clock": clock, "validations": 2, "validate": validate}
    trained = loop.train(session, repeat(batch), meter=meter, **common)
    source = "RAPL, all processor packages"
    assert trained.energy == [(steps, Energy(float(steps), source=source)) for steps in (20, 40, 60)]
    assert [(step, seconds) for step, seconds, _ in trained.validation] == [(20, 20.0), (40, 40.0)]
    assert trained.seconds == 60.0
    assert loop.train(session, repeat(batch), **common).energy == []


def test_energy_is_asked_of_the_processes_of_speed_and_of_quality() -> None:
    cells = a_plan(energy=True).cells
    assert {cell.kind for cell in cells if cell.energy} == {"speed", "quality"}
    assert all(cell.energy for cell in cells if cell.kind in ("speed", "quality"))
    assert not any(cell.energy for cell in a_plan().cells)


@pytest.mark.parametrize("readable", [True, False])
def test_a_window_is_one_long_block_only_where_there_is_a_counter(tmp_path: Path, readable: bool) -> None:
    if readable:
        a_zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0)
    watch = disturbance.Watch(gpu=False)
    preset = tasks.load(FAKE, "smoke")
    turns = worker._turns(preset, watch, Meter(device="cpu", powercap=tmp_path), takes_turns=False)
    assert isinstance(turns, loop.Alone)
    assert (turns.blocks, turns.block_s > energy.MIN_WINDOW_S) == ((1, True) if readable else (preset.blocks, False))
    with turns.block():
        pass
    assert watch.disturbance is not None  # the one does not displace the other


@pytest.mark.slow
def test_a_process_answers_with_joules_or_with_the_reason(tmp_path: Path) -> None:
    run, cell = a_planned_cell(energy=True)
    done = execute(run, cell, tmp_path, data_dir=None).outcome
    assert done.status == "ok"
    assert done.energy is not None
    assert (done.energy.joules is None) == (Meter(device="cpu").missing is not None)
    assert done.energy.reason == Meter(device="cpu").missing


@pytest.mark.slow
def test_a_training_answers_with_joules_at_its_end_or_with_the_reason(tmp_path: Path) -> None:
    run, cell = a_planned_cell(energy=True, kind="quality")
    done = execute(run, cell, tmp_path, data_dir=None).outcome
    assert done.status == "ok", done.reason
    assert done.quality is not None
    ((steps, found),) = done.quality.energy
    assert steps == done.quality.steps
    assert found.joules is None  # it lasts no ten seconds
    assert found.reason == (Meter(device="cpu").missing or found.reason)


# In tables.


def with_energy(*found: Energy | None) -> list[Any]:
    climb, *others = a_row("alpha", [])
    speeds = [
        a_record(backend="alpha", round=number, timings=a_timing(1000), energy=one)
        for number, one in enumerate(found, start=1)
    ]
    return [climb, *speeds, *others]


def test_tables_show_energy_only_where_a_counter_was_read() -> None:
    from bench.report import facts, grouping, markdown, table_csv

    counted = with_energy(*(Energy(joules, source="NVML, the whole card") for joules in (400.0, 500.0, 900.0)))
    (section,) = grouping.sections(counted)
    assert dict(facts.facts(section))["Energy per image"] == "alpha 0.500 J (NVML, the whole card)"  # 1,000 images
    (cells,) = csv.DictReader(io.StringIO(table_csv.render(counted)))
    assert float(cells["joules_per_item"]) == 0.5

    without = with_energy(Energy(None, reason=energy.NO_RAPL))
    (section,) = grouping.sections(without)
    assert "Energy per image" not in dict(facts.facts(section))
    assert ("Not measured", f"energy of alpha: {energy.NO_RAPL}") in facts.facts(section)
    assert "nergy" not in markdown.render(with_energy(None))
    assert "joules" not in table_csv.render(with_energy(None))


def test_a_hostile_source_of_energy_is_harmless_in_every_table() -> None:
    from bench.report import markdown, table_csv

    hostile = with_energy(Energy(1.0, source="=cmd()\x1b[31m<script>|# x"))
    text = markdown.render(hostile)
    assert "<script>" not in text
    assert "\x1b" not in text + table_csv.render(hostile)
    assert "'=cmd()" in table_csv.render(hostile)
