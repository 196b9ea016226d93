"""The columns of a table: their titles, and a row's cells as text, the same in every format."""

from collections.abc import Sequence

from bench.records.record import Bytes
from bench.report.formats import duration, mebibytes, significant, with_interval
from bench.report.grouping import Row, Section
from bench.stats import intervals
from bench.stats.intervals import Interval
from bench.stats.metrics import METRICS


def titles(section: Section) -> list[str]:
    """The titles, units included."""
    unit = section.first.unit
    return [
        "backend", f"{unit}/s", "relative to the fastest", "of the matrix rate", "first step", "import + build",
        "host memory peak (after import)", "device memory peak",
        METRICS[section.metric].title if section.metric in METRICS else section.metric, "parity",
    ]  # fmt: skip


def cells(section: Section, row: Row) -> list[str]:
    """One row as text; a missing figure says why."""
    return [
        row.backend,
        speed(row),
        ratio(section, row),
        share(section, row),
        _timing(row, "first_step_s"),
        _timing(row, "import_s", "build_s"),
        _host(row),
        _bytes(row.bytes_of("device_peak_allocated")),
        quality(section, row),
        parity(row),
    ]


def speed(row: Row) -> str:
    """Throughput with its interval over rounds."""
    values = list(row.throughputs.values())
    failed = [record for record in row.not_ok if record.kind == "speed"]
    if not values:
        return f"{failed[0].status}: {failed[0].reason}" if failed else "not measured"
    interval = intervals.geometric_mean(values)
    text = f"{with_interval(interval)}, n={interval.n}"
    if not interval.known:
        text += ", no interval"
    return text + (f", {len(failed)} not ok" if failed else "")


def ratio(section: Section, row: Row) -> str:
    """Throughput relative to the fastest row that may be ranked, with its verdict."""
    if row.excluded is not None:
        return f"not ranked: {row.excluded}"
    fastest = section.ranked[0]
    if row is fastest:
        return "1"
    found = section.verdicts.get((row.backend, fastest.backend))
    if found is None:
        return "no round in common"
    return f"{with_interval(found.ratio)}: {found.decision}"


def share(section: Section, row: Row) -> str:
    """The model's operations per second as a share of the machine's matrix rate."""
    if section.matrix_rate is None or row.flops_per_second is None:
        return "not measured"
    return f"{significant(100 * row.flops_per_second / section.matrix_rate[0], 2)} %"


def quality(section: Section, row: Row) -> str:
    """The mean of the target's metric over seeds, with its interval."""
    values = row.quality(section.metric)
    if not values:
        failed = [record for record in row.not_ok if record.kind == "quality"]
        return f"{failed[0].status}: {failed[0].reason}" if failed else "not measured"
    interval = quality_interval(section.metric, values)
    known = METRICS.get(section.metric)
    percent = known is not None and known.percent
    text = f"{with_interval(interval, 100 if percent else 1)}{' %' if percent else ''}, n={interval.n}"
    return text if interval.known else f"{text}, no interval"


def quality_interval(metric: str, values: Sequence[float]) -> Interval:
    """The mean over seeds, with an interval that does not go beyond what the metric can be."""
    known = METRICS.get(metric)
    if known is not None and known.log_scale and min(values) > 0:
        return intervals.geometric_mean(values)
    interval = intervals.mean(values)
    if known is None or not known.percent or interval.low is None or interval.high is None:
        return interval
    return interval._replace(low=max(interval.low, 0.0), high=min(interval.high, 1.0))


def parity(row: Row) -> str:
    """How far up the ladder, in which precisions."""
    if not row.ladders:
        return "not checked"
    texts = []
    for ladder in row.ladders:
        passed = sum(rung.passed for rung in ladder.rungs)
        texts.append(f"{ladder.precision} {passed}/7")
    return ", ".join(texts)


def _timing(row: Row, *names: str) -> str:
    values = [row.timing(name) for name in names]
    known = [value for value in values if value is not None]
    return duration(sum(known)) if len(known) == len(names) else "not measured"


def _host(row: Row) -> str:
    peak, imported = row.bytes_of("host_peak"), row.bytes_of("host_import")
    if peak.bytes is None or imported.bytes is None:
        return "not measured"
    return f"{mebibytes(peak.bytes)} ({mebibytes(imported.bytes)})"


def _bytes(found: Bytes) -> str:
    return mebibytes(found.bytes) if found.bytes is not None else "not measured"
