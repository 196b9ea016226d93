"""`pytest bench`: the command line's options with `--fb-` before them, and what its arms leave behind.

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
from bench.campaign.plan import MEASURES, Choice, TaskPlan
from bench.cli import folders, options, request, running
from bench.records import pytest_json
from bench.records.record import Arm, Cell, Record, RoundsPlan

COMMAND = click.command()(options.common_options(options.measure_option(lambda **_: None)))
"""A command that has the options of `run` and `verify`, to describe and to read them."""

RUN: "pytest.StashKey[PytestRun]" = pytest.StashKey()


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
            choice = request.parse(**context.params, rounds=1, seeds=1)
            config.stash[RUN] = PytestRun(choice, config.option.fb_output)
    except click.ClickException as error:
        raise pytest.UsageError(error.format_message()) from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only what `--fb-measure` asks for is collected."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    asked = {f"test_{name}" for name, kinds in MEASURES.items() if set(kinds) <= set(run.choice.kinds)}
    left_out = [item for item in items if getattr(item, "originalname", None) not in asked]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        output_json[pytest_json.KEY] = {"records": msgspec.to_builtins(run.records)}


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator["PytestRun"]:
    """What measures; afterwards, the tables of what was measured."""
    found = request.config.stash[RUN]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the measured process ends too
    with running.measuring(found.choice, purpose="pytest bench"):
        yield found
    signal.signal(signal.SIGTERM, before)
    if found.folder is not None:
        folders.write_tables(found.folder)


class PytestRun:
    """Measures arm by arm, as `framework-bench run` would with one round and one seed."""

    def __init__(self, choice: Choice, output: Path | None) -> None:
        self.choice, self.output = choice, output
        self.folder: Path | None = None  # not before something is measured
        self.records: list[Record] = []
        self._plans: dict[str, TaskPlan] = {}
        self._done: dict[tuple[str, str, str], list[Record]] = {}

    def measure(self, task: str, arm: Arm, what: str) -> list[Record]:
        """The records of one arm on a task, of training or of inference; click.ClickException if they cannot be had."""
        if (task, arm.name, what) not in self._done:
            self._done[task, arm.name, what] = self._measured(task, arm, what)
        return self._done[task, arm.name, what]

    def _measured(self, task: str, arm: Arm, what: str) -> list[Record]:
        if task not in self._plans:
            asked = replace(self.choice, tasks=[task])
            (self._plans[task],) = request.planned(lambda: plan.make(asked))
        if self.folder is None:
            self.folder = folders.new(self.output or folders.default())
        only = replace(self._plans[task], choice=replace(self.choice, arms=[arm], absent=(), kinds=MEASURES[what]))
        measuring = campaign.Campaign([only], self.folder, _Silent())
        try:
            measuring.start()
        finally:
            anew = {one.cell.file_name for one in measuring.records}  # what is measured next climbs no second time
            self.records = [one for one in self.records if one.cell.file_name not in anew] + measuring.records
        return measuring.records


class _Silent:
    """pytest has a progress of its own."""

    def started(self, cell: Cell, *, done: int, total: int, left_s: float, at_least: bool = False) -> None: ...
    def finished(self, finished: Record) -> None: ...
    def planned(self, task: str, rounds: RoundsPlan) -> None: ...
