"""How many rounds a comparison gets, from the noise of a pilot's processes, which take part in no figure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

from bench.campaign.plan import TaskPlan
from bench.records.record import Record, RoundsPlan
from bench.stats import intervals, power


def plan_rounds(pilots: Iterable[Record], *, effect: float, otherwise: int) -> RoundsPlan:
    """As many rounds as `bench/stats/power.py` asks for at the pilots' noise; `otherwise` where they say nothing about it.

    Used are the arms that finished every process, in the rounds that were not disturbed. Planned is for the bound of their
    pooled noise, or for that of the noisiest pair where it is larger: one restless arm among many quiet ones is as restless in
    each of its verdicts.
    """
    logs: dict[str, dict[int, float]] = defaultdict(dict)
    left_out: set[int] = set()
    fallen: set[str] = set()
    for done in pilots:
        outcome, arm = done.outcome, done.cell.arm.name
        if outcome.status != "ok" or outcome.timings is None:
            fallen.add(arm)
            continue
        logs[arm][done.cell.round] = math.log(outcome.timings.throughput)
        if outcome.disturbance is not None and outcome.disturbance.disturbed:
            left_out.add(done.cell.round)
    names = sorted(set(logs) - fallen)
    rounds = sorted({number for name in names for number in logs[name]} - left_out)
    pairs = list(combinations(names, 2))
    noise, *noise_of_pairs = (
        intervals.noise([[logs[name][number] for name in arms] for number in rounds]) for arms in (names, *pairs)
    )
    if noise is None:
        return RoundsPlan(otherwise, effect, None)
    bound = max(noise.upper(power.PILOT_CONFIDENCE), *(pair.deviation for pair in noise_of_pairs if pair is not None))
    found = power.rounds_for(bound, effect=effect, pairs=len(pairs))
    return RoundsPlan(found.rounds, effect, bound, found.tie, found.found)


def with_known_rounds(plan: TaskPlan, kept: Mapping[str, Record]) -> TaskPlan:
    """The plan with the rounds that its pilot asks for, where the records that are kept have the whole pilot."""
    names = [cell.file_name for cell in plan.of_kind("pilot")]
    if plan.choice.effect is None or not all(name in kept for name in names):
        return plan
    pilots = [kept[name] for name in names]
    return plan.with_rounds(plan_rounds(pilots, effect=plan.choice.effect, otherwise=plan.preset.rounds))
