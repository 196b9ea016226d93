"""What a self-test says about a machine: its noise, the smallest effect that it can see, whether it sees what is there.

A self-test runs one arm three times over: as it is, as it is once more, and with a slow-down of known size. Every round holds
each once in shuffled order, and the three are judged as a table of three rows is. The first two must not be called different,
and the slow-down must be called slower.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from bench.stats import intervals, power, verdict
from bench.stats.verdict import Verdict

NAMES = ("A", "A again", "slowed")
PAIRS = len(list(combinations(NAMES, 2)))


class Findings(NamedTuple):
    """What follows from a self-test; a figure is None where its rounds do not vary."""

    noise: float | None  # deviation of one process's log throughput within a round; 0.01 is 1 %
    smallest_effect: float | None  # that is called with 90 % power after as many rounds; 0.05 is 5 %
    same: Verdict  # on the second against the first
    slowed: Verdict  # on the third against the first

    @property
    def same_is_sound(self) -> bool:
        return self.same.decision not in ("faster", "slower")

    @property
    def slow_down_is_seen(self) -> bool:
        return self.slowed.decision == "slower"

    @property
    def passed(self) -> bool:
        return self.same_is_sound and self.slow_down_is_seen


def judge(rates: Sequence[tuple[float, float, float]], *, adjusted: bool = True) -> Findings:
    """From the throughputs of the three, round by round, by the rules of a table (`adjusted` is that of verdict.py)."""
    rounds = {name: {number: rate[at] for number, rate in enumerate(rates)} for at, name in enumerate(NAMES)}
    verdicts = verdict.compare_all(rounds, adjusted=adjusted)
    noise = intervals.noise([[math.log(rate) for rate in row] for row in rates])
    smallest = power.smallest_effect(noise.deviation, rounds=len(rates), pairs=PAIRS) if noise else None
    return Findings(noise.deviation if noise else None, smallest, verdicts["A again", "A"], verdicts["slowed", "A"])
