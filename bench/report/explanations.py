"""Where the time of a training step goes, in tables and words: from the records of `framework-bench explain` alone.

A figure is the mean over an arm's processes with its 95 % t interval; within a process it is the median over turns.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.records import rules
from bench.records.record import Arm, Explanation, Record
from bench.report import figures
from bench.report.formats import significant, with_interval
from bench.report.grouping import GIB
from bench.stats import intervals
from bench.stats.intervals import Interval

PARTS = ("forward", "backward", "update", "transfer")
"""What a step is made of, in the order of a table."""

NOTHING_RAN = "no operation"
"""The part of a profiled step in which none ran."""

MEANING = (
    "Forward, backward and update are differences: the training step, its gradient and its forward pass alone, with dropout "
    "on, are timed in turns in one process, on the same batches. Cores busy, page faults and the share of the matrix rate are "
    "of the whole step. No figure here is one of a comparison: arms are explained one after the other."
)
MEANING_OF_PROFILE = (
    "From each framework's own profiler, in milliseconds of a step while it watched. Of operations within one another the "
    "innermost has the time, and operations on several threads at once share it; in what is left, no operation ran: the "
    "interpreter, dispatch, waiting. What a compiler has fused counts as what its name says first."
)
DIFFERENCE = 0.1  # of the difference of two steps: a part that makes up less of it is not named
LEAST_S = 1e-9  # of a step
OVERHEAD = 0.05  # by which a profiler may slow a step down without a word


@dataclass(frozen=True)
class Row:
    """The explanations of an arm, one for each process."""

    arm: Arm
    records: Sequence[Record]

    @property
    def found(self) -> list[Explanation]:
        return [one.outcome.explanation for one in self.records if one.outcome.explanation is not None]

    def mean(self, figure: Callable[[Explanation], float | None]) -> Interval | None:
        """Over the processes that have the figure; None where none has."""
        values = [value for one in self.found if (value := figure(one)) is not None]
        return intervals.mean(values) if values else None

    @property
    def step(self) -> Interval:
        """Seconds of a training step, on the log scale as every speed."""
        return intervals.geometric_mean([max(_median(one, "step"), LEAST_S) for one in self.found])

    def part(self, name: str) -> Interval | None:
        """Seconds of one of PARTS; None where the backend does not offer what it takes."""
        return self.mean(lambda one: parts(one).get(name))

    def kind(self, name: str) -> Interval | None:
        """Seconds of a kind of operation, or of NOTHING_RAN, in a profiled step; None where there is no profile."""
        return self.mean(lambda one: None if one.profile is None else kinds(one).get(name, 0.0))

    @property
    def kinds(self) -> list[str]:
        """The kinds of operations that it has, and NOTHING_RAN."""
        return list(dict.fromkeys(kind for one in self.found if one.profile for kind in kinds(one)))

    @property
    def of_matrix_rate(self) -> Interval | None:
        """The share of the rate of matrix products that a step reaches."""
        whole = None if "inputs" in self.records[0].outcome.settings else self.records[0].cell.step_flops
        rates = [one.outcome.probe.flops_per_second for one in self.records if one.outcome.probe is not None]

        def share(one: Explanation) -> float | None:
            flops = one.flops or whole  # where batches were cut, older records do not tell
            return flops / _median(one, "step") / max(rates) if flops and rates else None

        return self.mean(share)


@dataclass(frozen=True)
class Group:
    """The arms of one task that were explained together, the fastest first."""

    rows: list[Row]
    failures: list[str]  # processes that are not ok, and arms that are not proven

    @property
    def first(self) -> Record:
        return self.rows[0].records[0]

    @property
    def title(self) -> str:
        cell = self.first.cell
        changes = (
            f" with {', '.join(f'{name}={value}' for name, value in cell.changes.items())}" if cell.changes else ""
        )
        return f"Where a step's time goes: {cell.task}, preset {cell.preset}{changes}"

    @property
    def kinds(self) -> list[str]:
        """The kinds of operations of any row, those that take the most time first, and at the end NOTHING_RAN."""
        names = {kind for row in self.rows for kind in row.kinds}
        total = {name: sum(found.estimate for row in self.rows if (found := row.kind(name))) for name in names}
        return sorted(names, key=lambda name: (name == NOTHING_RAN, -total[name], name))


def groups(records: Iterable[Record]) -> list[Group]:
    """What was explained together, in a fixed order."""
    found: dict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    for one in rules.judged(records)[0]:
        if one.cell.kind == "explain":
            found[one.cell.task, one.cell.preset, one.cell.spec_hash, one.run.id].append(one)
    made = []
    for key in sorted(found):
        arms: dict[str, list[Record]] = defaultdict(list)
        for one in sorted(found[key], key=lambda one: (one.cell.arm.name, one.cell.round)):
            if _unexplained(one) is None:
                arms[one.cell.arm.hash].append(one)
        rows = sorted(
            (Row(of[0].cell.arm, of) for of in arms.values()), key=lambda row: (row.step.estimate, row.arm.name)
        )
        failures = [
            f"{one.cell.arm.name}, round {one.cell.round}: {why}" for one in found[key] if (why := _unexplained(one))
        ]
        if rows:
            made.append(Group(rows, failures))
    return made


def _unexplained(record: Record) -> str | None:
    """Why a process explains nothing: a step is shown for an arm only that has climbed its ladders."""
    if record.outcome.status != "ok":
        return f"{record.outcome.status}: {record.outcome.reason}"
    return rules.parity_fault(record.cell.arm, record.ladders)


def parts(found: Explanation) -> dict[str, float]:
    """Seconds of those of PARTS that can be told."""
    step = _median(found, "step")
    told = {"transfer": _median(found, "transfer")} if "transfer" in found.parts else {}
    if "forward" in found.parts:
        told["forward"] = _median(found, "forward")
    if "gradient" in found.parts:
        gradient = _median(found, "gradient")
        told["update"] = step - gradient - told.get("transfer", 0.0)
        if "forward" in told:
            told["backward"] = gradient - told["forward"]
    return told


def kinds(found: Explanation) -> dict[str, float]:
    """Seconds of a profiled step by kind of operation, with the time in which none ran."""
    return {**found.profile.kinds, NOTHING_RAN: max(0.0, found.profile.nothing_s)} if found.profile else {}


def neutral(group: Group) -> list[list[str]]:
    """The table without profilers, its titles first."""
    shown = [name for name in PARTS if any(row.part(name) for row in group.rows)]
    columns: dict[str, Callable[[Row], str]] = {"arm": lambda row: row.arm.name, "step, ms": lambda row: _ms(row.step)}
    for name in shown:
        columns[f"{name}, ms"] = lambda row, name=name: _ms(row.part(name))  # type: ignore[misc]
    columns["cores busy"] = lambda row: _plain(row.mean(lambda one: one.cpu_s / _median(one, "step")))
    columns["page faults"] = lambda row: _plain(row.mean(lambda one: one.page_faults))
    columns["of the matrix rate"] = lambda row: _percent(row.of_matrix_rate)
    columns["denormal figures"] = lambda row: _denormals(row)
    return [list(columns), *([text(row) for text in columns.values()] for row in group.rows)]


def profiled(group: Group) -> list[list[str]]:
    """The table of the profilers, its titles first; nothing where there is no profile."""
    rows = [row for row in group.rows if row.kinds]
    if not rows:
        return []
    titles = ["arm", *(f"{kind}, ms" for kind in group.kinds), "operations", "step, ms"]
    return [titles, *(_profile_of(row, group.kinds) for row in rows)]


def _profile_of(row: Row, names: Sequence[str]) -> list[str]:
    cells = [_ms(row.kind(name)) for name in names]
    operations = row.mean(lambda one: one.profile.operations if one.profile else None)
    step = row.mean(lambda one: one.profile.step_s if one.profile else None)
    return [row.arm.name, *cells, _plain(operations), _ms(step)]


def largest(group: Group) -> list[tuple[str, str]]:
    """The operations of each arm that take the most time, as the first process's profiler names them."""
    told = []
    for row in group.rows:
        profile = next((one.profile for one in row.found if one.profile), None)
        if profile is not None:
            texts = (f"{one.name} {significant(1e3 * one.seconds)} ms ({one.kind})" for one in profile.largest[:5])
            told.append((row.arm.name, ", ".join(texts)))
    return told


