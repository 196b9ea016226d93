"""What records say to somebody who has to choose, what they leave open, and what nobody measured: `framework-bench advise`.

No sentence is without a record behind it: each names its run. Runs that a later one supersedes are left out. What is not in the
records is said to be missing, with the command that would measure it.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from operator import attrgetter
from typing import NamedTuple

import backends
import tasks
from bench.records.record import Record
from bench.report import apart, grouping, inference, publish, summary, sweep, totals
from bench.report.formats import duration, mebibytes, with_interval
from bench.report.grouping import Row, Section
from bench.report.words import verdict_in_words

FRAMEWORKS = ("torch", "tensorflow", "jax")
TRAINING = "training"


@dataclass(frozen=True)
class Wish:
    """What the reader wants to do; None where anything will do."""

    task: str | None = None
    device: str | None = None
    batch_size: int | None = None
    measure: str | None = None  # "training", or one of bench/report/apart.py's kinds

    def fits(self, section: Section, measure: str = TRAINING) -> bool:
        """Whether a table is about it."""
        return (
            self.measure in (None, measure)
            and self.task in (None, section.first.task)
            and (self.device is None or any(row.arm.device == self.device for row in section.rows))
        )

    @property
    def measures(self) -> list[str]:
        """What may be asked about."""
        return [self.measure] if self.measure else [TRAINING, *apart.MODULES]


def advice(runs: Mapping[str, Sequence[Record]], wish: Wish) -> list[tuple[str, list[str]]]:
    """(title, sentences) of each table that is about the wish, the newest first, and at the end what was never measured.

    `runs` are records by the name of their run, the newest first, as publish.runs has them.
    """
    newest = publish.Newest(runs)
    found: list[Found] = []
    told: list[tuple[str, list[str]]] = []
    for name, records in runs.items():
        points = len({one.run.id for one in records}) > 1  # of a sweep, which has sentences of its own
        for section in grouping.sections(records):
            if wish.fits(section) and newest.of(section) == name:
                found.append(Found(TRAINING, section, _batch_sizes(section)))
                if not points:
                    told.append((_title(name, summary.title(section), section), list(_sentences(section))))
        for one in apart.groups(records):
            section = one.group.section
            if wish.fits(section, one.kind) and newest.of(one) == name:
                sizes = one.group.sizes if one.kind == "inference" else _batch_sizes(section)
                found.append(Found(one.kind, section, sizes))
                about = _inference(one.group, wish) if one.kind == "inference" else [*one.sentences, *one.failures]
                told.append((_title(name, one.title, section), list(about)))
        for swept in sweep.sweeps(records):
            sections = {id(spot.section): spot.section for spots in swept.points.values() for spot in spots.values()}
            if any(map(wish.fits, sections.values())):
                told.append((f"{swept.title} ({name})", sweep.sentences(swept)))
    return [*told, ("Never measured", list(_missing(found, wish)))]


class Found(NamedTuple):
    """A table that is about the wish."""

    measure: str
    section: Section
    batch_sizes: Sequence[int]


def _batch_sizes(section: Section) -> list[int]:
    size = section.first.spec.get("batch_size")
    return [size] if isinstance(size, int) else []


def _title(name: str, title: str, section: Section) -> str:
    machine = section.run.machine
    versions = dict.fromkeys(
        f"{part} {version}"
        for row in section.rows
        for part, version in sorted(row.versions.items())
        if part in FRAMEWORKS
    )
    on = ", ".join(filter(None, [section.day, machine.cpu, f"{machine.cores} cores", machine.gpu, *versions]))
    return f"{title} ({name}: {on})"


def _sentences(section: Section) -> Iterator[str]:
    yield from summary.failed_control(section)
    yield summary.conclusion(section).partition(": ")[2]
    yield from _gains(section)
    yield from (text for text in totals.sentences(section) if "no break-even" not in text)
    yield from _memory(section)
    yield from _open(section)
    yield from (f"{row.name} is in no ranking: {row.excluded}" for row in section.rows if row.excluded)


def _gains(section: Section) -> Iterator[str]:
    """What each backend's tuned row is worth."""
    default, tuned = (grouping.track([row.arm for row in section.ranked], mode) for mode in ("default", "tuned"))
    for backend, name in tuned.items():
        found = section.verdicts.get((name, default.get(backend, "")))
        if found is not None:
            yield f"Tuning {backend}: {with_interval(found.ratio)} times as fast as its default, {found.decision}"


def _memory(section: Section) -> Iterator[str]:
    for part, what in (("device_peak_allocated", "device"), ("host_peak", "host")):
        peaks = sorted((size, row.name) for row in section.ranked if (size := row.bytes_of(part).bytes) is not None)
        if len(peaks) > 1:
            others = ", ".join(f"{name} {mebibytes(size)}" for size, name in peaks[1:])
            yield f"Least {what} memory at its peak: {peaks[0][1]} {mebibytes(peaks[0][0])}; {others}"


