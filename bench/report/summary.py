"""What a table says, from records alone: rows, ratios, verdicts, and everything that stands beside them.

Records are grouped into sections that may be compared: same run, task, preset, device, precision, spec, machine and measurement
version; each of a run's backends may have an interpreter of its own. A cell takes part in a ratio only if it climbed the whole
ladder of parity and every seed reached the target; a round that was disturbed (the rule is in bench/disturbance.py) only is
shown.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench import equivalence, pilot, selftest, stats, verdict
from bench.formats import duration, mebibytes, significant, with_interval
from bench.metrics import METRICS
from bench.record import Bytes, Ladder, Record, Rung
from bench.stats import Interval

BOUNDARY = (
    "A step is: copy a prepared batch to the device, forward pass, loss, backward pass, optimizer update. Throughput is the "
    "number of {unit} (padding left out) over the wall time of a window of such steps, after a declared warm-up, with a "
    "barrier at both ends of every block of steps; reading and shuffling data, import, build and the first step (trace and "
    "compile) are not in it. Every figure of speed is one fresh process; rounds hold every backend once, in shuffled order. "
    "Intervals are 95 % t intervals over processes, on the log scale for throughput and ratios, which are paired by round."
)

UPPER_BOUND = (
    "{fastest} reached {rate} GFLOP/s with products of {size} x {size} matrices in {precision}, after the windows; a training "
    "step of the model needs {flops} GFLOP, counted from its matrices; the share is model FLOPs utilisation (Chowdhery et al., "
    "2022, appendix B, arXiv 2204.02311)"
)


@dataclass
class Row:
    """One backend, in one set of versions."""

    backend: str
    records: list[Record] = field(default_factory=list)
    disturbed: frozenset[int] = frozenset()  # rounds that take part in no figure of speed

    def of(self, kind: str, status: str = "ok") -> list[Record]:
        return [record for record in self.records if record.kind == kind and record.status == status]

    @property
    def versions(self) -> dict[str, str]:
        return next((record.versions for record in self.records if record.versions), {})

    @property
    def python(self) -> str:
        """The version of the interpreter."""
        return ", ".join(sorted({record.machine.python for record in self.records}))

    @property
    def settings(self) -> dict[str, object]:
        return next((dict(record.settings) for record in self.of("speed")), {})

    @property
    def ladders(self) -> list[Ladder]:
        return next((record.parity for record in self.records if record.kind == "parity" and record.parity), [])

    @property
    def throughputs(self) -> dict[int, float]:
        """Round -> items per second; without the disturbed rounds."""
        return {r.round: r.timings.items / r.timings.window_s for r in self.timed if r.timings is not None}

    @property
    def timed(self) -> list[Record]:
        """The speed processes that count."""
        return [r for r in self.of("speed") if r.timings is not None and r.round not in self.disturbed]

    @property
    def tokens_per_second(self) -> float | None:
        """Median over processes, padding left out; None where the items are tokens or there are none."""
        rates = [r.timings.tokens / r.timings.window_s for r in self.timed if r.timings and r.timings.tokens]
        return median(rates) if rates else None

    @property
    def flops_per_second(self) -> float | None:
        """The model's floating-point operations per second of the window, median over processes."""
        rates = [
            r.step_flops * r.timings.block_steps * len(r.timings.blocks_s) / r.timings.window_s
            for r in self.timed
            if r.timings and r.step_flops
        ]
        return median(rates) if rates else None

    @property
    def matrix_rate(self) -> float | None:
        """Floating-point operations per second of plain matrix products in these processes, median."""
        rates = [r.probe.flops_per_second for r in self.timed if r.probe is not None]
        return median(rates) if rates else None

    @property
    def joules_per_item(self) -> float | None:
        """Median over processes; None where no counter was read."""
        used = [r.energy.joules / r.timings.items for r in self.timed if r.timings and r.energy and r.energy.joules]
        return median(used) if used else None

    @property
    def energy_sources(self) -> list[str]:
        """Whose counters were read, or the reasons why there is no figure."""
        return sorted({r.energy.source or r.energy.reason or "" for r in self.timed if r.energy})

    def timing(self, name: str) -> float | None:
        """The median over processes of one of the timings, in seconds."""
        values = [getattr(record.timings, name) for record in self.timed]
        return median(values) if values else None

    def bytes_of(self, name: str) -> Bytes:
        """A memory figure: the median of its processes."""
        found = [getattr(record.memory, name) for record in self.of("memory") if record.memory is not None]
        known = [item.bytes for item in found if item.bytes is not None]
        if known:
            return Bytes(int(median(known)))
        return found[0] if found else Bytes(None, "no finished memory process")

    def quality(self, metric: str) -> list[float]:
        return [r.quality.metrics[metric] for r in self.of("quality") if r.quality and metric in r.quality.metrics]

    def quality_by_seed(self, metric: str) -> dict[int, float]:
        """Seed -> the metric's value."""
        found = {r.seed: r.quality.metrics for r in self.of("quality") if r.quality}
        return {seed: metrics[metric] for seed, metrics in found.items() if metric in metrics}

    @property
    def not_ok(self) -> list[Record]:
        return [record for record in self.records if record.status != "ok"]

    @property
    def excluded(self) -> str | None:
        """Why this row takes part in no ratio; None if it does."""
        if not self.throughputs and self.of("speed"):
            return f"every round was disturbed: {_why_disturbed(self.of('speed'))[0]}"
        if not self.throughputs:
            return self.not_ok[0].reason if self.not_ok else "no speed was measured"
        if not self.ladders:
            return "parity was not checked"
        if not all(ladder.passed for ladder in self.ladders):
            return "parity failed"
        timed = self.of("speed")[0]
        if not any((ladder.precision, ladder.device) == (timed.precision, timed.device) for ladder in self.ladders):
            return f"parity was not checked in {timed.precision} on the {timed.device}"
        trainings = [record for record in self.records if record.kind == "quality"]
        if not trainings:
            return "quality was not measured"
        for failed in trainings:
            if failed.status != "ok":
                return f"training with seed {failed.seed}: {failed.status}: {failed.reason}"
        missed = [record for record in trainings if not record.target_reached]
        if missed:
            return f"outside the target {missed[0].target} in {len(missed)} of {len(trainings)} trainings"
        return None