def sentences(group: Group) -> list[str]:
    """What makes up the difference of each arm to the fastest, and what a reader must know of the profiles."""
    fastest, *others = group.rows
    return [*(_difference(fastest, other) for other in others), *_remarks(group)]


def _difference(fast: Row, slow: Row) -> str:
    pair = f"A step of {slow.arm.name} takes {_ms(slow.step)} ms, one of {fast.arm.name} {_ms(fast.step)} ms"
    one, other = fast.step, slow.step
    if one.high is not None and other.low is not None and other.low <= one.high:
        return f"{pair}: the intervals overlap, and there is no difference to explain."
    whole = other.estimate - one.estimate
    told = [f"{pair}. Of the {_signed(whole)} ms: {_made_up(fast.part, slow.part, PARTS, whole)}"]
    if fast.kinds and slow.kinds:
        names = list(dict.fromkeys([*slow.kinds, *fast.kinds]))
        told.append(f"by the profiles {_made_up(fast.kind, slow.kind, names, whole)}")
    return "; ".join(told) + "."


def _made_up(
    fast: Callable[[str], Interval | None], slow: Callable[[str], Interval | None], names: Sequence[str], whole: float
) -> str:
    found = {}
    for name in names:
        one, other = fast(name), slow(name)
        if one is not None and other is not None:
            found[name] = other.estimate - one.estimate
    named = sorted((name for name in found if abs(found[name]) >= DIFFERENCE * whole), key=lambda name: -found[name])
    return ", ".join(f"{_signed(found[name])} {name}" for name in named) or "no part alone"


