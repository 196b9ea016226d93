"""What stands below a table, as (name, text): data, machine, self-tests, settings, and what a reader must know."""

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from bench.records.record import Cell
from bench.report import grouping, scaling, words
from bench.report.formats import many_rounds, mebibytes, significant, with_interval
from bench.report.grouping import GIB, Row, Section

UPPER_BOUND = (
    "{fastest} reached {rate} GFLOP/s with products of {size} x {size} matrices in {precision}, after the windows; a training "
    "step of the model needs {flops} GFLOP, counted from its matrices; the share is model FLOPs utilisation (Chowdhery et al., "
    "2022, appendix B, arXiv 2204.02311)"
)

Fact = tuple[str, str]


def facts(section: Section) -> list[Fact]:
    """Everything that stands below a table, in its order."""
    return [fact for source in SOURCES for fact in source(section)]


def data(section: Section) -> Iterator[Fact]:
    first = section.first
    yield "Data", f"{first.data.description}; sha256 {first.data.sha256[:12]}"


def target(section: Section) -> Iterator[Fact]:
    yield "Target", str(section.first.target)


HUGE_PAGES = {"always": "huge pages for all, ", "madvise": "huge pages on request, ", "never": "no huge pages, "}
"""Who gets pages of 2 MiB: a program's speed depends on it, and the kernel decides."""


def machine(section: Section) -> Iterator[Fact]:
    found = section.run.machine
    gpu = f", {found.gpu} (driver {found.gpu_driver})" if found.gpu else ", no GPU"
    pages = HUGE_PAGES.get(found.huge_pages or "", "")
    yield (
        "Machine",
        (
            f"{found.cpu}, {_cores(section)} in use, {found.memory_bytes / GIB:.0f} GiB{gpu}, {found.os}, {pages}"
            f"Python {_pythons(section.rows)}"
        ),
    )


def spec(section: Section) -> Iterator[Fact]:
    run = section.run
    harness = f", framework-bench {run.harness}, source {run.source[:12]}" if run.harness and run.source else ""
    yield "Spec", f"{section.first.spec_hash[:12]}, measurement version {run.measurement}, order seed {run.id}{harness}"


def rounds(section: Section) -> Iterator[Fact]:
    plans = [one.cell.rounds_plan for row in section.rows for one in row.of("speed") if one.cell.rounds_plan]
    if plans:
        yield "Rounds", words.rounds_plan(plans[0])
    if any(row.look for row in section.rows):
        yield "Looks", words.looks({row.rounds for row in section.rows})


def selftests(section: Section) -> Iterator[Fact]:
    """The latest self-test of each arm, and the command for those that have none."""
    without: list[Row] = []
    for row in section.rows:
        if row.selftest is not None:
            told = words.selftest_in_short(row.selftest, adjusted=section.run.measurement > 1)
            yield "Self-test", f"{row.name}: {told}"
        elif row.of("speed"):
            without.append(row)
    if without:
        names = ", ".join(row.name for row in without)
        yield "Self-test", f"none on this machine of {names}: {_selftest_command(section.first, without[0])}"


def _selftest_command(first: Cell, row: Row) -> str:
    arm = row.arm
    options = {
        "preset": None if first.preset == "quick" else first.preset,
        "precision": None if arm.precision == "float32" else arm.precision,
        "threads": arm.threads,
    }
    typed = arm.typed({"device": arm.device, "precision": arm.precision, "threads": arm.threads})
    which = f"--backend {typed}" if typed == arm.backend else f"--arm {shlex.quote(typed)}"
    more = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    changes = "".join(f" --set {shlex.quote(f'{name}={value}')}" for name, value in first.changes.items())
    return f"framework-bench selftest --task {first.task} {which}{more}{changes}"


def control(section: Section) -> Iterator[Fact]:
    """What an arm that was timed twice says about the table."""
    if section.control is None:
        return
    found, same = section.control_verdict, section.controlled
    if found is None or same is None:
        yield "Control", "it was not measured in a round that counts"
    else:
        told = f"{with_interval(found.ratio)}, {many_rounds(found.ratio.n)}: {found.decision}"
        yield "Control", f"{same.name} against itself, a second time in every round: {told}"


def floor(section: Section) -> Iterator[Fact]:
    found = [value for row in section.rows for value in row.quality(f"unigram_{section.metric}").values()]
    if found:
        yield "Floor", f"a unigram model has a {section.metric} of {significant(found[0])} on the same held-out set"


def processes(section: Section) -> Iterator[Fact]:
    """The figures of each process of arms of several."""
    told = [f"{row.name}: {found}" for row in section.rows if (found := scaling.ranks(row))]
    if told:
        yield "Of each process, rank by rank", " | ".join(told)


def tokens(section: Section) -> Iterator[Fact]:
    rates = [f"{row.name} {significant(row.tokens_per_second)}" for row in section.ranked if row.tokens_per_second]
    if rates:
        yield "Tokens per second, padding left out", ", ".join(rates)


def training(section: Section) -> Iterator[Fact]:
    """Whether a step slows down as the training goes on, which the short windows of speed would not see."""
    told = [
        f"{row.name} {' and '.join(map(significant, row.training_rates))}" for row in section.rows if row.training_rates
    ]
    if told:
        yield "Steps per second in the first and the last fifth of the whole training", ", ".join(told)


