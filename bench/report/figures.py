"""THE table of figures: what each is called, how it is taken from a row, and how it is written.

Every format uses it: a program reads `values` (CSV, JSON), a person `text` (Markdown, the terminal, LaTeX, the page), and a
column is sorted by the first of its values.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from bench.records.metrics import METRICS
from bench.records.record import Bytes, Ladder
from bench.report import learning, totals
from bench.report.formats import NOT_MEASURED, duration, mebibytes, significant, with_interval
from bench.report.grouping import Row, Section
from bench.stats import intervals
from bench.stats.equivalence import Equivalence
from bench.stats.intervals import Interval
from bench.stats.verdict import Verdict

Values = Mapping[str, object]


@dataclass(frozen=True)
class Figure:
    """One figure of a row, or several that belong together."""

    values: Callable[[Section, Row], Values]  # name, with the unit at its end where there is one -> plain value
    title: Callable[[Section], str] | None = None  # of its column; None: for programs only
    text: Callable[[Section, Row], str] | None = None
    better: Literal["higher", "lower"] | None = None
    since: int = 1  # version of the measurement from which on it has a column

    def key(self, section: Section, row: Row) -> float | None:
        """What a column is sorted by."""
        first = next(iter(self.values(section, row).values()), None)
        return float(first) if isinstance(first, int | float) else None


def speed(row: Row) -> str:
    """Throughput with its interval over rounds."""
    values = list(row.throughputs.values())
    failed = [one.outcome for one in row.not_ok if one.cell.kind == "speed"]
    if not values:
        return f"{failed[0].status}: {failed[0].reason}" if failed else NOT_MEASURED
    return _over(intervals.geometric_mean(values)) + (f", {len(failed)} not ok" if failed else "")


def ratio(section: Section, row: Row) -> str:
    """Throughput relative to the fastest row that may be ranked, with its verdict."""
    if row.excluded is not None:
        return f"not ranked: {row.excluded}"
    if row is section.ranked[0]:
        return "1"
    found = _against_fastest(section, row)
    return "no round in common" if found is None else f"{with_interval(found.ratio)}: {found.decision}"


def quality(section: Section, row: Row) -> str:
    """The mean of the target's metric over seeds, with its interval."""
    interval = _quality_interval(section, row)
    if interval is None:
        failed = [one.outcome for one in row.not_ok if one.cell.kind == "quality"]
        return f"{failed[0].status}: {failed[0].reason}" if failed else NOT_MEASURED
    known = METRICS.get(section.metric)
    percent = known is not None and known.percent
    return _over(interval, 100 if percent else 1, " %" if percent else "")


def parity(row: Row) -> str:
    """How far up the ladder, in which precisions."""
    return ladders(row.ladders)


def ladders(climbed: Sequence[Ladder]) -> str:
    """How far up each ladder."""
    told = [f"{one.precision} {sum(rung.passed for rung in one.rungs)}/{one.height}" for one in climbed]
    return ", ".join(told) or "not checked"


def _over(interval: Interval, scale: float = 1.0, unit: str = "") -> str:
    return f"{with_interval(interval, scale)}{unit}, n={interval.n}" + ("" if interval.known else ", no interval")


def _against_fastest(section: Section, row: Row) -> Verdict | None:
    return section.verdicts.get((row.name, section.ranked[0].name)) if section.ranked else None


def _speed_values(section: Section, row: Row) -> Values:
    values = list(row.throughputs.values())
    found = intervals.geometric_mean(values) if values else Interval(math.nan, None, None, 0)
    return {
        "throughput": found.estimate if values else None, "throughput_low": found.low, "throughput_high": found.high,
        "rounds": found.n, "unit": f"{section.first.unit}/s",
    }  # fmt: skip


def _ratio_values(section: Section, row: Row) -> Values:
    found = _against_fastest(section, row)
    fastest = bool(section.ranked) and row is section.ranked[0]
    return {
        "ratio_to_fastest": 1.0 if fastest else found and found.ratio.estimate,
        "ratio_low": found and found.ratio.low,
        "ratio_high": found and found.ratio.high,
        "verdict": found and found.decision,
        "not_ranked_because": row.excluded,
    }


def _share_values(section: Section, row: Row) -> Values:
    rate, flops = section.matrix_rate, row.flops_per_second
    return {
        "share_of_matrix_rate": flops / rate[0] if rate and flops else None,
        "model_flops_per_s": flops,
        "matrix_flops_per_s": row.matrix_rate,
        "tokens_per_s": row.tokens_per_second,
    }


def _share(section: Section, row: Row) -> str:
    share = _share_values(section, row)["share_of_matrix_rate"]
    return f"{significant(100 * share, 2)} %" if isinstance(share, float) else NOT_MEASURED


