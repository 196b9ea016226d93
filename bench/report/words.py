"""A verdict, a self-test and a plan of rounds in words."""

from collections.abc import Collection

from bench.records.limits import MARGIN, MOST_ROUNDS
from bench.records.record import RoundsPlan, SelfTest
from bench.report.formats import many_rounds, significant, with_interval
from bench.stats import intervals, power
from bench.stats import selftest as judging
from bench.stats.intervals import Interval
from bench.stats.verdict import ERROR, Verdict

DEAR = 1.03  # of a step's time alone, that company may cost without a word


def rounds_plan(plan: RoundsPlan) -> str:
    """How the number of rounds was found."""
    if plan.noise is None or plan.tie is None or plan.found is None:
        return f"{plan.rounds} rounds, the preset's: the pilot left no noise of two arms to plan from"
    most = ", the most that are planned" if plan.rounds == MOST_ROUNDS else ""
    return (
        f"{plan.rounds} rounds{most}, from a pilot's noise between processes of at most {100 * plan.noise:.2g} % "
        f"({100 * power.PILOT_CONFIDENCE:.0f} % confidence): equal arms are called a tie within {100 * MARGIN:.0f} % with a "
        f"chance of {_chance(plan.tie)}, a difference of {100 * plan.effect:.3g} % is found with one of {_chance(plan.found)}"
    )


def looks(numbers: Collection[int]) -> str:
    """How the numbers of rounds of one point, or of several, came to be where they were not planned once."""
    counted = " to ".join(dict.fromkeys(map(str, (min(numbers), max(numbers)))))
    return (
        f"{counted}; where a verdict was open, more were added, twice as many for each look. The looks were fixed before the "
        f"first one: the first look spends half of the {100 * ERROR:.0f} % for wrong verdicts, each later one half of the rest"
    )


def _chance(value: float) -> str:
    return f"{100 * min(value, 0.999):.3g} %"


def selftest(test: SelfTest, *, adjusted: bool = True) -> list[str]:
    """The findings of a self-test, a line each."""
    found = judging.judge(test.rates, adjusted=adjusted)
    rounds = f"{len(test.rates)} rounds" + (f", {test.disturbed} more were disturbed" if test.disturbed else "")
    if found.noise is None:
        lines = [f"noise: none was seen in {rounds}, so nothing is known about it"]
    else:
        smallest = "none" if found.smallest_effect is None else percent(found.smallest_effect)
        lines = [
            f"noise: {percent(found.noise)} between processes (standard deviation within a round; {rounds})",
            f"smallest visible effect: {smallest} (called with {100 * power.FOUND_WANTED:.0f} % power)",
        ]
    same = f"A/A: {found.same.decision}, ratio {with_interval(found.same.ratio)}"
    if found.same.decision == "not decided" and found.same.rounds_needed:
        same += f"; too few rounds for a tie, about {found.same.rounds_needed} would decide at this noise"
    slowed = f"planted {percent(test.slow_down)} slow-down: {found.slowed.decision}"
    exact = f"{1 / (1 + test.slow_down):.4g} is exact"
    return [*lines, same, f"{slowed}, ratio {with_interval(found.slowed.ratio)}; {exact}", *_company(test)]


def _company(test: SelfTest) -> list[str]:
    if not test.company:
        return []
    found = intervals.geometric_mean(test.company)
    told = f"a step among the others takes {with_interval(found)} times as long as alone"
    if found.low is not None and found.low > DEAR:
        told += ": what others ran meanwhile has left the caches to be filled again, for every row of a table alike"
    return [told]


def selftest_faults(test: SelfTest) -> list[str]:
    """What a self-test found wrong; empty if it is passed."""
    found = judging.judge(test.rates)
    faults = []
    if not found.same_is_sound:
        faults.append(f"the same program was called {found.same.decision} than itself")
    if not found.slow_down_is_seen:
        faults.append(f"a planted slow-down of {percent(test.slow_down)} was missed")
    return faults


def selftest_in_short(test: SelfTest, *, adjusted: bool = True) -> str:
    """The findings on one line, for what stands below a table."""
    told = "; ".join(selftest_faults(test)) or "passed"
    return f"{told} ({test.started_utc[:10]}, preset {test.preset}); {'; '.join(selftest(test, adjusted=adjusted))}"


def verdict_in_words(does: str, name: str, other: str, found: Verdict) -> str:
    """A verdict of one arm against another, with its evidence; `does` is what one of them does faster."""
    ratio_text = with_interval(found.ratio)
    rounds = many_rounds(found.ratio.n)
    if found.decision == "tie":
        return f"{name} and {other}: tie within {100 * MARGIN:.0f} % (ratio {ratio_text}, {rounds})."
    if found.decision == "not decided":
        more = f"; about {found.rounds_needed} rounds would decide at this noise" if found.rounds_needed else ""
        return f"{name} and {other}: not decided (ratio {ratio_text}, {rounds}{more})."
    flipped = found.decision == "slower"
    fast, slow = (other, name) if flipped else (name, other)
    shown = Interval(1 / found.ratio.estimate, _inverse(found.ratio.high), _inverse(found.ratio.low), found.ratio.n)
    return f"{fast} {does} {with_interval(shown if flipped else found.ratio)} times as fast as {slow} ({rounds})."


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value


def percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"