@dataclass
class Section:
    """Rows that may be compared with each other, and what is common to them."""

    first: Record  # any one of its records: what defines the section is the same in all
    rows: list[Row]
    verdicts: dict[tuple[str, str], verdict.Verdict]

    @property
    def ranked(self) -> list[Row]:
        return [row for row in self.rows if row.excluded is None]

    @property
    def metric(self) -> str:
        """The figure by which quality is judged."""
        return self.first.target.split()[0]

    @property
    def equivalences(self) -> dict[tuple[str, str], equivalence.Equivalence]:
        """Of the rows' quality over seeds, every pair once; empty where no margin is stated."""
        margin = self.first.equivalence_margin
        measured = {row.backend: row.quality_by_seed(self.metric) for row in self.rows if row.quality(self.metric)}
        return equivalence.compare_all(measured, margin=margin) if margin else {}

    @property
    def matrix_rate(self) -> tuple[float, str] | None:
        """The highest rate of matrix products that a backend reached here, and which one it was."""
        return max(((row.matrix_rate, row.backend) for row in self.rows if row.matrix_rate), default=None)


def sections(records: Iterable[Record]) -> list[Section]:
    """The sections in a fixed order, rows from the fastest to those without a speed."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        machine = record.machine
        groups[
            record.task, record.preset, record.device, record.precision, record.spec_hash, str(record.measurement),
            machine.cpu, str(machine.cores), str(machine.memory_bytes), str(machine.gpu), str(machine.gpu_driver),
            machine.os, str(record.order_seed), str(record.threads),
        ].append(record)  # fmt: skip
    return [_section(groups[name]) for name in sorted(groups)]


def _section(records: Sequence[Record]) -> Section:
    rows: dict[str, Row] = {}
    for record in records:
        rows.setdefault(record.backend, Row(record.backend)).records.append(record)
    for row in rows.values():
        row.records.sort(key=lambda r: (r.kind, r.round, r.seed, r.started_utc))
    speeds = [record for record in records if record.kind == "speed" and record.disturbance]
    disturbed = frozenset(record.round for record in speeds if record.disturbance and record.disturbance.disturbed)
    for row in rows.values():
        row.disturbed = disturbed  # the whole round: its figures are compared with each other
    ordered = sorted(rows.values(), key=lambda row: (row.excluded is not None, -_speed(row), row.backend))
    cells = {row.backend: row.throughputs for row in ordered if row.excluded is None}
    return Section(records[0], ordered, verdict.compare_all(cells))


def _speed(row: Row) -> float:
    values = list(row.throughputs.values())
    return stats.geometric_mean(values).estimate if values else 0.0


def _why_disturbed(records: Iterable[Record]) -> list[str]:
    return [
        f"round {record.round}, {record.backend}: {record.disturbance.disturbed}"
        for record in records
        if record.disturbance is not None and record.disturbance.disturbed
    ] or ["by another backend's window"]


# The cells of a table as text, the same in every format.


def columns(section: Section) -> list[str]:
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
    interval = stats.geometric_mean(values)
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
    return f"{with_interval(interval, 100 if percent else 1)}{' %' if percent else ''}, n={interval.n}"


def quality_interval(metric: str, values: Sequence[float]) -> Interval:
    """The mean over seeds, with an interval that does not go beyond what the metric can be."""
    known = METRICS.get(metric)
    if known is not None and known.log_scale and min(values) > 0:
        return stats.geometric_mean(values)
    interval = stats.mean(values)
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


def sentences(section: Section) -> list[str]:
    """The verdicts in words, each with its evidence."""
    first = section.first
    ranked = section.ranked
    texts = []
    for position, row in enumerate(ranked):
        for other in ranked[position + 1 :]:
            found = section.verdicts.get((row.backend, other.backend))
            if found is not None:
                texts.append(_sentence(first, row.backend, other.backend, found))
    if len(ranked) < 2:
        texts.append("Nothing is compared: fewer than two rows passed parity and reached the target.")
    pairs = section.equivalences.items()
    return texts + [_equivalence(section.metric, first, second, found) for (first, second), found in pairs]


def _equivalence(metric: str, name: str, other: str, found: equivalence.Equivalence) -> str:
    known = METRICS.get(metric)
    scale, unit = (100, " points") if known and known.percent else (1, "")
    margin = f"{scale * found.margin:g}{unit if scale * found.margin != 1 else unit.removesuffix('s')}"
    told = {"equivalent": f"equivalent within {margin}", "different": f"different by more than {margin}"}
    seeds = f"{found.difference.n} seed{'s' if found.difference.n != 1 else ''}"
    return (
        f"{known.title if known else metric} of {name} and {other}: "
        f"{told.get(found.decision, f'not decided whether within {margin}')} "
        f"(difference {with_interval(found.difference, scale)}{unit}, {seeds}"
        f"{'' if found.difference.known else ', no interval'})."
    )


def _sentence(first: Record, name: str, other: str, found: verdict.Verdict) -> str:
    ratio_text = with_interval(found.ratio)
    rounds = f"{found.ratio.n} round{'s' if found.ratio.n != 1 else ''}"
    if found.decision == "tie":
        return f"{name} and {other}: tie within {verdict.MARGIN:.0%} (ratio {ratio_text}, {rounds})."
    if found.decision == "not decided":
        more = f"; about {found.rounds_needed} rounds would decide at this noise" if found.rounds_needed else ""
        return f"{name} and {other}: not decided (ratio {ratio_text}, {rounds}{more})."
    flipped = found.decision == "slower"
    fast, slow = (other, name) if flipped else (name, other)
    shown = Interval(1 / found.ratio.estimate, _inverse(found.ratio.high), _inverse(found.ratio.low), found.ratio.n)
    return f"{fast} trains {first.task} {with_interval(shown if flipped else found.ratio)} times as fast as {slow} ({rounds})."


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value


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


def facts(section: Section) -> list[tuple[str, str]]:
    """What stands below a table, as (name, text)."""
    first = section.first
    machine = first.machine
    gpu = f", {machine.gpu} (driver {machine.gpu_driver})" if machine.gpu else ", no GPU"
    lines = [
        ("Data", f"{first.data.description}; sha256 {first.data.sha256[:12]}"),
        ("Target", first.target),
        ("Machine", f"{machine.cpu}, {_cores(first)} in use, {machine.memory_bytes / 2**30:.0f} GiB{gpu}, {machine.os}, "
                    f"Python {_pythons(section.rows)}"),
        ("Spec", f"{first.spec_hash[:12]}, measurement version {first.measurement}, order seed {first.order_seed}"),
    ]  # fmt: skip
    plans = [record.rounds_plan for row in section.rows for record in row.of("speed") if record.rounds_plan]
    if plans:
        lines.append(("Rounds", pilot.describe(plans[0])))
    lines += [("Self-test", text) for text in _selftests(section)]
    floor = [value for row in section.rows for value in row.quality(f"unigram_{section.metric}")]
    if floor:
        lines.append(
            ("Floor", f"a unigram model has a {section.metric} of {significant(floor[0])} on the same held-out set")
        )
    rates = [f"{row.backend} {significant(row.tokens_per_second)}" for row in section.ranked if row.tokens_per_second]
    if rates:
        lines.append(("Tokens per second, padding left out", ", ".join(rates)))
    if section.matrix_rate is not None and first.step_flops:
        rate, fastest = section.matrix_rate
        size = next(r.probe.size for row in section.rows for r in row.timed if r.probe)
        lines.append(("Matrix rate", UPPER_BOUND.format(
            rate=significant(rate / 1e9), size=size, fastest=fastest, precision=first.precision,
            flops=significant(first.step_flops / 1e9),
        )))  # fmt: skip
    joules = [f"{row.backend} {significant(row.joules_per_item)} J" for row in section.ranked if row.joules_per_item]
    if joules:
        sources = sorted({source for row in section.rows if row.joules_per_item for source in row.energy_sources})
        lines.append((f"Energy per {first.unit.removesuffix('s')}", f"{', '.join(joules)} ({'; '.join(sources)})"))
    on_card = [(row.backend, row.bytes_of("device_peak_process").bytes) for row in section.rows]
    if any(size for _, size in on_card):
        sizes = ", ".join(f"{name} {mebibytes(size)}" for name, size in on_card if size)
        lines.append(("Device memory in the driver's view, libraries included", sizes))
    if section.rows and section.rows[0].disturbed:
        speeds = [record for row in section.rows for record in row.of("speed")]
        lines.append(("Disturbed, in no figure of speed", "; ".join(_why_disturbed(speeds))))
    lines += [("Remark", remark) for remark in _remarks(section)]
    lines += [("Not measured", text) for text in _not_measured(section)]
    for row in section.rows:
        if row.versions:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(row.versions.items()))
            settings = ", ".join(
                f"{name}: {value}" for name, value in sorted(row.settings.items()) if value is not None
            )
            lines.append((row.backend, f"{versions}" + (f" ({settings})" if settings else "")))
    return lines


def _pythons(rows: Sequence[Row]) -> str:
    """The interpreter's version, or each with the backends that ran in it."""
    users: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        users[row.python].append(row.backend)
    return ", ".join(f"{python} ({', '.join(names)})" if len(users) > 1 else python for python, names in users.items())


