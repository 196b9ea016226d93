"""`framework-bench history`: one framework over its releases, run now or read from folders."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from bench.campaign.plan import Choice
from bench.cli import arms, folders, request, running, sweeping
from bench.cli.options import UserError
from bench.process import interpreters, releases
from bench.records import files
from bench.records.record import Arm, Record
from bench.records.text import printable
from bench.report import history, history_plot


def command(paths: Sequence[Path], numbers: Sequence[str], output: Path | None, options: Mapping[str, Any]) -> bool:
    """Prints the history; with releases it is measured first, into a folder with table and plots. Whether all went well."""
    if bool(paths) == bool(numbers):
        raise UserError("give either folders whose records are to be read, or --arm and --releases to measure")
    if paths:
        if output is not None:
            raise UserError("--output is for --releases: a history of folders is printed; its plots come with "
                            "framework-bench report FOLDER --format history --plots NEW")  # fmt: skip
        records, sound = folders.read(tuple(paths))
        click.echo(history.render(records), nl=False)
        return sound
    choice = chosen(numbers, options)
    folder = output or folders.default()
    done, _ = running.run(choice, folder, retry_failed=False)
    try:
        click.echo(write(folder, done.records), nl=False)
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {folder}; every record is intact") from error
    click.echo(f"Table and plots: {folder}; again from the records: framework-bench history {folder}")
    return done.complete


def write(folder: Path, records: Sequence[Record]) -> str:
    """Writes the history's table and plots; returns the table. OSError where the disk does not take them."""
    text = history.render(records)
    files.write_bytes(folder / "history.md", text.encode())
    for name, content in history_plot.files(records):
        files.write_bytes(folder / name, content)
    return text


def parse(text: str) -> list[str]:
    """The numbers of releases with commas between; UserError for what is none."""
    found = [number.strip() for number in text.split(",")]
    for number in found:
        if not releases.RELEASE.fullmatch(number):
            raise UserError(
                printable(f"--releases {text}: {number[:80]!r} is no release; expected some as in 0.10.1,0.10.2")
            )
    if len(set(found)) < len(found):
        raise UserError(printable(f"--releases {text}: a release stands twice"))
    if len(found) < 2:
        raise UserError(f"--releases {text}: a history has two releases or more")
    return found


def chosen(numbers: Sequence[str], options: Mapping[str, Any]) -> Choice:
    """The comparison of an arm's releases; one that cannot be installed is an absent arm with the reason."""
    texts = (*options["arm_texts"], *options["backend_names"])
    if not texts:
        raise UserError("--releases is of an arm: name it, as in --arm jax")
    installed: list[str] = []
    absent: list[tuple[str, str, str]] = []  # what was typed, the arm's name, why
    for text in texts:
        backend, colon, items = text.partition(":")
        if "=" in backend:
            raise UserError(
                printable(f"--arm {text}: an arm of which the release varies is named after it, and has no label")
            )
        for number in numbers:
            typed = arms.parse(f"{backend}=={number}{colon}{items}")
            try:
                releases.python_of(backend, number, said=typed.said, tell=running.tell)
            except interpreters.InterpreterError as error:
                running.tell(str(error))
                absent.append((text, typed.name, str(error)))
            else:
                installed.append(f"{backend}=={number}{colon}{items}")
    if not installed:
        raise UserError(f"--releases: none of {', '.join(numbers)} can be had: {absent[0][2]}")
    choice = request.parse(**{**options, "arm_texts": tuple(installed), "backend_names": ()})
    missing = [(_like(choice.arms, text, name), why) for text, name, why in absent]
    return dataclasses.replace(choice, absent=[*choice.absent, *missing], kinds=sweeping.KINDS)


def _like(found: Sequence[Arm], text: str, name: str) -> Arm:
    """An arm that cannot run: that of another release of the same text, under its own name."""
    backend, colon, items = text.partition(":")
    alike = [arm for arm in found if arm.name.partition("==")[0] == backend and arm.name.endswith(f"{colon}{items}")]
    return msgspec.structs.replace((alike or list(found))[0], name=name, python=None)
