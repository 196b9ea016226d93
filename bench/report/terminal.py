"""A report for a terminal (rich); where the output is no terminal, it is the Markdown."""

from collections.abc import Iterable
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.records.record import Record
from bench.report import columns, grouping, markdown, summary, totals


def show(records: Iterable[Record], stream: IO[str]) -> None:
    """Verdicts and tables."""
    console = Console(file=stream)
    if not console.is_terminal:
        stream.write(markdown.render(records))
        return
    for section in grouping.sections(records):
        console.print(_table(section, columns.titles(section), [columns.cells(section, row) for row in section.rows]))
        for sentence in [*summary.sentences(section), *totals.sentences(section)]:
            console.print(plain(sentence))
        for failure in summary.failures(section):
            console.print(plain(failure), style="red")
        console.print(plain(f"Data: {section.first.data.description}"))


def short_table(section: grouping.Section) -> Table:
    """The columns that matter while it grows."""
    keep = (0, 1, 2, 8, 9)
    titles = columns.titles(section)
    rows = [columns.cells(section, row) for row in section.rows]
    return _table(section, [titles[i] for i in keep], [[row[i] for i in keep] for row in rows])


def show_ladders(climbed: Record, stream: IO[str]) -> None:
    """Every rung of one backend with its largest difference and its tolerance."""
    console = Console(file=stream)
    console.print(plain(f"{climbed.task} {climbed.preset} {climbed.backend}: {climbed.status}"))
    for ladder in climbed.parity:
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
    if climbed.reason:
        console.print(plain(f"  {climbed.reason}"), soft_wrap=True)


def _table(section: grouping.Section, titles: list[str], rows: list[list[str]]) -> Table:
    first = section.first
    table = Table(
        title=plain(f"{first.task}: {first.preset}, {first.precision} on the {first.device}"), title_justify="left"
    )
    for title in titles:
        table.add_column(plain(title))
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(text: str) -> Text:
    """Text without markup or control characters, whoever wrote it."""
    return Text("".join(character if character.isprintable() else " " for character in text))
