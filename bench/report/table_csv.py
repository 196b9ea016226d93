"""A report as CSV: one line per arm and section, plain numbers with their units in the column names."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from bench.records import rules
from bench.records.record import Record
from bench.records.text import printable
from bench.report import apart, figures, grouping

FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run a text that starts with one of these


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    rows = [{name: _safe(value) for name, value in line.items()} for line in lines(records)]
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def lines(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The figures of each arm and section, by the names of their columns; with those of what is no training, or these alone."""
    records = rules.judged(records)[0]
    beside: dict[tuple[str, str, str], dict[str, Any]] = {}
    alone: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in apart.groups(records):
        first = one.group.first
        for row in one.group.rows:
            key = (first.run.id, first.cell.spec_hash, row.arm.hash)
            alone.setdefault(key, one.module.context(one.group, row))
            beside.setdefault(key, {}).update(one.module.values(one.group, row))
    found = []
    for section in grouping.sections(records):
        for trained in section.rows:
            key = (section.run.id, section.first.spec_hash, trained.arm.hash)
            alone.pop(key, None)
            found.append({**figures.values(section, trained), **beside.get(key, {})})
    return found + [{**context, **beside[key]} for key, context in alone.items()]


def _safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value, " ")
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
