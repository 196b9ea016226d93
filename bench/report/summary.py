"""What a table says beside its cells, from records alone: verdicts in words, and everything that stands below it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from bench.campaign import pilot
from bench.checks import selftest
from bench.records.record import Record, Rung
from bench.report import grouping
from bench.report.formats import mebibytes, significant, with_interval
from bench.report.grouping import Row, Section
from bench.stats import equivalence, verdict
from bench.stats.intervals import Interval
from bench.stats.metrics import METRICS

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
        lines.append(("Disturbed, in no figure of speed", "; ".join(grouping.why_disturbed(speeds))))
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


def titled(sections: Sequence[Section]) -> list[tuple[str, Section]]:
    """Each section with what it compares in a few words, and with its machine and run where another one compares the same."""
    short = [f"{s.first.task}: preset {s.first.preset}, {s.first.precision} on the {s.first.device}" for s in sections]
    return [
        (title if short.count(title) == 1 else f"{title} ({s.first.machine.cpu}, run {s.first.order_seed})", s)
        for title, s in zip(short, sections, strict=True)
    ]
