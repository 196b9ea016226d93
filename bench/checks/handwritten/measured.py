"""What a comparison with public implementations leaves: one JSON file, from which every figure of its table is computed."""

from pathlib import Path

import msgspec

from bench.records import files
from bench.records.record import Machine, Strict, Window


class Round(Strict, frozen=True):
    """The processes of one framework in one round, which took turns."""

    framework: str
    number: int
    steps_s: dict[str, Window]  # "default", "tuned", or the name of a loop -> seconds of a step
    disturbed: str | None = None  # why it is in no figure


class Measured(Strict, frozen=True):
    """The rounds of a task."""

    task: str
    preset: str
    day: str
    machine: Machine
    source: str  # of framework-bench
    versions: dict[str, dict[str, str]]  # by framework
    apart: dict[str, str]  # "framework/name" of a loop -> how its function is another one
    tuned: dict[str, str]  # framework -> the mode that is its tuned one
    rounds: list[Round]

    def with_round(self, one: Round) -> "Measured":
        return msgspec.structs.replace(self, rounds=[*self.rounds, one])


def read(path: Path) -> Measured:
    """RecordError names the file."""
    found: Measured = files.read_as(path, Measured, what="a comparison with public implementations")
    return found
