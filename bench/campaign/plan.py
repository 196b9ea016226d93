"""What is to run: every process of a comparison, in the order in which it runs, fixed before the first one starts."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

import tasks
from bench.checks import selftest
from bench.machine import describe
from bench.process.interpreters import Interpreter
from bench.records.record import Data, Energy, Kind, Machine, Record, RoundsPlan, SelfTest
from tasks.spec import Preset, describe_task, hash_json

PILOT_ROUNDS = 3


@dataclass(frozen=True)
class Choice:
    """What the user asked for, checked and completed."""

    tasks: Sequence[str]
    backends: Sequence[str]  # installed
    absent: Sequence[tuple[str, str]]  # (backend, the reason with the command that would add it)
    preset: str
    device: str
    precision: str
    rounds: int | None  # None: as the preset declares
    seeds: int | None
    data_dir: Path | None
    order_seed: int
    cool_down_s: int = 0  # between two processes
    interpreters: Mapping[str, Interpreter] = field(default_factory=dict)  # of backends that do not run in this one
    threads: int | None = None  # None: as many as the process may use
    energy: bool = False
    effect: float | None = None  # to be found by as many rounds as a pilot says; None: `rounds` says how many


@dataclass(frozen=True)
class TaskPlan:
    """The processes of one task: each a record still to be filled in."""

    name: str
    preset: Preset
    blank: Record
    machines: Mapping[str, Machine] = field(default_factory=dict)  # of backends that run in another interpreter
    selftests: Mapping[str, SelfTest] = field(default_factory=dict)  # backend -> its latest one on this machine

    def parity(self, choice: Choice) -> list[Record]:
        """One climb per backend."""
        return [self.cell(backend, kind="parity") for backend in choice.backends]

    def rounds(self, choice: Choice) -> Iterator[list[Record]]:
        """Randomised complete blocks: every round holds every backend once, in an order drawn from the order seed."""
        # Drawn anew per task, so that a task's order does not depend on which others are compared.
        rng = random.Random(f"{choice.order_seed}/{self.name}")
        for cells in self._blocks(choice, rng, "speed", choice.rounds or self.preset.rounds):
            yield [msgspec.structs.replace(cell, selftest=self.selftests.get(cell.backend)) for cell in cells]

    def pilot(self, choice: Choice) -> list[Record]:
        """The processes from whose noise the rounds are planned; none where their number is given."""
        rng = random.Random(f"{choice.order_seed}/{self.name}/pilot")
        rounds = PILOT_ROUNDS if choice.effect is not None else 0
        return [cell for cells in self._blocks(choice, rng, "pilot", rounds) for cell in cells]

    def with_rounds(self, found: RoundsPlan) -> "TaskPlan":
        """The same plan with another number of rounds, and how it was found in every record that is still to come."""
        blank = msgspec.structs.replace(self.blank, rounds_plan=found)
        return replace(self, preset=replace(self.preset, rounds=found.rounds), blank=blank)

    def _blocks(self, choice: Choice, rng: random.Random, kind: Kind, rounds: int) -> Iterator[list[Record]]:
        for number in range(1, rounds + 1):
            order = rng.sample(list(choice.backends), len(choice.backends))
            asked = {"energy": Energy(None, reason="the process did not come to its end")} if choice.energy else {}
            yield [
                self.cell(backend, kind=kind, round=number, position=at, **asked) for at, backend in enumerate(order, 1)
            ]

    def memory(self, choice: Choice) -> list[Record]:
        """One process per backend that does nothing else."""
        return [self.cell(backend, kind="memory") for backend in choice.backends]

    def quality(self, choice: Choice) -> list[Record]:
        """One training to the task's whole budget per seed and backend."""
        seeds = range(choice.seeds or self.preset.seeds)
        return [self.cell(backend, kind="quality", seed=seed) for seed in seeds for backend in choice.backends]

    def absent(self, choice: Choice) -> list[Record]:
        """A record for each backend that cannot take part."""
        return [self.cell(backend, kind="speed", status="skipped", reason=why) for backend, why in choice.absent]

    def cell(self, backend: str, **changes: object) -> Record:
        """The blank record of one process."""
        machine = self.machines.get(backend, self.blank.machine)
        return msgspec.structs.replace(self.blank, backend=backend, machine=machine, **changes)


def make(name: str, choice: Choice) -> TaskPlan:
    """Reads the task's data and fixes its spec; tasks.spec.SpecError where the data cannot be had."""
    preset = tasks.load(name, choice.preset, data_dir=choice.data_dir)
    spec = describe_task(preset.task)
    data = preset.task.data
    blank = Record(
        kind="speed",
        status="interrupted",
        reason="started, and not finished",
        task=name,
        preset=choice.preset,
        unit=preset.task.unit,
        backend="",
        device=choice.device,
        precision=choice.precision,
        round=1,
        position=1,
        seed=0,
        order_seed=choice.order_seed,
        spec=spec,
        spec_hash=hash_json(spec),
        data=Data(data.name, data.description, data.sha256),
        target=str(preset.target),
        equivalence_margin=preset.target.margin,
        step_flops=getattr(preset.task, "step_flops", None),
        threads=choice.threads,
        machine=describe.describe(),
        started_utc="",
    )
    machines = {
        backend: msgspec.structs.replace(blank.machine, python=interpreter.python)
        for backend, interpreter in choice.interpreters.items()
    }
    plan = TaskPlan(name, preset, blank, machines)
    found = {backend: selftest.recall(plan.cell(backend)) for backend in choice.backends}
    return replace(plan, selftests={backend: latest for backend, latest in found.items() if latest is not None})
