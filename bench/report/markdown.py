"""A report in Markdown (tabulate). Everything from a record is escaped: it may come from anybody."""

import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from bench.record import Record
from bench.report import summary

NOTHING = "No records.\n"


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    parts = [_section(section) for section in summary.sections(records)]
    return "\n".join(parts) if parts else NOTHING


def _section(section: summary.Section) -> str:
    first = section.first
    title = f"## {escape(first.task)}: preset {escape(first.preset)}, {escape(first.precision)} on the {escape(first.device)}"
    lines = [title, ""]
    lines += [f"- {escape(sentence)}" for sentence in summary.sentences(section)]
    rows = [summary.cells(section, row) for row in section.rows]
    lines += ["", table(summary.columns(section), rows), ""]
    lines += [f"- {escape(name)}: {escape(text)}" for name, text in summary.facts(section)]
    lines += ["", summary.BOUNDARY.format(unit=escape(first.unit)), ""]
    failures = summary.failures(section)
    if failures:
        lines += ["Processes that are not ok:", "", *(f"- {escape(failure)}" for failure in failures), ""]
    rungs = summary.rungs(section)
    if rungs:
        lines += [
            "Parity with the NumPy float64 reference, largest relative difference of each rung beside its tolerance:",
            "",
        ]
        lines += [table(rungs[0], rungs[1:]), ""]
    return "\n".join(lines)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of escaped text."""
    escaped = [[escape(cell) for cell in row] for row in rows]
    return tabulate(escaped, headers=[escape(title) for title in titles], tablefmt="pipe", disable_numparse=True)


def escape(text: str) -> str:
    """Text that Markdown and the terminal show as it stands, on one line, whoever wrote it."""
    text = "".join(character if character.isprintable() else " " for character in text)
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    return re.sub(r"://", r":&#47;&#47;", text)  # no address becomes a link
