"""The plots of a report (matplotlib), from the same figures as its tables.

The same records, and the same version of matplotlib, give the same bytes: nothing of the user's own settings of matplotlib, no
date and no random identifier goes into them. Texts of a record are drawn as they stand, without mathematics.
"""

import io
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.records.record import Record
from bench.records.text import printable
from bench.report import figures, grouping, summary, totals
from bench.report.formats import mebibytes, significant
from bench.report.grouping import Row, Section
from bench.stats import intervals

INK, FAINT = "#1b1f24", "#8a9199"
COLOURS = ("#0a6fb8", "#d1570a", "#0b8f6c", "#b5559a", "#8f7300", "#5b5fc7")  # after Okabe and Ito, readable on white
DASHES = ("-", "--", "-.", ":")
WIDTH = 6.4  # inches
BARS = 0.42  # inches for each bar

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "framework-bench", "text.parse_math": False, "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT, "grid.alpha": 0.3,
    "axes.axisbelow": True, "legend.frameon": False, "savefig.dpi": 160, "path.sketch": None,
}  # fmt: skip


class Plot(NamedTuple):
    """A figure with its name (of a file) and with what it shows in words."""

    name: str
    title: str
    description: str
    figure: Figure


def plots(section: Section, names: Sequence[str]) -> Iterator[Plot]:
    """Those plots of a section for which there are figures; `names` are all arms, for one colour each."""
    style = {name: (COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]) for i, name in enumerate(names)}
    for make in (_throughput, _curves, _validation, _memory, _totals):
        with drawing():
            plot = make(section, style)
        if plot is not None:
            yield plot


