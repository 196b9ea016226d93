"""What a reviewer of somebody else's results would ask of a folder: `framework-bench check FOLDER...`.

The rules of what counts (bench/records/rules.py) are the same that a report applies. Added to them is what a report cannot see
in its records alone: that they are those that the run left, in the order that was drawn, at the times that the journal has;
that no speed is beyond what the machine's own matrix products reach; that the tables are made of them; that nothing names a
person or a place. A finding is an objection. A gap is what could not be looked at, because an older run did not leave it.
"""

import functools
import itertools
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import backends
import tasks
from bench.campaign import plan, resume
from bench.campaign.journal import Journal, Line
from bench.records import digest, disturbed, files, rules, sweep_folder
from bench.records.record import Record, control_of
from bench.records.source import harness_hash
from bench.records.text import printable
from bench.report import grouping, markdown, sweep, table_csv, words
from bench.report.grouping import Row, Section
from bench.stats import looks
from tasks.spec import SpecError, describe_task

PERSONAL = re.compile(
    r"(?<![\w.])(?:/home/|/Users/|/root/|[A-Za-z]:\\+Users\\+)[\w.-]+"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}\.[a-z]{2,}(?![\w-])"
)
"""Folders of a person, and addresses of mail."""

LEAST_BLOCK_S = 1e-4  # a block that a clock of microseconds can time
SLACK_S = 2.0  # between a time that is kept in seconds and another clock's
MAX_POINTS = 500  # of a sweep
MOST_FINDINGS = 200  # of a kind: who has read so many needs no more


class Finding(NamedTuple):
    """Something to object to, or a gap."""

    folder: str
    about: str  # in a word: records, digest, plan, task, order, times, parity, self-test, limits, tables, privacy
    text: str
    gap: bool = False


Said = tuple[str, str, bool]  # what a finding is about, its text, and whether it is a gap


def check(folder: Path, data_dir: Path | None = None) -> list[Finding]:
    """All findings about the folder of a run or a sweep; `data_dir` has the data sets, where they are to be read."""
    if sweep_folder.is_one(folder):
        found = [Finding(str(folder), about, printable(text), gap) for about, text, gap in _sweep(folder)]
        return found + [one for point in sweep_folder.points(folder) for one in check(point, data_dir)]
    return _check_run(folder, data_dir)


def _check_run(folder: Path, data_dir: Path | None) -> list[Finding]:
    records, problems = files.read_folder(folder)
    judged, broken = rules.judged(records)
    found = [*_said("records", problems), *_said("records", broken)]
    if not records:
        found.append(("records", "there are none", False))
    looks: Sequence[Iterator[Said]] = (
        _digest(folder, records), _plan(folder, records), _tasks(records, data_dir), _order(records),
        _times(folder, records), _copies(records), _sections(judged), _tables(folder, judged), _privacy(folder),
    )  # fmt: skip
    for look in looks:
        try:
            found += itertools.islice(look, MOST_FINDINGS)
        except OSError as error:
            found.append(("files", f"{error.filename or folder} cannot be read: {error.strerror}", False))
    return [Finding(str(folder), about, printable(text), gap) for about, text, gap in found]


def _sweep(folder: Path) -> Iterator[Said]:
    """What is wrong with a sweep as a whole: the rest is asked of each of its points."""
    points = {place: files.read_folder(place)[0] for place in sweep_folder.points(folder)}
    records = [one for found in points.values() for one in found]
    if not records:
        yield "records", "there are none", False
    yield from _asked_points(folder, points)
    names: dict[str, str] = {}
    for place, run in {(place, one.run.id) for place, found in points.items() for one in found}:
        if names.setdefault(run, place.name) != place.name:
            yield "records", f"the points {names[run]} and {place.name} belong to the same run", False
    yield from _copies(records)
    yield from _table(folder / "sweep.md", sweep.render(rules.judged(records)[0]), records)
    yield from _personal(folder, [folder / name for name in ("sweep.md", sweep_folder.NAME)])


