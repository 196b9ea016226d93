"""The folders that commands read and write: records, and the tables beside them."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import UserError

if TYPE_CHECKING:
    from bench.records.record import Record


def read(folders: tuple[Path, ...]) -> tuple[list["Record"], bool]:
    """All records, each once however often it was copied, and whether every file was one; the others are lines on stderr.

    The folder of a sweep stands for those of its points.
    """
    from bench.campaign import journal
    from bench.records import digest, files, rules, sweep_folder
    from bench.records.record import packed
    from bench.records.text import printable

    found: dict[bytes, Record] = {}
    sound = True
    for folder in (run for given in folders for run in sweep_folder.runs(given) or [given]):
        records, problems = files.read_folder(folder, more={journal.NAME: journal.Journal(folder).hashes()})
        for problem in problems:
            click.echo(problem, err=True)
        if not records:
            raise UserError(f"no records below {folder / 'records'}: give the folder that `framework-bench run` wrote")
        if digest.stored(folder) is None and any(one.run.source for one in records):  # older runs left none
            click.echo(
                f"{folder}: there is no {digest.NAME}: the run has not ended, or what it left was changed", err=True
            )
        found |= {packed(one): one for one in records}
        sound = sound and not problems
    judged, broken = rules.judged(found.values())
    for problem in broken:
        click.echo(printable(problem), err=True)
    return judged, sound and not broken


def writable(folder: Path) -> Path:
    """The folder for a run, made if it is not there; UserError if nothing can be written to it."""
    try:
        (folder / "records").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write there: {error.strerror}") from error
    return folder


def new(folder: Path) -> Path:
    """The folder for new records; UserError, and nothing is written, if there is anything in it."""
    from bench.campaign import resume

    try:
        resume.refuse_links(folder)
        found = resume.foreign(folder)
    except resume.Mismatch as error:
        raise UserError(f"--output {folder} {error}; name a new folder") from error
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write there: {error.strerror}") from error
    if found or (folder / "plan.json").exists():
        raise UserError(f"--output {folder} holds {found or 'plan.json'!r}: name a new or an empty folder")
    return writable(folder)


def new_and_empty(folder: Path, option: str) -> None:
    """Makes the folder that an option names; UserError if there is anything in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{option} {folder} is not empty; name a new folder")
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot write there: {error.strerror}") from error


def fill(folder: Path, contents: Mapping[str, bytes], option: str) -> None:
    """Writes files into a new folder; ClickException, and none of them stays, where the disk does not take them all."""
    from bench.records import files

    try:
        for name, content in contents.items():
            files.write_bytes(folder / name, content)
    except OSError as error:
        for name in contents:
            (folder / name).unlink(missing_ok=True)
        raise click.ClickException(f"{option} {folder}: {error.strerror}") from error


def default() -> Path:
    """A new folder for a run: its time in UTC."""
    return Path("results", "local", time.strftime("%Y%m%d-%H%M%S", time.gmtime()))


def write_tables(folder: Path, *, digested: bool = False) -> bool:
    """Writes table.md and table.csv, and the records' digest where they are `digested`, which is when a run ends.

    False where the disk does not take them: the records are what counts.
    """
    from bench.campaign import resume
    from bench.records import files
    from bench.report import markdown, table_csv

    records, _ = files.read_folder(folder)
    try:
        if digested:
            files.write_digest(folder)
        for name, form in zip(resume.TABLES, (markdown, table_csv), strict=True):
            files.write_bytes(folder / name, form.render(records).encode(), via=folder / "records")
    except OSError:
        return False
    return True
