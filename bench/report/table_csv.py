"""A report as CSV (pandas): one line per backend and section, plain numbers with their units in the column names."""

import math
from collections.abc import Iterable

import pandas as pd

from bench.records.record import Record
from bench.report import columns, grouping, totals
from bench.stats import intervals
from bench.stats.equivalence import Equivalence

FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run a text that starts with one of these


def render(records: Iterable[Record]) -> str:
    """The whole report; the same records give the same bytes."""
    rows = [
        {name: _safe(value) for name, value in figures(section, row).items()}
        for section in grouping.sections(records)
        for row in section.rows
    ]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def figures(section: grouping.Section, row: grouping.Row) -> dict[str, object]:
    """One line: title -> value."""
    first = section.first
    values = list(row.throughputs.values())
    speed = intervals.geometric_mean(values) if values else None
    quality = row.quality(section.metric)
    level = columns.quality_interval(section.metric, quality) if quality else None
    ranked = section.ranked
    verdict = section.verdicts.get((row.backend, ranked[0].backend)) if ranked and row is not ranked[0] else None
    same = _equivalence(section, row)
    cells: dict[str, object] = {
        "task": first.task,
        "preset": first.preset,
        "device": first.device,
        "precision": first.precision,
        "backend": row.backend,
        "unit": f"{first.unit}/s",
        "throughput": speed and speed.estimate,
        "throughput_low": speed and speed.low,
        "throughput_high": speed and speed.high,
        "rounds": speed.n if speed else 0,
        "ratio_to_fastest": 1.0 if ranked and row is ranked[0] else verdict and verdict.ratio.estimate,
        "ratio_low": verdict and verdict.ratio.low,
        "ratio_high": verdict and verdict.ratio.high,
        "verdict": verdict and verdict.decision,
        "not_ranked_because": row.excluded,
        "tokens_per_s": row.tokens_per_second,
        "model_flops_per_s": row.flops_per_second,
        "matrix_flops_per_s": row.matrix_rate,
        "disturbed_rounds": len(row.disturbed),
        "step_s": grouping.step_seconds(row),
        "first_step_s": row.timing("first_step_s"),
        "import_s": row.timing("import_s"),
        "build_s": row.timing("build_s"),
    }
    for name in ("host_import", "host_peak", "host_peak_training", "device_peak_allocated", "device_peak_reserved",
                 "device_peak_process"):  # fmt: skip
        found = row.bytes_of(name)
        cells[f"{name}_bytes"] = found.bytes if found.bytes is not None else found.reason
    cells |= {
        "metric": section.metric,
        "metric_mean": level and level.estimate,
        "metric_low": level and level.low,
        "metric_high": level and level.high,
        "seeds": len(quality),
        "metric_minus_fastest": same and same.difference.estimate,
        "metric_minus_fastest_low": same and same.difference.low,
        "metric_minus_fastest_high": same and same.difference.high,
        "equivalence": same and same.decision,
        "parity": columns.parity(row),
        "not_ok": len(row.not_ok),
        "versions": " ".join(f"{name}={version}" for name, version in sorted(row.versions.items())),
        "cpu": first.machine.cpu,
        "cores": first.machine.cores,
        "gpu": first.machine.gpu,
        "python": row.python,
        "data": first.data.name,
        "data_sha256": first.data.sha256,
        "spec_hash": first.spec_hash,
    }
    if first.threads:
        cells["threads"] = first.threads
    if row.energy_sources:
        cells |= {"joules_per_item": row.joules_per_item, "energy_source": "; ".join(row.energy_sources)}
    line = totals.line(row)
    for steps in totals.COUNTS:
        cells[f"seconds_for_{steps}_steps"] = line and line.seconds(steps)
    cells |= {"training_steps": totals.budget(section), "fastest_overtakes_at_step": _overtaken(section, row)}
    return cells


def _overtaken(section: grouping.Section, row: grouping.Row) -> float | str | None:
    """From which step on the fastest row is ahead of this one in total time; None where that is not decided."""
    for found in totals.break_even(section):
        if (found.fast, found.slow) == (section.ranked[0].backend, row.backend):
            return found.steps if found.steps != math.inf else "never"
    return None


def _equivalence(section: grouping.Section, row: grouping.Row) -> Equivalence | None:
    """Whether this row learned what the fastest did; the difference is this row's mean less the fastest's."""
    fastest = section.ranked[0].backend if section.ranked else None
    for (first, second), found in section.equivalences.items():
        if (first, second) == (row.backend, fastest):
            return found
        if (first, second) == (fastest, row.backend):
            return found._replace(difference=-found.difference)
    return None


def _safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = "".join(character if character.isprintable() else " " for character in value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
