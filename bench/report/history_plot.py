"""The plot of a framework's releases: speed, first step and memory with intervals, and the steps between them marked."""

from collections.abc import Callable, Iterable, Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records.record import Record
from bench.report import history, plots
from bench.report.formats import with_interval
from bench.report.grouping import Row
from bench.report.history import QUANTITIES, History, Quantity
from bench.report.plots import COLOURS, FAINT, WIDTH, Plot
from bench.stats.intervals import Interval

MIB = 2**20


def plot(found: History) -> Plot:
    """A panel each for speed, the first step and the host's memory."""
    speed, first_step = QUANTITIES
    unit = found.section.first.unit
    with plots.drawing():
        figure = Figure(figsize=(WIDTH, 7.5), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True)
        _panel(panels[0], found, history.speed, f"{unit} per second", speed)
        _panel(panels[1], found, history.first_step, "first step, s", first_step)
        _panel(panels[2], found, _memory, "host memory peak, MiB", None)
        panels[2].set_xlabel(plots.label(f"release of {found.name}"))
    told = " ".join(history.sentences(found))
    return Plot("history", "Speed, first step and memory over releases", f"Points with 95 % intervals. {told}", figure)


def _memory(row: Row) -> Interval | None:
    peak = row.bytes_of("host_peak").bytes
    return Interval(peak / MIB, None, None, 1) if peak else None


def _panel(
    axes: Axes, found: History, figure_of: Callable[[Row], Interval | None], label: str, quantity: Quantity | None
) -> None:
    places = {release: place for place, release in enumerate(found.rows)}
    known = {release: one for release in found.fit if (one := figure_of(found.rows[release])) is not None}
    axes.plot(
        [places[release] for release in known], [one.estimate for one in known.values()], color=FAINT, linewidth=1
    )
    for release, one in known.items():
        axes.errorbar(places[release], one.estimate, yerr=plots.sides(one), color=COLOURS[0], marker="o", capsize=3)
    for release, step in (found.steps(quantity) if quantity is not None else {}).items():
        axes.axvline(places[release] - 0.5, color=COLOURS[1], linestyle="--", linewidth=1)
        text = f"{step.decision}: {with_interval(step.ratio)}"
        axes.annotate(plots.label(text), (places[release] - 0.5, 0), xytext=(3, 3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize="small", color=COLOURS[1])  # fmt: skip
    for release, row in found.rows.items():
        if row.unfit is not None:
            axes.annotate("x", (places[release], 0), xycoords=("data", "axes fraction"), ha="center", color=COLOURS[1])
    tops = [one.estimate if one.high is None else one.high for one in known.values()]
    axes.set_ylim(0, 1.1 * max(tops, default=1.0))
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_xticks(list(places.values()), [plots.label(release) for release in places])
    axes.set_ylabel(label)


def files(records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """(name of a file, its content) of every plot, as those of bench/report/plots.py."""
    for number, found in enumerate(history.histories(records), start=1):
        made = plot(found)
        with plots.drawing():
            made.figure.suptitle(plots.label(found.title))
        yield f"history{number}.svg", plots.svg(made).encode()
        yield f"history{number}.png", plots.png(made)
