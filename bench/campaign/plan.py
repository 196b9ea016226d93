"""What is to run: every process of a comparison, in the order in which it runs, fixed and keyed before the first one starts."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

import tasks
from bench.campaign import parity_cache, selftests
from bench.machine import describe
from bench.process.interpreters import Interpreter
from bench.records import disturbed, limits
from bench.records.record import Arm, Cell, Data, Kind, RoundsPlan, Run, SelfTest, Target, control_of
from bench.records.source import harness_hash, harness_version
from bench.stats import looks
from tasks.spec import Preset, describe_task, hash_json

PILOT_ROUNDS = 3
KINDS: tuple[Kind, ...] = ("parity", "pilot", "speed", "memory", "quality", "inference", "loading", "explain")
"""The order in which a task's processes run."""

MEASURES: Mapping[str, tuple[Kind, ...]] = {
    "training": ("parity", "pilot", "speed", "memory", "quality"), "inference": ("parity", "inference"),
    "loading": ("parity", "loading"),
}  # fmt: skip
"""What `--measure` names: the kinds of processes of each. What explains a step runs by itself, and is in no comparison."""

COMPARISON = MEASURES["training"]
"""The kinds of a comparison, unless something else is asked for."""

IN_ROUNDS: tuple[Kind, ...] = ("pilot", "speed", "inference", "loading")
"""Those whose arms take turns."""

SIDE_BY_SIDE: tuple[Kind, ...] = ("parity", "memory")
"""Those in which nothing is timed, so that some may run at once."""


@dataclass(frozen=True)
class Choice:
    """What the user asked for, checked and completed."""

    tasks: Sequence[str]
    arms: Sequence[Arm]
    absent: Sequence[
        tuple[Arm, str]
    ] = ()  # arms that cannot take part, and the reason with the command that would help
    preset: str = "quick"
    changes: Mapping[str, str] = field(default_factory=dict)  # of the tasks' fields
    rounds: int | None = None  # None: as the preset declares
    seeds: int | None = None
    data_dir: Path | None = None
    run_id: str = ""  # the order of the rounds is drawn from it
    cool_down_s: int = 0  # between two processes
    interpreters: Mapping[str, Interpreter] = field(
        default_factory=dict
    )  # of arms, by name, that do not run in this one
    energy: bool = False
    effect: float | None = None  # to be found by as many rounds as a pilot says; None: `rounds` says how many
    kinds: Sequence[Kind] = COMPARISON  # that are wanted
    looks: Mapping[str, int] = field(default_factory=dict)  # task -> its look; empty: rounds are planned once

    @property
    def devices(self) -> list[str]:
        """The devices that are measured on."""
        return sorted({arm.device for arm in self.arms})


