"""Total time for n steps, and the step from which one backend is ahead of another.

The time for n steps is import + build + first step + (n - 1) steady steps, so a backend that compiles pays for it once and may
be ahead later. From which step on it is ahead is found round by round, for pairs whose steady speed is decided only: where it
is not, the lines are too close to say where they cross.
"""

import math
from statistics import median
from typing import NamedTuple

from bench.report.formats import duration, many_rounds
from bench.report.grouping import Row, Section

COUNTS = (100, 1_000, 10_000)

MEANING = (
    "The time for n steps is import + build + first step (trace and compile) + (n - 1) steady steps, each of them the median "
    "over the processes of speed; the steps of the warm-up count as steady ones, and reading data and evaluation are not in "
    "it. A break-even step is the median over rounds, with their lowest and highest one; it is given where the steady speeds "
    "are decided."
)


class Line(NamedTuple):
    """Seconds from the start of a process until it has done n steps, as a line in n."""

    start_s: float  # import, build and the first step
    step_s: float

    def seconds(self, steps: float) -> float:
        return self.start_s + (steps - 1) * self.step_s


class BreakEven(NamedTuple):
    """From which step on the backend with the faster steps is ahead in total time; 1: always, infinity: never."""

    fast: str
    slow: str
    steps: float  # median over rounds
    low: float
    high: float
    rounds: int


def line(row: Row) -> Line | None:
    """The medians over processes; None if no speed was measured."""
    start = [row.timing(name) for name in ("import_s", "build_s", "first_step_s")]
    known = [part for part in start if part is not None]
    return None if row.step_s is None else Line(sum(known), row.step_s)


def counts(section: Section) -> list[int]:
    """The numbers of steps that are shown: powers of ten and the preset's whole training."""
    return sorted({*COUNTS, *filter(None, [budget(section)])})


def budget(section: Section) -> int | None:
    """Steps of the preset's whole training, if the spec says so."""
    steps = section.first.spec.get("train_steps")
    return steps if isinstance(steps, int) and steps > 1 else None


def table(section: Section) -> list[list[str]]:
    """Titles, then the times of each ranked backend, as no other's speed stands without its reason; empty if there is none."""
    found = [(row.name, line(row)) for row in section.ranked]
    shown = counts(section)
    titles = [f"{n:,} steps" + (" (the whole training)" if n == budget(section) else "") for n in shown]
    rows = [
        [name, duration(of.start_s), duration(of.step_s), *(duration(of.seconds(n)) for n in shown)]
        for name, of in found
        if of is not None
    ]
    return [[section.noun, "import + build + first step", "a steady step", *titles], *rows] if rows else []


def break_even(section: Section) -> list[BreakEven]:
    """One for each pair of ranked rows whose steady speed is decided."""
    found = []
    for row, other in _pairs(section):
        verdict = section.verdicts.get((row.name, other.name))
        if verdict is not None and verdict.decision in ("faster", "slower"):
            fast, slow = (row, other) if verdict.decision == "faster" else (other, row)
            steps = [_ahead_from(a, b) for a, b in _rounds(fast, slow)]
            found.append(BreakEven(fast.name, slow.name, median(steps), min(steps), max(steps), len(steps)))
    return found


def sentences(section: Section) -> list[str]:
    """The break-even steps in words, and why a pair has none."""
    texts = []
    known = {frozenset((found.fast, found.slow)): found for found in break_even(section)}
    for row, other in _pairs(section):
        found = known.get(frozenset((row.name, other.name)))
        verdict = section.verdicts.get((row.name, other.name))
        if found is not None:
            texts.append(_sentence(found))
        elif verdict is not None:
            why = "a tie" if verdict.decision == "tie" else verdict.decision
            texts.append(f"{row.name} and {other.name}: no break-even step, for their steady speed is {why}.")
    return texts


def _pairs(section: Section) -> list[tuple[Row, Row]]:
    ranked = section.ranked
    return [(row, other) for position, row in enumerate(ranked) for other in ranked[position + 1 :]]


def _rounds(fast: Row, slow: Row) -> list[tuple[Line, Line]]:
    """The lines of both backends in each round that their verdict rests on."""
    first, second = _by_round(fast), _by_round(slow)
    return [(first[number], second[number]) for number in sorted(set(first) & set(second))]


def _by_round(row: Row) -> dict[int, Line]:
    timed = row.timed
    return {number: Line(timed[number].start_s, timed[number].step_s) for number in row.comparable}


def _ahead_from(fast: Line, slow: Line) -> float:
    """The smallest number of steps from which on `fast` is not behind."""
    late, gain = fast.start_s - slow.start_s, slow.step_s - fast.step_s
    if gain <= 0:
        return math.inf
    return 1 + math.ceil(max(0.0, late) / gain)


def _sentence(found: BreakEven) -> str:
    rounds = many_rounds(found.rounds)
    if found.high == 1:
        return f"{found.fast} is ahead of {found.slow} from the start ({rounds})."
    steps, low, high = _shown(found)
    if found.steps == 1:
        return f"{found.fast} is ahead of {found.slow} from the start (at the latest from step {high}, {rounds})."
    spread = f"{low}-{high} over {rounds}" if found.rounds > 1 else rounds
    if found.steps == math.inf:
        return f"{found.fast} does not overtake {found.slow} in most rounds (step {low}-{high} over {rounds})."
    return f"{found.fast} overtakes {found.slow} after {steps} steps ({spread})."


def _shown(found: BreakEven) -> tuple[str, ...]:
    """Median, lowest and highest, no finer than two digits of the shorter side."""
    sides = [side for side in (found.steps - found.low, found.high - found.steps) if 0 < side < math.inf]
    decimals = 1 - math.floor(math.log10(min(sides))) if sides else 3 - len(f"{min(found.low, 1e15):.0f}")
    return tuple(
        "never" if part == math.inf else f"{round(part, min(decimals, 0)):,.0f}"
        for part in (found.steps, found.low, found.high)
    )
