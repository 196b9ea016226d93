"""Records grouped into sections that may be compared: same run, task, preset, spec, machine and measurement version.

A row is an arm: one backend in one declared way of using it. An arm takes part in a ratio only if it climbed the whole ladder
of parity and its quality reached the target; a round that was disturbed (the rule is in bench/records/disturbed.py) only is
shown.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from statistics import fmean, median

from bench.records import proof, rules, steadiness
from bench.records.disturbed import disturbed_rounds, unsteady
from bench.records.record import Arm, Bytes, Cell, Ladder, Record, Run, SelfTest, Timings, control_of
from bench.stats import equivalence, intervals, looks, verdict

GIB = 2**30
MOST_OF_RATE = 1.5  # of the rate of matrix products: caches favour a model's smaller ones, never by half


@dataclass
class Row:
    """One arm, in one set of versions."""

    arm: Arm
    records: list[Record] = field(default_factory=list)
    disturbed: frozenset[int] = frozenset()  # rounds in which something else had the machine
    unfinished: frozenset[int] = frozenset()  # rounds that an interruption ended
    unsteady: frozenset[int] = frozenset()  # rounds in whose window its speed changed by itself
    rounds: int = 0  # complete and undisturbed ones of the comparison
    apart: str | None = None  # why the losses of its windows show other work than those of the others
    beyond: str | None = None  # why no program can be as fast on this machine

    @property
    def name(self) -> str:
        return self.arm.name

    def of(self, kind: str, status: str = "ok") -> list[Record]:
        return self._sorted.get((kind, status), [])

    @cached_property
    def _sorted(self) -> dict[tuple[str, str], list[Record]]:
        """Kind and status -> records: asked for many times, when all are there."""
        found: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for one in self.records:
            found[one.cell.kind, one.outcome.status].append(one)
        return dict(found)

    @cached_property
    def versions(self) -> dict[str, str]:
        return next((one.outcome.versions for one in self.records if one.outcome.versions), {})

    @property
    def python(self) -> str:
        """The version of the interpreter."""
        return ", ".join(sorted({one.cell.arm.python or one.run.machine.python for one in self.records}))

    @property
    def settings(self) -> dict[str, object]:
        return next((dict(one.outcome.settings) for one in self.of("speed")), {})

    @cached_property
    def ladders(self) -> list[Ladder]:
        """Those that its process of parity climbed."""
        return next((one.outcome.ladders for one in self.records if one.cell.kind == "parity"), [])

    @cached_property
    def timed(self) -> dict[int, Timings]:
        """Round -> timings of the speed processes that count: without the disturbed and the unfinished rounds."""
        return {
            one.cell.round: one.outcome.timings
            for one in self.of("speed")
            if one.outcome.timings is not None and one.cell.round not in self.disturbed | self.unfinished
        }

    @property
    def counted(self) -> list[Record]:
        """The records of the speed processes that count."""
        timed = self.timed
        return [one for one in self.of("speed") if one.cell.round in timed]

    @property
    def look(self) -> int | None:
        """The last one for which rounds were measured; None where they were planned once."""
        return max((one.cell.look for one in self.records if one.cell.look), default=None)

    @property
    def share(self) -> float:
        """Of the error, what its verdicts may spend."""
        return looks.share(self.look)

    @property
    def losses(self) -> dict[int, float]:
        """Number of an update -> training loss, of the first process that counts."""
        return next((dict(timings.losses) for timings in self.timed.values() if timings.losses), {})

    @cached_property
    def throughputs(self) -> dict[int, float]:
        """Round -> items per second."""
        return {number: timings.throughput for number, timings in self.timed.items()}

    @cached_property
    def comparable(self) -> dict[int, float]:
        """Round -> items per second where its speed did not change by itself: no verdict rests on another window."""
        return {number: value for number, value in self.throughputs.items() if number not in self.unsteady}

    @property
    def drifts(self) -> dict[int, float]:
        """Round -> by what share the window's second half took longer than its first, where that is no steady speed."""
        judged = self.timed if all(one.run.measurement > 1 for one in self.records) else {}
        found = {number: timings.blocks_s for number, timings in judged.items()}
        return {
            number: steadiness.drift(blocks) for number, blocks in found.items() if not steadiness.is_steady(blocks)
        }

    @property
    def step_s(self) -> float | None:
        """Median seconds of one step over processes."""
        return _median([timings.step_s for timings in self.timed.values()])

    @property
    def cores_busy(self) -> float | None:
        """Processor time over wall time of the window, median over processes."""
        return _median([t.cpu_s / t.window_s for t in self.timed.values() if t.cpu_s is not None])

    @property
    def tokens_per_second(self) -> float | None:
        """Median over processes, padding left out; None where the items are tokens or there are none."""
        return _median([t.tokens / t.window_s for t in self.timed.values() if t.tokens])

    @property
    def flops_per_second(self) -> float | None:
        """The model's floating-point operations per second of the window, median over processes."""
        timed = [(one.cell.step_flops, self.timed[one.cell.round]) for one in self.counted]
        return _median(
            [
                timings.flops / timings.window_s if timings.flops else flops / timings.step_s
                for flops, timings in timed
                if flops
            ]
        )

    @property
    def matrix_rate(self) -> float | None:
        """Floating-point operations per second of plain matrix products in these processes, median."""
        return _median([one.outcome.probe.flops_per_second for one in self.counted if one.outcome.probe is not None])

    @property
    def joules_per_item(self) -> float | None:
        """Median over processes; None where no counter was read."""
        used = [(one.outcome.energy, self.timed[one.cell.round]) for one in self.counted]
        return _median([energy.joules / timings.items for energy, timings in used if energy and energy.joules])

    @property
    def energy_sources(self) -> list[str]:
        """Whose counters were read, or the reasons why there is no figure."""
        return sorted({e.source or e.reason or "" for one in self.counted if (e := one.outcome.energy)})

    @property
    def selftest(self) -> SelfTest | None:
        """The latest one that was known when its processes of speed were started."""
        found = (one.cell.selftest for one in self.of("speed") if one.cell.selftest)
        return max(found, key=lambda test: test.started_utc, default=None)

    def timing(self, name: str) -> float | None:
        """The median over processes of one of the timings, in seconds."""
        return _median([getattr(timings, name) for timings in self.timed.values()])

    def bytes_of(self, name: str) -> Bytes:
        """A memory figure: the median of its processes."""
        found = [getattr(one.outcome.memory, name) for one in self.of("memory") if one.outcome.memory is not None]
        known = [item.bytes for item in found if item.bytes is not None]
        if known:
            return Bytes(int(median(known)))
        return found[0] if found else Bytes(None, "no finished memory process")

    @property
    def training_rates(self) -> tuple[float, float] | None:
        """Steps per second in the first and in the last fifth of the trainings, medians over seeds; None of shorter ones.

        The first step, which compiles, is left out. Batches are built meanwhile, as in any training.
        """
        curves = [one.outcome.quality.curve[1:] for one in self.of("quality") if one.outcome.quality]
        fifths = [(curve[: len(curve) // 5 + 1], curve[-(len(curve) // 5) - 1 :]) for curve in curves if len(curve) > 5]
        first, last = (_median([_rate(pair[end]) for pair in fifths]) for end in (0, 1))
        return (first, last) if first and last else None

    def metrics(self) -> dict[int, dict[str, float]]:
        """Seed -> the figures of quality."""
        return {one.cell.seed: one.outcome.quality.metrics for one in self.of("quality") if one.outcome.quality}

    def quality(self, metric: str) -> dict[int, float]:
        """Seed -> the metric's value."""
        return {seed: metrics[metric] for seed, metrics in self.metrics().items() if metric in metrics}

    @property
    def not_ok(self) -> list[Record]:
        return [one for one in self.records if one.outcome.status != "ok"]

    @property
    def excluded(self) -> str | None:
        """Why this row takes part in no ratio; None if it does."""
        return self.unfit or self._not_learned()

    @property
    def unfit(self) -> str | None:
        """Why its speed is compared with no other, quality aside; None if it is."""
        return self._not_timed() or self._not_proven() or self.apart or self.beyond

    def _not_timed(self) -> str | None:
        if self.throughputs:
            return self._incomplete()
        if self.of("speed"):
            return "every round was disturbed" if self.disturbed else "no round came to its end"
        return self.not_ok[0].outcome.reason if self.not_ok else "no speed was measured"

    def _incomplete(self) -> str | None:
        """Rounds that others have and this arm lacks: what it was not fast enough, or too large for, is not in its mean."""
        if len(self.throughputs) >= self.rounds:
            return None
        failed = [one.outcome for one in self.not_ok if one.cell.kind == "speed"]
        why = f" ({failed[0].status}: {failed[0].reason})" if failed else ""
        return f"{len(self.throughputs)} of {self.rounds} rounds{why}"

    def _not_proven(self) -> str | None:
        if any(one.cell.kind == "parity" for one in self.not_ok):
            return "parity failed"
        return rules.parity_fault(self.arm, self.ladders)

    def _not_learned(self) -> str | None:
        trainings = [one for one in self.records if one.cell.kind == "quality"]
        if not trainings:
            return "quality was not measured"
        for one in trainings:
            if one.outcome.status != "ok":
                return f"training with seed {one.cell.seed}: {one.outcome.status}: {one.outcome.reason}"
        target = trainings[0].cell.target
        values = list(self.quality(target.metric).values())
        if len(values) < len(trainings):
            return f"a training has no {target.metric}"
        return (
            None
            if target.reached(fmean(values))
            else f"outside the target {target} in the mean of {len(values)} trainings"
        )


@dataclass
class Section:
    """Rows that may be compared with each other, and what is common to them."""

    run: Run
    first: Cell  # any one of its cells: what defines the section is the same in all
    rows: list[Row]
    control: Row | None = None  # another row's arm a second time, which is only timed

    @property
    def controlled(self) -> Row | None:
        """The row whose arm the control is."""
        ways = (row for row in self.rows if self.control is not None and row.arm.way == self.control.arm.way)
        return next(ways, None)

    @cached_property
    def control_verdict(self) -> verdict.Verdict | None:
        """Of the control against the same program; None without one, or where no round of both counts."""
        if self.control is None or self.controlled is None:
            return None
        pair = {"control": self.control.comparable, "controlled": self.controlled.comparable}
        return verdict.compare_all(pair).get(("control", "controlled"))

    @cached_property
    def ranked(self) -> list[Row]:
        return [row for row in self.rows if row.excluded is None]

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], verdict.Verdict]:
        """Of the ranked rows, by their names."""
        rounds = {row.name: row.comparable for row in self.ranked}
        shares = {row.name: row.share for row in self.ranked}
        return verdict.compare_all(rounds, family=self.family, adjusted=self.run.measurement > 1, shares=shares)

    @cached_property
    def family(self) -> list[tuple[str, str]]:
        """The pairs of ranked rows that are decided, in the order of the table."""
        return family(self.ranked)

    @property
    def metric(self) -> str:
        """The figure by which quality is judged."""
        return self.first.target.metric

    @cached_property
    def equivalences(self) -> dict[tuple[str, str], equivalence.Equivalence]:
        """Of the rows' quality over seeds: the defaults pairwise, each row with its default; empty without a margin."""
        margin = self.first.target.margin
        measured = {row.name: values for row in self.rows if (values := row.quality(self.metric))}
        arms = [row.arm for row in self.rows]
        pairs = _pairs(arms, _about_defaults(arms))
        found = equivalence.compare_all(measured, margin=margin) if margin else {}
        return {pair: one for pair, one in found.items() if pair in pairs}

    @property
    def matrix_rate(self) -> tuple[float, str] | None:
        """The highest rate of matrix products that an arm reached here, and which one it was."""
        return max(((row.matrix_rate, row.name) for row in self.rows if row.matrix_rate), default=None)

    def common(self, name: str) -> str | None:
        """What is the same in all arms (device, precision, threads); None where it is not."""
        values = {str(getattr(row.arm, name)) for row in self.rows}
        return values.pop() if len(values) == 1 else None

    @property
    def plain(self) -> bool:
        """Whether every row is a backend as it is, under its own name."""
        return all(row.name == row.arm.backend for row in self.rows)

    @property
    def day(self) -> str:
        """When its first process started, in UTC; a ladder that was remembered started at no time."""
        times = (one.outcome.started_utc for row in self.rows for one in row.records)
        return min(filter(None, times), default="")[:10]

    @property
    def noun(self) -> str:
        """What its rows are, as the title of their column."""
        return "backend" if self.plain else "arm"


def _rate(curve: Sequence[tuple[int, float, float]]) -> float:
    """Steps per second from the first to the last point of a part of a training; 0 where no time passed."""
    (start, began, _), (end, ended, _) = curve[0], curve[-1]
    return (end - start) / (ended - began) if ended > began else 0.0


def family(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The pairs of rows, the fastest first, that are compared: what is about defaults, and each with the fastest.

    Over all pairs of ten rows there would be no power left to decide anything.
    """
    return family_of([row.arm for row in rows])


def family_of(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The same of arms, the fastest first."""
    fastest = {frozenset((arms[0].name, arm.name)) for arm in arms}
    return _pairs(arms, _about_defaults(arms) | fastest)


def _about_defaults(arms: Sequence[Arm]) -> set[frozenset[str]]:
    """The backends' default arms pairwise, their tuned ones pairwise, and each arm with the default of its own backend."""
    defaults, tuned = (track(arms, mode) for mode in ("default", "tuned"))
    own = {frozenset((arm.name, defaults.get(arm.backend, arm.name))) for arm in arms}
    return own | {frozenset(pair) for one in (defaults, tuned) for pair in combinations(one.values(), 2)}


def track(arms: Sequence[Arm], mode: str) -> dict[str, str]:
    """Backend -> the name of its first arm in a mode."""
    return {arm.backend: arm.name for arm in reversed(arms) if arm.mode == mode}


def _pairs(arms: Sequence[Arm], wanted: set[frozenset[str]]) -> list[tuple[str, str]]:
    return [pair for pair in combinations((arm.name for arm in arms), 2) if frozenset(pair) in wanted]


def sections(records: Iterable[Record]) -> list[Section]:
    """The sections in a fixed order, rows from the fastest to those without a speed.

    A run of `explain` is none (bench/report/explanations.py), nor is what is measured beside training (bench/report/apart.py).
    """
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    judged = rules.judged(records)[0]
    apart = ("explain", "inference", "loading")
    elsewhere = {one.run.id for one in judged if one.cell.kind in apart}
    trained = {one.run.id for one in judged if one.cell.kind not in (*apart, "parity")}
    for one in judged:
        if one.cell.kind in apart or (one.run.id in elsewhere and one.run.id not in trained):
            continue
        cell, run, machine = one.cell, one.run, one.run.machine
        groups[
            cell.task, cell.preset, cell.spec_hash, str(run.measurement), machine.cpu, str(machine.cores),
            str(round(machine.memory_bytes / GIB)), str(machine.gpu), str(machine.gpu_driver), machine.os, run.id,
        ].append(one)  # fmt: skip
    return [_section(part) for name in sorted(groups) for part in _with_names_of_their_own(groups[name])]


def _with_names_of_their_own(records: Sequence[Record]) -> list[list[Record]]:
    """Parts in which a name is one arm's: rows are told apart by it. More than one if runs of one id lie in one folder."""
    parts: dict[int, list[Record]] = defaultdict(list)
    taken: Counter[str] = Counter()  # name -> how many arms have it
    arms = {one.cell.arm.hash: one.cell.arm for one in records}
    for known, arm in sorted(arms.items(), key=lambda pair: str(sorted(pair[1].way.items()))):
        parts[taken[arm.name]] += [one for one in records if one.cell.arm.hash == known]
        taken[arm.name] += 1
    return list(parts.values())


def _section(records: Sequence[Record]) -> Section:
    rows: dict[str, Row] = {}
    for one in records:
        rows.setdefault(one.cell.arm.hash, Row(one.cell.arm)).records.append(one)
    for row in rows.values():
        row.records.sort(key=lambda r: (r.cell.kind, r.cell.round, r.cell.seed, r.outcome.started_utc))
    speeds = [one for one in records if one.cell.kind == "speed"]
    disturbed = frozenset(disturbed_rounds(speeds))
    unfinished = frozenset(one.cell.round for one in speeds if one.outcome.status == "interrupted")
    for one in unsteady(speeds, _blocks_s):
        row = rows[one.cell.arm.hash]
        row.unsteady |= {one.cell.round}
    for row in rows.values():  # whole rounds: their figures are compared with each other
        row.disturbed, row.unfinished = disturbed, unfinished
    rounds = {number for row in rows.values() for number in row.timed}
    for row in rows.values():
        row.rounds = len(rounds)
    _prove_work(list(rows.values()))
    _bound(list(rows.values()))
    ordered = sorted(rows.values(), key=lambda row: (row.excluded is not None, -_speed(row), row.name))
    twice = control_of(row.arm for row in ordered)
    control = next((row for row in ordered if row.arm == twice), None)
    ordered = [row for row in ordered if row is not control]
    measured = next((one for one in records if one.outcome.status == "ok"), records[0])
    return Section(measured.run, measured.cell, ordered, control)


def _blocks_s(one: Record) -> Sequence[float] | None:
    """Of its window; in the first version of the measurement, arms did not take turns, and no window was judged."""
    return one.outcome.timings.blocks_s if one.outcome.timings is not None and one.run.measurement > 1 else None


def _prove_work(rows: Sequence[Row]) -> None:
    """Says of each row whose losses differ from those of most of the others that it did other work: of two, both rows."""
    losses = {row.name: row.losses for row in rows if row.losses}
    for row in rows:
        for number, timings in row.timed.items():
            why = row.losses and proof.losses_agree(dict(timings.losses), row.losses, row.arm.precision)
            if why:
                row.apart = f"in round {number}, against another of its rounds: {why}"
    for row in rows if losses else ():
        if row.name not in losses:
            row.apart = "its windows hold no losses, which prove the work" if row.timed else None
            continue
        others = [other for other in rows if other is not row and other.name in losses]
        against = [f"against {other.name}: {why}" for other in others if (why := _work_apart(row, other))]
        if 2 * len(against) > len(others):
            row.apart = row.apart or against[0]


def _bound(rows: Sequence[Row]) -> None:
    """Says of each row that is faster than the machine's own matrix products that this cannot be."""
    rate = max((row.matrix_rate for row in rows if row.matrix_rate), default=None)
    for row in rows:
        reached = row.flops_per_second
        if rate is not None and reached is not None and reached > MOST_OF_RATE * rate:
            row.beyond = f"{reached:.3g} operations a second, where matrix products reach {rate:.3g}"


def _work_apart(row: Row, other: Row) -> str | None:
    coarser = max(row.arm.precision, other.arm.precision, key=lambda precision: proof.BOUND.get(precision, 1.0))
    return proof.losses_agree(row.losses, other.losses, coarser)


def _speed(row: Row) -> float:
    values = list(row.throughputs.values())
    return intervals.geometric_mean(values).estimate if values else 0.0


def why_disturbed(records: Iterable[Record]) -> list[str]:
    """A line for each process that says what disturbed it; one for all where none does."""
    return [
        f"round {one.cell.round}, {one.cell.arm.name}: {disturbance.disturbed}"
        for one in records
        if (disturbance := one.outcome.disturbance) is not None and disturbance.disturbed
    ] or ["by another arm's window"]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
