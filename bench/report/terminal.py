"""A report for a terminal (rich); where the output is no terminal, it is the Markdown."""

from collections.abc import Iterable, Sequence
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.records import rules
from bench.records.record import Record
from bench.records.text import printable
from bench.report import apart, explanations, figures, grouping, markdown, summary, totals

SHORT = ("arm", "throughput", "ratio_to_fastest", "metric_mean", "parity")
"""The columns of a table that still grows, by the names of their first values."""

NARROW = (
    "arm", "throughput", "ratio_to_fastest", "cores_busy", "first_step_s", "host_peak_bytes", "device_peak_allocated_bytes",
    "metric_mean", "parity",
)  # fmt: skip
"""Those of a finished one: the others are in table.md."""

FEW = 3  # columns that stay in the narrowest terminal, of tables that have no SHORT ones

LONGEST = 36  # characters of a cell


def show(records: Iterable[Record], stream: IO[str]) -> None:
    """Verdicts and tables."""
    console = Console(file=stream)
    if console.is_terminal:
        show_on(console, records)
    else:
        stream.write(markdown.render(records))


def show_on(console: Console, records: Iterable[Record]) -> None:
    """What one should know first: verdicts, a table of the figures that differ, and below it those that do not."""
    records = rules.judged(records)[0]
    for section in grouping.sections(records):
        console.print(plain(summary.title(section)), style="bold")
        for sentence in [*summary.sentences(section), *totals.sentences(section)]:
            console.print(_coloured(sentence))
        titles, rows, below = narrow(section)
        _print(console, "", titles, rows, keep=figures.titles(section, only=SHORT))
        for line in (*below, f"data: {section.first.data.description}"):
            console.print(plain(line))
        for failure in summary.failures(section):
            console.print(plain(failure), style="red")
    for one in apart.groups(records):
        console.print(plain(one.title), style="bold")
        for sentence in one.sentences:
            console.print(_coloured(sentence))
        titles, rows, below = _narrowed(one.table)
        _print(console, "", titles, rows, keep=[*titles[:FEW], "parity"])  # no speed stands without its proof
        for line in below:
            console.print(plain(line))
        for failure in one.failures:
            console.print(plain(failure), style="red")
    for group in explanations.groups(records):
        for number, rows in enumerate(filter(None, (explanations.neutral(group), explanations.profiled(group)))):
            title = group.title if not number else "By each framework's own profiler"
            _print(console, title, rows[0], rows[1:], keep=rows[0][:FEW])
        for line in explanations.proofs(group):
            console.print(plain(line))
        for sentence in explanations.sentences(group):
            console.print(plain(sentence))
        for failure in group.failures:
            console.print(plain(failure), style="red")


def narrow(section: grouping.Section) -> tuple[list[str], list[list[str]], list[str]]:
    """Titles, rows, and the lines below: what is the same in all rows, and what is too long for a cell, by number."""
    rows = [figures.cells(section, row, only=NARROW) for row in section.rows]
    return _narrowed([figures.titles(section, only=NARROW), *rows])


def _narrowed(table: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]], list[str]]:
    titles, *rows = table
    same = [at > 0 and len(rows) > 1 and len({row[at] for row in rows}) == 1 for at in range(len(titles))]
    below = [f"{title}: {rows[0][at]} in every row" for at, title in enumerate(titles) if same[at]]
    notes: list[str] = []
    shown = [[_noted(cell, notes) for at, cell in enumerate(row) if not same[at]] for row in rows]
    return [title for at, title in enumerate(titles) if not same[at]], shown, [*notes, *below]


def _noted(cell: str, notes: list[str]) -> str:
    """The cell, or its beginning and the number of a note that has the whole of it."""
    if len(cell) <= LONGEST:
        return cell
    note = next((number for number, text in enumerate(notes, start=1) if text == f"[{number}] {cell}"), None)
    if note is None:
        note = len(notes) + 1
        notes.append(f"[{note}] {cell}")
    return f"{cell.partition(':')[0][:LONGEST]} [{note}]"


def _coloured(sentence: str) -> Text:
    text = plain(sentence)
    text.highlight_words(["times as fast"], "green")
    text.highlight_words(["not decided"], "yellow")
    text.highlight_words(["cannot be trusted", "was missed", "was called"], "red")
    return text


def short_table(section: grouping.Section) -> Table:
    """The columns that matter while it grows."""
    rows = [figures.cells(section, row, only=SHORT) for row in section.rows]
    return _rich(summary.title(section), figures.titles(section, only=SHORT), rows)


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


def _print(
    console: Console, title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], *, keep: Sequence[str]
) -> None:
    """A table as wide as the terminal, and a line with the titles of the columns that it has no room for."""
    shown = fitting(titles, rows, width=console.width, keep=keep)
    names = max((len(row[0]) for row in rows), default=0)
    console.print(
        _rich(title, [titles[at] for at in shown], [[row[at] for at in shown] for row in rows],
              whole_names=names <= console.width / 3)
    )  # fmt: skip
    if left_out := [title for at, title in enumerate(titles) if at not in shown]:
        console.print(plain(f"a wider terminal has room for: {'; '.join(left_out)}"))


def fitting(titles: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, keep: Sequence[str]) -> list[int]:
    """The columns that fit into so many characters with their words whole: the last ones go first, those to `keep` never."""
    words = [" ".join([title, *(row[at] for row in rows)]).split() for at, title in enumerate(titles)]
    shown = dict(enumerate(max(map(len, of), default=0) + 3 for of in words))  # with its margins and a line
    for at in reversed(range(len(titles))):
        if sum(shown.values()) + 1 <= width:
            break
        if titles[at] not in keep:
            del shown[at]
    return list(shown)


def _rich(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], *, whole_names: bool = False) -> Table:
    table = Table(title=plain(title) if title else None, title_justify="left")
    for at, title in enumerate(titles):
        table.add_column(plain(title), overflow="fold", no_wrap=whole_names and at == 0)
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(text: str) -> Text:
    """Text without markup or control characters, whoever wrote it."""
    return Text(printable(text, " "))
