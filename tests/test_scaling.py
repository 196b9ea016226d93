"""What a report says of an arm of several processes beside the same arm of one."""

import csv
import io
import json
from typing import Any

import msgspec
import pytest

from bench.records.record import Bytes, Rank, Record
from bench.report import facts, grouping, markdown, scaling, table_csv, table_json
from tests.builders import a_row, changed

ONE = [100.0, 102.0, 98.0, 101.0, 99.0]
TWO = [150.0, 152.0, 148.0, 151.0, 149.0]


def a_section(*rows: list[Record]) -> grouping.Section:
    (section,) = grouping.sections([one for row in rows for one in row])
    return section


def row(name: str, rates: list[float], *, cores: int = 1, of: str = "pytorch", **declared: Any) -> list[Record]:
    """An arm's records, in which each process could use so many cores."""
    made = a_row(of, rates, name=name, **declared)
    return [
        msgspec.structs.replace(
            one, outcome=msgspec.structs.replace(one.outcome, settings={**one.outcome.settings, "cores": cores})
        )
        for one in made
    ]


def test_with_the_same_cores_to_each_process_the_efficiency_is_the_speed_up_over_their_number() -> None:
    section = a_section(row("one", ONE, threads=1), row("two", TWO, threads=1, processes=2))
    found = scaling.speed_up(*section.rows)
    assert found is not None
    assert found.estimate == pytest.approx(1.5, rel=1e-3)
    (told,) = scaling.sentences(section)
    assert told.startswith("two trains 1.50")
    assert "times as fast as one (5 rounds): a scaling efficiency of 75.0" in told
    assert told.endswith("2 processes of 1 core each against one of 1 core.")
    assert told in markdown.render([one for row in section.rows for one in row.records]).replace("\\", "")


def test_with_other_cores_there_is_a_speed_up_and_no_efficiency() -> None:
    section = a_section(row("one", ONE, cores=2), row("two", TWO, processes=2))
    (told,) = scaling.sentences(section)
    assert "efficiency" not in told
    assert told.endswith("(5 rounds): 2 processes of 1 core each against one of 2 cores.")


@pytest.mark.parametrize(
    "other",
    [{"mode": "compile"}, {"precision": "float64"}, {"environment": {"A": "1"}}, {"of": "jax"}, {"processes": 4}],
    ids=str,
)
def test_arms_that_differ_in_more_than_their_processes_are_not_scaling(other: dict[str, Any]) -> None:
    assert scaling.sentences(a_section(row("one", ONE, **other), row("two", TWO, processes=2))) == []


def test_an_arm_that_is_shut_out_is_in_no_efficiency() -> None:
    one, two = row("one", ONE, threads=1), row("two", TWO, threads=1, processes=2)
    unproven = [record for record in two if record.cell.kind != "parity"]
    unproven = [
        msgspec.structs.replace(record, cell=msgspec.structs.replace(record.cell, ladders=[])) for record in unproven
    ]
    assert scaling.sentences(a_section(one, unproven)) == []


def test_rounds_are_paired_and_one_round_has_no_interval() -> None:
    section = a_section(row("one", ONE[:1], threads=1), row("two", TWO[:1], threads=1, processes=2))
    (told,) = scaling.sentences(section)
    assert told.startswith("two trains 1.50 times as fast as one (1 round): a scaling efficiency of 75.0 %, ")


def test_programs_read_the_number_of_processes_where_one_has_several() -> None:
    both = [*row("one", ONE, threads=1), *row("two", TWO, threads=1, processes=2)]
    lines = list(csv.DictReader(io.StringIO(table_csv.render(both))))
    assert {line["arm"]: line["processes"] for line in lines} == {"one": "1", "two": "2"}
    (table,) = json.loads(table_json.render(both))["tables"]
    assert {line["arm"]: line["processes"] for line in table["rows"]} == {"one": 1, "two": 2}
    assert "processes" not in table_csv.render(row("one", ONE, threads=1)).splitlines()[0]


def test_the_figures_of_each_rank_stand_below_the_table() -> None:
    cpu = Bytes(None, "a CPU has none")
    ranks = [Rank(1, Bytes(300 * 2**20), cpu, 1.0), Rank(1, Bytes(200 * 2**20), cpu, 0.5)]
    made = [
        msgspec.structs.replace(one, outcome=msgspec.structs.replace(one.outcome, ranks=ranks))
        if one.cell.kind in ("speed", "memory")
        else one
        for one in row("two", TWO, threads=1, processes=2)
    ]
    section = a_section(row("one", ONE, threads=1), made)
    told = dict(facts.facts(section))["Of each process, rank by rank"]
    assert told.startswith("two: cores 1, 1; busy ")
    assert told.endswith("; peak memory 300 MiB, 200 MiB")
    assert scaling.ranks(next(row for row in section.rows if row.name == "one")) == ""


def test_where_the_framework_tells_the_exchange_of_gradients_stands_beside_the_step() -> None:
    made = [
        changed(one, timings=msgspec.structs.replace(one.outcome.timings, exchanges_s=[0.5, 0.002, 0.003]))
        if one.outcome.timings is not None
        else one
        for one in row("two", TWO, threads=1, processes=2)
    ]
    section = a_section(row("one", ONE, threads=1), made)
    told = dict(facts.facts(section))["Of each process, rank by rank"]
    assert told.startswith("two: exchange of gradients 3.00 ms in a step of ")
    assert told.endswith("by the framework's own account, waiting for each other and what it does meanwhile included")
