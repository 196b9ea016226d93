"""A report as CSV (pandas): one line per arm and section, plain numbers with their units in the column names."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.records import rules
from bench.records.record import Record
from bench.records.text import printable
from bench.report import figures, grouping, inference

FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run a text that starts with one of these


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    rows = [{name: _safe(value) for name, value in line.items()} for line in lines(records)]
    # As objects: an integer stays one where another row has none.
    return str(pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))


def lines(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The figures of each arm and section, by the names of their columns; with those of inference, or these alone."""
    records = rules.judged(records)[0]
    asked = {
        (group.first.run.id, group.first.cell.spec_hash, row.arm.hash): (group, row)
        for group in inference.groups(records) for row in group.rows
    }  # fmt: skip
    found = []
    for section in grouping.sections(records):
        for row in section.rows:
            also = asked.pop((section.run.id, section.first.spec_hash, row.arm.hash), None)
            found.append({**figures.values(section, row), **(inference.values(*also) if also else {})})
    return found + [{**inference.context(group, row), **inference.values(group, row)} for group, row in asked.values()]


def _safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value, " ")
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
