"""The plots of what is measured beside training (bench/report/apart.py)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bench.records.record import Record
from bench.report import apart, inference_plot, loading_plot, plots
from bench.report.plots import Plot

PLOTS: Mapping[str, Callable[[Any], Plot]] = {"inference": inference_plot.plot, "loading": loading_plot.plot}


def plot(one: apart.Apart) -> Plot:
    """Of one table."""
    return PLOTS[one.kind](one.group)


def files(records: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """(name of a file, its content) of every plot, as those of bench/report/plots.py."""
    numbers: Counter[str] = Counter()
    for one in apart.groups(records):
        numbers[one.kind] += 1
        made = plot(one)
        with plots.drawing():
            made.figure.suptitle(plots.label(one.title))
        yield f"{one.kind}{numbers[one.kind]}.svg", plots.svg(made).encode()
        yield f"{one.kind}{numbers[one.kind]}.png", plots.png(made)