def _asked_points(folder: Path, points: Mapping[Path, Sequence[Record]]) -> Iterator[Said]:
    """Whether the points are those that were asked for; those that a budget left out are told."""
    try:
        fields = {name: of for name, of in sweep_folder.values(folder).items() if name not in sweep.OF_ARMS}
    except files.RecordError as error:
        yield "plan", str(error), False
        return
    if math.prod(map(len, fields.values())) > MAX_POINTS:
        yield "plan", f"{sweep_folder.NAME} has more than {MAX_POINTS:,} points", False
        return
    asked = {tuple(zip(fields, one, strict=True)) for one in itertools.product(*fields.values())}
    measured = {
        tuple((name, one.cell.changes.get(name, "")) for name in fields)
        for found in points.values()
        for one in found[:1]
    }
    for point in sorted(measured - asked):
        yield "plan", f"{_named(point)} was not asked for by {sweep_folder.NAME}", False
    for point in sorted(asked - measured):
        yield "plan", f"{_named(point)} was not measured", True


def _named(point: Iterable[tuple[str, str]]) -> str:
    return "the point " + ", ".join(f"{name}={value}" for name, value in point)


def _said(about: str, texts: Sequence[str]) -> list[Said]:
    return [(about, text, False) for text in texts]


def _digest(folder: Path, records: Sequence[Record]) -> Iterator[Said]:
    if digest.stored(folder) is None:
        yield (
            "digest",
            f"there is no {digest.NAME}: the run did not finish, or is older than digests",
            _old(folder, records),
        )


def _old(folder: Path, records: Sequence[Record]) -> bool:
    """Whether the records are of a time when runs left neither plan nor journal beside them when they were published."""
    if any(one.run.source is not None for one in records):
        return False
    paths = (path for one in records for path in (folder / "records" / name for name in one.cell.file_names))
    return all(json.loads(path.read_bytes())["schema"] < 3 for path in paths if path.exists())


def _plan(folder: Path, records: Sequence[Record]) -> Iterator[Said]:
    """What the first start fixed, against the records."""
    try:
        fixed = resume.stored(folder) if os.path.lexists(folder / "plan.json") else None
    except resume.Mismatch as error:
        yield "plan", f"it {error}", False
        return
    if fixed is None:
        yield "plan", "there is no plan.json: what was requested is unknown", _old(folder, records)
        return
    for one in records:
        name, run = one.cell.file_name, one.run
        if run.id != fixed.run_id:
            yield "plan", f"{name} belongs to run {run.id}, but plan.json to {fixed.run_id}", False
        for fact, value in _facts(one, fixed).items():
            if fixed.facts.get(fact) != value:
                was = fixed.facts.get(fact, "not known")
                yield "plan", f"{name}: {fact} is {value}, but was {was} at the start", False
    yield from _complete(fixed, records)


def _facts(record: Record, fixed: resume.Fixed) -> dict[str, str]:
    """What plan.json must say, by the names that it has there, if it is the plan of this record."""
    run, cell, arm = record.run, record.cell, record.cell.arm
    facts = {
        "--preset": cell.preset,
        "--set": resume.set_text(cell.changes),
        "the spec of " + cell.task: cell.spec_hash,
        "the target of " + cell.task: resume.target_text(cell),
        "the version of the measurement": str(run.measurement),
        "the source code of framework-bench": str(run.source)[:12],
        "Python": run.machine.python,
        "the processor": f"{run.machine.cpu}, {run.machine.cores} cores",
        "the GPU": f"{run.machine.gpu}, {run.machine.gpu_driver}",
    }
    if run.machine.huge_pages is not None:
        facts[resume.PAGES] = run.machine.huge_pages
    if cell.look or (resume.BUDGET in fixed.facts and cell.kind == "speed" and record.outcome.status == "ok"):
        facts[resume.BUDGET] = resume.SPENT if cell.look else "not what it says"
    if record.outcome.status != "skipped":  # one that could not take part is in no plan
        facts |= {f"{fact} of {arm.name}": value for fact, value in resume.way_texts(arm).items()}
    known = {f"{fact} of {arm.name}": value for fact, value in record.outcome.versions.items()}
    return facts | {fact: value for fact, value in known.items() if fact in fixed.facts}


