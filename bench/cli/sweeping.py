"""`framework-bench sweep`: the same comparison at several points, each a run in a folder of its own."""

import dataclasses
import hashlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

import backends
from bench.campaign import plan
from bench.campaign.campaign import ESTIMATES_S, Campaign
from bench.campaign.plan import Choice
from bench.cli import arms, folders, progress, request, running
from bench.cli.options import UserError
from bench.process import interpreters, releases
from bench.records import digest, files, sweep_folder
from bench.records.limits import MOST_ROUNDS
from bench.records.record import Kind, Record
from bench.records.text import printable
from bench.report import sweep, sweep_plot
from bench.stats import looks
from bench.stats.verdict import MOST_ROUNDS as MOST_WANTED
from bench.stats.verdict import Verdict

MOST_POINTS = 500
KINDS: tuple[Kind, ...] = ("parity", "pilot", "speed", "memory")

Values = Mapping[str, Sequence[str]]


def parse(texts: Sequence[str]) -> dict[str, list[str]]:
    """Field -> its values, from the texts after `--vary`; UserError for what has another form."""
    found: dict[str, list[str]] = {}
    for text in texts:
        said = printable(f"--vary {text}")
        name, equals, rest = text.partition("=")
        values = [value.replace("\\,", ",") for value in re.split(r"(?<!\\),", rest)]
        if not equals or not name or not all(values):
            raise UserError(f"{said}: expected FIELD=VALUE,VALUE,..., as in --vary batch_size=16,32,64")
        if name in found:
            raise UserError(f"{said}: {name} already varies over {', '.join(found[name])}")
        if len(set(values)) < len(values):
            raise UserError(f"{said}: a value is given twice")
        found[name] = values
    if not found:
        raise UserError("nothing to vary: name a field and its values, as in --vary batch_size=16,32,64")
    if (count := len(list(points(found)))) > MOST_POINTS:
        raise UserError(f"{count:,} points are too many; a sweep may have {MOST_POINTS}")
    return found


def points(vary: Values) -> list[dict[str, str]]:
    """Every combination of the values of a task's fields; those of an arm's fields are arms of one point."""
    of_task = {name: values for name, values in vary.items() if name not in sweep.OF_ARMS}
    return [dict(zip(of_task, values, strict=True)) for values in itertools.product(*of_task.values())]


def choices(vary: Values, **options: Any) -> list[Choice]:
    """The comparison of each point, checked as far as it can be before one of them runs."""
    fixed: tuple[str, ...] = options.pop("changes")
    if twice := sorted({text.partition("=")[0] for text in fixed} & set(vary)):
        raise UserError(f"--set and --vary both name {twice[0]}")
    named = _arms(vary, options)
    made = []
    for point in points(vary):
        changes = (*fixed, *(f"{name}={value}" for name, value in point.items()))
        choice = request.parse(**{**options, **named, "changes": changes})
        made.append(dataclasses.replace(choice, kinds=KINDS))
    seen: dict[tuple[str, ...], Choice] = {}  # what is measured at a point -> the point
    for choice in made:
        try:
            plans = request.planned(lambda choice=choice: plan.make(choice))  # type: ignore[misc]
        except UserError as error:
            raise UserError(error.message.replace("--set ", "--vary ")) from error
        same = seen.setdefault(tuple(one.cells[0].spec_hash for one in plans), choice)
        if same is not choice:
            raise UserError(printable(f"--vary: {_name(same)} and {_name(choice)} are the same point"))
    return made