def _cores(record: Record) -> str:
    of_all = f"{record.threads} of " if record.threads else ""
    return f"{of_all}{record.machine.cores} cores"


def _selftests(section: Section) -> list[str]:
    """The latest self-test of each backend, and the command for those that have none."""
    first = section.first
    texts, without = [], []
    for row in section.rows:
        latest = max((r.selftest for r in row.of("speed") if r.selftest), key=lambda t: t.started_utc, default=None)
        if latest is not None:
            texts.append(f"{row.backend}: {selftest.summarise(latest)}")
        elif row.of("speed"):
            without.append(row.backend)
    if without:
        precision = "" if first.precision == "float32" else f" --precision {first.precision}"
        texts.append(
            f"none on this machine of {', '.join(without)}: "
            f"framework-bench selftest --task {first.task} --backend {without[0]}{precision}"
        )
    return texts


def _remarks(section: Section) -> list[str]:
    """Each remark of a process, with what process it was."""
    return [
        f"{record.backend}, {record.kind}, round {record.round}: {remark}"
        for row in section.rows
        for record in row.records
        for remark in record.remarks
    ]


def classes(section: Section) -> list[list[str]]:
    """Titles, then a line per backend and class: precision, recall and F1 as means over seeds, and summed counts.

    A task that has them names its metrics precision_<class>, recall_<class>, f1_<class>, and confusion_<ij> for the number of
    examples of class i that were taken for class j, classes in the order of their names' first appearance.
    """
    lines: list[list[str]] = []
    for row in section.rows:
        figures = [record.quality.metrics for record in row.of("quality") if record.quality]
        names = [
            name.removeprefix("precision_") for name in (figures[0] if figures else {}) if name.startswith("precision_")
        ]
        for i, name in enumerate(names):
            scores = [_total(figures, f"{kind}_{name}", mean=True) for kind in ("precision", "recall", "f1")]
            counts = [_total(figures, f"confusion_{i}{j}") for j in range(len(names))]
            lines.append([row.backend, name, *scores, *counts])
            titles = ["backend", "class", "precision", "recall", "F1", *(f"taken for {other}" for other in names)]
    return [titles, *lines] if lines else []


