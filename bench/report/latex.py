r"""A report in LaTeX, to be put into a paper with `\input`; it needs the packages booktabs and tabularx.

Backends are columns, so that a table fits a page. Everything from a record is escaped: it may come from anybody.
"""

import re
from collections.abc import Iterable, Sequence

from bench.records import rules
from bench.records.record import Record
from bench.report import apart, facts, figures, grouping, summary, totals

NEEDS = "% needs: \\usepackage{booktabs,tabularx}\n"

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # not an argument of the line's end before it
}  # fmt: skip


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    records = rules.judged(records)[0]
    parts = [_section(*titled) for titled in summary.titled(grouping.sections(records))]
    return NEEDS + "\n".join([*parts, *map(_apart, apart.groups(records))])


def _apart(one: apart.Apart) -> str:
    told = [f"{name}: {text}" for name, text in one.about]
    rows = _table(f"{one.title}. {one.meaning}", one.table)
    return "\n".join([*_items(one.sentences), *rows, *_items([*one.failures, *told])])


def _section(title: str, section: grouping.Section) -> str:
    titles = figures.titles(section)
    rows = [figures.cells(section, row) for row in section.rows]
    lines = [
        *_items(summary.sentences(section)),
        *_table(f"{title}. {summary.boundary(section)}", [titles, *rows]),
        *_items(totals.sentences(section)),
    ]
    timed = totals.table(section)
    if timed:
        lines += _table(f"{title}: time for n steps. {totals.MEANING}", timed)
    lines += _items([
        *(f"{name}: {text}" for name, text in facts.facts(section)),
        *(f"not ok: {failure}" for failure in summary.failures(section)),
    ])  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(caption: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows turned into columns, the first one into the titles of the lines."""
    head, *body = [[escape(cell) for cell in column] for column in zip(*rows, strict=True)]
    return [
        r"\begin{table}", r"\centering\small", rf"\caption{{{escape(caption)}}}",
        r"\begin{tabularx}{\linewidth}{l" + r">{\raggedright\arraybackslash}X" * (len(rows) - 1) + "}",
        r"\toprule", " & ".join(head) + r" \\", r"\midrule",
        *(" & ".join(line) + r" \\" for line in body),
        r"\bottomrule", r"\end{tabularx}", r"\end{table}", "",
    ]  # fmt: skip


def _items(texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    return [r"\begin{itemize}", *(rf"\item {escape(text)}" for text in texts), r"\end{itemize}", ""]


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands, on one line, whoever wrote it."""
    escaped = "".join(SPECIAL.get(character, character if character.isprintable() else " ") for character in text)
    return re.sub("-(?=-)", "-{}", escaped)  # hyphens stay hyphens