def _first_step_values(section: Section, row: Row) -> Values:
    found = _mean(section, [timings.first_step_s for timings in row.timed.values()])
    return {"first_step_s": row.timing("first_step_s"), **_bounds(section, "first_step", found)}


def _first_step(section: Section, row: Row) -> str:
    return _seconds(section, [timings.first_step_s for timings in row.timed.values()])


def _start_values(section: Section, row: Row) -> Values:
    parts = [row.timing("import_s"), row.timing("build_s")]
    known = [part for part in parts if part is not None]
    found = _mean(section, [timings.import_s + timings.build_s for timings in row.timed.values()])
    return {
        "import_and_build_s": sum(known) if len(known) == 2 else None, "import_s": parts[0], "build_s": parts[1],
        **_bounds(section, "import_and_build", found),
    }  # fmt: skip


def _start(section: Section, row: Row) -> str:
    if section.run.measurement > 1:
        return _seconds(section, [timings.import_s + timings.build_s for timings in row.timed.values()])
    parts = [row.timing("import_s"), row.timing("build_s")]
    return NOT_MEASURED if None in parts else duration(sum(part or 0.0 for part in parts))


def _mean(section: Section, values: Sequence[float]) -> Interval | None:
    """The geometric mean over processes with its interval; tables of the first measurement have medians."""
    if not values or section.run.measurement == 1:
        return None
    if min(values) > 0:
        return intervals.geometric_mean(values)
    found = intervals.mean(values)
    return found._replace(low=None if found.low is None else max(found.low, 0.0))


def _bounds(section: Section, name: str, found: Interval | None) -> Values:
    if section.run.measurement == 1:
        return {}
    estimate, low, high = found[:3] if found else (None, None, None)
    return {f"{name}_mean_s": estimate, f"{name}_low_s": low, f"{name}_high_s": high}


def _seconds(section: Section, values: Sequence[float]) -> str:
    """The geometric mean over processes with its interval, or the median as the first measurement had it."""
    found = _mean(section, values)
    if found is None:
        return duration(median(values)) if values else NOT_MEASURED
    if found.low is None or found.high is None:
        return f"{duration(found.estimate)}, n={found.n}"
    return f"{duration(found.estimate)} ({duration(found.low)} to {duration(found.high)}), n={found.n}"


def _bytes_value(found: Bytes) -> object:
    return found.bytes if found.bytes is not None else found.reason


def _memory_values(*names: str) -> Callable[[Section, Row], Values]:
    return lambda section, row: {f"{name}_bytes": _bytes_value(row.bytes_of(name)) for name in names}


def _host(section: Section, row: Row) -> str:
    peak, imported = row.bytes_of("host_peak").bytes, row.bytes_of("host_import").bytes
    if peak is None or imported is None:
        return NOT_MEASURED
    return f"{mebibytes(peak)} ({mebibytes(imported)}){_processes(section, row)}"


def _device(section: Section, row: Row) -> str:
    peak = row.bytes_of("device_peak_allocated").bytes
    return NOT_MEASURED if peak is None else mebibytes(peak) + _processes(section, row)


def _processes(section: Section, row: Row) -> str:
    """Of how many processes a figure of memory is; one, unless somebody measured more."""
    return f", n={len(row.of('memory'))}" if section.run.measurement > 1 else ""


def _quality_interval(section: Section, row: Row) -> Interval | None:
    values = list(row.quality(section.metric).values())
    return learning.quality_interval(section.metric, values) if values else None


def _quality_values(section: Section, row: Row) -> Values:
    found, same = _quality_interval(section, row), _equivalence(section, row)
    values = list(row.quality(section.metric).values())
    return {
        "metric_mean": found and found.estimate,
        "metric_low": found and found.low,
        "metric_high": found and found.high,
        "metric": section.metric,
        "seeds": len(values),
        "target_reached": section.first.target.reached(fmean(values)) if values else None,
        "metric_minus_fastest": same and same.difference.estimate,
        "metric_minus_fastest_low": same and same.difference.low,
        "metric_minus_fastest_high": same and same.difference.high,
        "equivalence": same and same.decision,
    }


def _equivalence(section: Section, row: Row) -> Equivalence | None:
    """Whether this row learned what the fastest did; the difference is this row's mean less the fastest's."""
    fastest = section.ranked[0].name if section.ranked else None
    for (first, second), found in section.equivalences.items():
        if (first, second) == (row.name, fastest):
            return found
        if (first, second) == (fastest, row.name):
            return found._replace(difference=-found.difference)
    return None