def _total(figures: Sequence[Mapping[str, float]], name: str, *, mean: bool = False) -> str:
    """A metric summed over seeds, or its mean as a percentage; a seed that lacks it leaves no figure."""
    if not all(name in metrics for metrics in figures):
        return "not measured"
    total = sum(metrics[name] for metrics in figures)
    return f"{100 * total / len(figures):.1f} %" if mean else f"{total:,.0f}"


def _not_measured(section: Section) -> list[str]:
    """Each missing memory figure with its reason, once for all the rows that share it."""
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in section.rows:
        for name, title in (("host_peak", "host memory peak"), ("device_peak_allocated", "device memory peak")):
            found = row.bytes_of(name)
            if found.bytes is None:
                missing[title, found.reason or "no reason given"].append(row.backend)
        if row.joules_per_item is None:
            for reason in row.energy_sources:
                missing["energy", reason].append(row.backend)
    return [f"{title} of {', '.join(names)}: {reason}" for (title, reason), names in missing.items()]


def rungs(section: Section) -> list[list[str]]:
    """Titles, then a line per precision and rung: every backend's largest difference beside its tolerance."""
    climbed = {
        (ladder.precision, rung.number, rung.name, row.backend): rung
        for row in section.rows
        for ladder in row.ladders
        for rung in ladder.rungs
    }
    names = sorted({backend for *_, backend in climbed})
    lines = [["precision", "rung", *names]]
    for precision, number, name in sorted({key[:3] for key in climbed}, key=lambda k: (k[0] != "float64", k)):
        found = [climbed.get((precision, number, name, backend)) for backend in names]
        lines.append([precision, f"{number} {name}", *map(_rung, found)])
    return lines if climbed else []


