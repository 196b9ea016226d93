"""How many rounds a comparison gets, from the noise of a pilot's processes, which take part in no figure."""

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

from bench.records.record import Record, RoundsPlan
from bench.stats import intervals, power
from bench.stats.verdict import MARGIN

CONFIDENCE = 0.8
"""Three rounds say little about noise: planned is for the bound below which it lies with this confidence."""


def plan_rounds(pilots: Iterable[Record], *, effect: float, otherwise: int) -> RoundsPlan:
    """As many rounds as `bench/stats/power.py` asks for at the pilots' noise; `otherwise` where they say nothing about it.

    Used are the backends that finished every process, in the rounds that were not disturbed.
    """
    logs: dict[str, dict[int, float]] = defaultdict(dict)
    left_out: set[int] = set()
    fallen: set[str] = set()
    for done in pilots:
        if done.status != "ok" or done.timings is None:
            fallen.add(done.backend)
            continue
        logs[done.backend][done.round] = math.log(done.timings.items / done.timings.window_s)
        if done.disturbance is not None and done.disturbance.disturbed:
            left_out.add(done.round)
    names = sorted(set(logs) - fallen)
    rounds = sorted({number for name in names for number in logs[name]} - left_out)
    noise = intervals.noise([[logs[name][number] for name in names] for number in rounds])
    if noise is None:
        return RoundsPlan(otherwise, effect, None)
    bound = noise.upper(CONFIDENCE)
    found = power.rounds_for(bound, effect=effect, pairs=len(list(combinations(names, 2))))
    return RoundsPlan(found.rounds, effect, bound, found.tie, found.found)


def describe(plan: RoundsPlan) -> str:
    """The plan in words."""
    if plan.noise is None or plan.tie is None or plan.found is None:
        return f"{plan.rounds} rounds, the preset's: the pilot left no noise of two backends to plan from"
    most = ", the most that are planned" if plan.rounds == power.MOST_ROUNDS else ""
    return (
        f"{plan.rounds} rounds{most}, from a pilot's noise between processes of at most {100 * plan.noise:.2g} % "
        f"({CONFIDENCE:.0%} confidence): equal backends are called a tie within {MARGIN:.0%} with a chance of "
        f"{_chance(plan.tie)}, a difference of {100 * plan.effect:.3g} % is found with one of {_chance(plan.found)}"
    )


def _chance(value: float) -> str:
    return f"{100 * min(value, 0.999):.3g} %"