def _arm_values(section: Section, row: Row) -> Values:
    arm, cell = row.arm, section.first
    return {
        "arm": arm.name, "backend": arm.backend, "mode": arm.mode, "device": arm.device, "precision": arm.precision,
        "threads": arm.threads,
        **{name: getattr(arm, name) for name in ("processes", "nodes") if section.common(name) != "1"},
        "python": row.python,
        "environment": " ".join(f"{name}={value}" for name, value in sorted(arm.environment.items())) or None,
        "task": cell.task, "preset": cell.preset,
        "changes": " ".join(f"{name}={value}" for name, value in cell.changes.items()) or None,
    }  # fmt: skip


def _context_values(section: Section, row: Row) -> Values:
    cell, machine = section.first, section.run.machine
    return {
        "not_ok": len(row.not_ok), "disturbed_rounds": len(row.disturbed),
        "versions": " ".join(f"{name}={version}" for name, version in sorted(row.versions.items())),
        "cpu": machine.cpu, "cores": machine.cores, "gpu": machine.gpu, "data": cell.data.name,
        "data_sha256": cell.data.sha256, "spec_hash": cell.spec_hash, "harness": section.run.harness,
        "source": section.run.source, "run": section.run.id,
    }  # fmt: skip


def _energy_values(section: Section, row: Row) -> Values:
    if not row.energy_sources:
        return {}
    return {"joules_per_item": row.joules_per_item, "energy_source": "; ".join(row.energy_sources)}


def _totals_values(section: Section, row: Row) -> Values:
    line = totals.line(row)
    return {
        **{f"seconds_for_{steps}_steps": line and line.seconds(steps) for steps in totals.COUNTS},
        "training_steps": totals.budget(section),
        "fastest_overtakes_at_step": _overtaken(section, row),
    }


def _overtaken(section: Section, row: Row) -> float | str | None:
    """From which step on the fastest row is ahead of this one in total time; None where that is not decided."""
    for found in totals.break_even(section):
        if (found.fast, found.slow) == (section.ranked[0].name, row.name):
            return found.steps if found.steps != math.inf else "never"
    return None


FIGURES: tuple[Figure, ...] = (
    Figure(_arm_values, lambda section: section.noun, lambda _, row: row.name),
    Figure(_speed_values, lambda section: f"{section.first.unit}/s", lambda _, row: speed(row), "higher"),
    Figure(_ratio_values, lambda _: "relative to the fastest", ratio, "higher"),
    Figure(
        lambda _, row: {"cores_busy": row.cores_busy},
        lambda _: "cores busy", lambda _, row: NOT_MEASURED if row.cores_busy is None else f"{row.cores_busy:.2f}",
        since=2,
    ),
    Figure(_share_values, lambda _: "of the matrix rate", _share, "higher"),
    Figure(
        _first_step_values, lambda _: "first step", _first_step, "lower",
    ),
    Figure(
        _start_values, lambda _: "import + build", _start, "lower",
    ),
    Figure(
        _memory_values("host_peak", "host_import", "host_peak_training"),
        lambda _: "host memory peak (after import)", _host, "lower",
    ),
    Figure(
        _memory_values("device_peak_allocated", "device_peak_reserved", "device_peak_process"),
        lambda _: "device memory peak", _device, "lower",
    ),
    Figure(
        _quality_values,
        lambda section: METRICS[section.metric].title if section.metric in METRICS else section.metric, quality,
    ),
    Figure(lambda _, row: {"parity": parity(row)}, lambda _: "parity", lambda _, row: parity(row)),
    Figure(lambda _, row: {"step_s": row.step_s}, better="lower"),
    Figure(_energy_values, better="lower"),
    Figure(_totals_values),
    Figure(learning.values, better="lower"),
    Figure(_context_values),
)  # fmt: skip


def shown(section: Section, *, only: Collection[str] | None = None) -> list[Figure]:
    """The figures that have a column for people, or those `only` whose first value has one of these names."""
    found = [figure for figure in FIGURES if figure.title is not None and figure.since <= section.run.measurement]
    return [figure for figure in found if only is None or next(iter(figure.values(section, section.rows[0]))) in only]


def titles(section: Section, *, only: Collection[str] | None = None) -> list[str]:
    """The titles of columns, units included."""
    return [figure.title(section) for figure in shown(section, only=only) if figure.title is not None]


def cells(section: Section, row: Row, *, only: Collection[str] | None = None) -> list[str]:
    """One row as text; a missing figure says why."""
    return [figure.text(section, row) for figure in shown(section, only=only) if figure.text is not None]


def identity(section: Section, row: Row) -> dict[str, object]:
    """What a row is of, and where it was measured."""
    return {**_arm_values(section, row), **_context_values(section, row)}


def values(section: Section, row: Row) -> dict[str, object]:
    """One row as plain values, each under its name."""
    return {name: value for figure in FIGURES for name, value in figure.values(section, row).items()}
