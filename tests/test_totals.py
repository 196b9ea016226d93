"""Total time for n steps, and where one backend overtakes another."""

import math
import random

import msgspec
import pytest

from bench.records.record import Record
from bench.report import grouping, totals
from tests.builders import a_quality, a_run
from tests.test_report import FAST, SLOW, TWO, only_section, replaced


def late(made: list[Record], backend: str, seconds: list[float]) -> list[Record]:
    """The records with this first step in each round of a backend."""
    for number, first_step_s in enumerate(seconds, start=1):
        for one in made:
            if (one.cell.arm.name, one.cell.kind, one.cell.round) == (backend, "speed", number):
                timings = msgspec.structs.replace(one.outcome.timings, first_step_s=first_step_s)  # type: ignore[type-var]
                made = replaced(made, lambda r, one=one: r is one, timings=timings)  # type: ignore[misc]
    return made


def test_the_time_for_n_steps_is_the_sum_of_its_medians() -> None:
    section = only_section(a_run(TWO, spec={"train_steps": 2345}))
    line = totals.line(section.rows[0])
    assert line is not None
    # 50 steps in 1,000 / 201 s: the median of FAST's five processes
    assert line == pytest.approx((1.0 + 0.5 + 0.25, 1000 / 201 / 50))
    assert line.seconds(1) == pytest.approx(1.75)
    assert line.seconds(101) == pytest.approx(1.75 + 100 * 1000 / 201 / 50)
    titles, fast, _ = totals.table(section)
    assert titles == [
        "backend", "import + build + first step", "a steady step", "100 steps", "1,000 steps",
        "2,345 steps (the whole training)", "10,000 steps",
    ]  # fmt: skip
    assert fast == ["fast", "1.75 s", "99.5 ms", "11.6 s", "101 s", "235 s", "997 s"]


@pytest.mark.parametrize("told", [None, 0, 1, -5, "9", 2.5, [3]])
def test_a_spec_that_does_not_say_how_long_the_training_is_adds_no_column(told: object) -> None:
    assert totals.counts(only_section(a_run(TWO, spec={"train_steps": told}))) == [100, 1_000, 10_000]


def test_a_break_even_step_is_the_first_at_which_the_faster_backend_is_not_behind() -> None:
    random.seed(3)
    made = late(a_run(TWO), "fast", [random.uniform(3, 30) for _ in FAST])
    (found,) = totals.break_even(only_section(made))
    by_hand = []
    for number in range(1, 6):
        of = {r.cell.arm.name: r.outcome.timings for r in made if r.cell.kind == "speed" and r.cell.round == number}

        def seconds(name: str, n: int, of: dict = of) -> float:  # type: ignore[type-arg]
            t = of[name]
            return float(t.import_s + t.build_s + t.first_step_s + (n - 1) * t.window_s / 50)

        by_hand.append(next(n for n in range(1, 10_000) if seconds("fast", n) <= seconds("slow", n)))
    assert (found.fast, found.slow, found.rounds) == ("fast", "slow", 5)
    assert (found.low, found.steps, found.high) == (min(by_hand), sorted(by_hand)[2], max(by_hand))


@pytest.mark.parametrize(
    ("first_steps", "sentence"),
    [
        ([30.25, 31.25, 32.25, 33.25, 34.25], "fast overtakes slow after 322 steps (301-340 over 5 rounds)."),
        ([0.25] * 5, "fast is ahead of slow from the start (5 rounds)."),
        ([0.1, 0.1, 0.1, 0.1, 34.25], "fast is ahead of slow from the start (at the latest from step 340, 5 rounds)."),
    ],
)
def test_sentences_of_break_even_steps(first_steps: list[float], sentence: str) -> None:
    section = only_section(late(a_run(TWO), "fast", first_steps))
    assert totals.sentences(section) == [sentence]


def test_a_round_in_which_the_other_backend_was_faster_has_no_break_even_step() -> None:
    speeds = {"fast": [130.0, 131.0, 129.0, 130.0, 100.0], "slow": [101.0] * 5}
    section = only_section(late(a_run(speeds), "fast", [5.25] * 5))
    section.verdicts["fast", "slow"] = section.verdicts["fast", "slow"]._replace(decision="faster")
    (found,) = totals.break_even(section)
    assert (found.steps < math.inf, found.high) == (True, math.inf)
    assert "-never over 5 rounds" in totals.sentences(section)[0]


@pytest.mark.parametrize(
    ("speeds", "why"),
    [
        ({"a": FAST, "b": [speed * 1.001 for speed in FAST]}, "no break-even step, for their steady speed is a tie."),
        ({"a": FAST[:1], "b": SLOW[:1]}, "no break-even step, for their steady speed is not decided."),
    ],
)
def test_lines_that_are_too_close_cross_nowhere(speeds: dict[str, list[float]], why: str) -> None:
    speeds["b"] = [speed * (1 + 1e-4 * i) for i, speed in enumerate(speeds["b"])]
    section = only_section(a_run(speeds))
    assert totals.break_even(section) == []
    (sentence,) = totals.sentences(section)
    assert sentence.endswith(why)


def test_a_break_even_step_rests_on_the_rounds_that_its_verdict_rests_on() -> None:
    made = late(a_run(TWO), "fast", [30.25, 31.25, 32.25, 33.25, 99.25])
    (last,) = [one for one in made if (one.cell.arm.name, one.cell.kind, one.cell.round) == ("fast", "speed", 5)]
    assert last.outcome.timings is not None
    blocks_s = last.outcome.timings.blocks_s
    middle, share = len(blocks_s) // 2, 0.5
    drifting = [one * (1 - share) for one in blocks_s[:middle]] + [one * (1 + share) for one in blocks_s[middle:]]
    timings = msgspec.structs.replace(last.outcome.timings, blocks_s=drifting)
    section = only_section(replaced(made, lambda r: r is last, timings=timings))
    assert (len(section.rows[0].timed), len(section.rows[0].comparable)) == (5, 4)
    (found,) = totals.break_even(section)
    assert (found.rounds, section.verdicts["fast", "slow"].ratio.n) == (4, 4)
    assert found.high < 400  # of the fifth round it would be 1,000


def test_a_row_that_is_not_ranked_overtakes_nothing() -> None:
    made = replaced(a_run(TWO), lambda r: (r.cell.kind, r.cell.arm.name) == ("quality", "fast"), quality=a_quality(0.5))
    section = only_section(made)
    assert totals.break_even(section) == totals.sentences(section) == []
    assert [row[0] for row in totals.table(section)[1:]] == ["slow"]


def test_without_a_timed_process_there_is_no_table() -> None:
    made = [r for r in a_run(TWO) if r.cell.kind != "speed"]
    assert totals.table(grouping.sections(made)[0]) == []
