"""The plot of the frameworks' loaders: each alone, and what training it feeds, beside training on prepared batches."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import loading, plots
from bench.report.loading import Group
from bench.report.plots import BARS, COLOURS, WIDTH, Plot

SERIES = (("fed by its loader", "fed", "o"), ("prepared batches", "prepared", "|"))
TRAINED = "training"


def plot(group: Group) -> Plot:
    """A panel for the training, and one for the loaders alone."""
    with plots.drawing():
        figure = Figure(figsize=(WIDTH, 2 * (1.1 + BARS * len(group.rows))), layout="constrained")
        trained, alone = figure.subplots(2, 1, squeeze=False)[:, 0]
        for number, (label, part, marker) in enumerate(SERIES):
            _dots(trained, group, part, label=label, marker=marker, colour=COLOURS[number])
        _dots(alone, group, "alone", label=None, marker="o", colour=COLOURS[0])
        unit = group.first.cell.unit
        trained.set_xlabel(f"training: {unit} per second")
        trained.legend(fontsize="small")
        alone.set_xlabel(f"the loader alone: {unit} per second")
    told = " ".join(loading.sentences(group))
    return Plot("loading", "What the frameworks' own loaders give", f"Dots with 95 % intervals. {told}", figure)


def _dots(axes: Axes, group: Group, part: str, *, label: str | None, marker: str, colour: str) -> None:
    for place, row in enumerate(group.rows):
        found = row.mean(part)
        axes.errorbar(
            found.estimate, place, xerr=plots.sides(found), color=colour, marker=marker, capsize=3, linestyle="",
            label=None if place else label,
        )  # fmt: skip
    plots.named(axes, [row.arm.name for row in group.rows])
    axes.set_xlim(left=0)
