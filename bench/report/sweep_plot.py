"""The plots of a sweep: a line for each arm along a field, and where two fields have numbers, a map of who is ahead."""

from collections.abc import Iterable, Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.records.record import Record
from bench.report import plots, sweep
from bench.report.plots import COLOURS, DASHES, FAINT, WIDTH, Plot
from bench.report.sweep import Point, Sweep
from bench.stats import intervals

PANELS = 8  # in a plot; a sweep of more says so
APART = 4.0  # values whose ends are further apart than this stand on a logarithmic axis


def files(records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """(name of a file, its content) of every plot, as those of bench/report/plots.py."""
    for name, made in _titled(records):
        yield f"{name}.svg", plots.svg(made).encode()
        yield f"{name}.png", plots.png(made)


def pictures(records: Iterable[Record]) -> dict[str, Plot]:
    """Name of a file -> the plot that is published as SVG under it."""
    return {f"{name}.svg": made for name, made in _titled(records)}


def _titled(records: Iterable[Record]) -> Iterator[tuple[str, Plot]]:
    """(name of its files without an end, plot) of every plot, the sweep's title above it."""
    for number, found in enumerate(sweep.sweeps(records), start=1):
        for made in drawn(found):
            with plots.drawing():
                made.figure.suptitle(plots.label(found.title))
            yield f"sweep{number}-{made.name}", made


def drawn(found: Sweep) -> Iterator[Plot]:
    """The lines, and the map where there are two fields with numbers and no others."""
    told = " ".join(sweep.sentences(found))
    with plots.drawing():
        yield Plot("lines", f"Speed over {found.fields[found.axis]}", f"Points with intervals. {told}", _lines(found))
        if len(found.fields) == 2 and all(map(found.is_numeric, (0, 1))):
            yield Plot("map", "Who is ahead where", told, _map(found))


def _lines(found: Sweep) -> Figure:
    panels = list(found.along(found.axis))
    shown = panels[:PANELS]
    figure = Figure(figsize=(WIDTH, 0.8 + 2.4 * len(shown)), layout="constrained")
    for axes, (held, points) in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        _panel(axes, found, points)
        more = f" (of {len(panels)} panels)" if len(panels) > PANELS and held == shown[0][0] else ""
        axes.set_title(plots.label(f"{held}{more}"), fontsize="medium", loc="left")
    return figure


def _panel(axes: Axes, found: Sweep, points: list[Point]) -> None:
    numeric = found.is_numeric(found.axis)
    values = [point[found.axis] for point in points]
    places = {value: float(value) if numeric else float(place) for place, value in enumerate(dict.fromkeys(values))}
    for number, name in enumerate(found.lines):
        at = [
            (places[point[found.axis]], row) for point in points if (row := found.compared(point).get(name)) is not None
        ]
        speeds = [intervals.geometric_mean(list(row.throughputs.values())) for _, row in at]
        known = [(place, one) for (place, _), one in zip(at, speeds, strict=True)]
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        axes.plot(
            [place for place, _ in known], [one.estimate for _, one in known], color=colour, linestyle=dash, marker="o",
            label=plots.label(name),
        )  # fmt: skip
        for place, one in known:
            if one.low is not None and one.high is not None:
                axes.plot([place, place], [one.low, one.high], color=colour, linewidth=1)
    axes.set_ylim(bottom=0)
    ordered = sorted(places.values())
    if numeric and ordered[0] > 0 and ordered[-1] / ordered[0] > APART:
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [plots.label(value) for value in places])
    axes.minorticks_off()
    axes.set_xlabel(plots.label(found.fields[found.axis]))
    axes.set_ylabel(plots.label(f"{found.unit}/s"))
    axes.legend()


def _map(found: Sweep) -> Figure:
    """A square for each point, in the colour of the arm that is ahead of all others; hatched where that is not decided."""
    columns, rows = (
        list(dict.fromkeys(sorted((point[place] for point in found.points), key=float))) for place in (0, 1)
    )
    figure = Figure(figsize=(WIDTH, 1.6 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    lines = found.lines
    for point in found.points:
        compared = list(found.compared(point))
        if not compared:
            continue
        decided = all(
            (one := found.against_fastest(point, name)) is not None and one.decision == "slower"
            for name in compared[1:]
        )
        colour = COLOURS[lines.index(compared[0]) % len(COLOURS)]
        place = columns.index(point[0]), rows.index(point[1])
        axes.add_patch(_square(place, colour, decided=decided and len(compared) > 1))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xticks(range(len(columns)), [plots.label(value) for value in columns])
    axes.set_yticks(range(len(rows)), [plots.label(value) for value in rows])
    axes.set_xlabel(plots.label(found.fields[0]))
    axes.set_ylabel(plots.label(found.fields[1]))
    axes.grid(visible=False)
    keys = [Patch(color=COLOURS[number % len(COLOURS)], label=plots.label(name)) for number, name in enumerate(lines)]
    undecided = Patch(facecolor="none", edgecolor=FAINT, hatch="///", label="fastest, not decided against all")
    axes.legend(handles=[*keys, undecided], loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _square(place: tuple[int, int], colour: str, *, decided: bool) -> Patch:
    from matplotlib.patches import Rectangle

    corner = place[0] - 0.48, place[1] - 0.48
    if decided:
        return Rectangle(corner, 0.96, 0.96, facecolor=colour, edgecolor="none")
    return Rectangle(corner, 0.96, 0.96, facecolor="none", edgecolor=colour, hatch="///")