def _inference(group: inference.Group, wish: Wish) -> Iterator[str]:
    """Who answers fastest with each size of batch that was wished for, what a start and the memory take, and what is open."""
    yield from inference.failed_control(group)
    sizes = [wish.batch_size] if wish.batch_size in group.sizes else group.sizes
    undecided: list[tuple[str, int | None]] = []
    for size in sizes:
        yield _answers(group, size)
        names = [row.arm.name for row in group.ordered(size)]
        for one, other in combinations(names, 2):
            verdict = group.verdicts.get((size, one, other))
            if verdict is None:
                continue
            if verdict.decision == "not decided":
                undecided.append((f"{one} and {other} with batch {size}", verdict.rounds_needed))
            else:
                yield f"Batch {size}: {verdict_in_words('answers', one, other, verdict)}"
    starts = sorted((row.start_s, row.arm.name) for row in group.rows)
    yield f"First answer soonest, import and build included: {'; '.join(f'{name} {duration(s)}' for s, name in starts)}"
    for part, what in (("device_peak_allocated", "device"), ("host_peak", "host")):
        peaks = sorted((peak, row.arm.name) for row in group.rows if (peak := row.peak(part)) is not None)
        if len(peaks) > 1:
            yield f"{what.capitalize()} memory at its peak: {'; '.join(f'{name} {mebibytes(peak)}' for peak, name in peaks)}"
    if undecided:
        needed = [rounds for _, rounds in undecided if rounds]
        yield f"Not decided: {'; '.join(pair for pair, _ in undecided)}. {_again(group.section, needed)}"
    yield from group.failures


def _answers(group: inference.Group, size: int) -> str:
    """The figures of the fastest arm with a size of batch."""
    fastest = group.ordered(size)[0]
    if size == 1:
        p50, p99 = (with_interval(fastest.mean(1, attrgetter(name)), 1e3) for name in ("p50_s", "p99_s"))
        return (
            f"Batch 1: {fastest.arm.name} has the least median latency, {p50} ms, and {p99} ms at the 99th percentile"
        )
    rate = with_interval(fastest.mean(size, lambda one: one.throughput))
    return f"Batch {size}: {fastest.arm.name} answers most, {rate} {group.first.cell.unit}/s"


def _again(section: Section, needed: Sequence[int]) -> str:
    """The command that makes such a run once more, with as many rounds as would decide."""
    words = shlex.split(publish.command(section))
    if needed and "--rounds" in words:
        words[words.index("--rounds") + 1] = str(max(needed))
    return f"{'To decide it' if needed else 'Again'}: {shlex.join(words)}"


def _open(section: Section) -> Iterator[str]:
    """The pairs that are not decided, with what would decide them."""
    found = {pair: section.verdicts.get(pair) for pair in combinations([row.name for row in section.ranked], 2)}
    needed = [one.rounds_needed for one in found.values() if one is not None and one.rounds_needed]
    undecided = [
        f"{one} and {other}"
        for (one, other), told in found.items()
        if told is not None and told.decision == "not decided"
    ]
    if undecided:
        yield f"Not decided: {'; '.join(undecided)}. {_again(section, needed)}"


def _missing(found: Sequence[Found], wish: Wish) -> Iterator[str]:
    for measure, name in product(wish.measures, [wish.task] if wish.task else tasks.TASKS):
        device = wish.device or "cpu"
        tables = [one for one in found if (one.measure, one.section.first.task) == (measure, name)]
        rows: list[Row] = [row for one in tables for row in one.section.rows if wish.device in (None, row.arm.device)]
        more = "" if measure == TRAINING else f" --measure {measure}"
        command = f"framework-bench run --task {name} --device {device}{more}"
        what = name if measure == TRAINING else f"{measure.capitalize()} of {name}"
        if not rows:
            yield f"{what} on the {device}: {command}"
            continue
        absent = [backend for backend in backends.BACKENDS if backend not in {row.arm.backend for row in rows}]
        if absent:
            yield f"{what} in {', '.join(absent)}: {' '.join([command, *(f'--backend {backend}' for backend in absent)])}"
        sizes = sorted({size for one in tables for size in one.batch_sizes})
        if wish.batch_size is not None and wish.batch_size not in sizes:
            sweeps = f"framework-bench sweep --task {name} --device {device} --vary batch_size={wish.batch_size}"
            how = sweeps if measure == TRAINING else f"{command} --set batch_size={wish.batch_size}"
            yield f"{what} at a batch size of {wish.batch_size} (there is {', '.join(map(str, sizes)) or 'none'}): {how}"
        if measure != "loading" and not any(row.arm.precision == "bfloat16" for row in rows):
            arms = " ".join(
                f"--arm {backend}:precision=bfloat16" for backend in sorted({row.arm.backend for row in rows})
            )
            yield f"{what} in bfloat16: {command} {arms}"


def render(told: Sequence[tuple[str, list[str]]]) -> str:
    """The advice as plain text."""
    parts = []
    for title, sentences in told:
        lines = [f"- {text}{'' if text.endswith(('.', ')')) else '.'}" for text in sentences] or ["- Nothing."]
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts) + "\n"