def overview(sections: Sequence[Section]) -> Plot:
    """The speed of every ranked row relative to the fastest of its table, a panel for each table, a colour for each backend."""
    names = {row.name for section in sections for row in section.ranked}
    backends = sorted({row.arm.backend for section in sections for row in section.ranked})
    with drawing():
        figure = Figure(figsize=(WIDTH + 1.2, 1.3 + 0.25 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(sections), sharex=True, squeeze=False)[0]
        for axes, section in zip(panels, sections, strict=True):
            for place, row in enumerate(section.ranked):
                found = section.verdicts.get((row.name, section.ranked[0].name))
                ratio = found.ratio if found else intervals.Interval(1.0, None, None, 0)
                known = ratio.low is not None and ratio.high is not None
                sides = [[ratio.estimate - (ratio.low or 0)], [(ratio.high or 0) - ratio.estimate]] if known else None
                colour = COLOURS[backends.index(row.arm.backend) % len(COLOURS)]
                axes.errorbar(
                    ratio.estimate, place, xerr=sides, color=colour, marker="o", capsize=3, linestyle="",
                    markerfacecolor=colour if row.arm.mode == "default" else "white",
                )  # fmt: skip
            named(axes, [row.name for row in section.ranked])
            axes.set_title(label(section.first.task), fontsize="medium")
            axes.set_xlim(0, 1.1)
            axes.set_xlabel("speed, fastest = 1")
    told = " ".join(
        ("Dots with intervals, hollow for other modes than the default.", *map(summary.conclusion, sections))
    )
    return Plot("overview", "Speed relative to the fastest", told, figure)


def files(records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """(name of a file, its content) of every plot; the number is the table's place in the report of the same records."""
    sections = grouping.sections(records)
    names = sorted({row.name for section in sections for row in section.rows})
    for number, (title, section) in enumerate(summary.titled(sections), start=1):
        for plot in plots(section, names):
            with drawing():
                plot.figure.suptitle(label(title))
            yield f"table{number}-{plot.name}.svg", svg(plot).encode()
            yield f"table{number}-{plot.name}.png", png(plot)


def svg(plot: Plot) -> str:
    """One SVG file."""
    return _saved(plot.figure, "svg", {"Date": None, "Creator": None}).decode()


def png(plot: Plot) -> bytes:
    """One PNG file."""
    return _saved(plot.figure, "png", {"Software": None})


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with this module's settings, whatever the user's are, and without a word about missing glyphs."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _saved(figure: Figure, form: str, metadata: dict[str, None]) -> bytes:
    with drawing():
        stream = io.BytesIO()
        figure.savefig(stream, format=form, metadata=metadata)
    return stream.getvalue()


def _figure(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


Style = dict[str, tuple[str, Any]]  # arm -> colour, line as matplotlib names it


def _throughput(section: Section, style: Style) -> Plot | None:
    """A point per process, the mean and its interval."""
    rows = section.ranked  # the speed of any other row stands in the table only, beside the reason
    if not rows:
        return None
    figure, (axes,) = _figure(0.8 + BARS * len(rows))
    for place, row in enumerate(rows):
        values = list(row.throughputs.values())
        mean = intervals.geometric_mean(values)
        colour = style[row.name][0]
        axes.barh(place, mean.estimate, height=0.6, color=colour, alpha=0.3)
        axes.plot(values, [place + 0.2] * len(values), linestyle="", marker=".", color=colour, markersize=4)
        if mean.low is not None and mean.high is not None:
            sides = [[mean.estimate - mean.low], [mean.high - mean.estimate]]
            axes.errorbar(mean.estimate, place, xerr=sides, color=INK, capsize=4)
    named(axes, [row.name for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel(label(f"{section.first.unit}/s"))
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    told = "; ".join(f"{row.name} {figures.speed(row)}" for row in rows)
    return Plot("throughput", "Throughput", f"Mean with its 95 % interval, a point for each process. {told}.", figure)


def _curves(section: Section, style: Style) -> Plot | None:
    """The training loss of each seed by step and by time."""
    trained = [(row, q) for row in section.rows for r in row.of("quality") if (q := r.outcome.quality) and q.curve]
    if not trained:
        return None
    figure, panels = _figure(5.2, 2)
    for axes, column, title in ((panels[0], 0, "step"), (panels[1], 1, "seconds since the first step began")):
        for row, quality in trained:
            colour, line = style[row.name]
            axes.plot(
                [point[column] for point in quality.curve], [point[2] for point in quality.curve],
                color=colour, linestyle=line, linewidth=1, alpha=0.8,
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel(title)
        axes.set_ylabel("training loss")
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
    _legend(panels[0], list(dict.fromkeys(row.name for row, _ in trained)), style)
    ends: dict[str, list[float]] = {}
    for row, quality in trained:
        ends.setdefault(row.name, []).append(quality.curve[-1][2])
    told = "; ".join(f"{name} {significant(median(losses))}" for name, losses in ends.items())
    told = f"Loss of single batches, a line for each seed; equal losses hide each other. At the end, median over seeds: {told}."
    return Plot("learning", "Learning curves", told, figure)


def _validation(section: Section, style: Style) -> Plot | None:
    """The metric of the target by step and by time, a line for each seed; a dashed line at the target."""
    target = section.first.target
    trained = [
        (row, [*q.validation, (q.steps, q.train_s, q.metrics[target.metric])])
        for row in section.rows for one in row.of("quality")
        if (q := one.outcome.quality) and q.validation and target.metric in q.metrics
    ]  # fmt: skip
    if not trained:
        return None
    figure, panels = _figure(5.2, 2)
    for axes, column, title in ((panels[0], 0, "step"), (panels[1], 1, "seconds of training")):
        for row, points in trained:
            colour, line = style[row.name]
            axes.plot(
                [point[column] for point in points], [point[2] for point in points], color=colour, linestyle=line, linewidth=1,
                marker=".", alpha=0.8,
            )  # fmt: skip
        for bound in filter(None, (target.at_least, target.at_most)):
            axes.axhline(bound, color=FAINT, linestyle="--", linewidth=1)
        axes.set_xlim(left=0)
        axes.set_xlabel(title)
        axes.set_ylabel(label(target.metric))
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
    _legend(panels[0], list(dict.fromkeys(row.name for row, _ in trained)), style)
    told = f"{target.metric} on the held-out set, a line for each seed; the dashed line is the target, {target}."
    return Plot("quality", "Quality as the training goes on", told, figure)


def _memory(section: Section, style: Style) -> Plot | None:
    """Peaks of the host's memory over the part that the import alone takes, and of the device's."""
    parts: list[tuple[str, list[tuple[Row, int, int]]]] = []
    for title, name, base in (
        ("host memory peak", "host_peak", "host_import"),
        ("device memory peak", "device_peak_allocated", None),
    ):
        found = [
            (row, peak, (row.bytes_of(base).bytes or 0) if base else 0)
            for row in section.rows
            if (peak := row.bytes_of(name).bytes) is not None
        ]
        if found:
            parts.append((title, found))
    if not parts:
        return None
    figure, panels = _figure(sum(0.9 + BARS * len(found) for _, found in parts), len(parts))
    for axes, (title, found) in zip(panels, parts, strict=True):
        for place, (row, peak, imported) in enumerate(found):
            colour = style[row.name][0]
            axes.barh(place, peak / 2**20, height=0.6, color=colour, alpha=0.3)
            axes.barh(place, imported / 2**20, height=0.6, color="none", edgecolor=colour, hatch="////", linewidth=0)
        named(axes, [row.name for row, *_ in found])
        axes.set_xlim(left=0)
        hatched = "; hatched: after the import alone" if any(base for *_, base in found) else ""
        axes.set_xlabel(f"{title}, MiB{hatched}")
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
    told = ". ".join(
        f"{title}: "
        + "; ".join(
            f"{row.name} {mebibytes(peak)}" + (f", of which {mebibytes(base)} after the import" if base else "")
            for row, peak, base in found
        )
        for title, found in parts
    )
    return Plot("memory", "Memory", f"{told}.", figure)


def _totals(section: Section, style: Style) -> Plot | None:
    """Total time over the number of steps, both logarithmic, and where the lines cross."""
    lines = {row.name: line for row in section.ranked if (line := totals.line(row)) is not None}
    if not lines:
        return None
    crossings = [found for found in totals.break_even(section) if 1 < found.steps < math.inf]
    last = min(1e9, max([totals.counts(section)[-1], *(10 * found.steps for found in crossings)]))
    steps = [last ** (i / 50) for i in range(51)]  # from 1 on
    figure, (axes,) = _figure(3.4)
    for name, line in lines.items():
        colour, dash = style[name]
        axes.plot(steps, [line.seconds(n) for n in steps], color=colour, linestyle=dash, linewidth=1.5)
    for found in crossings:
        if found.steps <= last:
            at = lines[found.fast].seconds(found.steps)
            axes.plot(found.steps, at, marker="o", markersize=8, color=INK, fillstyle="none")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis, form in ((axes.xaxis, _number), (axes.yaxis, _seconds)):
        axis.set_major_formatter(FuncFormatter(form))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("steps")
    axes.set_ylabel("time from the start of the process")
    _legend(axes, list(lines), style)
    told = " ".join(totals.sentences(section))
    return Plot("totals", "Time for n steps", f"Circles are break-even points, medians over rounds. {told}", figure)


def label(text: str) -> str:
    """A short text on one line, with nothing in it that is not to be seen; a leading underscore would hide it."""
    shown = printable(text, " ")
    return " " + (shown if len(shown) <= 80 else shown[:79] + "…")


def named(axes: Axes, names: Sequence[str]) -> None:
    """Bars from above to below with their names."""
    axes.set_yticks(list(range(len(names))), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def sides(found: intervals.Interval, scale: float = 1.0) -> list[list[float]] | None:
    """The lengths of an error bar, scaled; None without an interval."""
    if found.low is None or found.high is None:
        return None
    return [[scale * (found.estimate - found.low)], [scale * (found.high - found.estimate)]]


def _legend(axes: Axes, names: Sequence[str], style: Style) -> None:
    handles = [Line2D([], [], color=style[name][0], linestyle=style[name][1], label=label(name)) for name in names]
    legend = axes.legend(handles=handles, loc="upper right" if axes.get_xscale() == "linear" else "upper left")
    legend.set_frame_on(True)
    legend.get_frame().set(facecolor="white", edgecolor="none", alpha=0.8)  # its names are read over the lines
    legend.set_in_layout(False)  # however many names there are, the plot keeps its size


def _number(value: float, _: object) -> str:
    return f"{value:,.10g}"


def _seconds(value: float, _: object) -> str:
    return f"{value:,.10g} s"
