"""How quality grows in a training, and what it takes to the target: seconds, joules where a counter was read, and with a price
money. From records alone."""

from collections.abc import Sequence

from bench.records.metrics import METRICS
from bench.records.record import Quality
from bench.report.formats import NOT_MEASURED, duration, significant, with_interval
from bench.report.grouping import Row, Section
from bench.stats import intervals
from bench.stats.intervals import Interval

MEANING = (
    "The held-out set is evaluated {when}, while the clock of the training stands still. A cell has the mean over "
    "seeds, and the seconds of training until then: batches are read, shuffled and copied in them, the first step compiles, "
    "and import and build are over. The time to the target ends at the first evaluation that reached it, so that it is at most "
    "that long; its interval is over seeds."
)
ON_THE_WAY, AT_THE_END = "at declared steps", "at the end of the training only"
OF_ENERGY = (
    " The energy to the target is what the hardware's counters say of the same training until then, evaluations left out: the "
    "whole card or all processor packages, idle power included."
)


def meaning(section: Section) -> str:
    """What stands with the table."""
    on_the_way = any(one.validation for row in section.rows for one in _trainings(row))
    return MEANING.format(when=ON_THE_WAY if on_the_way else AT_THE_END) + (OF_ENERGY if _is_metered(section) else "")


def _is_metered(section: Section) -> bool:
    """Whether an energy counter was to be read while the arms trained."""
    return any(one.energy for row in section.rows for one in _trainings(row))


def table(section: Section) -> list[list[str]]:
    """Titles, then a line for each arm; nothing where there was no training."""
    points = sorted({step for row in section.rows for one in _trainings(row) for step, _, _ in one.validation})
    ends = sorted({one.steps for row in section.rows for one in _trainings(row)})
    if not ends:
        return []
    titles = [section.noun, *(f"after {step:,} steps" for step in [*points, *ends]), f"time to {section.first.target}"]
    rows = [
        [row.name, *(_at(section, row, step) for step in [*points, *ends]), _time(section, row)] for row in section.rows
    ]
    if _is_metered(section):
        titles.append(f"energy to {section.first.target}")
        rows = [[*cells, _energy(section, row)] for cells, row in zip(rows, section.rows, strict=True)]
    return [titles, *rows]


def _trainings(row: Row) -> list[Quality]:
    return [one.outcome.quality for one in row.of("quality") if one.outcome.quality is not None]


def _at(section: Section, row: Row, step: int) -> str:
    """The metric and the seconds at a step, means over seeds."""
    metric = section.metric
    ends = [(one.steps, one.train_s, one.metrics[metric]) for one in _trainings(row) if metric in one.metrics]
    found = [point for one in _trainings(row) for point in one.validation if point[0] == step]
    found += [point for point in ends if point[0] == step]
    if not found:
        return ""
    mean = quality_interval(metric, [value for _, _, value in found]).estimate
    known = METRICS.get(metric)
    told = f"{100 * mean:.2f} %" if known and known.percent else significant(mean, 4)
    return f"{told}, {duration(sum(seconds for _, seconds, _ in found) / len(found))}"


def quality_interval(metric: str, values: Sequence[float]) -> Interval:
    """The mean over seeds, with an interval that does not go beyond what the metric can be."""
    known = METRICS.get(metric)
    if known is not None and known.log_scale and min(values) > 0:
        return intervals.geometric_mean(values)
    interval = intervals.mean(values)
    if known is None or not known.percent or interval.low is None or interval.high is None:
        return interval
    return interval._replace(low=max(interval.low, 0.0), high=min(interval.high, 1.0))


def seconds_to_target(section: Section, row: Row) -> tuple[list[float], int]:
    """Of the trainings that reached the target, the seconds until then; and how many trainings there are."""
    reached = [one.reached(section.first.target) for one in _trainings(row)]
    return [found[1] for found in reached if found is not None], len(reached)


def _interval(section: Section, row: Row) -> Interval | None:
    """Over seeds, where all of them reached it."""
    seconds, trainings = seconds_to_target(section, row)
    return intervals.geometric_mean(seconds) if seconds and len(seconds) == trainings and min(seconds) > 0 else None


def _time(section: Section, row: Row) -> str:
    seconds, trainings = seconds_to_target(section, row)
    found = _interval(section, row)
    if found is None:
        return f"reached by {len(seconds)} of {trainings} trainings" if trainings else NOT_MEASURED
    return f"{with_interval(found)} s, n={found.n}"


def joules_to_target(section: Section, row: Row) -> tuple[list[float], list[str]]:
    """Of the trainings that reached the target, the joules until then; and whose counters those are, or why there is none."""
    joules, told = [], []
    for one in _trainings(row):
        reached = one.reached(section.first.target)
        used = dict(one.energy).get(reached[0]) if reached else None
        if used is not None and used.joules is not None:
            joules.append(used.joules)
        if used is not None:
            told.append(used.source or used.reason or "")
    return joules, sorted(set(filter(None, told)))


def _joules(section: Section, row: Row) -> Interval | None:
    """Over seeds, where all of them reached the target and have a figure."""
    joules, _ = joules_to_target(section, row)
    return intervals.geometric_mean(joules) if joules and len(joules) == len(_trainings(row)) else None


def _energy(section: Section, row: Row) -> str:
    found, (_, told) = _joules(section, row), joules_to_target(section, row)
    if found is not None:
        return f"{with_interval(found)} J, n={found.n} ({'; '.join(told)})"
    seconds, trainings = seconds_to_target(section, row)
    if len(seconds) < trainings:
        return f"reached by {len(seconds)} of {trainings} trainings"
    return f"{NOT_MEASURED}: {'; '.join(told)}" if told else NOT_MEASURED


def costs(section: Section, price_per_hour: float) -> list[str]:
    """What it takes to the target at a price, a sentence for each arm that reached it with every seed."""
    target, told = section.first.target, []
    for row in section.rows:
        found = _interval(section, row)
        if found is not None and row.excluded is None:
            money = with_interval(found, price_per_hour / 3600)
            seeds = f"{found.n} seed{'s' if found.n != 1 else ''}"
            told.append(f"{row.name} reaches {target} for {money} at {price_per_hour:g} an hour ({seeds}).")
    return told


def values(section: Section, row: Row) -> dict[str, object]:
    """For programs."""
    found = _interval(section, row)
    seconds, trainings = seconds_to_target(section, row)
    joules = _joules(section, row)
    energy = {
        "joules_to_target": joules and joules.estimate, "joules_to_target_low": joules and joules.low,
        "joules_to_target_high": joules and joules.high,
        "joules_to_target_source": "; ".join(joules_to_target(section, row)[1]),
    }  # fmt: skip
    return {
        "seconds_to_target": found and found.estimate, "seconds_to_target_low": found and found.low,
        "seconds_to_target_high": found and found.high, "trainings_that_reached_it": len(seconds) if trainings else None,
        **(energy if _is_metered(section) else {}),
    }  # fmt: skip
