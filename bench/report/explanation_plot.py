"""The plot of where a step's time goes: a stacked bar for each arm, by parts and by kinds of operations."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records.record import Record
from bench.report import explanations, plots
from bench.report.explanations import Group, Row
from bench.report.plots import BARS, COLOURS, FAINT, WIDTH, Plot
from bench.stats.intervals import Interval

WHOLE = "not taken apart"
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--")  # for those who do not see the colours apart


def plot(group: Group) -> Plot:
    """Milliseconds of a step."""
    panels: list[tuple[str, Sequence[str], Callable[[Row, str], Interval | None]]] = [
        ("timed without a profiler", (*explanations.PARTS, WHOLE), _part)
    ]
    if any(row.kinds for row in group.rows):
        panels.append(("by each framework's own profiler", group.kinds, Row.kind))
    with plots.drawing():
        figure = Figure(figsize=(WIDTH + 1.2, sum(1.5 + BARS * len(group.rows) for _ in panels)), layout="constrained")
        for axes, (title, names, seconds) in zip(
            figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
        ):
            _bars(axes, group.rows, names, seconds)
            axes.set_title(title, fontsize="medium", loc="left")
    told = " ".join(explanations.sentences(group))
    return Plot("explained", "Where a step's time goes", f"Milliseconds of a step. {told}", figure)


def _part(row: Row, name: str) -> Interval | None:
    """A part of a step; of a backend that offers none, the whole."""
    has_parts = any(row.part(one) for one in explanations.PARTS)
    return row.part(name) if has_parts else row.step if name == WHOLE else None


def files(records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """(name of a file, its content) of every plot, as those of bench/report/plots.py."""
    for number, group in enumerate(explanations.groups(records), start=1):
        made = plot(group)
        with plots.drawing():
            made.figure.suptitle(plots.label(group.title))
        yield f"step{number}-{made.name}.svg", plots.svg(made).encode()
        yield f"step{number}-{made.name}.png", plots.png(made)


def _bars(
    axes: Axes, rows: Sequence[Row], names: Sequence[str], seconds: Callable[[Row, str], Interval | None]
) -> None:
    ends = [0.0] * len(rows)
    for number, name in enumerate(names):
        found = [seconds(row, name) for row in rows]
        if not any(found):
            continue
        widths = [max(0.0, 1e3 * one.estimate) if one else 0.0 for one in found]
        is_rest = name == explanations.NOTHING_RAN
        axes.barh(
            range(len(rows)), widths, left=ends, height=0.6, label=name, edgecolor="white", linewidth=0.5,
            color=FAINT if is_rest else COLOURS[number % len(COLOURS)], hatch="" if is_rest else HATCHES[number % len(HATCHES)],
        )  # fmt: skip
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    plots.named(axes, [row.arm.name for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of a step")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
