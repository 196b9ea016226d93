"""What a self-test says about this machine: its noise, the smallest effect that it can see, and whether it sees what is there.

A self-test runs one cell in three arms: as it is, as it is once more, and with a slow-down of known size planted by
slowdown.py. Every round holds each arm once in shuffled order, and the three are judged as a table of three backends is.
The first two must not be called different, and the planted slow-down must be called slower.

The latest self-test of a cell is kept in the user's cache, and goes into the records of every comparison of that cell on the
same machine.
"""

import hashlib
import math
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import platformdirs

from bench.records import record
from bench.records.record import Model, Record, RecordError, SelfTest
from bench.report.formats import significant, with_interval
from bench.stats import intervals, power, verdict
from bench.stats.verdict import Verdict

ARMS = ("A", "A again", "planted")
PAIRS = len(list(combinations(ARMS, 2)))


class Findings(NamedTuple):
    """What follows from a self-test; a figure is None where its rounds do not vary."""

    noise: float | None  # deviation of one process's log throughput within a round; 0.01 is 1 %
    smallest_effect: float | None  # that is called with 90 % power after as many rounds; 0.05 is 5 %
    same: Verdict  # on the second arm against the first
    planted: Verdict  # on the third arm against the first
    faults: list[str]  # empty if the self-test is passed


class Kept(Model, frozen=True):
    """A self-test in the cache, with the cell and the machine that it is about."""

    schema: Literal[1]
    cell: dict[str, str]
    found: SelfTest


def judge(test: SelfTest) -> Findings:
    """The verdicts, by the rules of a table."""
    rounds = {arm: {number: rates[at] for number, rates in enumerate(test.rates)} for at, arm in enumerate(ARMS)}
    verdicts = verdict.compare_all(rounds)
    same, planted = verdicts["A again", "A"], verdicts["planted", "A"]
    noise = intervals.noise([[math.log(rate) for rate in rates] for rates in test.rates])
    smallest = power.smallest_effect(noise.deviation, rounds=len(test.rates), pairs=PAIRS) if noise else None
    faults = []
    if same.decision in ("faster", "slower"):
        faults.append(f"the same program was called {same.decision} than itself")
    if planted.decision != "slower":
        faults.append(f"a planted slow-down of {_percent(test.slow_down)} was missed")
    return Findings(noise.deviation if noise else None, smallest, same, planted, faults)


def describe(test: SelfTest) -> list[str]:
    """The findings in words, a line each."""
    found = judge(test)
    rounds = f"{len(test.rates)} rounds" + (f", {test.disturbed} more were disturbed" if test.disturbed else "")
    if found.noise is None:
        lines = [f"noise: none was seen in {rounds}, so nothing is known about it"]
    else:
        smallest = "none" if found.smallest_effect is None else _percent(found.smallest_effect)
        lines = [
            f"noise: {_percent(found.noise)} between processes (standard deviation within a round; {rounds})",
            f"smallest visible effect: {smallest} (called with {power.FOUND_WANTED:.0%} power)",
        ]
    same = f"A/A: {found.same.decision}, ratio {with_interval(found.same.ratio)}"
    if found.same.decision == "not decided" and found.same.rounds_needed:
        same += f"; too few rounds for a tie, about {found.same.rounds_needed} would decide at this noise"
    planted = f"planted {_percent(test.slow_down)} slow-down: {found.planted.decision}"
    exact = f"{1 / (1 + test.slow_down):.4g} is exact"
    return [*lines, same, f"{planted}, ratio {with_interval(found.planted.ratio)}; {exact}"]


def summarise(test: SelfTest) -> str:
    """The findings on one line, for what stands below a table."""
    found = judge(test)
    told = "; ".join(found.faults) if found.faults else "passed"
    return f"{told} ({test.started_utc[:10]}, preset {test.preset}); {'; '.join(describe(test))}"


def as_json(cell: Record, test: SelfTest) -> dict[str, object]:
    """The self-test and its findings as plain values."""
    found = judge(test)
    return {
        "cell": _identity(cell),
        "test": test,
        "noise": found.noise,
        "smallest_effect": found.smallest_effect,
        "a_a": {**found.same._asdict(), "ratio": found.same.ratio._asdict()},
        "planted": {**found.planted._asdict(), "ratio": found.planted.ratio._asdict()},
        "faults": found.faults,
    }


def recall(cell: Record) -> SelfTest | None:
    """The latest self-test of this cell on this machine; None where there is none that can be read."""
    try:
        kept: Kept = record.decode(_path(cell).read_bytes(), Kept)
    except (OSError, RecordError):
        return None
    return kept.found if kept.cell == _identity(cell) else None


def remember(cell: Record, test: SelfTest) -> None:
    """Keeps a self-test in place of the one before; OSError where the cache cannot be written."""
    path = _path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write(path, Kept(1, _identity(cell), test))


def _identity(cell: Record) -> dict[str, str]:
    """What must be the same for a self-test to say something about a cell. Its preset need not be."""
    machine = cell.machine
    return {
        "task": cell.task, "backend": cell.backend, "device": cell.device, "precision": cell.precision,
        "threads": str(cell.threads), "cpu": machine.cpu, "cores": str(machine.cores), "gpu": str(machine.gpu),
    }  # fmt: skip


def _path(cell: Record) -> Path:
    name = hashlib.sha256(record.encode(_identity(cell))).hexdigest()
    return platformdirs.user_cache_path("framework-bench") / "selftest" / f"{name}.json"


def _percent(value: float) -> str:
    return f"{significant(100 * value, 2)} %"