def _remarks(group: Group) -> list[str]:
    told = []
    for row in group.rows:
        reasons = dict.fromkeys(one.no_profile for one in row.found if one.no_profile)
        told += [f"No profile of {row.arm.name}: {reason}." for reason in reasons]
        with_it = row.mean(lambda one: one.profile.step_s / _median(one, "step") if one.profile else None)
        if with_it is not None and abs(with_it.estimate - 1) > OVERHEAD:
            told.append(
                f"While its profiler watched, a step of {row.arm.name} took {significant(with_it.estimate)} times as long."
            )
        told += [
            f"Alone, the {name} of {row.arm.name} would take less than nothing: its program for the smaller part is not the "
            "beginning of the one for the larger."
            for name in PARTS
            if (part := row.part(name)) is not None and (part.high or part.estimate) < 0
        ]  # fmt: skip
    return told


def settings(group: Group) -> list[tuple[str, str]]:
    """What each arm was: versions and what was in force."""
    told = []
    for row in group.rows:
        outcome = row.records[0].outcome
        versions = ", ".join(f"{name} {version}" for name, version in sorted(outcome.versions.items()))
        kernels = {name: outcome.settings.get(name) for name in ("mode", "compile", "kernels", "cores")}
        known = ", ".join(f"{name}: {value}" for name, value in kernels.items() if value is not None)
        parity = figures.ladders(row.records[0].ladders)
        told.append((row.arm.name, f"{versions} ({known}), parity {parity}, n={len(row.found)}"))
    return told


def proofs(group: Group) -> list[str]:
    """The ladders that the arms have climbed and how many processes each has, a line for those that are alike."""
    alike: dict[str, list[str]] = defaultdict(list)
    for row in group.rows:
        alike[f"{figures.ladders(row.records[0].ladders)}, n={len(row.found)}"].append(row.arm.name)
    return [
        f"parity: {told} in every row" if len(alike) == 1 else f"parity of {', '.join(names)}: {told}"
        for told, names in alike.items()
    ]


def machine(group: Group) -> list[tuple[str, str]]:
    """On what, and with which source."""
    run, cell = group.first.run, group.first.cell
    found = run.machine
    gpu = f", {found.gpu} (driver {found.gpu_driver})" if found.gpu else ", no GPU"
    return [
        ("Machine", f"{found.cpu}, {found.cores} cores, {found.memory_bytes / GIB:.0f} GiB{gpu}, {found.os}"),
        ("Spec", f"{cell.spec_hash[:12]}, framework-bench {run.harness}, source {str(run.source)[:12]}"),
    ]


def _median(found: Explanation, part: str) -> float:
    return median(found.parts[part])


def _ms(found: Interval | None) -> str:
    return "" if found is None else with_interval(found, 1e3)


def _plain(found: Interval | None) -> str:
    return "" if found is None else significant(found.estimate)


def _percent(found: Interval | None) -> str:
    return "" if found is None else f"{100 * found.estimate:.0f} %"


def _signed(seconds: float) -> str:
    return f"{'+' if seconds >= 0 else '-'}{significant(1e3 * abs(seconds))}"


def _denormals(row: Row) -> str:
    told: Mapping[str, None] = dict.fromkeys(
        f"{one.denormals:,} of {one.state_values:,} after {one.updates:,} updates"
        for one in row.found[:1]
        if one.denormals is not None and one.state_values is not None
    )
    return "".join(told)
