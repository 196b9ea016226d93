"""A report as CSV (pandas): one line per arm and section, plain numbers with their units in the column names."""

from collections.abc import Iterable

import pandas as pd

from bench.records.record import Record
from bench.records.text import printable
from bench.report import figures, grouping

FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run a text that starts with one of these


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    rows = [
        {name: _safe(value) for name, value in figures.values(section, row).items()}
        for section in grouping.sections(records)
        for row in section.rows
    ]
    # As objects: an integer stays one where another row has none.
    return str(pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))


def _safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value, " ")
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