def _complete(fixed: resume.Fixed, records: Sequence[Record]) -> Iterator[Said]:
    """Whether every process that was planned left a record that is ok."""
    there: dict[tuple[str, str, str, int, int], Record] = {
        (one.cell.task, one.cell.arm.name, one.cell.kind, one.cell.round, one.cell.seed): one for one in records
    }
    arms = {one.cell.arm.name: one.cell.arm for one in records}
    planned = sorted(fact.removeprefix("backend of ") for fact in fixed.facts if fact.startswith("backend of "))
    control = control_of(arms[name] for name in planned if name in arms)
    measured = fixed.facts.get(resume.MEASURED, "training")
    # At a point of a sweep, too little memory is a finding of the sweep's.
    without_room = {(one.cell.task, one.cell.arm.name) for one in records
                    if measured == resume.SPEED and one.outcome.status == "oom"}  # fmt: skip
    for task in dict.fromkeys(fixed.facts.get("--task", "").split(", ")):
        rounds, seeds = (fixed.facts.get(f"--{name} of {task}", "") for name in ("rounds", "seeds"))
        if not (_count(rounds) or rounds == "auto") or not _count(seeds):
            yield "plan", f"plan.json has {rounds[:20]!r} rounds and {seeds[:20]!r} seeds of {task}", False
        kinds = _kinds(measured)
        wanted = [("parity", 1, 0)]
        for kind in ("speed", "inference", "loading", "explain"):
            timed = [one for one in records if (one.cell.task, one.cell.kind) == (task, kind)]
            least = _count(rounds) or max(
                (one.cell.rounds_plan.rounds for one in timed if one.cell.rounds_plan), default=1
            )
            look = max((one.cell.look for one in timed if one.cell.look), default=None)
            least = looks.rounds(least, look)
            yield from _as_many_rounds(task, least, timed)
            last = max([least, *(one.cell.round for one in timed)])
            wanted += [(kind, number, 0) for number in range(1, last + 1) if kind in kinds]
        wanted += [("memory", 1, 0)] if "memory" in kinds else []
        wanted += [("quality", 1, seed) for seed in range(_count(seeds)) if "quality" in kinds]
        for arm, (kind, number, seed) in itertools.product(planned, wanted):
            if control is not None and arm == control.name and kind in ("memory", "quality"):
                continue  # it is only timed
            one = there.get((task, arm, kind, number, seed))
            if one is not None and (task, arm) in without_room and one.outcome.status in ("oom", "skipped"):
                continue
            if one is None or one.outcome.status != "ok":
                status = one.outcome.status if one else "no record"
                yield "plan", f"{task} {arm}, {kind}, round {number}, seed {seed}: {status}", False


def _kinds(measured: str) -> Sequence[str]:
    """The kinds of processes of a folder, by what its plan says that was measured."""
    known = {resume.STEP: ("explain",), resume.SPEED: ("speed", "memory")}
    return known.get(measured) or [kind for name in measured.split(" and ") for kind in plan.MEASURES.get(name, ())]


def _as_many_rounds(task: str, least: int, speeds: Sequence[Record]) -> Iterator[Said]:
    """Whether there are no more rounds than were planned and had to be replaced."""
    lost = len(disturbed.disturbed_rounds(speeds))
    last = max((one.cell.round for one in speeds), default=least)
    if disturbed.planned_rounds(last, lost) > least:
        yield "plan", f"{task}: {last} rounds, but {least} were planned and {lost} disturbed", False


def _count(told: str) -> int:
    """A number of rounds or seeds; 0 for what is none."""
    return int(told) if re.fullmatch(r"[1-9]\d{0,3}", told, re.ASCII) else 0


def _tasks(records: Sequence[Record], data_dir: Path | None) -> Iterator[Said]:
    """Whether tasks of this project have the sizes, the target and the data that their presets have here."""
    firsts = {(one.cell.task, one.cell.preset, one.cell.spec_hash, repr(one.cell.target)): one for one in records}
    for one in firsts.values():
        cell = one.cell
        name = f"{cell.task}, preset {cell.preset}"
        if cell.task not in tasks.TASKS or cell.preset not in tasks.PRESETS:
            yield "task", f"{name}: it is not one of framework-bench's own tasks", True
            continue
        needs = tasks.DATA_SETS.get((cell.task, cell.preset))
        if needs is not None and data_dir is None:
            yield "task", f"{name}: its data set was not compared, which needs {needs} (--data-dir)", True
            continue
        try:
            declared = _declared(cell.task, cell.preset, tuple(sorted(cell.changes.items())), data_dir)
        except SpecError as error:
            yield "task", f"{name}: {error}", False
            continue
        told = {**cell.spec, "unit": cell.unit, "target": msgspec.to_builtins(cell.target)}
        is_same = one.run.source == harness_hash()
        newer = "" if is_same else " in this version of framework-bench, which is not the run's"
        for field in sorted(declared.keys() | told.keys()):
            if told.get(field) != declared.get(field):
                yield "task", f"{name}: its {field} is not that of the preset{newer}", not is_same


