"""Edits random fields of random records and looks whether a ranking changes unnoticed: `python -m bench.checks.edits FOLDER`.

A benchmark of the rules of what counts (bench/records/rules.py), without the digest, which any edit would break. An edit is
noticed if a problem is named, or if the row that lost its place says why.
"""

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.records import files, rules
from bench.records.files import RecordError
from bench.records.record import Record
from bench.report import grouping

Ranking = list[tuple[str, list[tuple[str, str | None]], dict[tuple[str, str], str]]]


class Edit(NamedTuple):
    """One field of one record with another value."""

    record: int
    path: tuple[str | int, ...]
    value: Any

    def __str__(self) -> str:
        return f"record {self.record}, {'.'.join(map(str, self.path))} = {self.value!r}"


def draw(plain: Sequence[Any], rng: random.Random) -> Edit:
    """A random field of a random record, with a value of the same type or none."""
    at = rng.randrange(len(plain))
    path = rng.choice(list(_paths(plain[at])))
    return Edit(at, path, _another(_at(plain[at], path), rng))


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every field that holds no other."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if path and not isinstance(value, dict | list):
        yield path
    for key, part in inner:
        yield from _paths(part, (*path, key))


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        value = value[key]
    return value


def _another(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        scaled = value * rng.choice([0.1, 0.5, 0.9, 1.1, 2, 10, -1]) + rng.choice([0, 0, 1])
        return type(value)(scaled)
    if isinstance(value, str):
        return rng.choice([f"{value}x", value[:-1], "ok", "cpu", "float32", "default"])
    return rng.choice([1, 0.5, "x"])  # it was null


def ranking(records: Sequence[Record]) -> Ranking:
    """Of each section, the rows in their order with the reason for which they are not ranked, and the verdicts."""
    return [
        (
            section.first.task,
            [(row.name, row.excluded) for row in section.rows],
            {pair: found.decision for pair, found in section.verdicts.items()},
        )
        for section in grouping.sections(records)
    ]


def unnoticed(plain: Sequence[Any], before: Ranking, edit: Edit) -> bool:
    """Whether an edit changes a ranking and nothing says so."""
    edited = list(plain)
    edited[edit.record] = copy.deepcopy(plain[edit.record])
    _at(edited[edit.record], edit.path[:-1])[edit.path[-1]] = edit.value
    names = [files.decode(json.dumps(one).encode()).cell.file_names for one in plain[edit.record : edit.record + 1]]
    records, problems = [], []
    for at, one in enumerate(edited):
        try:
            records.append(files.decode(json.dumps(one).encode()))
            if at == edit.record and records[-1].cell.file_names != names[0]:
                raise RecordError("its file has another name")
        except (RecordError, ValueError) as error:
            problems.append(str(error))
    if problems or rules.judged(records)[1]:
        return False
    after = ranking(records)
    told = {(task, name) for task, rows, _ in after for name, why in rows if why}
    was = {(task, name) for task, rows, _ in before for name, why in rows if why}
    return after != before and not told - was


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--count", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, count: int, seed: int) -> None:
    """Prints every edit that changed a ranking and was not noticed, and how many were."""
    plain = [json.loads(path.read_bytes()) for path in sorted((folder / "records").glob("*.json"))]
    before = ranking([files.decode(json.dumps(one).encode()) for one in plain])
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    for _ in range(count):
        edit = draw(plain, rng)
        if unnoticed(plain, before, edit):
            found[".".join(str(key) for key in edit.path if not isinstance(key, int))] += 1
            click.echo(str(edit))
    click.echo(f"{sum(found.values())} of {count} edits changed a ranking and were not noticed: {dict(found)}")


if __name__ == "__main__":
    main()
