"""Live progress on standard error: a growing table in a terminal, plain lines elsewhere.

The screen changes only between processes: while one is measured, this one sleeps.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import IO

from rich.console import Console, Group
from rich.live import Live

from bench.campaign.campaign import Progress
from bench.records.record import Cell, Record, RoundsPlan
from bench.report import grouping, summary, terminal, words
from bench.report.formats import duration, significant


@contextmanager
def progress_on(stream: IO[str], so_far: Sequence[Record] = ()) -> Iterator[Progress]:
    """Progress for a stream: live where it is a terminal, then with the records that an earlier run left."""
    console = Console(file=stream)
    if not console.is_terminal:
        yield Lines(console, so_far)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Screen(live, so_far)


def describe(cell: Cell) -> str:
    """Which process a cell stands for."""
    rounds = cell.kind in ("speed", "pilot", "explain", "inference", "loading")
    which = f"seed {cell.seed}" if cell.kind == "quality" else f"round {cell.round}" if rounds else ""
    return " ".join(filter(None, (cell.task, cell.arm.name, cell.kind, which)))


def about(seconds: float, *, at_least: bool = False) -> str:
    """A rough duration, or its lower bound."""
    word = "more than" if at_least else "about"
    if seconds < 90:
        return f"{word} {max(5, 5 * round(seconds / 5))} s"
    return f"{word} {round(seconds / 60)} min"


def outcome(done: Record) -> str:
    """One line about a finished process."""
    cell, found = done.cell, done.outcome
    if found.status != "ok":
        return f"{found.status}: {found.reason}"
    if found.timings is not None:
        return f"{significant(found.timings.throughput)} {cell.unit}/s"
    if found.quality is not None:
        metric = cell.target.metric
        return f"{metric} {significant(found.quality.metrics[metric], 4)}"
    if found.inference is not None:
        first = found.inference.calls[0]
        return f"{duration(first.p50_s)} a call of batch {first.batch_size}"
    if found.loading is not None:
        fed, ready = found.loading.fed.throughput, found.loading.prepared.throughput
        return f"{significant(fed)} {cell.unit}/s from the loader, {significant(ready)} from prepared batches"
    if found.explanation is not None:
        return f"{duration(median(found.explanation.parts['step']))} a step"
    if cell.kind == "parity":
        return "all rungs passed" + (" (from the cache)" if found.settings.get("from cache") else "")
    return "ok"


class Lines:
    """One line per process, and after a round one about who is ahead."""

    def __init__(self, console: Console, so_far: Sequence[Record] = ()) -> None:
        self.console, self.prefix = console, ""
        self.records = list(so_far)

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None:
        self.prefix = f"[{done + 1}/{total}, {about(left_s, at_least=at_least)} left] "

    def planned(self, task: str, rounds: RoundsPlan) -> None:
        self.console.print(terminal.plain(f"{task}: {words.rounds_plan(rounds)}"), soft_wrap=True)

    def finished(self, finished: Record) -> None:
        wall_s = finished.outcome.wall_s
        took = f" in {duration(wall_s)}" if wall_s else ""
        text = f"{self.prefix}{describe(finished.cell)}: {outcome(finished)}{took}"
        self.console.print(terminal.plain(text), soft_wrap=True)
        self.prefix = ""
        self.records.append(finished)
        if finished.cell.kind == "speed" and finished in (whole := _whole(self.records)):
            own = [one for one in whole if one.cell.task == finished.cell.task]
            for told in filter(None, map(summary.so_far, grouping.sections(own))):
                self.console.print(terminal.plain(told), soft_wrap=True)


class Screen:
    """The table so far, and below it what is running."""

    def __init__(self, live: Live, so_far: Sequence[Record] = ()) -> None:
        self.live = live
        self.records = list(so_far)

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None:
        running = terminal.plain(
            f"{done}/{total} done, {about(left_s, at_least=at_least)} left; running: {describe(cell)}"
        )
        tables = [terminal.short_table(section) for section in grouping.sections(_whole(self.records))]
        self.live.update(Group(*tables, running), refresh=True)

    def planned(self, task: str, rounds: RoundsPlan) -> None:
        self.live.console.print(terminal.plain(f"{task}: {words.rounds_plan(rounds)}"), soft_wrap=True)

    def finished(self, finished: Record) -> None:
        self.records.append(finished)


def _whole(records: Sequence[Record]) -> list[Record]:
    """The records without those of a round that still runs: an arm is not behind because its record comes a moment later."""
    speeds = Counter((one.cell.task, one.cell.round) for one in records if one.cell.kind == "speed")
    most = {task: max(count for (name, _), count in speeds.items() if name == task) for task, _ in speeds}
    last = {task: max(number for name, number in speeds if name == task) for task in most}
    growing = {(task, last[task]) for task in most if speeds[task, last[task]] < most[task]}
    return [one for one in records if one.cell.kind != "speed" or (one.cell.task, one.cell.round) not in growing]
