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
from bench.report import facts, figures, grouping, inference, summary, totals

FORMAT = 2
"""Raised whenever a key is removed or changes its meaning."""


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    records = rules.judged(records)[0]
    report: dict[str, Any] = {
        "report": FORMAT,
        "tables": [_section(*titled) for titled in summary.titled(grouping.sections(records))],
    }
    if asked := [_inference(group) for group in inference.groups(records)]:
        report["inference"] = asked
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


def _inference(group: inference.Group) -> dict[str, Any]:
    rows = inference.table(group)
    return {
        "title": group.title,
        "run": group.first.run.id,
        "machine": msgspec.to_builtins(group.first.run.machine),
        "verdicts": inference.sentences(group),
        "pairs": [
            {
                "batch_size": size, "first": one, "second": other, "decision": found.decision,
                "rounds_needed": found.rounds_needed, "ratio": found.ratio.estimate, "low": found.ratio.low,
                "high": found.ratio.high, "rounds": found.ratio.n,
            }
            for (size, one, other), found in sorted(group.verdicts.items())
        ],
        "rows": [
            {**inference.values(group, row), "arm": row.arm.name, "shown": dict(zip(rows[0], line, strict=True))}
            for row, line in zip(group.rows, rows[1:], strict=True)
        ],
        "facts": inference.about(group),
        "failures": group.failures,
        "boundary": inference.MEANING,
    }  # fmt: skip


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