@functools.lru_cache(maxsize=64)  # a thousand runs of a task read its data set once
def _declared(task: str, name: str, changes: tuple[tuple[str, str], ...], data_dir: Path | None) -> dict[str, Any]:
    """What a record tells of a preset's task, as it reads from JSON."""
    preset = tasks.load(task, name, data_dir=data_dir, changes=dict(changes))
    wanted = preset.target
    target = {
        "metric": wanted.metric, "at_least": wanted.at_least, "at_most": wanted.at_most, "margin": wanted.margin
    }  # fmt: skip
    declared = {**describe_task(preset.task), "unit": preset.task.unit, "target": target}
    told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(declared))
    return told


def _copies(records: Sequence[Record]) -> Iterator[Said]:
    """No two processes take the same time to the nanosecond."""
    seen: dict[str, str] = {}
    for one in records:
        timings, quality = one.outcome.timings, one.outcome.quality
        took = repr((timings.blocks_s, timings.first_step_s)) if timings else repr(quality.curve) if quality else ""
        if took and (other := seen.setdefault(took, one.cell.file_name)) != one.cell.file_name:
            yield "records", f"{one.cell.file_name} has the same times as {other}", False


def _order(records: Sequence[Record]) -> Iterator[Said]:
    """Whether each round's arms have places of their own, and those that were drawn from the run's id."""
    placed: dict[tuple[str, str, int], dict[int, str]] = defaultdict(dict)
    planned = {one.cell.arm.hash for one in records if one.cell.kind == "parity"}  # an absent arm has no place
    speeds = [one for one in records if one.cell.kind == "speed" and one.cell.arm.hash in planned]
    for one in speeds:
        taken = placed[one.run.id, one.cell.task, one.cell.round]
        if one.cell.position in taken:
            yield "order", f"{one.cell.task}, round {one.cell.round}: two arms have place {one.cell.position}", False
        taken[one.cell.position] = one.cell.arm.name
    for run, task in {(one.run.id, one.cell.task): (one.run, one.cell.task) for one in speeds}.values():
        orders = {number: taken for (id_, name, number), taken in placed.items() if (id_, name) == (run.id, task)}
        if missing := sorted(set(range(1, max(orders) + 1)) - set(orders)):
            yield "order", f"{task}: round {missing[0]} is missing", False
        arms = max(len(taken) for taken in orders.values())
        if any(sorted(taken) != list(range(1, arms + 1)) for taken in orders.values()):
            yield "order", f"{task}: a round does not have an arm at each of the {arms} places", False
            continue
        if run.measurement == 1:
            continue  # drawn in another way
        drawn = plan.orders(range(arms), plan.seed_of_order(run, task))
        listed: dict[int, str] = {}  # place in the list of arms -> its name, as the rounds say
        for number, order in enumerate(itertools.islice(drawn, max(orders)), start=1):
            for position, name in orders.get(number, {}).items():
                if listed.setdefault(order[position - 1], name) != name:
                    yield "order", f"{task}, round {number}: the arms are not in the order that was drawn", False
                    break


def _times(folder: Path, records: Sequence[Record]) -> Iterator[Said]:
    """Whether the records and their times agree with the journal's, and none ran while another was measured alone."""
    journal = Journal(folder)
    ran = [one for one in records if one.outcome.status not in ("skipped", "interrupted") and not _recalled(one)]
    if not journal.lines():
        yield (
            "times",
            "there is no journal.jsonl: the times of the processes cannot be confirmed",
            _old(folder, records),
        )
    else:
        yield from _left(folder, records, journal.ended())
        yield from _confirmed(ran, journal)
        yield from _in_turn(journal.lines(), digested=not _old(folder, records))
    yield from _apart(one for one in ran if not one.outcome.beside)
    yield from _round_by_round([one for one in ran if one.cell.kind == "speed"])


