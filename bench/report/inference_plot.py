"""The plot of what it takes to ask a model: latencies of single examples, and throughput of batches."""

from operator import attrgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import inference, plots
from bench.report.inference import Group
from bench.report.plots import BARS, COLOURS, FAINT, WIDTH, Plot

TAILS = (("p90", "|"), ("p99", "x"))


def plot(group: Group) -> Plot:
    """A panel for each size of batch."""
    with plots.drawing():
        height = sum(0.9 + BARS * len(group.rows) for _ in group.sizes)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        for axes, size in zip(figure.subplots(len(group.sizes), 1, squeeze=False)[:, 0], group.sizes, strict=True):
            _panel(axes, group, size)
    told = " ".join(inference.sentences(group))
    return Plot("inference", "What it takes to ask a model", f"Dots with 95 % intervals. {told}", figure)


def _panel(axes: Axes, group: Group, size: int) -> None:
    rows = group.ordered(size)
    for place, row in enumerate(rows):
        found = row.mean(size, lambda one: one.p50_s if size == 1 else one.throughput)
        scale = 1e3 if size == 1 else 1.0
        axes.errorbar(
            scale * found.estimate, place, xerr=plots.sides(found, scale), color=COLOURS[0], marker="o", capsize=3,
            linestyle="", label="p50" if not place else None,
        )  # fmt: skip
        for name, marker in TAILS if size == 1 else ():
            tail = row.mean(size, attrgetter(f"{name}_s"))
            axes.plot(
                scale * tail.estimate,
                place,
                marker=marker,
                color=FAINT,
                linestyle="",
                label=name if not place else None,
            )
    plots.named(axes, [row.arm.name for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "batch 1: milliseconds of a call" if size == 1 else f"batch {size}: {group.first.cell.unit} per second"
    )
    if size == 1:
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=labels.__getitem__)
        axes.legend([handles[at] for at in order], [labels[at] for at in order], fontsize="small")
