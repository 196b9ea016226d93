"""A report for a terminal (rich); where the output is no terminal, it is the Markdown."""

from collections.abc import Iterable
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.records.record import Record
from bench.records.text import printable
from bench.report import figures, grouping, markdown, summary, totals


def show(records: Iterable[Record], stream: IO[str]) -> None:
    """Verdicts and tables."""
    console = Console(file=stream)
    if not console.is_terminal:
        stream.write(markdown.render(records))
        return
    for section in grouping.sections(records):
        console.print(_table(section, figures.titles(section), [figures.cells(section, row) for row in section.rows]))
        for sentence in [*summary.sentences(section), *totals.sentences(section)]:
            console.print(plain(sentence))
        for failure in summary.failures(section):
            console.print(plain(failure), style="red")
        console.print(plain(f"Data: {section.first.data.description}"))


def short_table(section: grouping.Section) -> Table:
    """The columns that matter while it grows."""
    rows = [figures.cells(section, row, short=True) for row in section.rows]
    return _table(section, figures.titles(section, short=True), rows)


def show_ladders(climbed: Record, stream: IO[str]) -> None:
    """Every rung of one arm with its largest difference and its tolerance."""
    console = Console(file=stream)
    cell, outcome = climbed.cell, climbed.outcome
    console.print(plain(f"{cell.task} {cell.preset} {cell.arm.name}: {outcome.status}"))
    for ladder in outcome.ladders:
        for rung in ladder.rungs:
            difference = "failed" if rung.difference is None else f"{rung.difference:.1e}"
            mark = "ok    " if rung.passed else "FAILED"
            console.print(
                plain(
                    f"  {mark} {ladder.precision} on {ladder.device}  {rung.number} {rung.name:<12} "
                    f"difference {difference:>7}  tolerance {rung.tolerance:.0e}  {rung.where}"
                ),
                soft_wrap=True,
            )
    if outcome.reason:
        console.print(plain(f"  {outcome.reason}"), soft_wrap=True)


def _table(section: grouping.Section, titles: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=plain(summary.title(section)), title_justify="left")
    for title in titles:
        table.add_column(plain(title))
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(text: str) -> Text:
    """Text without markup or control characters, whoever wrote it."""
    return Text(printable(text, " "))
