"""Records grouped into sections that may be compared: same run, task, preset, device, precision, spec, machine and measurement
version; each of a run's backends may have an interpreter of its own.

A cell takes part in a ratio only if it climbed the whole ladder of parity and every seed reached the target; a round that was
disturbed (the rule is in bench/worker/disturbance.py) only is shown.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.records.record import Bytes, Ladder, Record
from bench.stats import equivalence, intervals, verdict


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
            return f"every round was disturbed: {why_disturbed(self.of('speed'))[0]}"
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
    return intervals.geometric_mean(values).estimate if values else 0.0


def why_disturbed(records: Iterable[Record]) -> list[str]:
    """A line for each process that says what disturbed it; one for all where none does."""
    return [
        f"round {record.round}, {record.backend}: {record.disturbance.disturbed}"
        for record in records
        if record.disturbance is not None and record.disturbance.disturbed
    ] or ["by another backend's window"]


def step_seconds(row: Row) -> float | None:
    """Median seconds of one step over processes."""
    steps = [
        record.timings.window_s / (len(record.timings.blocks_s) * record.timings.block_steps)
        for record in row.timed
        if record.timings is not None
    ]
    return median(steps) if steps else None