def _rung(rung: Rung | None) -> str:
    if rung is None:
        return "not climbed"
    difference = "no figure" if rung.difference is None else f"{rung.difference:.1e}"
    text = f"{difference} of {rung.tolerance:.0e}" if rung.tolerance else f"{difference}, must be 0"
    return text if rung.passed else f"FAILED: {text}: {rung.where}"


def samples(section: Section) -> list[tuple[str, str]]:
    """(backend, text) of each row whose model writes text, after the training with the first seed."""
    first = [(row.backend, record) for row in section.rows for record in row.of("quality")[:1]]
    return [(name, record.quality.sample) for name, record in first if record.quality and record.quality.sample]


def failures(section: Section) -> list[str]:
    """One line per process that is not ok."""
    return [
        f"{record.backend}, {record.kind}, round {record.round}, seed {record.seed}: {record.status}: {record.reason}"
        for row in section.rows
        for record in row.not_ok
    ]


def step_seconds(row: Row) -> float | None:
    """Median seconds of one step over processes."""
    steps = [
        record.timings.window_s / (len(record.timings.blocks_s) * record.timings.block_steps)
        for record in row.timed
        if record.timings is not None
    ]
    return median(steps) if steps else None


def titled(sections: Sequence[Section]) -> list[tuple[str, Section]]:
    """Each section with what it compares in a few words, and with its machine and run where another one compares the same."""
    short = [f"{s.first.task}: preset {s.first.preset}, {s.first.precision} on the {s.first.device}" for s in sections]
    return [
        (title if short.count(title) == 1 else f"{title} ({s.first.machine.cpu}, run {s.first.order_seed})", s)
        for title, s in zip(short, sections, strict=True)
    ]
