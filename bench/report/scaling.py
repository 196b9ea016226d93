"""What several processes are worth: an arm of N beside the same arm of one.

With as many cores to each process as the one had, speed-up over N is the scaling efficiency. In the rounds of one table it is
the strong one: the batch is the task's, whatever N. Over the points of a sweep it is the weak one too: N processes with N times
the batch. Where one process had other cores than each of the N, the speed-up says whether to split those cores.
"""

import math
from statistics import median

from bench.report.formats import duration, many_rounds, mebibytes, significant, with_interval
from bench.report.grouping import Row, Section
from bench.stats import intervals, welch
from bench.stats.intervals import Interval


def sentences(section: Section) -> list[str]:
    """One for each arm of several processes and each arm of one that it can be compared with."""
    rows = [row for row in section.rows if row.unfit is None]
    pairs = [(row, one) for row in rows for one in rows if row.arm.processes > 1 and _alone(row, one)]
    return [text for row, one in pairs if (text := _sentence(row, one))]


def ranks(row: Row) -> str:
    """The figures of each process of an arm of several; empty for others."""
    speed = next((one.outcome for one in row.counted if one.outcome.ranks), None)
    memory = next((one.outcome.ranks for one in row.of("memory") if one.outcome.ranks), [])
    told = [f"on {row.arm.nodes} machines"] if row.arm.nodes > 1 else []
    if speed is not None and speed.timings is not None:
        busy = [significant(one.cpu_s / speed.timings.window_s) for one in speed.ranks if one.cpu_s is not None]
        cores = [str(one.cores) for one in speed.ranks if one.cores is not None]
        told += [f"{what} {', '.join(of_each)}" for what, of_each in (("cores", cores), ("busy", busy)) if of_each]
    peaks = [mebibytes(one.host_peak.bytes) for one in memory if one.host_peak.bytes is not None]
    told += [f"peak memory {', '.join(peaks)}"] if peaks else []
    exchanges = [median(timings.exchanges_s) for timings in row.timed.values() if timings.exchanges_s]
    if exchanges and row.step_s:
        told += [
            f"exchange of gradients {duration(median(exchanges))} in a step of {duration(row.step_s)}, by the framework's own "
            "account, waiting for each other and what it does meanwhile included"
        ]
    return "; ".join(told)


def speed_up(row: Row, one: Row) -> Interval | None:
    """Throughput over that of one process, paired by round; None where no round of both counts."""
    several, alone = row.comparable, one.comparable
    shared = sorted(several.keys() & alone.keys())
    ratios = [several[number] / alone[number] for number in shared]
    return intervals.geometric_mean(ratios, _level(row, one)) if ratios else None


def weak(row: Row, one: Row, size: str, alone_size: str) -> str:
    """What is to be said of N processes with N times the batch of one; empty where their cores are not the same, or unknown.

    They are points of a sweep, which did not take turns.
    """
    cores, processes = _cores(row), row.arm.processes
    if cores is None or cores != _cores(one):
        return ""
    before, after = ([math.log(rate) for rate in of.comparable.values()] for of in (one, row))
    if not before or not after or row.step_s is None or one.step_s is None:
        return ""  # no window of theirs was steady
    found = welch.ratio(before, after, _level(row, one))
    return (
        f"weak scaling: {processes} processes of {_counted(cores)} each with {size} train {with_interval(found)} times as fast "
        f"as one of {_counted(cores)} with {alone_size}, an efficiency of {_efficiency(found, processes)} % "
        f"({len(after)} and {len(before)} rounds, which did not take turns); a step on as many rows each takes "
        f"{duration(row.step_s)} instead of {duration(one.step_s)}, for they exchange gradients, wait for each other "
        "and share the machine."
    )


def _level(row: Row, one: Row) -> float:
    """Of an interval: wider where rounds were added because a verdict was open."""
    return 1 - (1 - intervals.LEVEL) * min(row.share, one.share)


def _alone(row: Row, one: Row) -> bool:
    """Whether two arms differ in the number of processes, of which one has one, and at most in the cores of each."""
    apart = {name for name, value in row.arm.way.items() if one.arm.way.get(name, 1) != value}
    return one.arm.processes == 1 and "processes" in apart and apart <= {"processes", "nodes", "threads"}


def _sentence(row: Row, one: Row) -> str:
    found, processes = speed_up(row, one), row.arm.processes
    cores, alone = _cores(row), _cores(one)
    if found is None:
        return ""
    rounds = many_rounds(found.n)
    told = f"{row.name} trains {with_interval(found)} times as fast as {one.name} ({rounds})"
    if cores is None or alone is None:
        return f"{told}."
    over = f" on {row.arm.nodes} machines" if row.arm.nodes > 1 else ""
    each = f"{processes} processes of {_counted(cores)} each{over} against one of {_counted(alone)}"
    if cores != alone:
        return f"{told}: {each}."
    return f"{told}: a scaling efficiency of {_efficiency(found, processes)} %, {each}."


def _efficiency(speed_up: Interval, processes: int) -> str:
    low, high = (None if bound is None else bound / processes for bound in (speed_up.low, speed_up.high))
    return with_interval(Interval(speed_up.estimate / processes, low, high, speed_up.n), 100)


def _counted(cores: int) -> str:
    return f"{cores} core{'s' if cores > 1 else ''}"


def _cores(row: Row) -> int | None:
    """Of each process, as it was read back."""
    found = row.settings.get("cores")
    return found if isinstance(found, int) else None
