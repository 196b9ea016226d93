"""A report as JSON for other programs: the figures of the CSV, and every verdict, fact and reason beside them.

Strict JSON in ASCII, so that no text of a record acts on a terminal. A missing figure is null.
"""

import json
import math
from collections.abc import Iterable
from typing import Any

import msgspec

from bench.records import rules
from bench.records.record import Record
from bench.report import apart, facts, figures, grouping, summary, totals

FORMAT = 2
"""Raised whenever a key is removed or changes its meaning."""


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    records = rules.judged(records)[0]
    report: dict[str, Any] = {
        "report": FORMAT,
        "tables": [_section(*titled) for titled in summary.titled(grouping.sections(records))],
    }
    for one in apart.groups(records):
        report.setdefault(one.kind, []).append(_apart(one))
    return json.dumps(report, indent=1, allow_nan=False).replace("\x7f", r"\u007f") + "\n"


def _section(title: str, section: grouping.Section) -> dict[str, Any]:
    first = section.first
    return {
        "title": title,
        **{name: getattr(first, name) for name in ("task", "preset", "changes", "unit", "spec_hash")},
        "target": str(first.target),
        "run": section.run.id,
        "measurement": section.run.measurement,
        "metric": section.metric,
        "machine": msgspec.to_builtins(section.run.machine),
        "data": msgspec.to_builtins(first.data),
        "verdicts": summary.sentences(section),
        "pairs": [
            {
                "first": pair[0], "second": pair[1], "decision": found.decision, "rounds_needed": found.rounds_needed,
                "ratio": found.ratio.estimate, "low": found.ratio.low, "high": found.ratio.high, "rounds": found.ratio.n,
            }
            for pair, found in sorted(section.verdicts.items())
        ],
        "control": section.control_verdict and {
            "of": section.controlled and section.controlled.name, "decision": section.control_verdict.decision,
            **section.control_verdict.ratio._asdict(),
        },
        "equivalences": [
            {
                "first": first, "second": second, "decision": found.decision, "margin": found.margin,
                "difference": found.difference.estimate, "low": found.difference.low, "high": found.difference.high,
                "seeds": found.difference.n,
            }
            for (first, second), found in section.equivalences.items()
        ],
        "break_even": [
            {name: value if value != math.inf else None for name, value in found._asdict().items()}
            for found in totals.break_even(section)
        ],
        "rows": [_row(section, row) for row in section.rows],
        "facts": facts.facts(section),
        "failures": summary.failures(section),
        "boundary": summary.boundary(section),
    }  # fmt: skip


def _apart(one: apart.Apart) -> dict[str, Any]:
    titles, *lines = one.table
    return {
        "title": one.title,
        "run": one.group.first.run.id,
        "machine": msgspec.to_builtins(one.group.first.run.machine),
        "verdicts": one.sentences,
        "pairs": one.module.pairs(one.group),
        "rows": [
            {**one.module.values(one.group, row), "arm": row.arm.name, "shown": dict(zip(titles, line, strict=True))}
            for row, line in zip(one.group.rows, lines, strict=True)
        ],
        "facts": one.about,
        "failures": one.failures,
        "boundary": one.meaning,
    }


def _row(section: grouping.Section, row: grouping.Row) -> dict[str, Any]:
    line = totals.line(row)
    return {
        **figures.values(section, row),
        "environment": row.arm.environment,
        "versions": row.versions,
        "settings": row.settings,
        "throughput_by_round": {str(number): value for number, value in row.throughputs.items()},
        "seconds_for_steps": {str(n): line.seconds(n) for n in totals.counts(section)} if line else {},
        "shown": dict(zip(figures.titles(section), figures.cells(section, row), strict=True)),
    }