def _arms(vary: Values, options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The options that name the arms: where a field of theirs varies, one for each of its values."""
    ways = {name: values for name, values in vary.items() if name in sweep.OF_ARMS}
    if not ways:
        return {}
    varied = ", ".join(ways)
    numbers = ways.pop(sweep.RELEASE, [])
    installed = tuple(name for name, entry in backends.BACKENDS.items() if not entry.missing())
    texts = (*options["arm_texts"], *options["backend_names"]) or installed
    if options["track"] != "default":
        raise UserError(f"--track {options['track']} and a --vary of the arms do not go together: vary mode instead")
    for text in texts:
        head = text.partition(":")[0]
        if "=" in head.replace("==", ""):
            raise UserError(
                printable(f"--arm {text}: an arm of which {varied} varies is named after it, and has no label")
            )
    made = []
    texts = tuple(one for text in texts for one in _releases(text, numbers)) if numbers else texts
    for text, values in itertools.product(texts, itertools.product(*ways.values())):
        items = ",".join(
            f"{name}={value.replace(',', chr(92) + ',')}" for name, value in zip(ways, values, strict=True)
        )
        made.append(f"{text}{',' if ':' in text else ':'}{items}" if items else text)
    return {"arm_texts": tuple(made), "backend_names": ()}


def _releases(text: str, numbers: Sequence[str]) -> list[str]:
    """An arm in each of the releases that can be had; a line for each of the others, and UserError if there is none."""
    backend, colon, items = text.partition(":")
    found = []
    for number in numbers:
        typed = f"{backend}=={number}{colon}{items}"
        arms.parse(typed)  # which knows what is a release
        try:
            releases.python_of(backend, number, said=f"--arm {typed}", tell=running.tell)
        except interpreters.InterpreterError as error:
            running.tell(f"{error}; skipped")
        else:
            found.append(typed)
    if not found:
        raise UserError(f"--vary release: none of {', '.join(numbers)} can be had for {backend}")
    return found


def run(vary: Values, made: Sequence[Choice], output: Path, *, budget_s: float | None) -> tuple[list[Record], bool]:
    """Measures the points; the records of all, and whether every point is there and ok.

    With a budget, those that fit into it; what is left of it is for more rounds where verdicts are open.
    """
    least_s = min(_least_s(choice) for choice in made)
    if budget_s is not None and budget_s < least_s:
        raise UserError(f"--budget: a point takes {progress.about(least_s)}")
    # What was begun so has spent a part of the error, and goes on so.
    if budget_s is not None or any(
        one.cell.look for point in sweep_folder.points(output) for one in files.read_folder(point)[0]
    ):
        made = [dataclasses.replace(choice, looks=_looks(output, choice)) for choice in made]
    for choice in made:
        if (output / _folder(choice)).is_dir():
            running.refuse_other(choice, output / _folder(choice))
    _own(output, vary)
    running.tell(
        f"{len(made)} point{'s' if len(made) != 1 else ''} of {len(made[0].arms)} arms, "
        f"{progress.about(sum(map(_least_s, made)), at_least=True)} in all"
    )
    start, longest_s, left = time.monotonic(), 0.0, 0
    measured: dict[str, Campaign] = {}  # the id of a point's run -> what it became
    for number, choice in enumerate(made, start=1):
        began = time.monotonic()
        if (
            budget_s is not None
            and number > 1
            and began - start + longest_s > budget_s
            and not _is_done(output, choice)
        ):
            left += 1
            continue
        running.tell(f"point {number} of {len(made)}: {_name(choice)}")
        done = _measure(output, choice)
        measured[done.run.id] = done
        longest_s = max(longest_s, time.monotonic() - began)
    if left:
        running.tell(
            f"the budget is used: {left} of {len(made)} points are not measured; repeat the command to continue"
        )
    elif budget_s is not None:
        _decide(measured, output, until=start + budget_s)
    # What does not fit into the memory is a finding about a point.
    whole = all(one.outcome.status in ("ok", "oom") for done in measured.values() for one in done.records)
    return records_of(output), whole and not left


class More(NamedTuple):
    """What another look at the open verdicts of a task at a point takes."""

    hope_s: float  # until the first of them would be decided, if its noise and difference stayed as they are
    cost_s: float
    run_id: str
    choice: Choice
    rounds: int


def _decide(measured: dict[str, Campaign], output: Path, *, until: float) -> None:
    """Adds rounds where verdicts are open, while one more look fits into the time; tells what is open then."""
    while True:
        told = sweep.undecided(sweep.sweeps(records_of(output)))
        found = {
            place: verdicts for place, verdicts in told.items() if place[0] in measured
        }  # of this command's points
        more = [_more(measured, *place, verdicts) for place, verdicts in found.items()]
        candidates = sorted(filter(None, more), key=lambda one: (one.hope_s, one.run_id))
        due = next((one for one in candidates if time.monotonic() + one.cost_s <= until), None)
        if due is None:
            break
        running.tell(f"not decided at {_name(due.choice)}: {due.rounds} rounds, {progress.about(due.cost_s)} more")
        measured[due.run_id] = _measure(output, due.choice)
    if found:
        why = "the budget is used" if candidates else f"a point has at most {MOST_ROUNDS} rounds"
        again = (
            f"; the next look takes {progress.about(candidates[0].cost_s)}, repeat the command" if candidates else ""
        )
        count = sum(map(len, found.values()))
        running.tell(f"{count} verdict{'s are' if count > 1 else ' is'} not decided: {why}{again}")


def _more(measured: Mapping[str, Campaign], run_id: str, task: str, verdicts: Sequence[Verdict]) -> More | None:
    """The next look at a point; None where it would have too many rounds."""
    done = measured[run_id]
    plan = next(plan for plan in done.plans if plan.name == task)
    timed = [one for one in done.records if (one.cell.task, one.cell.kind) == (task, "speed")]
    first = next((one.cell.rounds_plan.rounds for one in timed if one.cell.rounds_plan), plan.first_rounds)
    look = plan.choice.looks[task] + 1
    rounds = looks.rounds(first, look)
    if rounds > MOST_ROUNDS:
        return None
    round_s = median(_durations(timed))
    wanted = min(one.rounds_needed or MOST_WANTED for one in verdicts)
    choice = dataclasses.replace(plan.choice, looks={**plan.choice.looks, task: look})
    return More(wanted * round_s, (rounds - len(_durations(timed))) * round_s, run_id, choice, rounds)


def _durations(timed: Sequence[Record]) -> list[float]:
    """Seconds that each round took, its arms side by side or one after the other."""
    rounds: dict[int, list[Record]] = defaultdict(list)
    for one in timed:
        rounds[one.cell.round].append(one)
    return [sum(one.outcome.wall_s / (1 + one.outcome.beside) for one in found) for found in rounds.values()]


def _measure(output: Path, choice: Choice) -> Campaign:
    done, _ = running.run(choice, output / _folder(choice), retry_failed=False, output=output)
    return done


def _looks(output: Path, choice: Choice) -> dict[str, int]:
    """The look of each task that an earlier command came to at a point."""
    there, _ = files.read_folder(output / _folder(choice))
    return {
        task: max((one.cell.look for one in there if one.cell.task == task and one.cell.look), default=1)
        for task in choice.tasks
    }


def write(output: Path, records: Sequence[Record]) -> str:
    """Writes the sweep's table and plots; returns the table. OSError where the disk does not take them."""
    text = sweep.render(records)
    files.write_bytes(output / "sweep.md", text.encode())
    for name, content in sweep_plot.files(records):
        files.write_bytes(output / name, content)
    return text


def records_of(output: Path) -> list[Record]:
    """The records of all points that are there."""
    measured = tuple(sweep_folder.points(output))
    return folders.read(measured)[0] if measured else []


def _own(output: Path, vary: Values) -> None:
    """Makes the sweep's folder, or finds that it is one, to whose values these are added.

    UserError, and nothing is written, if it is somebody else's, or one over other fields or of other arms.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()) and not sweep_folder.is_one(output):
            raise UserError(f"--output {output} holds something other than a sweep; name a new folder")
        earlier: Values = sweep_folder.values(output) if sweep_folder.points(output) else {}
        if earlier and not _goes_on(earlier, vary):
            asked = " ".join(f"--vary {name}={','.join(values)}" for name, values in earlier.items())
            raise UserError(
                printable(f"--output {output} holds a sweep with {asked}; name a new folder for another one")
            )
        together = {name: list(dict.fromkeys([*earlier.get(name, ()), *values])) for name, values in vary.items()}
        files.write(output / sweep_folder.NAME, together)
    except OSError as error:
        raise UserError(f"--output {output}: cannot write there: {error.strerror}") from error
    except files.RecordError as error:
        raise UserError(f"--output {output}: {error}; name a new folder") from error


def _goes_on(earlier: Values, vary: Values) -> bool:
    """Whether these values go with an earlier sweep's: it has the same fields, and its points the same arms."""
    return earlier.keys() == vary.keys() and all(
        set(earlier[name]) == set(vary[name]) for name in sweep.OF_ARMS if name in vary
    )


def _least_s(choice: Choice) -> float:
    """A lower bound of the seconds that a point takes: what its processes take at least, its ladders remembered."""
    rounds = choice.rounds or 3
    return len(choice.tasks) * len(choice.arms) * (rounds * ESTIMATES_S["speed"] + ESTIMATES_S["memory"])


def _is_done(output: Path, choice: Choice) -> bool:
    """Whether a point was measured to its end, so that continuing it costs nothing."""
    folder = output / _folder(choice)
    return (folder / digest.NAME).is_file() and not any(
        one.outcome.status == "interrupted" for one in files.read_folder(folder)[0]
    )


def _name(choice: Choice) -> str:
    return ", ".join(f"{name}={value}" for name, value in choice.changes.items()) or "as the preset has it"


def _folder(choice: Choice) -> str:
    """A name of a point's folder: readable, and another one for another point."""
    text = ",".join(f"{name}={value}" for name, value in choice.changes.items()) or "preset"
    return f"{re.sub(r'[^A-Za-z0-9_.=,-]+', '-', text)[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def command(output: Path | None, vary_texts: Sequence[str], budget_s: float | None, options: Mapping[str, Any]) -> bool:
    """The command: what it prints is on standard output; whether every point is there and ok."""
    vary = parse(vary_texts)
    made = choices(vary, **options)
    folder = output or folders.default()
    records, whole = run(vary, made, folder, budget_s=budget_s)
    try:
        click.echo(write(folder, records), nl=False)
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {folder}; every record is intact") from error
    click.echo(f"Table and plots: {folder}; again from the records: framework-bench report {folder} --format sweep")
    running.tell_absent(made[0], "not in the sweep")
    return whole
