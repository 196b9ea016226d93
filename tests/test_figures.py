"""The table of figures: each has one name, and no figure is read back from the text that shows it."""

import ast
import csv
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.records.record import Energy, Probe, Record
from bench.report import figures, grouping, page, table_csv, table_json, terminal
from tests.builders import a_run
from tests.test_report import TWO, many_records

REPORT = Path(figures.__file__).parent


def with_everything() -> list[Record]:
    """Records with a value for every figure that a row may lack."""
    return a_run(TWO, step_flops=4_000_000, probe=Probe(1e-7, 1024, 50e6), energy=Energy(100.0, "a counter"))


def test_a_figure_with_a_text_has_a_title_and_the_other_way_round() -> None:
    assert all((figure.title is None) == (figure.text is None) for figure in figures.FIGURES)
    for section in grouping.sections(many_records()):
        assert [figure for figure in figures.FIGURES if figure.title] == figures.shown(section)
        titles = figures.titles(section)
        assert len(set(titles)) == len(titles) == len(figures.cells(section, section.rows[0]))
        assert all(titles)


def test_a_growing_table_shows_arm_speed_ratio_quality_and_parity() -> None:
    section, *_ = grouping.sections(with_everything())
    assert figures.titles(section, only=terminal.SHORT) == [
        "backend", "images/s", "relative to the fastest", "test accuracy", "parity",
    ]  # fmt: skip
    assert len(figures.cells(section, section.rows[0], only=terminal.SHORT)) == 5


def test_a_table_keeps_the_columns_that_it_had_when_it_was_measured() -> None:
    """What was published regenerates byte for byte: a newer column is for newer measurements."""
    (old,) = grouping.sections(a_run(TWO, measurement=1))
    (new,) = grouping.sections(a_run(TWO, measurement=2))
    assert [title for title in figures.titles(new) if title not in figures.titles(old)] == ["cores busy"]
    names = [f"{part}_{what}_s" for part in ("first_step", "import_and_build") for what in ("mean", "low", "high")]
    assert [name for name in figures.values(new, new.rows[0]) if name not in figures.values(old, old.rows[0])] == names
    assert set(figures.values(old, old.rows[0])) <= set(figures.values(new, new.rows[0]))


@pytest.mark.parametrize("made", [with_everything(), many_records()], ids=["everything", "many"])
def test_a_name_is_that_of_one_value(made: list[Record]) -> None:
    """Or one of two figures would overwrite the other in every file for programs."""
    for section in grouping.sections(made):
        for row in section.rows:
            names = Counter(name for figure in figures.FIGURES for name in figure.values(section, row))
            assert [name for name, times in names.items() if times > 1] == []
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
            assert list(figures.values(section, row)) == list(names)


NEWER = {f"{part}_{what}_s" for part in ("first_step", "import_and_build") for what in ("mean", "low", "high")}
"""Names that the rows of the first measurement do not have."""


@pytest.mark.parametrize("made", [with_everything(), many_records()], ids=["everything", "many"])
def test_csv_and_json_have_exactly_the_names_of_the_table_of_figures(made: list[Record]) -> None:
    rows = [(section, row) for section in grouping.sections(made) for row in section.rows]
    names = list(dict.fromkeys(name for section, row in rows for name in figures.values(section, row)))
    assert next(csv.reader(io.StringIO(table_csv.render(made)))) == names
    beside = {"environment", "versions", "settings", "throughput_by_round", "seconds_for_steps", "shown"}
    for table in json.loads(table_json.render(made))["tables"]:
        for line in table["rows"]:
            assert set(line) - beside <= set(names) <= set(line) | {"joules_per_item", "energy_source"} | NEWER


def test_every_figure_of_a_row_with_everything_has_a_value() -> None:
    section, *_ = grouping.sections(with_everything())
    values = figures.values(section, section.rows[1])
    empty = {name for name, value in values.items() if value is None}
    assert empty == {
        "threads", "environment", "changes", "not_ranked_because", "tokens_per_s", "metric_minus_fastest",
        "metric_minus_fastest_low", "metric_minus_fastest_high", "equivalence", "cores_busy", "training_steps", "gpu",
        "harness", "source", "first_step_low_s", "first_step_high_s", "import_and_build_low_s", "import_and_build_high_s",
        "seconds_to_target_low", "seconds_to_target_high",
    }  # fmt: skip  # the builder's processes all take the same time


def test_a_column_that_is_sorted_says_which_end_is_better() -> None:
    """A reader of the table of figures sees it; figures of identity, quality and parity have no better end of their own."""
    section, *_ = grouping.sections(with_everything())
    without = [
        figure.title(section)
        for figure in figures.shown(section)
        if figure.better is None and figure.title and figure.key(section, section.rows[0]) is not None
    ]
    assert without == ["test accuracy"]  # METRICS says which way it goes


# No text is read back.


@pytest.mark.slow
def test_a_page_sorts_by_the_figures_and_not_by_what_its_cells_say() -> None:
    made = with_everything()
    section, *_ = grouping.sections(made)
    keys = [
        "" if (key := figure.key(section, row)) is None else repr(key)
        for row in section.rows
        for figure in figures.shown(section)[1:]  # after the name
    ]
    assert any(keys)
    assert re.findall(r'data-key="([^"]*)"', page.render(made)) == keys


READERS = {"match", "search", "fullmatch", "findall", "finditer", "split"}
"""Functions of `re` that take a text apart."""


def reads_text(path: Path) -> list[str]:
    """Calls in a file that could make a number of a text, or take one apart."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("float", "int", "ast.literal_eval") or (called.startswith("re.") and called[3:] in READERS):
                found.append(ast.unparse(node))
    return sorted(found)


NUMBERS = {
    "compare.py": ["float(stdtr(found.freedom, -abs(abs(found.centre) - edge) / found.error))", "int(median(known))"],
    "figures.py": ["float(first)"],  # of a value
    "grouping.py": ["int(median(known))"],
    "markdown.py": ["re.match('[-+>\\\\s]|\\\\d+[.)](\\\\s|$)', text)"],  # what would begin a list
    "publish.py": ["int(block['mib'])"],  # of a page's own comment
    # The values of a field as they were typed after --vary.
    "sweep.py": ['float(value)', 'int(part)', "re.split('([0-9]+)', value)"],
    "sweep_plot.py": ['float(place)', 'float(value)'],
}  # fmt: skip
"""What there is of it in the report, none of which reads a formatted figure."""


@pytest.mark.parametrize("path", sorted(REPORT.glob("*.py")), ids=lambda path: path.name)
def test_no_module_of_the_report_makes_a_number_of_a_text(path: Path) -> None:
    assert reads_text(path) == NUMBERS.get(path.name, [])


def test_a_module_that_did_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import re\nkey = float(re.match('x', cell)[0])\n")
    assert reads_text(tmp_path / "bad.py") == ["float(re.match('x', cell)[0])", "re.match('x', cell)"]
