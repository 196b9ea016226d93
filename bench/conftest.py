"""`pytest bench`: the command line's options with `--fb-` before them, and what its cells leave behind.

Needs pytest-benchmark. `pytest` alone looks into `tests` only and never comes here.
"""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from bench.campaign import campaign, plan
from bench.campaign.plan import Choice, TaskPlan
from bench.cli import folders, options, request
from bench.machine import locks
from bench.records import pytest_json
from bench.records.record import Record

COMMAND = click.command()(options.common_options(lambda **_: None))
"""A command that has the options of `run` and `verify`, to describe and to read them."""

DOOR: "pytest.StashKey[Door]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("framework-bench")
    for option in COMMAND.params:
        assert isinstance(option, click.Option)
        how = "store_true" if option.is_flag else "append" if option.multiple else "store"
        flag = option.opts[0].replace("--", "--fb-", 1)
        group.addoption(flag, dest=f"fb_{option.name}", action=how, help=str(option.help).replace("%", "%%"))
    group.addoption("--fb-output", type=Path, metavar="DIR", help="A new folder for records and tables.")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config.option, "fb_output"):
        return  # `pytest .` found this file too late to know its options
    arguments = []
    for option in COMMAND.params:
        given = config.getoption(f"fb_{option.name}")
        for value in given if isinstance(given, list) else [given] if given else []:
            arguments.append(option.opts[0] if value is True else f"{option.opts[0]}={value}")
    try:
        with COMMAND.make_context("pytest bench", arguments) as context:
            config.stash[DOOR] = Door(request.choice(**context.params, rounds=1, seeds=1), config.option.fb_output)
    except click.ClickException as error:
        raise pytest.UsageError(error.format_message()) from None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    door = config.stash.get(DOOR, None)
    if door is not None:
        output_json[pytest_json.KEY] = {"records": msgspec.to_builtins(door.records)}


@pytest.fixture(scope="session")
def door(request: pytest.FixtureRequest) -> Iterator["Door"]:
    """What measures; afterwards, the tables of what was measured."""
    found = request.config.stash[DOOR]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the measured process ends too
    with locks.device(found.choice.device, purpose="pytest bench", tell=lambda line: click.echo(line, err=True)):
        yield found
    signal.signal(signal.SIGTERM, before)
    if found.folder is not None:
        folders.write_tables(found.folder)


class Door:
    """Measures cell by cell, as `framework-bench run` would with one round and one seed."""

    def __init__(self, choice: Choice, output: Path | None) -> None:
        self.choice, self.output = choice, output
        self.folder: Path | None = None  # not before something is measured
        self.records: list[Record] = []
        self._plans: dict[str, TaskPlan] = {}

    def measure(self, task: str, backend: str) -> list[Record]:
        """The records of one cell; click.ClickException if its data or its folder cannot be had."""
        if task not in self._plans:
            self._plans[task] = request.planned(lambda: plan.make(task, self.choice))
        if self.folder is None:
            self.folder = folders.new(self.output or campaign.default_folder())
        choice = replace(self.choice, backends=[backend], absent=[])
        running = campaign.Campaign([self._plans[task]], choice, self.folder, _Silent())
        try:
            running.run()
        finally:
            self.records += running.records
        return running.records


class _Silent:
    """pytest has a progress of its own."""

    def started(self, cell: Record, *, done: int, total: int, left_s: float) -> None: ...
    def finished(self, finished: Record) -> None: ...
    def note(self, text: str) -> None: ...