def _left(folder: Path, records: Sequence[Record], ended: Mapping[str, Line]) -> Iterator[Said]:
    """Whether there is every record that a process left, as it left it."""
    there = {one.cell.file_name: one for one in records}
    for name, line in ended.items():
        if name not in there:
            yield "records", f"{name}: the journal says that its process ended, but there is no record of it", False
        elif line.sha256 and line.sha256 != digest.of((folder / "records" / name).read_bytes()):
            yield "records", f"{name}: it differs from what its process left, according to the journal", False
        elif line.key != there[name].cell.key:
            yield "records", f"{name}: its key differs from the one in the journal", False


def _in_turn(lines: Sequence[Line], *, digested: bool) -> Iterator[Said]:
    """Whether each start has at most one end, no end is without a start, and no line is older than the one before it."""
    running: set[str] = set()
    latest = 0.0
    for line in lines:
        at = _seconds(line.at)
        if at is None or at + SLACK_S < latest:
            yield "times", f"the journal has a line from {line.at} after a later one", False
        latest = max(latest, at or 0.0)
        if line.event == "start":
            running.add(line.cell)
        elif line.event in ("end", "crash") and line.cell in running:
            running.remove(line.cell)
        elif line.event in ("end", "crash") and line.status not in ("skipped", "interrupted"):  # which never began
            yield "times", f"{line.cell}: the journal has its end, but no start", False
        if line.event == "end" and digested and line.status == "ok" and not line.sha256:
            yield "times", f"{line.cell}: the journal has no hash of its record", False


def _confirmed(ran: Sequence[Record], journal: Journal) -> Iterator[Said]:
    """Whether each process began and ended when its record says so."""
    started = {line.cell: line for line in journal.lines() if line.event == "start"}
    ended = journal.ended()
    for one in ran:
        name, at, wall_s = one.cell.file_name, _seconds(one.outcome.started_utc), one.outcome.wall_s
        if name not in started or name not in ended:
            yield "times", f"{name}: the journal lacks its start or its end", False
        elif at is None or not _lies_between(at, wall_s, started[name], ended[name]):
            told = f"{wall_s:.0f} s from {one.outcome.started_utc} on"
            yield "times", f"{name}: {told}, but the journal says otherwise", False
        elif ended[name].status != one.outcome.status:
            yield "times", f"{name}: {one.outcome.status}, but the journal says {ended[name].status}", False


def _round_by_round(speeds: Sequence[Record]) -> Iterator[Said]:
    """Whether the processes of each round ran together: in the order of their places, and none of another round meanwhile."""
    spans: dict[tuple[str, str, int], list[tuple[int, float, float]]] = defaultdict(list)
    for one in speeds:
        if (at := _seconds(one.outcome.started_utc)) is not None:
            place = (one.run.id, one.cell.task, one.cell.round)
            spans[place].append((one.cell.position, at, at + one.outcome.wall_s))
    for (_, task, number), span in spans.items():
        starts = [start for _, start, _ in sorted(span)]
        if any(second + SLACK_S < first for first, second in itertools.pairwise(starts)):
            yield "times", f"{task}, round {number}: its processes did not start in the order of their places", False
    whole = [
        (min(start for _, start, _ in span), max(end for *_, end in span), *place) for place, span in spans.items()
    ]
    for first, second in itertools.pairwise(sorted(whole)):
        if first[2] == second[2] and second[0] + SLACK_S < first[1]:
            told = f"{second[3]}, round {second[4]} began before round {first[4]} of {first[3]} ended"
            yield "times", told, False


def _apart(alone: Iterable[Record]) -> Iterator[Said]:
    """Whether none of the processes that were alone began before another had ended; those of a kind that is not timed may."""
    last: dict[tuple[str, str], tuple[float, Record]] = {}  # run, kind -> the latest end so far, and whose it is
    for one in sorted(alone, key=lambda one: one.outcome.started_utc):
        at = _seconds(one.outcome.started_utc)
        if at is None:
            continue
        kind = one.cell.kind
        for (run, others_kind), (end, other) in last.items():
            may_overlap = kind == others_kind and kind in plan.SIDE_BY_SIDE
            if run == one.run.id and at + SLACK_S < end and not may_overlap:
                yield "times", f"{one.cell.file_name} began while {other.cell.file_name} was running", False
        place, end = (one.run.id, kind), at + one.outcome.wall_s
        last[place] = max(last.get(place, (end, one)), (end, one), key=lambda pair: pair[0])