@dataclass(frozen=True)
class TaskPlan:
    """The processes of one task."""

    run: Run
    preset: Preset
    choice: Choice
    template: Cell  # what all of them have in common

    @property
    def name(self) -> str:
        return self.template.task

    @cached_property
    def cells(self) -> list[Cell]:
        """Every process in the order in which it runs; rounds as planned before a pilot has said how many."""
        return [cell for kind in KINDS for cell in self.of_kind(kind)]

    def of_kind(self, kind: Kind, *, rounds: int | None = None) -> list[Cell]:
        """The processes of one kind, in their order, each with its key; of as many rounds as are planned, or as are named."""
        if kind not in self.choice.kinds or (kind == "pilot" and self.choice.effect is None):
            return []
        control = control_of(self.choice.arms)
        compared = [arm for arm in self.choice.arms if arm != control]
        rounds = rounds or self.rounds
        seed = seed_of_order(self.run, self.name)
        made: Mapping[Kind, Iterable[Cell]] = {
            "parity": (self.cell(arm, kind="parity") for arm in self.choice.arms),
            "pilot": self._rounds("pilot", PILOT_ROUNDS, seed=f"{self.run.id}/{self.name}/pilot"),
            # Drawn anew per task, so that a task's order does not depend on which others are compared.
            "speed": self._rounds("speed", rounds, seed=seed),
            "memory": (self.cell(arm, kind="memory") for arm in compared),
            "quality": (
                self.cell(arm, kind="quality", seed=number, energy=self.choice.energy)
                for number in range(self.seeds)
                for arm in compared
            ),
            "inference": self._rounds("inference", rounds, seed=f"{seed}/inference"),
            "loading": self._rounds("loading", rounds, seed=f"{seed}/loading"),
            "explain": self._rounds("explain", rounds, seed=seed),
        }
        return list(made[kind])

    @property
    def rounds(self) -> int:
        return looks.rounds(self.first_rounds, self.look)

    @property
    def first_rounds(self) -> int:
        """Those of the first look, which are all where there is one."""
        return self.choice.rounds or self.preset.rounds

    @property
    def look(self) -> int | None:
        return self.choice.looks.get(self.name)

    @property
    def seeds(self) -> int:
        return self.choice.seeds or self.preset.seeds

    def with_rounds(self, found: RoundsPlan) -> "TaskPlan":
        """The same plan with another number of rounds, and how it was found in every cell that is still to come."""
        template = msgspec.structs.replace(self.template, rounds_plan=found)
        return replace(self, choice=replace(self.choice, rounds=found.rounds), template=template)

    @property
    def possible(self) -> list[Cell]:
        """Every process that a run can come to: as many rounds as a pilot may ask for, and those in place of disturbed ones."""
        rounds = limits.MOST_ROUNDS if self.choice.effect is not None else self.rounds
        most = rounds + disturbed.spare_rounds(rounds)
        return [cell for kind in KINDS for cell in self.of_kind(kind, rounds=most)]

    def spare_round(self, kind: Kind, number: int) -> list[Cell]:
        """One more round than planned, in place of a disturbed one."""
        return [cell for cell in self.of_kind(kind, rounds=number) if cell.round == number]

    def _rounds(self, kind: Kind, rounds: int, *, seed: str) -> Iterator[Cell]:
        """Randomised complete blocks: every round holds every arm once."""
        for number, drawn in enumerate(islice(orders(self.choice.arms, seed), rounds), start=1):
            # A round in place of a disturbed one belongs to the look that is on.
            look = min(looks.of_round(number, self.first_rounds), self.look) if kind == "speed" and self.look else None
            for position, arm in enumerate(drawn, start=1):
                yield self.cell(
                    arm, kind=kind, round=number, position=position, energy=self.choice.energy,
                    selftest=self._selftests.get(arm.name) if kind == "speed" else None, look=look,
                )  # fmt: skip

    @cached_property
    def _selftests(self) -> Mapping[str, SelfTest]:
        """The latest self-test of each arm on this machine, by the arm's name."""
        found = {arm.name: selftests.recall(self.run, *self._used(arm)) for arm in self.choice.arms}
        return {name: latest for name, latest in found.items() if latest is not None}

    def remember_selftest(self, arm: Arm, test: SelfTest) -> None:
        """Keeps a self-test for later runs of the arm; OSError where the cache cannot be written."""
        selftests.remember(self.run, *self._used(arm), test)

    def _used(self, arm: Arm) -> tuple[Cell, Interpreter | None]:
        """The arm's cell and interpreter, on which everything that is cached about it depends."""
        return msgspec.structs.replace(self.template, arm=arm), self.choice.interpreters.get(arm.name)

    @cached_property
    def _parity_keys(self) -> dict[str, str]:
        return {}

    def cell(self, arm: Arm, **changes: object) -> Cell:
        """One process, with the hash of everything on which its outcome depends."""
        cell = msgspec.structs.replace(self.template, arm=arm, **changes)
        if arm.name not in self._parity_keys:
            self._parity_keys[arm.name] = parity_cache.key(cell, self.run.machine, self._used(arm)[1])
        target = msgspec.to_builtins(cell.target)
        asked = [
            self._parity_keys[arm.name], arm.hash, cell.kind, cell.round, cell.position, cell.seed, self.run.id, cell.preset,
            self.run.measurement, cell.data.sha256, target, cell.energy,
        ]  # fmt: skip
        return msgspec.structs.replace(cell, key=hash_json(asked))


def seed_of_order(run: Run, task: str) -> str:
    """From which the orders of a task's rounds of speed are drawn."""
    return f"{run.id}/{task}"


def orders(arms: Sequence[Any], seed: str) -> Iterator[list[Any]]:
    """The arms in the order of each round, drawn from the seed."""
    rng = random.Random(
        seed.encode(errors="surrogatepass")
    )  # the same as of the text, whatever somebody's record has in it
    while True:
        yield rng.sample(arms, len(arms))


def make(choice: Choice) -> list[TaskPlan]:
    """A plan for each task: reads its data and fixes its spec; tasks.spec.SpecError where the data cannot be had."""
    run = Run(id=choice.run_id, machine=describe.describe(), harness=harness_version(), source=harness_hash())
    return [_plan(name, run, choice) for name in choice.tasks]


def _plan(name: str, run: Run, choice: Choice) -> TaskPlan:
    preset = tasks.load(name, choice.preset, data_dir=choice.data_dir, changes=choice.changes)
    data, target = preset.task.data, preset.target
    template = Cell(
        kind="speed",
        task=name,
        preset=choice.preset,
        changes=dict(choice.changes),
        unit=preset.task.unit,
        arm=choice.arms[0],
        spec=describe_task(preset.task),
        data=Data(data.name, data.description, data.sha256),
        target=Target(target.metric, target.at_least, target.at_most, target.margin),
        step_flops=getattr(preset.task, "step_flops", None),
    )
    return TaskPlan(run, preset, choice, template)
