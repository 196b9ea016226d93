"""`framework-bench publish`: the folder of a run or a sweep that passes `check` becomes one of a clone's published results."""

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench.campaign.journal import NAME as JOURNAL
from bench.checks import review
from bench.cli.options import UserError
from bench.records import digest, files, sweep_folder
from bench.records.record import Record, packed
from bench.report import publish, sweep

KEPT = ("plan.json", JOURNAL, digest.NAME)
"""What is published of a run beside its records and tables. Logs and traces stay where they are."""


def into(results: Path, folder: Path, *, data_dir: Path | None) -> Path:
    """Copies a folder below `results` under a name of its own, and makes the index anew; returns the new folder.

    A sweep's has a folder for each of its points.

    UserError, and nothing is written, for a folder that `check` objects to, and for results that are no clone's.
    """
    index = results / "README.md"
    if not index.is_file():
        raise UserError(f"--results {results}: there is no README.md; expected the `results` folder of a clone")
    found = [one for one in review.check(folder, data_dir) if not one.gap]
    if found:
        for one in found:
            click.echo(f"{one.about}: {one.text}", err=True)
        many = f"{len(found)} finding{'s' if len(found) != 1 else ''}"
        raise click.ClickException(f"{folder} is not published: {many}; see framework-bench check {folder}")
    try:
        there = {**publish.runs(results), **publish.sweeps(results)}
    except files.RecordError as error:
        raise UserError(f"--results {results}: its index cannot be made: {error}") from error
    points = {run: files.read_folder(run)[0] for run in sweep_folder.runs(folder)}
    ours = {packed(one) for found in points.values() for one in found}
    for name, records in there.items():
        if ours <= {packed(one) for one in records}:
            raise UserError(f"{folder} is published already: {results / name}")
    records, swept = [one for found in points.values() for one in found], sweep_folder.is_one(folder)
    if swept and not sweep.sweeps(records):
        raise UserError(f"{folder} is not published: no field has more than one value in its records")
    place = _free(results, name_of(records, swept=swept))
    try:
        with tempfile.TemporaryDirectory(prefix=".framework-bench-", dir=results) as name:
            made = Path(name, "run")
            for run, found_there in points.items():
                _copy(run, found_there, made / _safe(run.name) if swept else made)
            if swept:
                shutil.copyfile(folder / sweep_folder.NAME, made / sweep_folder.NAME)
            made.rename(place)
        _write_tables(results, index, place)
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {place}") from error
    return place


def _write_tables(results: Path, index: Path, place: Path) -> None:
    """The new folder's own, and then the index; where one cannot be made, the folder, a copy, is no longer there."""
    try:
        made = publish.tables(results)
        for path in [*(path for path in made if path.is_relative_to(place)), index]:
            files.write_bytes(path, made[path].encode())
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _copy(run: Path, records: Sequence[Record], place: Path) -> None:
    (place / "records").mkdir(parents=True)
    names = [f"records/{one.cell.file_name}" for one in records]
    for part in (*names, *(part for part in KEPT if (run / part).exists())):
        shutil.copyfile(run / part, place / part)


def name_of(records: Sequence[Record], *, swept: bool = False) -> str:
    """The day, the tasks, the preset and the device: `2026-11-22-mnist_mlp-standard-cpu`."""
    cells = [one.cell for one in records]
    day = min(one.outcome.started_utc for one in records if one.outcome.started_utc)[:10]
    tasks = dict.fromkeys(cell.task for cell in cells)
    devices = dict.fromkeys(sorted(cell.arm.device for cell in cells))
    words = [day, "+".join(tasks), cells[0].preset, "+".join(devices)]
    asked = {cell.kind for cell in cells} - {"parity"}
    words += [kind for kind in ("inference", "loading") if asked == {kind}]
    words += ["explained"] if any(cell.kind == "explain" for cell in cells) else []
    words += ["sweep"] if swept else []
    return re.sub(r"[^\w+-]+", "-", "-".join(words))  # no text of a record becomes a path


def _safe(name: str) -> str:
    """The name of a point's folder in characters that every file system and address takes."""
    return re.sub(r"[^\w.+=-]+", "-", name)


def _free(results: Path, name: str) -> Path:
    """A folder that is not there yet."""
    number, place = 1, results / name
    while place.exists():
        number += 1
        place = results / f"{name}-{number}"
    return place


def commands(place: Path) -> list[list[str]]:
    """What makes a pull request of a published folder."""
    branch, title = f"results/{place.name}", f"Results: {place.name}"
    return [
        ["git", "switch", "-c", branch],
        ["git", "add", str(place), str(place.parent / "README.md")],
        ["git", "commit", "-m", title],
        ["git", "push", "-u", "origin", branch],
        ["gh", "pr", "create", "--title", title, "--body", f"Passes `framework-bench check results/{place.name}`."],
    ]


def request_pull(place: Path) -> None:
    """Runs the commands in the clone, once the user agrees; ClickException for one that fails."""
    if shutil.which("gh") is None:
        raise click.ClickException(
            "there is no gh (https://cli.github.com) here: the commands above do without --pull-request"
        )
    click.confirm("Run these commands?", abort=True)
    for words in commands(place.absolute()):
        done = subprocess.run(words, cwd=place.parent, check=False)
        if done.returncode:
            raise click.ClickException(
                f"{shlex.join(words)}: exit code {done.returncode}; what was done before it stays"
            )