def _recalled(record: Record) -> bool:
    """Whether it is of a climb that was remembered, for which no process ran."""
    return record.cell.kind == "parity" and record.outcome.settings.get("from cache") is True


def _lies_between(at: float, wall_s: float, start: Line, end: Line) -> bool:
    first, last = _seconds(start.at), _seconds(end.at)
    return first is not None and last is not None and first - SLACK_S <= at and at + wall_s <= last + SLACK_S


def _seconds(told: str) -> float | None:
    try:
        at = datetime.fromisoformat(told)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _sections(judged: Sequence[Record]) -> Iterator[Said]:
    """What a report says of each comparison and of each arm that was measured, and a reviewer objects to."""
    for section in grouping.sections(judged):
        yield from _control(section)
        for row in section.rows:
            if row.of("speed"):
                found = (*_proven(section, row), *_tested(row), *_limits(section, row))
                yield from ((about, f"{section.first.task} {row.name}{text}", gap) for about, text, gap in found)


def _control(section: Section) -> Iterator[Said]:
    verdict = section.control_verdict
    if section.control is None:
        yield "control", f"{section.first.task}: no arm was timed twice (run --control)", True
    elif verdict is None or verdict.decision in ("faster", "slower"):
        told = verdict.decision if verdict else "not measured"
        yield "control", f"{section.first.task}: the same program against itself: {told}", False


def _proven(section: Section, row: Row) -> Iterator[Said]:
    """Whether an arm is proven to be what it says; the reason why another one is not ranked is told."""
    if why := rules.parity_fault(row.arm, row.ladders):
        yield "parity", f": {why}", False
    elif row.apart:
        yield "losses", f" did not do the work that it was proven to do: {row.apart}", False
    elif row.excluded:
        yield "ranking", f" is not ranked: {row.excluded}", True
    known = backends.BACKENDS.get(row.arm.backend)
    if known and not set(known.distributions) & set(row.versions):
        yield "records", f": its versions name none of {', '.join(known.distributions)}", False
    if section.run.measurement > 1 and row.timed and not row.losses:
        yield "records", ": its windows hold no losses, which prove the work", False


def _tested(row: Row) -> Iterator[Said]:
    tests = {files.encode(test): test for one in row.of("speed") if (test := one.cell.selftest) is not None}
    if not tests:
        yield "self-test", ": none on this machine when the run began", True
    for test in tests.values():
        yield from (("self-test", f": {fault}", False) for fault in words.selftest_faults(test))


def _limits(section: Section, row: Row) -> Iterator[Said]:
    """What no machine and no clock can do."""
    if row.beyond:
        yield "limits", f": {row.beyond}", False
    if row.arm.device == "gpu" and section.run.machine.gpu is None:
        yield "limits", ": it ran on the GPU of a machine without one", False
    shortest = min((seconds for timings in row.timed.values() for seconds in timings.blocks_s), default=LEAST_BLOCK_S)
    if shortest < LEAST_BLOCK_S:
        yield "limits", f": a block of {shortest:.3g} s is too short to be timed", False


def _tables(folder: Path, records: Sequence[Record]) -> Iterator[Said]:
    """Whether the tables come out the same, byte for byte."""
    for name, form in zip(resume.TABLES, (markdown, table_csv), strict=True):
        yield from _table(folder / name, form.render(records), records)


def _table(path: Path, made: str, records: Sequence[Record]) -> Iterator[Said]:
    if not path.is_file():
        yield "tables", f"there is no {path.name}", True
    elif _start_of(path) != made.encode():
        here = all(one.run.source == harness_hash() for one in records)
        newer = "" if here else ", in this version of framework-bench, which is not the run's"
        yield "tables", f"{path.name} is not what the records give{newer}", False


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(files.MAX_BYTES)


def _privacy(folder: Path) -> Iterator[Said]:
    """Whether a file that would be published names a person or a folder of one."""
    told = (folder / name for name in (*resume.TABLES, "plan.json", "journal.jsonl"))
    yield from _personal(folder, [*sorted((folder / "records").glob("*.json")), *told])


def _personal(folder: Path, paths: Iterable[Path]) -> Iterator[Said]:
    for path in paths:
        text = _start_of(path).decode(errors="replace") if path.is_file() else ""
        if match := PERSONAL.search(text):
            yield "privacy", f"{path.relative_to(folder)} has {match[0]!r}", False
