"""A report as one HTML page that works from a disk: nothing is loaded, no address is asked for (jinja2, matplotlib).

Everything from a record is escaped by the template. The page's policy allows its own script, by its hash, and nothing else; it
reads in full without the script, which sorts and filters.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.records import rules
from bench.records.record import Arm, Record
from bench.records.text import printable
from bench.report import (
    apart,
    apart_plot,
    explanation_plot,
    explanations,
    facts,
    figures,
    grouping,
    learning,
    plots,
    summary,
    sweep,
    sweep_plot,
    totals,
)  # fmt: skip
from bench.report.figures import Figure
from bench.report.plots import COLOURS, FAINT, INK, Plot

HERE = Path(__file__).parent
FILTERS = ("task", "preset")  # of a section
MOST_DRAWN = 24  # tables of a page that has plots: a thousand of them would take minutes, and nobody would look at them
SVG = "http://www.w3.org/2000/svg"

# In the page these colours of the plots follow the reader's choice of light or dark; page.css gives both.
THEMED = {
    "#ffffff": "var(--paper)",  # the background, and the hatches that tell bars apart
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    **{c: f"var(--c{i})" for i, c in enumerate(COLOURS)},
}


class Cell(NamedTuple):
    text: str
    key: str  # a number to sort by, or nothing


class View(NamedTuple):
    """What the template shows of a section."""

    section: grouping.Section
    title: str
    titles: list[str]
    rows: list[tuple[grouping.Row, list[Cell]]]
    arms: dict[str, Arm]
    verdicts: list[str]
    crossings: list[str]
    times: list[list[str]]
    figures: list[tuple[Plot, Markup]]
    facts: list[tuple[str, str]]
    boundary: str
    learned: list[list[str]]
    learning: str
    samples: list[tuple[str, str]]
    classes: list[list[str]]
    failures: list[str]
    rungs: list[list[str]]


def render(records: Iterable[Record], *, home: str = "", swept: bool = False) -> str:
    """The whole page; the same records give the same bytes. `home` is the address of an index that it is part of.

    Of the records of a sweep, it shows the sweep where `swept`, and else a table for each of its points.
    """
    records = rules.judged(records)[0]
    sections = [] if swept else grouping.sections(records)
    names = sorted({row.name for section in sections for row in section.rows})
    drawn = len(sections) <= MOST_DRAWN
    views = [
        _view(title, section, names=names, prefix=f"t{number}", drawn=drawn)
        for number, (title, section) in enumerate(summary.titled(sections), start=1)
    ]
    rows = [row for section in sections for row in section.rows]
    choices = {
        "task": sorted({section.first.task for section in sections}),
        "arm": names,
        "device": sorted({row.arm.device for row in rows}),
        "precision": sorted({row.arm.precision for row in rows}),
        "preset": sorted({section.first.preset for section in sections}),
    }
    script, style = script_and_style()
    more = _swept(records) if swept else _more(records)
    heading = f"Comparison of {', '.join(names)}" if names or not more else more[0].title
    return environment().get_template("page.html").render(
        heading=heading, views=views, undrawn=0 if drawn else MOST_DRAWN, choices=choices, filters=FILTERS,
        meaning=totals.MEANING,
        more=more, home=home,
        script=Markup(script), style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    ) + "\n"  # fmt: skip


def script_and_style() -> tuple[str, str]:
    """What stands in a page, so that nothing is loaded."""
    return (HERE / "page.js").read_text("utf-8"), (HERE / "page.css").read_text("utf-8")


class More(NamedTuple):
    """What the template shows of a sweep, of what is measured beside training, and of where a step's time goes."""

    title: str
    sentences: list[str]
    tables: list[tuple[str, list[list[str]], str]]  # caption, rows with the titles first, what it means
    figures: list[tuple[Plot, Markup]]
    facts: list[tuple[str, str]]
    failures: list[str]


def _swept(records: Sequence[Record]) -> list[More]:
    found = []
    for number, one in enumerate(sweep.sweeps(records), start=1):
        drawn = [(plot, inline(plot, f"s{number}-{plot.name}-")) for plot in sweep_plot.drawn(one)]
        tables = [("Every arm at every point", sweep.table(one), sweep.MEANING)]
        found.append(More(one.title, sweep.verdicts(one), tables, drawn, sweep.about(one), []))
    return found


def _more(records: Sequence[Record]) -> list[More]:
    found = []
    for number, one in enumerate(apart.groups(records), start=1):
        plot = apart_plot.plot(one)
        found.append(
            More(
                one.title, one.sentences, [(one.caption, one.table, one.meaning)], [(plot, inline(plot, f"i{number}-"))],
                one.about, one.failures,
            )
        )  # fmt: skip
    for number, group in enumerate(explanations.groups(records), start=1):
        plot = explanation_plot.plot(group)
        tables = [
            ("Timed without a profiler", explanations.neutral(group), explanations.MEANING),
            ("By each framework's own profiler", explanations.profiled(group), explanations.MEANING_OF_PROFILE),
        ]
        facts = [*explanations.largest(group), *explanations.settings(group), *explanations.machine(group)]
        found.append(
            More(
                group.title, explanations.sentences(group), [part for part in tables if part[1]],
                [(plot, inline(plot, f"e{number}-"))], facts, group.failures,
            )
        )  # fmt: skip
    return found


def _view(title: str, section: grouping.Section, *, names: Sequence[str], prefix: str, drawn: bool) -> View:
    rows = [(row, [cell(figure, section, row) for figure in figures.shown(section)]) for row in section.rows]
    return View(
        section=section,
        title=title,
        titles=figures.titles(section),
        rows=rows,
        arms={row.name: row.arm for row in section.rows},
        verdicts=summary.sentences(section),
        crossings=totals.sentences(section),
        times=totals.table(section),
        figures=[(p, inline(p, f"{prefix}-{p.name}-")) for p in (plots.plots(section, names) if drawn else ())],
        facts=facts.facts(section),
        boundary=summary.boundary(section),
        learned=learning.table(section),
        learning=learning.meaning(section),
        samples=summary.samples(section),
        classes=summary.classes(section),
        failures=summary.failures(section),
        rungs=summary.rungs(section),
    )


def cell(figure: Figure, section: grouping.Section, row: grouping.Row) -> Cell:
    """A figure of a row as the page shows and sorts it."""
    key = figure.key(section, row)
    text = figure.text(section, row) if figure.text else ""
    return Cell(text, "" if key is None else repr(key))


def inline(plot: Plot, prefix: str) -> Markup:
    """The plot's SVG as an element of the page: identifiers of its own, the page's colours, no script and no metadata."""
    root = ElementTree.fromstring(plots.svg(plot))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            name = "href" if name.endswith("}href") else name
            if name == "id":
                value = prefix + value
            elif name == "href":
                value = f"#{prefix}{value.removeprefix('#')}"
            else:
                value = re.sub(r"url\(#", f"url(#{prefix}", value)
            for colour, themed in THEMED.items():
                value = value.replace(colour, themed)
            element.set(name, value)
    for name in ("width", "height"):  # the page sets them
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-labelledby": f"{prefix}title", "focusable": "false"}
    title = ElementTree.Element("title", {"id": f"{prefix}title"})
    title.text = plot.title
    root.insert(0, title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


@cache
def environment() -> Environment:
    """Jinja with this folder's templates, in which everything from a record is escaped."""
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_printable,
    )  # fmt: skip


def _printable(value: Any) -> Any:
    """Without control characters and without those that turn the direction of the text around them."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, " ")
    return value
