"""A report in Markdown (tabulate). Everything from a record is escaped: it may come from anybody."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from tabulate import tabulate

from bench.records import rules
from bench.records.record import Record
from bench.records.text import printable
from bench.report import apart, explanations, facts, figures, grouping, learning, summary, totals

NOTHING = "No records.\n"


def render(records: Iterable[Record], *, price_per_hour: float | None = None) -> str:
    """The whole report; the same records give the same bytes. With a price, what the target costs."""
    records = rules.judged(records)[0]
    titled = summary.titled(grouping.sections(records))
    parts = [_section(title, section, price_per_hour) for title, section in titled]
    parts += map(_apart, apart.groups(records))
    parts += [f"- {escape(text)}\n" for text in apart.unshown(records)]
    parts += map(_explanation, explanations.groups(records))
    return "\n".join(parts) if parts else NOTHING


def brief(records: Iterable[Record]) -> str:
    """Verdicts, table, data and machine only, for a page that links to the whole."""
    records = rules.judged(records)[0]
    parts = []
    for section in grouping.sections(records):
        below = [
            f"- {escape(name)}: {escape(text)}"
            for source in (facts.data, facts.machine)
            for name, text in source(section)
        ]
        parts.append("\n".join([*_verdicts_and_table(section), *below, ""]))
    parts += [_apart(one, level="") for one in apart.groups(records)]
    for group in explanations.groups(records):
        tables = [
            table(rows[0], rows[1:]) for rows in (explanations.neutral(group), explanations.profiled(group)) if rows
        ]
        told = [f"- {escape(sentence)}" for sentence in explanations.sentences(group)]
        about = (*explanations.settings(group), *explanations.machine(group))
        below = [f"- {escape(name)}: {escape(text)}" for name, text in about]
        parts.append("\n\n".join(["\n".join(told), *tables, "\n".join(below)]) + "\n")
    return "\n".join(parts)


def _verdicts_and_table(section: grouping.Section) -> list[str]:
    lines = [f"- {escape(sentence)}" for sentence in summary.sentences(section)]
    return [*lines, "", table(figures.titles(section), [figures.cells(section, row) for row in section.rows]), ""]


def _section(title: str, section: grouping.Section, price: float | None) -> str:
    lines = [f"## {escape(title)}", "", *_verdicts_and_table(section)]
    lines += [f"- {escape(name)}: {escape(text)}" for name, text in facts.facts(section)]
    lines += ["", escape(summary.boundary(section)), ""]
    timed = totals.table(section)
    if timed:
        lines += [totals.MEANING, "", table(timed[0], timed[1:]), ""]
        lines += [*(f"- {escape(sentence)}" for sentence in totals.sentences(section)), ""]
    learned = learning.table(section)
    if learned:
        lines += [escape(learning.meaning(section)), "", table(learned[0], learned[1:]), ""]
    if price is not None:
        lines += [*(f"- {escape(told)}" for told in learning.costs(section, price)), ""]
    samples = summary.samples(section)
    if samples:
        lines += [
            "What each model writes after its training with the first seed (the likeliest token, one after the other):",
            "",
        ]
        lines += [*(f"- {escape(name)}: {escape(text)}" for name, text in samples), ""]
    classes = summary.classes(section)
    if classes:
        lines += ["Per class: means over seeds, and the counts of the confusion matrix summed over them:", ""]
        lines += [table(classes[0], classes[1:]), ""]
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


def _apart(one: apart.Apart, *, level: str = "## ") -> str:
    """With its title as a heading, or without one for a page that has its own."""
    rows = one.table
    lines = [f"{level}{escape(one.title)}", ""] if level else []
    lines += [*(f"- {escape(sentence)}" for sentence in one.sentences), "", table(rows[0], rows[1:]), ""]
    lines += [escape(one.meaning), ""] if level else []
    lines += [*(f"- {escape(failure)}" for failure in one.failures)]
    lines += [f"- {escape(name)}: {escape(text)}" for name, text in one.about]
    return "\n".join([*lines, ""])


def _explanation(group: explanations.Group) -> str:
    neutral, profiled = explanations.neutral(group), explanations.profiled(group)
    lines = [
        f"## {escape(group.title)}",
        "",
        *(f"- {escape(sentence)}" for sentence in explanations.sentences(group)),
        "",
    ]
    lines += [table(neutral[0], neutral[1:]), "", escape(explanations.MEANING), ""]
    if profiled:
        lines += [table(profiled[0], profiled[1:]), "", escape(explanations.MEANING_OF_PROFILE), ""]
        lines += ["The operations that take the most time:", ""]
        lines += [*(f"- {escape(name)}: {escape(text)}" for name, text in explanations.largest(group)), ""]
    lines += [*(f"- {escape(failure)}" for failure in group.failures)]
    lines += [f"- {escape(name)}: {escape(text)}" for name, text in explanations.settings(group)]
    lines += [f"- {escape(name)}: {escape(text)}" for name, text in explanations.machine(group)]
    return "\n".join([*lines, ""])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of escaped text."""
    escaped = [[escape(cell) for cell in row] for row in rows]
    return tabulate(escaped, headers=[escape(title) for title in titles], tablefmt="pipe", disable_numparse=True)


@lru_cache(maxsize=4096)  # titles, verdicts and units, table after table
def escape(text: str) -> str:
    """Text that Markdown and the terminal show as it stands, on one line, whoever wrote it."""
    text = printable(text, " ")
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    text = text.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")  # no address becomes a link,
    text = re.sub(r"@(?=\w)", "&#64;", text)  # and nobody is mentioned
    # At the start of a list's item these would open a quotation, a list or code.
    return f"&#{ord(text[0])};{text[1:]}" if re.match(r"[-+>\s]|\d+[.)](\s|$)", text) else text