def matrix_rate(section: Section) -> Iterator[Fact]:
    flops = section.first.step_flops
    if section.matrix_rate is None or not flops:
        return
    rate, name = section.matrix_rate
    fastest = next(row for row in section.rows if row.name == name)
    size = next(one.outcome.probe.size for row in section.rows for one in row.counted if one.outcome.probe)
    yield (
        "Matrix rate",
        UPPER_BOUND.format(
            rate=significant(rate / 1e9),
            size=size,
            fastest=name,
            precision=fastest.arm.precision,
            flops=significant(flops / 1e9),
        ),
    )


def energy(section: Section) -> Iterator[Fact]:
    joules = [f"{row.name} {significant(row.joules_per_item)} J" for row in section.ranked if row.joules_per_item]
    if joules:
        sources = sorted({source for row in section.rows if row.joules_per_item for source in row.energy_sources})
        yield f"Energy per {section.first.unit.removesuffix('s')}", f"{', '.join(joules)} ({'; '.join(sources)})"


def driver_memory(section: Section) -> Iterator[Fact]:
    sizes = [(row.name, size) for row in section.rows if (size := row.bytes_of("device_peak_process").bytes)]
    if sizes:
        shown = ", ".join(f"{name} {mebibytes(size)}" for name, size in sizes)
        yield "Device memory in the driver's view, libraries included", shown


def disturbed(section: Section) -> Iterator[Fact]:
    if section.rows and section.rows[0].disturbed:
        speeds = [one for row in section.rows for one in row.of("speed")]
        yield "Disturbed, in no figure of speed", "; ".join(grouping.why_disturbed(speeds))


def unsteady(section: Section) -> Iterator[Fact]:
    """Windows whose speed changed: by itself, or as that of all the arms that took turns."""
    found: dict[bool, list[str]] = defaultdict(list)
    for row in section.rows:
        for number, drift in row.drifts.items():
            change = f"{100 * abs(drift):.1f} % {'more' if drift > 0 else 'less'} time"
            told = f"round {number}, {row.name}: the second half of the window took {change}"
            found[number in row.unsteady].append(told)
    if found[True]:
        yield "Not steady, in no verdict", "; ".join(found[True])
    if found[False]:
        yield "Not steady, as the other arms of the round were, so that ratios count", "; ".join(found[False])


def turns(section: Section) -> Iterator[Fact]:
    """Whether the arms of a round took turns."""
    alone = sorted({row.name for row in section.rows for one in row.of("speed") if not one.outcome.beside})
    if section.run.measurement > 1 and len(section.rows) > 1 and alone:
        yield "Turns", f"{', '.join(alone)} ran alone in a round or more, one after the other"


def remarks(section: Section) -> Iterator[Fact]:
    """Each remark of a process, with what process it was."""
    for row in section.rows:
        for one in row.records:
            for remark in one.outcome.remarks:
                yield "Remark", f"{row.name}, {one.cell.kind}, round {one.cell.round}: {remark}"


def not_measured(section: Section) -> Iterator[Fact]:
    """Each missing figure with its reason, once for all the rows that share it."""
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in section.rows:
        for name, title in (("host_peak", "host memory peak"), ("device_peak_allocated", "device memory peak")):
            found = row.bytes_of(name)
            if found.bytes is None:
                missing[title, found.reason or "no reason given"].append(row.name)
        if row.joules_per_item is None:
            for reason in row.energy_sources:
                missing["energy", reason].append(row.name)
    for (title, reason), names in missing.items():
        yield "Not measured", f"{title} of {', '.join(names)}: {reason}"


def arms(section: Section) -> Iterator[Fact]:
    """Versions and settings of each row, and the variables that its arm asked for."""
    for row in section.rows:
        if row.versions:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(row.versions.items()))
            settings = [f"{name}: {value}" for name, value in sorted(row.settings.items()) if value is not None]
            settings += [f"{name}={value}" for name, value in sorted(row.arm.environment.items())]
            way = row.arm.way_typed
            told = versions if way == row.name else f"{way}: {versions}"
            yield row.name, told + (f" ({', '.join(settings)})" if settings else "")


SOURCES: tuple[Callable[[Section], Iterator[Fact]], ...] = (
    data, target, machine, spec, rounds, selftests, control, floor, processes, tokens, training, matrix_rate, energy,
    driver_memory, disturbed, unsteady, turns, remarks, not_measured, arms,
)  # fmt: skip


def _pythons(rows: Sequence[Row]) -> str:
    """The interpreter's version, or each with the arms that ran in it."""
    users: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        users[row.python].append(row.name)
    return ", ".join(f"{python} ({', '.join(names)})" if len(users) > 1 else python for python, names in users.items())


def _cores(section: Section) -> str:
    """How many cores were in use: those of the machine, or as many as the arms say."""
    cores = section.run.machine.cores
    used = sorted({min(cores, (row.arm.threads or cores) * row.arm.processes // row.arm.nodes) for row in section.rows})
    of_all = "" if used == [cores] else f"{' or '.join(map(str, used))} of "
    return f"{of_all}{cores} cores"
