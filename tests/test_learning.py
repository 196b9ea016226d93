"""Quality as the training goes on, and what it takes to the target."""

from typing import Any

import msgspec
import pytest

from bench.records import rules
from bench.records.record import Energy, Quality, Record
from bench.report import grouping, learning, markdown, page, plots, table_csv
from tests.builders import a_record, a_run

POINTS = [(25, 0.25, 0.70), (50, 0.5, 0.88), (75, 0.75, 0.93)]  # the target is 0.9


def trained(points: dict[str, list[list[tuple[int, float, float]]]], **more: Any) -> list[Record]:
    """A comparison whose trainings were evaluated on the way: arm -> the points of each seed."""
    made = []
    for one in a_run({name: [100.0, 101.0] for name in points}, **more):
        quality = one.outcome.quality
        if quality is not None:
            own = points[one.cell.arm.name][one.cell.seed]
            quality = msgspec.structs.replace(quality, validation=own)
            one = msgspec.structs.replace(one, outcome=msgspec.structs.replace(one.outcome, quality=quality))
        made.append(one)
    return made


def test_a_table_has_the_means_over_seeds_and_the_time_to_the_target() -> None:
    later = [(step, 2 * seconds, value) for step, seconds, value in POINTS]
    (section,) = grouping.sections(trained({"fast": [POINTS, later], "slow": [later, later]}))
    titles, fast, slow = learning.table(section)
    assert titles == [
        "backend", "after 25 steps", "after 50 steps", "after 75 steps", "after 100 steps", "time to accuracy >= 0.9",
    ]  # fmt: skip
    assert fast[1] == "70.00 %, 375 ms"
    assert fast[4] == "95.50 %, 1.00 s"
    assert fast[5].startswith("1.1 (0.013-")  # the geometric mean of 0.75 s and 1.5 s
    assert fast[5].endswith(" s, n=2")
    assert slow[5] == "1.50 s, n=2"  # both alike: no interval


def test_a_training_that_misses_the_target_on_the_way_reaches_it_at_its_end_or_not_at_all() -> None:
    quality = Quality(100, 4.0, 0.1, {"accuracy": 0.95}, [(100, 4.0, 0.1)], None, [(50, 2.0, 0.5)])
    target = a_record().cell.target
    assert quality.reached(target) == (100, 4.0)
    assert msgspec.structs.replace(quality, metrics={"accuracy": 0.8}).reached(target) is None
    records = trained({"alpha": [POINTS, [(50, 0.5, 0.2)]]}, accuracies=(0.95, 0.96))
    (section,) = grouping.sections(records)
    assert learning.seconds_to_target(section, section.rows[0]) == ([0.75, 1.0], 2)


def test_where_not_every_seed_reaches_the_target_there_is_no_time() -> None:
    never = [(50, 0.5, 0.2)]
    (section,) = grouping.sections(trained({"alpha": [POINTS, never]}, accuracies=(0.95, 0.6)))
    assert learning.table(section)[1][-1] == "reached by 1 of 2 trainings"
    assert learning.costs(section, 3.0) == []


def test_what_the_target_costs_is_its_time_at_a_price() -> None:
    (section,) = grouping.sections(trained({"alpha": [POINTS, POINTS]}))
    (told,) = learning.costs(section, 3600.0)
    assert told == "alpha reaches accuracy >= 0.9 for 0.750 at 3600 an hour (2 seeds)."
    text = markdown.render(trained({"alpha": [POINTS, POINTS]}), price_per_hour=3600.0)
    assert "- alpha reaches accuracy" in text
    assert "at 3600 an hour" in text


@pytest.mark.slow
def test_reports_show_it() -> None:
    records = trained({"alpha": [POINTS, POINTS]})
    assert "after 25 steps" in markdown.render(records)
    assert "Quality as the training goes on" in page.render(records)
    assert "table1-quality.svg" in dict(plots.files(records))
    line = table_csv.lines(records)[0]
    assert line["seconds_to_target"] == pytest.approx(0.75)


def test_a_training_that_is_only_evaluated_at_its_end_has_its_whole_time_to_the_target() -> None:
    records = a_run({"alpha": [100.0, 101.0]})
    (section,) = grouping.sections(records)
    titles, alpha = learning.table(section)
    assert titles == ["backend", "after 100 steps", "time to accuracy >= 0.9"]
    whole = [one.outcome.quality.train_s for one in records if one.outcome.quality]
    assert alpha[2] == f"{whole[0]:.2f} s, n={len(whole)}"
    assert table_csv.lines(records)[0]["seconds_to_target"] == pytest.approx(whole[0])
    assert "at the end of the training only" in markdown.render(records)
    assert "at declared steps" in markdown.render(trained({"alpha": [POINTS, POINTS]}))


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([(50, 0.5, 0.2), (50, 0.6, 0.3)], "out of order"),
        ([(50, 0.5, 0.2), (60, 0.4, 0.3)], "out of order"),
        ([(100, 0.5, 0.2)], "comes after its end"),
        ([(50, 5.0, 0.2)], "comes after its end"),
    ],
)
def test_evaluations_that_contradict_the_training_are_refused(points: list[tuple[int, float, float]], why: str) -> None:
    (one,) = [one for one in trained({"alpha": [points, POINTS]}) if one.cell.kind == "quality" and one.cell.seed == 0]
    assert why in "; ".join(rules.invalid(one))


# The energy to the target.

CARD = "NVML, the whole card"


def metered(energies: list[list[tuple[int, Energy]]], *, accuracies: tuple[float, ...] = (0.95, 0.96)) -> list[Record]:
    """Trainings with joules at each of their points, seed by seed."""
    made = []
    for one in trained({"alpha": [POINTS, POINTS]}, accuracies=accuracies):
        quality = one.outcome.quality
        if quality is not None:
            quality = msgspec.structs.replace(quality, energy=energies[one.cell.seed])
            one = msgspec.structs.replace(one, outcome=msgspec.structs.replace(one.outcome, quality=quality))
        made.append(one)
    return made


def joules(*values: float | None, reason: str = "no counter") -> list[tuple[int, Energy]]:
    found = [Energy(None, reason=reason) if value is None else Energy(value, source=CARD) for value in values]
    return list(zip((25, 50, 75, 100), found, strict=True))


def test_the_energy_to_the_target_is_that_of_the_first_evaluation_that_reached_it() -> None:
    records = metered([joules(None, 200.0, 300.0, 400.0), joules(None, 210.0, 330.0, 400.0)])
    (section,) = grouping.sections(records)
    titles, alpha = learning.table(section)
    assert titles[-1] == "energy to accuracy >= 0.9"
    assert alpha[-1].startswith("310 (170-580) J, n=2")
    assert alpha[-1].endswith(f" J, n=2 ({CARD})")
    line = table_csv.lines(records)[0]
    assert line["joules_to_target"] == pytest.approx((300 * 330) ** 0.5)
    assert line["joules_to_target_source"] == CARD
    for text in (markdown.render(records), page.render(records)):
        assert "The energy to the target is what the hardware" in text


def test_without_a_counter_the_energy_is_not_measured_and_the_reason_is_told() -> None:
    records = metered([joules(*[None] * 4), joules(*[None] * 4)])
    (section,) = grouping.sections(records)
    assert learning.table(section)[1][-1] == "not measured: no counter"
    line = table_csv.lines(records)[0]
    assert (line["joules_to_target"], line["joules_to_target_source"]) == (None, "no counter")
    half = metered([joules(1.0, 2.0, 3.0, 4.0), joules(*[None] * 4)])
    assert learning.table(grouping.sections(half)[0])[1][-1] == f"not measured: {CARD}; no counter"
    missed = trained({"alpha": [[(50, 0.5, 0.2)]] * 2}, accuracies=(0.95, 0.6))
    assert "joules_to_target" not in table_csv.lines(missed)[0]
    assert "energy to" not in markdown.render(missed)


@pytest.mark.parametrize(
    ("energy", "why"),
    [
        (joules(1.0, 3.0, 2.0, 4.0), "used less energy the longer it went on"),
        (joules(1.0, 2.0, 3.0, 4.0)[1:], "not read at its evaluations"),
        (joules(1.0, 2.0, 3.0, 4.0)[::-1], "not read at its evaluations"),
        (joules(1.0, 2.0, 3.0, 4.0)[:3], "not read at its evaluations"),
    ],
)
def test_energy_that_contradicts_the_training_is_refused(energy: list[tuple[int, Energy]], why: str) -> None:
    good, bad = (
        next(
            one
            for one in metered([found, joules(1.0, 2.0, 3.0, 4.0)])
            if one.cell.kind == "quality" and not one.cell.seed
        )
        for found in (joules(1.0, 2.0, 3.0, 4.0), energy)
    )
    assert rules.invalid(good) == []
    assert why in "; ".join(rules.invalid(bad))
