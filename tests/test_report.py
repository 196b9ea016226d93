"""Tables from records alone: what stands together, what is ranked, what is said of the rest, and that nothing in it runs."""

import csv
import io
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.live import Live

from bench.cli import progress
from bench.cli.progress import Lines, Screen
from bench.records import files
from bench.records.record import Bytes, Data, Disturbance, Probe, Quality, Record, Status, Target
from bench.report import facts, grouping, learning, markdown, summary, table_csv, terminal
from tests.builders import (
    MACHINE,
    NO_ALLOCATOR,
    a_ladder,
    a_memory,
    a_quality,
    a_record,
    a_row,
    a_run,
    a_timing,
    changed,
    write_records,
)  # fmt: skip

FAST, SLOW = [200.0, 204.0, 198.0, 201.0, 202.0], [100.0, 101.0, 99.5, 100.5, 100.2]
TWO = {"fast": FAST, "slow": SLOW}


def replaced(made: list[Record], where: Callable[[Record], bool], **facts: Any) -> list[Record]:
    """The records, some of them with other facts."""
    return [changed(one, **facts) if where(one) else one for one in made]


def only_section(made: list[Record]) -> grouping.Section:
    (section,) = grouping.sections(made)
    return section


def table_of(made: list[Record]) -> dict[str, dict[str, str]]:
    """backend -> title -> cell, as a Markdown renderer shows the first table."""
    first = tables(markdown.render(made))[0]
    return {row[0]: dict(zip(first[0], row, strict=True)) for row in first[1:]}


def tables(text: str) -> list[list[list[str]]]:
    """Every table in a Markdown text: rows of cells as they are read by a person."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        match token.type:
            case "table_open":
                found.append([])
            case "tr_open":
                found[-1].append([])
            case "th_open" | "td_open":
                found[-1][-1].append("")
            case "inline" if found and found[-1] and token.children is not None and token.level == 4:
                found[-1][-1][-1] = "".join(child.content for child in token.children)
    return found


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_terminal(made: list[Record]) -> str:
    """What a terminal without colours shows."""
    stream = Tty()
    with patch.dict(os.environ, {"TERM": "dumb"}):
        terminal.show(made, stream)
    return stream.getvalue()


# Sections.


@pytest.mark.parametrize(
    "other",
    [
        {"task": "other"},
        {"preset": "full"},
        {"spec": {"task": "mnist_mlp", "epochs": 6}},
        {"measurement": 1},
        {"id": "other"},
        *(
            {"machine": msgspec.structs.replace(MACHINE, **change)}
            for change in (
                {"cpu": "Another CPU"}, {"cores": 4}, {"memory_bytes": 2**34}, {"gpu": "A GPU"}, {"gpu_driver": "555"},
                {"os": "Linux 6.2 x86_64"},
            )
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_may_not_be_compared_stands_in_tables_of_its_own(other: dict[str, Any]) -> None:
    made = a_row("fast", FAST) + a_row("slow", SLOW, **other)
    assert sorted([row.name for row in section.rows] for section in grouping.sections(made)) == [["fast"], ["slow"]]
    text = markdown.render(made)
    assert text.count("\n## ") + text.startswith("## ") == 2
    assert text.count("Nothing is compared") == 2


def test_what_may_be_compared_stands_in_one_table() -> None:
    section = only_section(a_run(TWO))
    assert [row.name for row in section.rows] == ["fast", "slow"]
    assert section.verdicts["fast", "slow"].decision == "faster"


@pytest.mark.parametrize(
    "other", [{"device": "gpu"}, {"precision": "float64"}, {"threads": 1}, {"mode": "compile"}, {"environment": {"A": "1"}}],
    ids=str,
)  # fmt: skip
def test_two_arms_of_one_name_never_share_a_table(other: dict[str, Any]) -> None:
    """Rows are told apart by their names. A run has a name once; two runs in one folder may not."""
    made = a_run(TWO) + a_run({"fast": SLOW, "slow": FAST}, **other)
    sections = grouping.sections(made)
    assert [[row.name for row in section.rows] for section in sections] in (
        [["fast", "slow"], ["slow", "fast"]], [["slow", "fast"], ["fast", "slow"]],
    )  # fmt: skip
    ways = [{other.items() <= row.arm.way.items() for row in section.rows} for section in sections]
    assert sorted(map(list, ways)) == [[False], [True]]
    assert [found.decision for section in sections for found in section.verdicts.values()].count("faster") == 2
    assert markdown.render(made) == markdown.render(made[::-1])


def test_two_versions_of_a_framework_are_not_averaged_into_one_row() -> None:
    old = a_row("alpha", FAST, versions={"alpha": "1.0"}, id="1")
    made = old + a_row("alpha", SLOW, versions={"alpha": "2.0"}, id="2")
    speeds = [row.throughputs for section in grouping.sections(made) for row in section.rows]
    assert sorted(max(speed.values()) for speed in speeds) == pytest.approx([max(SLOW), max(FAST)])


def test_rounds_of_two_runs_are_not_taken_for_pairs() -> None:
    """Only what ran interleaved shares the weather of a round."""
    for section in grouping.sections(a_row("fast", FAST, id="1") + a_row("slow", SLOW, id="2")):
        assert section.verdicts == {}


# Rows: who is ranked, and why not.


def test_every_cell_of_a_complete_row() -> None:
    assert table_of(a_run(TWO))["slow"] == {
        "backend": "slow",
        "images/s": "100.24 (99.55-100.94), n=5",
        "relative to the fastest": "0.4987 (0.4949-0.5026): slower",
        "cores busy": "not measured",
        "of the matrix rate": "not measured",
        "first step": "250 ms, n=5",
        "import + build": "1.50 s, n=5",
        "host memory peak (after import)": "300 MiB (100 MiB), n=1",
        "device memory peak": "not measured",
        "test accuracy": "95.5 (89.1-100.0) %, n=2",
        "parity": "float64 10/10, float32 10/10",
    }


A_WINDOW = Disturbance(
    load=0.5, others_share=0.0, stolen_share=0.0, involuntary_switches=1, major_page_faults=0, cpu_mhz=2900.0
)


def test_the_share_is_of_the_highest_matrix_rate_that_any_backend_reached() -> None:
    made = a_run({"slow": SLOW, "fast": FAST}, step_flops=4_000_000, probe=Probe(1e-7, 1024, 50e6))
    made = replaced(made, lambda r: r.cell.arm.name == "fast", probe=Probe(1e-7, 1024, 80e6))
    found = table_of(made)
    # 50 steps x 4 MFLOP in 1,000 / 100.24 s and 1,000 / 201 s.
    assert found["slow"]["of the matrix rate"] == "25 %"
    assert found["fast"]["of the matrix rate"] == "50 %"
    text = markdown.render(made).replace("\\", "")
    assert "fast reached 0.0800 GFLOP/s with products of 1024 x 1024 matrices in float32" in text
    assert "a training step of the model needs 0.00400 GFLOP" in text


def test_a_disturbed_round_is_shown_and_takes_part_in_no_figure_of_any_row() -> None:
    made = a_run({"slow": [*SLOW[:4], 1.0], "fast": FAST}, disturbance=A_WINDOW)
    told = msgspec.structs.replace(A_WINDOW, disturbed="other processes took 40% of the cores' time")
    made = replaced(made, lambda r: r.cell.arm.name == "slow" and r.cell.round == 5, disturbance=told)
    found = table_of(made)
    assert [found[name]["images/s"].endswith("n=4") for name in ("slow", "fast")] == [True, True]
    assert "slow, round 5: " not in found
    text = markdown.render(made).replace("\\", "")
    assert "round 5, slow: other processes took 40% of the cores' time" in text
    assert "times as fast as slow (4 rounds)" in text


def drifting(beside: int, *changing: str) -> list[Record]:
    """Three arms, of which some took 50 % more time in the second half of their window in the first round."""
    made = replaced(a_run({"a": FAST, "b": SLOW, "c": SLOW}), lambda one: one.cell.kind == "speed", beside=beside)
    for at, one in enumerate(made):
        timings = one.outcome.timings
        if timings is not None and one.cell.round == 1 and one.cell.arm.name in changing:
            blocks_s = [block_s * (0.8 if turn < 5 else 1.2) for turn, block_s in enumerate(timings.blocks_s)]
            made[at] = changed(one, timings=msgspec.structs.replace(timings, blocks_s=blocks_s))
    return made


def test_a_drift_that_all_arms_of_a_round_share_is_told_and_takes_no_round_from_their_verdicts() -> None:
    section = only_section(drifting(2, "a", "b", "c"))
    assert [len(row.comparable) for row in section.rows] == [5, 5, 5]
    ((label, told),) = facts.unsteady(section)
    assert label == "Not steady, as the other arms of the round were, so that ratios count"
    assert told.startswith("round 1, a: the second half of the window took 50.0 % more time; round 1, ")


@pytest.mark.parametrize(
    ("beside", "changing", "lost"),
    [
        (2, ["a"], {"a"}),
        (1, ["a", "b", "c"], {"a", "b", "c"}),  # three of two: nothing says which of them took turns
        (0, ["a", "b"], {"a", "b"}),
    ],
)
def test_no_verdict_rests_on_the_window_of_an_arm_that_changed_by_itself(
    beside: int, changing: list[str], lost: set[str]
) -> None:
    section = only_section(drifting(beside, *changing))
    assert {row.name for row in section.rows if 1 not in row.comparable} == lost
    assert {label for label, _ in facts.unsteady(section)} == {"Not steady, in no verdict"}


def test_an_arm_that_failed_in_its_turn_took_turns_all_the_same() -> None:
    others = [
        one for one in drifting(2, "a", "b") if (one.cell.arm.name, one.cell.round, one.cell.kind) != ("c", 1, "speed")
    ]
    section = only_section([*others, a_record(backend="c", round=1, beside=2, status="crashed", reason="it died")])
    assert [1 in row.comparable for row in section.ranked] == [True, True]


def test_a_row_whose_rounds_were_all_disturbed_is_not_ranked() -> None:
    told = msgspec.structs.replace(A_WINDOW, disturbed="the GPU throttled: heat")
    made = a_run(TWO, disturbance=told)
    assert table_of(made)["slow"]["relative to the fastest"].endswith("every round was disturbed")
    text = markdown.render(made).replace("\\", "")
    assert "round 1, slow: the GPU throttled: heat" in text


@pytest.mark.parametrize(("slow", "advised"), [([700.0, 900.0, 2000.0], True), (SLOW[:3], False)])
def test_a_disturbed_round_comes_first_where_it_left_something_open(slow: list[float], advised: bool) -> None:
    made = a_run({"slow": slow, "fast": FAST[:3]}, disturbance=A_WINDOW)
    told = msgspec.structs.replace(A_WINDOW, disturbed="other processes took 40% of the cores' time")
    made = replaced(made, lambda r: r.cell.arm.name == "fast" and r.cell.round == 2, disturbance=told)
    (section,) = grouping.sections([changed(one, measurement=2) for one in made])
    first = summary.sentences(section)[0]
    assert first.startswith("Disturbed, and in no figure of speed: 1 of 3 rounds.") == advised


def test_the_speed_of_a_training_is_told_in_its_first_and_last_fifth() -> None:
    """101 steps: 0.1 s each, from step 81 on 0.2 s; the first takes 5 s."""
    seconds = [5 + 0.1 * min(step - 1, 80) + 0.2 * max(0, step - 81) for step in range(1, 102)]
    curve = [(step, seconds[step - 1], 1.0) for step in (1, *range(2, 102, 2), 101)]
    made = [
        changed(one, quality=msgspec.structs.replace(one.outcome.quality, steps=101, curve=curve))
        if one.outcome.quality
        else one
        for one in a_run(TWO)
    ]
    section = only_section(made)
    title = "Steps per second in the first and the last fifth of the whole training"
    assert dict(facts.facts(section))[title] == "fast 10.0 and 5.00, slow 10.0 and 5.00"
    assert title not in dict(facts.facts(only_section(a_run(TWO))))  # of trainings whose curve has two points


def test_tokens_and_remarks_stand_below_the_table() -> None:
    counted = msgspec.structs.replace(a_timing(1000), tokens=5000)
    made = replaced(a_run(TWO, remarks=["not steady: 20% more"]), lambda r: r.cell.kind == "speed", timings=counted)
    text = markdown.render(made).replace("\\", "")
    assert "Tokens per second, padding left out: fast 5,000, slow 5,000" in text
    assert "slow, speed, round 1: not steady: 20% more" in text


def test_a_perplexity_is_never_told_as_nothing_or_less() -> None:
    interval = learning.quality_interval("perplexity", [100.0, 225.0])
    assert interval.estimate == pytest.approx(150)
    assert interval.low is not None
    assert interval.low > 0
    assert learning.quality_interval("perplexity", [0.0, 2.0]).estimate == 1.0  # no perplexity, but no reason to stop


def test_precision_recall_and_confusion_of_each_class() -> None:
    first = {"precision_bad": 0.5, "recall_bad": 0.25, "f1_bad": 1 / 3, "precision_good": 0.75, "recall_good": 1.0,
             "f1_good": 0.8, "confusion_00": 1.0, "confusion_01": 3.0, "confusion_10": 0.0, "confusion_11": 4.0}  # fmt: skip
    second = {**first, "precision_bad": 1.0, "confusion_01": 1002.0}
    made = [
        a_record(kind="quality", seed=seed, quality=Quality(1, 1.0, 1.0, metrics, []))
        for seed, metrics in enumerate((first, second))
    ]
    assert summary.classes(grouping.sections(made)[0]) == [
        ["backend", "class", "precision", "recall", "F1", "taken for bad", "taken for good"],
        ["alpha", "bad", "75.0 %", "25.0 %", "33.3 %", "2", "1,005"],
        ["alpha", "good", "75.0 %", "100.0 %", "80.0 %", "0", "8"],
    ]
    assert summary.classes(grouping.sections(a_run(TWO))[0]) == []


def test_a_class_whose_figure_a_seed_lacks_has_none() -> None:
    metrics = {"precision_bad": 0.5, "recall_bad": 0.25, "f1_bad": 0.5, "confusion_00": 1.0}
    made = [
        a_record(kind="quality", seed=seed, quality=Quality(1, 1.0, 1.0, found, []))
        for seed, found in enumerate((metrics, {"precision_bad": 1.0}))
    ]
    (_, line) = summary.classes(only_section(made))
    assert line == ["alpha", "bad", "75.0 %", "not measured", "not measured", "not measured"]


def test_the_fastest_comes_first_with_the_verdict_in_words() -> None:
    text = markdown.render(a_run({"slow": SLOW, "fast": FAST}))
    assert list(table_of(a_run({"slow": SLOW, "fast": FAST}))) == ["fast", "slow"]
    assert "fast trains mnist_mlp 2.005 (1.990-2.021) times as fast as slow (5 rounds)." in text.replace("\\", "")
    assert table_of(a_run(TWO))["fast"]["relative to the fastest"] == "1"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda made: [r for r in made if r.cell.kind != "parity"], "parity was not checked"),
        (lambda made: replaced(made, lambda r: r.cell.kind == "parity", ladders=[a_ladder(passed=4)]), "parity failed"),
        (
            lambda made: replaced(
                made, lambda r: r.cell.kind == "parity", ladders=[a_ladder(precision="float64"), a_ladder(passed=6)]
            ),
            "parity failed",
        ),
        (lambda made: [r for r in made if r.cell.kind != "quality"], "quality was not measured"),
        (
            lambda made: replaced(
                made, lambda r: (r.cell.kind, r.cell.seed) == ("quality", 1), quality=a_quality(0.84)
            ),
            "outside the target accuracy >= 0.9 in the mean of 2 trainings",
        ),
        (
            lambda made: replaced(
                made,
                lambda r: (r.cell.kind, r.cell.seed) == ("quality", 1),
                quality=Quality(1, 1.0, 1.0, {"loss": 0.1}, []),
            ),
            "a training has no accuracy",
        ),
        (lambda made: [r for r in made if r.cell.kind != "speed"], "no speed was measured"),
        (
            lambda made: replaced(made, lambda r: r.cell.kind == "speed", status="oom", reason="3 TiB", timings=None),
            "3 TiB",
        ),
    ],
)
def test_a_row_that_is_not_ranked_says_why(spoil: Callable[[list[Record]], list[Record]], reason: str) -> None:
    made = spoil(a_row("fast", FAST)) + a_row("slow", SLOW) + a_row("slower", [speed / 2 for speed in SLOW])
    cell = table_of(made)["fast"]["relative to the fastest"]
    assert cell.startswith("not ranked: ")
    assert reason in cell
    section = only_section(made)
    assert [row.name for row in section.ranked] == ["slow", "slower"]
    assert not [pair for pair in section.verdicts if "fast" in pair]
    assert "fast trains" not in markdown.render(made)
    assert section.rows[-1].name == "fast"
    line = next(line for line in csv.DictReader(io.StringIO(table_csv.render(made))) if line["arm"] == "fast")
    assert reason in line["not_ranked_because"]
    assert line["ratio_to_fastest"] == line["verdict"] == ""


@pytest.mark.parametrize(("accuracies", "ranked"), [([0.89, 0.92], True), ([0.89, 0.9], False), ([0.95, 0.84], False)])
def test_the_mean_over_seeds_is_judged_against_the_target(accuracies: list[float], ranked: bool) -> None:
    """A single seed may miss it: what is promised of a row is its mean, and its interval stands beside it."""
    made = a_row("fast", FAST, accuracies=accuracies) + a_row("slow", SLOW)
    assert [row.name for row in only_section(made).ranked] == (["fast", "slow"] if ranked else ["slow"])
    (line,) = (one for one in csv.DictReader(io.StringIO(table_csv.render(made))) if one["arm"] == "fast")
    assert line["target_reached"] == str(ranked)


def test_what_learned_too_well_has_missed_the_target_too() -> None:
    made = a_run(TWO, accuracies=[0.95, 0.96], target=Target("accuracy", at_least=0.9, at_most=0.955))
    assert [row.name for row in only_section(made).ranked] == ["fast", "slow"]
    made += a_row("leaked", FAST, accuracies=[0.99, 1.0], target=Target("accuracy", at_least=0.9, at_most=0.955))
    assert "outside the target accuracy >= 0.9 and <= 0.955" in str(only_section(made).rows[-1].excluded)


def test_a_training_that_failed_counts_as_a_target_that_was_missed() -> None:
    """One seed of two diverged: the row must not be ranked by the other."""
    failed = {"status": "failed", "reason": "the training loss was nan", "quality": None}
    made = replaced(
        a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind, r.cell.seed) == ("fast", "quality", 1), **failed
    )
    assert [row.name for row in only_section(made).ranked] == ["slow"]


def test_a_ladder_that_ends_before_the_top_without_a_failure_is_not_passed() -> None:
    short = msgspec.structs.replace(a_ladder(), rungs=a_ladder().rungs[:3])
    made = replaced(a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind) == ("fast", "parity"), ladders=[short])
    assert [row.name for row in only_section(made).ranked] == ["slow"]


def test_a_ladder_in_another_precision_alone_proves_nothing_about_the_one_that_was_timed() -> None:
    double = [a_ladder(precision="float64")]
    made = replaced(a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind) == ("fast", "parity"), ladders=double)
    assert [row.name for row in only_section(made).ranked] == ["slow"]


def test_a_framework_that_is_not_installed_is_a_row_with_the_command_that_adds_it() -> None:
    command = 'torch not installed; add it with: pip install -e ".[pytorch]"'
    made = [*a_run(TWO), a_record(backend="absent", status="skipped", reason=command, versions={})]
    row = table_of(made)["absent"]
    assert row["images/s"] == f"skipped: {command}"
    assert row["relative to the fastest"] == f"not ranked: {command}"
    assert all(row.values())


def test_rounds_that_failed_are_counted_beside_those_that_did_not() -> None:
    killed = {"status": "killed", "reason": "by SIGKILL", "timings": None}
    made = replaced(
        a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind, r.cell.round) == ("slow", "speed", 3), **killed
    )
    assert table_of(made)["slow"]["images/s"].endswith("n=4, 1 not ok")
    assert table_of(made)["slow"]["relative to the fastest"] == "not ranked: 4 of 5 rounds (killed: by SIGKILL)"
    assert "slow, speed, round 3, seed 0: killed: by SIGKILL" in markdown.render(made)


def test_every_process_that_is_not_ok_is_listed_with_its_reason() -> None:
    statuses = [status for status in Status.__args__ if status != "ok"]
    failed = [
        a_record(backend=f"b{number}", kind=kind, status=status, reason=f"reason {number} {kind}")
        for number, status in enumerate(statuses)
        for kind in ("parity", "speed", "memory", "quality")
    ]
    text = markdown.render(a_run(TWO) + failed)
    for cell in failed:
        assert (
            f"{cell.cell.arm.name}, {cell.cell.kind}, round 1, seed 0: {cell.outcome.status}: {cell.outcome.reason}"
            in text
        )


def test_one_round_has_no_interval_and_decides_nothing() -> None:
    made = a_run({"fast": FAST[:1], "slow": SLOW[:1]})
    table = table_of(made)
    assert table["slow"]["images/s"] == "100, n=1, no interval"
    assert table["slow"]["relative to the fastest"] == "0.500: not decided"
    assert "fast and slow: not decided (ratio 2.00, 1 round)." in markdown.render(made)


@pytest.mark.parametrize(("accuracies", "shown"), [([0.93], "93.0 %, n=1"), ([0.93, 0.93], "93.0 %, n=2")])
def test_one_training_and_equal_ones_have_no_interval_and_say_so(accuracies: list[float], shown: str) -> None:
    table = table_of(a_row("one", SLOW, accuracies=accuracies))
    assert table["one"]["test accuracy"] == f"{shown}, no interval"


def test_a_tie_and_an_open_comparison_are_said_in_words() -> None:
    text = markdown.render(a_run({"one": SLOW, "two": [speed * 1.001 for speed in reversed(SLOW)]}))
    assert re.search(r"two and one: tie within 3 % \(ratio 1\.00\d* \(0\.99\d*-1\.00\d*\), 5 rounds\)\.", text)
    text = markdown.render(a_run({"one": [100.0, 110.0, 90.0], "two": [101.0, 95.0, 108.0]}))
    assert re.search(r"not decided \(ratio [^)]*\), 3 rounds; about \d+ rounds would decide at this noise\)\.", text)


def test_a_survivor_of_rounds_that_others_finished_is_not_ranked() -> None:
    """What it was too large or too slow for is not in its mean; that the records are gone makes no difference."""
    made = [r for r in a_run(TWO) if r.cell.kind != "speed" or r.cell.round == 1 or r.cell.arm.name == "slow"]
    table = table_of(made)
    assert table["fast"]["relative to the fastest"] == "not ranked: 1 of 5 rounds"
    assert table["slow"]["relative to the fastest"] == "1"
    killed = {"status": "oom", "reason": "out of memory", "timings": None}
    made = replaced(
        a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind) == ("fast", "speed") and r.cell.round > 1, **killed
    )
    assert table_of(made)["fast"]["relative to the fastest"] == "not ranked: 1 of 5 rounds (oom: out of memory)"


def test_a_round_that_was_interrupted_counts_for_nobody() -> None:
    stopped = {"status": "interrupted", "reason": "the run was interrupted", "timings": None}
    made = replaced(
        a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind, r.cell.round) == ("fast", "speed", 5), **stopped
    )
    assert {row.name: len(row.throughputs) for row in only_section(made).rows} == {"fast": 4, "slow": 4}
    assert [row.excluded for row in only_section(made).rows] == [None, None]
    assert "Disturbed" not in markdown.render(made)


def test_a_conclusion_says_different_where_one_pair_is() -> None:
    target = Target("accuracy", at_least=0.5, margin=0.02)
    learned = {"fast": [0.95, 0.951, 0.949], "slow": [0.95, 0.949, 0.951], "third": [0.80, 0.801, 0.799]}
    made = []
    for name, values in learned.items():
        made += a_row(name, FAST if name == "fast" else SLOW, accuracies=values, target=target)
    assert summary.conclusion(only_section(made)).endswith("; test accuracy different.")
    told = summary.conclusion(only_section([one for one in made if one.cell.arm.name != "third"]))
    assert re.fullmatch(
        r"mnist_mlp: fast trains 2\.0\d+ \(1\.9\d+-2\.0\d+\) times as fast as slow; test accuracy equivalent\.", told
    )


def test_a_growing_table_leaves_a_round_out_until_it_is_whole() -> None:
    made = [one for one in a_run(TWO) if (one.cell.arm.name, one.cell.kind, one.cell.round) != ("slow", "speed", 5)]
    assert {one.cell.round for one in progress._whole(made) if one.cell.kind == "speed"} == {1, 2, 3, 4}
    assert progress._whole(a_run(TWO)) == a_run(TWO)


@pytest.mark.parametrize("missing", ["first_step_s", "host_peak", "device_peak_allocated"])
def test_no_cell_is_ever_blank(missing: str) -> None:
    made = [r for r in a_run(TWO) if r.cell.arm.name == "fast" or r.cell.kind == "parity"]
    for row in table_of(made).values():
        assert all(row.values())


# Memory that was not measured.


def test_memory_that_was_not_measured_is_never_0_and_says_why() -> None:
    nothing = Bytes(None, "only Linux keeps this counter")
    made = replaced(a_run(TWO), lambda r: r.cell.kind == "memory", memory=a_memory(peak=nothing, imported=nothing))
    for row in table_of(made).values():
        assert row["host memory peak (after import)"] == "not measured"
        assert row["device memory peak"] == "not measured"
    text = markdown.render(made)
    assert "host memory peak of fast, slow: only Linux keeps this counter" in text
    assert f"device memory peak of fast, slow: {NO_ALLOCATOR.reason}" in text
    for line in csv.DictReader(io.StringIO(table_csv.render(made))):
        assert line["host_peak_bytes"] == "only Linux keeps this counter"
        assert line["device_peak_allocated_bytes"] == NO_ALLOCATOR.reason


def test_a_memory_process_that_failed_or_never_ran_leaves_a_reason() -> None:
    failed = {"status": "oom", "reason": "no room", "memory": None}
    for made in (
        replaced(a_run(TWO), lambda r: r.cell.kind == "memory", **failed),
        [r for r in a_run(TWO) if r.cell.kind != "memory"],
    ):
        assert table_of(made)["fast"]["host memory peak (after import)"] == "not measured"
        assert "no finished memory process" in markdown.render(made)


def test_times_of_a_process_have_an_interval_over_processes() -> None:
    made = []
    for one in a_run(TWO):
        if one.outcome.timings is not None:
            times = {"import_s": 1 + 0.1 * one.cell.round, "first_step_s": 0.2 * one.cell.round}
            one = changed(one, timings=msgspec.structs.replace(one.outcome.timings, **times))
        made.append(one)
    table = table_of(made)
    assert table["slow"]["import + build"] == "1.79 s (1.61 s to 2.00 s), n=5"
    assert table["slow"]["first step"] == "521 ms (237 ms to 1.15 s), n=5"


def test_memory_that_was_measured_is_shown() -> None:
    made = replaced(a_run(TWO), lambda r: r.cell.kind == "memory", memory=a_memory(device=Bytes(1500 * 2**20)))
    assert table_of(made)["fast"]["device memory peak"] == "1,500 MiB, n=1"
    assert "Not measured" not in markdown.render(made)


# The same records, the same bytes.


def many_records() -> list[Record]:
    """Three tables, ties, failures and missing parts."""
    return [
        *a_run({"alpha": FAST, "beta": SLOW, "gamma": SLOW}),
        *a_run({"alpha": SLOW, "beta": FAST}, precision="float64", spec={"task": "mnist_mlp", "epochs": 7}),
        *a_run({"gamma": SLOW[:1]}, task="other", target=Target("loss", at_most=0.5)),
        a_record(backend="delta", status="skipped", reason="delta not installed", versions={}),
        a_record(backend="epsilon", status="failed", reason="it broke"),
        a_record(backend="epsilon", kind="quality", status="oom", reason="no room"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("render", [markdown.render, table_csv.render, in_terminal])
def test_the_same_records_give_the_same_bytes_in_any_order(render: Callable[[list[Record]], str]) -> None:
    made = many_records()
    expected = render(made)
    assert render(made) == expected
    for seed in range(20):
        random.Random(seed).shuffle(made)
        assert render(made) == expected


@pytest.mark.parametrize("render", [markdown.render, table_csv.render])
def test_records_of_two_runs_in_one_folder_give_the_same_bytes_in_any_order(
    render: Callable[[list[Record]], str],
) -> None:
    made = a_run({"alpha": FAST}, id="1") + a_run({"beta": SLOW}, id="2")
    assert render(made) == render(made[::-1])


@pytest.mark.slow
def test_records_that_were_read_back_give_the_same_bytes(tmp_path: Path) -> None:
    made = [*a_run(TWO), a_record(backend="third", status="killed", reason="by SIGKILL")]
    write_records(tmp_path, made)
    read, problems = files.read_folder(tmp_path)
    assert problems == []
    assert markdown.render(read) == markdown.render(made)
    assert table_csv.render(read) == table_csv.render(made)


def test_no_records_make_an_empty_report_and_no_error() -> None:
    assert markdown.render([]) == "No records.\n"
    assert markdown.brief([]) == ""
    assert table_csv.render([]).strip() == ""
    stream = io.StringIO()
    terminal.show([], stream)
    assert stream.getvalue() == "No records.\n"
    assert grouping.sections([]) == []


# What stands below the table.


def test_the_measurement_boundary_data_machine_and_versions_stand_below() -> None:
    text = markdown.render(a_run(TWO))
    for part in (
        "number of images (padding left out)", "Data: real handwritten digits; sha256 dddddddddddd", "Target: accuracy >= 0.9",
        "Machine: A CPU, 2 cores in use, 8 GiB, no GPU, Linux 6.1 x86", "Python 3.11.7", "order seed 1234", "fast: fast 1.0",
    ):  # fmt: skip
        assert part in text


def test_every_rung_stands_with_its_difference_and_tolerance() -> None:
    ladders = [a_ladder(precision="float64"), a_ladder(passed=3)]
    made = replaced(a_run(TWO), lambda r: (r.cell.arm.name, r.cell.kind) == ("fast", "parity"), ladders=ladders)
    rungs = tables(markdown.render(made))[-1]
    assert rungs[0] == ["precision", "rung", "fast", "slow"]
    assert rungs[1] == ["float64", "1 parameters", "1.0e-09 of 1e-06", "1.0e-09 of 1e-06"]
    assert [row[0] for row in rungs[1:]] == ["float64"] * 10 + ["float32"] * 10
    assert rungs[14][1:] == ["4 gradients", "FAILED: 1.0e+00 of 1e-06: dense_0/kernel", "1.0e-09 of 1e-06"]
    assert rungs[15][1:] == ["5 one update", "not climbed", "1.0e-09 of 1e-06"]


def test_csv_has_plain_numbers_with_their_units_in_the_titles() -> None:
    frame = pd.read_csv(io.StringIO(table_csv.render(a_run(TWO)))).set_index("arm")
    slow = frame.loc["slow"]
    assert slow["throughput"] == pytest.approx(100.24, abs=0.01)
    assert slow["throughput_low"] < slow["throughput"] < slow["throughput_high"]
    assert slow["ratio_to_fastest"] == pytest.approx(0.4987, abs=1e-4)
    assert slow["verdict"] == "slower"
    assert slow["rounds"] == 5
    assert slow["step_s"] == pytest.approx(1000 / 100.2 / 50)
    assert slow["metric_mean"] == pytest.approx(0.955)
    assert slow["host_peak_bytes"] == 300 * 2**20
    assert frame.loc["fast", "ratio_to_fastest"] == 1


# Hostile records: nothing that stands in one may break a table or run.

HOSTILE = {
    "pipes": "a|b||c|",
    "newlines": "a\nb\r\nc\n\n# heading\n\n| x | y |\n|---|---|\n",
    "other line breaks": "a\x0bb\x0cc\x85d\u2028e\u2029f\x1cg",
    "backticks": "`code` ```fence``` ~~~ a``|`",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)><!-- ",
    "entities": "&lt;script&gt; &#60;b&#62;",
    "link": "[link](javascript:alert(1)) ![image](http://evil.example/x.png) [ref]: http://evil.example",
    "autolinks": "<http://evil.example> http://evil.example www.evil.example someone@evil.example",
    "emphasis": "*a* **b** _c_ __d__ ~~e~~",
    "backslashes": "\\| \\\\| \\",
    "terminal": "\x1b[2J\x1b]0;title\x07\x1b[31mred\x9b31m\x08\x7f",
    "markup of rich": "[bold red]x[/bold red][link=http://evil.example]y[/link] [/]",
    "bidi": "abc\u202edef\u2066ghi\u200b\ufeff",
    "formula": '=cmd|"/c calc"!A1',
    "formula after blanks": "\t\r\n =1+1",
    "plus": "+1+1",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "list": "- item",
    "quote": "> quote",
    "heading": "# heading",
    "ordered": "1. item",
    "table": "--- | ---",
    "quotes": '"a",\'b\',"""',
    "long": "x" * 20_000,
    "surrogate": "\ud800 \udfff",
    "nul": "a\0b",
    "blank": "x ",
}


def hostile_records(text: str) -> list[Record]:
    """Two tables' worth of records with this text wherever a record has a text."""
    common: dict[str, Any] = {
        "task": text, "preset": text, "unit": text, "device": text, "precision": text, "mode": text, "python": text,
        "environment": {text: text}, "changes": {text: text}, "spec": {text: text}, "started_utc": text, "id": text,
        "harness": text, "source": text, "target": Target(text, at_least=0.9), "data": Data(text, text, text),
        "versions": {text: text}, "settings": {text: text},
        "machine": msgspec.structs.replace(MACHINE, cpu=text, gpu=text, gpu_driver=text, os=text, python=text),
    }  # fmt: skip
    metric = text
    nothing = Bytes(None, text)
    made = replaced(
        a_row(text, FAST, **common) + a_row(f"{text} 2", SLOW, **common),
        lambda r: r.cell.kind == "quality",
        quality=msgspec.structs.replace(a_quality(0.95, sample=text), metrics={metric: 0.95, f"unigram_{metric}": 0.5}),
    )
    made = replaced(
        made, lambda r: r.cell.kind == "memory", memory=a_memory(peak=nothing, device=nothing, imported=nothing)
    )
    ladder = a_ladder(passed=2)
    rungs = [msgspec.structs.replace(rung, name=text, where=text) for rung in ladder.rungs]
    bad = msgspec.structs.replace(ladder, rungs=rungs, precision=text, device=text)
    return [
        *made,
        a_record(backend=f"{text} 3", kind="parity", status="failed", reason=text, ladders=[bad], **common),
        a_record(backend=f"{text} 3", status="failed", reason=text, **common),
        a_record(backend=f"{text} 3", kind="quality", status="failed", reason=text, **common),
    ]


def hostile_texts() -> Any:
    return pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


@hostile_texts()
@pytest.mark.slow
def test_markdown_keeps_its_structure_whatever_a_record_says(text: str) -> None:
    rendered = markdown.render(hostile_records(text))
    rendered.encode()
    assert not set(map(ord, rendered)) & ({*range(32), *range(127, 160)} - {10})
    assert not re.search("[\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b\ufeff]", rendered)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(rendered)
    inner = [child.type for token in tokens for child in token.children or []]
    assert set(inner) <= {"text", "softbreak", "text_special"}  # no links, images, HTML, code or emphasis
    outer = [token.type for token in tokens]
    for kind in ("heading", "table"):
        assert outer.count(f"{kind}_open") == {"heading": 1, "table": 4}[kind]
    for forbidden in ("blockquote_open", "ordered_list_open", "fence", "code_block", "html_block", "hr"):
        assert forbidden not in outer
    found = tables(rendered)
    assert [len(table) for table in found] == [1 + 3, 1 + 2, 1 + 3, 1 + 20 + 3]
    assert {len(row) for row in found[0]} == {11}
    assert {len(row) for row in found[-1]} == {2 + 3}


@hostile_texts()
def test_markdown_shows_a_text_as_it_stands(text: str) -> None:
    token = MarkdownIt("commonmark").parse(f"x {markdown.escape(text)} x")[1]
    shown = "".join(child.content for child in token.children or [])
    assert shown == f"x {''.join(c if c.isprintable() else ' ' for c in text)} x"


@pytest.mark.parametrize(
    "address", ["http://evil.example", "www.evil.example", "ftp://evil.example", "someone@evil.example", "@someone"]
)
def test_no_address_becomes_a_link_where_addresses_do(address: str) -> None:
    """GitHub makes links of bare addresses that start with a scheme or www., of e-mail addresses and of users' names."""
    escaped = markdown.escape(address)
    assert "://" not in escaped
    assert "www." not in escaped
    assert "@" not in escaped


@hostile_texts()
def test_csv_keeps_its_structure_whatever_a_record_says(text: str) -> None:
    made = hostile_records(text)
    rendered = table_csv.render(made)
    rendered.encode()
    lines = list(csv.reader(io.StringIO(rendered)))
    assert len(lines) == 1 + 3
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(pd.read_csv(io.StringIO(rendered))) == 3
    for line in lines[1:]:
        for cell in line:
            assert cell.isprintable()
            is_number = re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", cell)
            assert is_number or not cell.lstrip().startswith(("=", "+", "-", "@"))


@hostile_texts()
def test_a_terminal_gets_no_control_characters_whatever_a_record_says(text: str) -> None:
    shown = in_terminal(hostile_records(text))
    assert not set(map(ord, shown)) & ({*range(32), *range(127, 160)} - {10})
    shown.encode()
    if "[bold" in text:
        assert "[bold" in shown  # and markup is shown, not obeyed


@hostile_texts()
def test_progress_is_one_line_without_control_characters_whatever_a_record_says(text: str) -> None:
    for cell in hostile_records(text):
        stream = io.StringIO()
        lines = Lines(Console(file=stream, width=80))
        lines.started(cell.cell, done=0, total=1, left_s=0)
        lines.finished(cell)
        shown = stream.getvalue()
        assert shown.endswith("\n")
        assert shown[:-1].isprintable()


def test_progress_tells_who_is_ahead_after_each_whole_round_from_the_second_on() -> None:
    stream = io.StringIO()
    lines = Lines(Console(file=stream, width=80))
    made = sorted(a_run({"fast": FAST, "slow": SLOW}), key=lambda one: (one.cell.kind != "parity", one.cell.round))
    for one in made:
        lines.finished(one)
    told = [line for line in stream.getvalue().splitlines() if " after " in line]
    rounds = len({one.cell.round for one in made if one.cell.kind == "speed"})
    assert [line.partition(":")[0] for line in told] == [f"mnist_mlp after {n} rounds" for n in range(2, rounds + 1)]
    assert re.fullmatch(r"mnist_mlp after \d rounds: fast trains \d.* times as fast as slow", told[-1])


@pytest.mark.slow
def test_a_growing_table_survives_hostile_records_and_shows_what_runs() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        screen = Screen(live)
        for cell in [*a_run(TWO), *hostile_records("[bold]\x1b[2J|\n")]:
            screen.started(cell.cell, done=1, total=2, left_s=100)
            screen.finished(cell)
    assert "running: mnist_mlp fast speed round 3" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_records_with_figures_that_cannot_be_do_not_end_in_a_traceback() -> None:
    """They are refused when they are read, or shown."""
    timings = a_record().outcome.timings
    assert timings is not None
    for odd in (
        msgspec.structs.replace(timings, window_s=0.0),
        msgspec.structs.replace(timings, window_s=5e-324),
        msgspec.structs.replace(timings, window_s=-1.0),
        msgspec.structs.replace(timings, items=0),
        msgspec.structs.replace(timings, items=10**400),
        msgspec.structs.replace(timings, blocks_s=[]),
        msgspec.structs.replace(timings, block_steps=0),
        msgspec.structs.replace(timings, first_step_s=-1.0),
    ):
        try:
            made = files.decode(files.encode(a_record(timings=odd)))
        except files.RecordError:
            continue
        markdown.render([made])
        table_csv.render([made])
    for metric in ("", " ", "x"):
        try:
            made = files.decode(files.encode(a_record(target=Target(metric, at_least=0.9))))
        except files.RecordError:
            continue
        markdown.render([made])


def test_the_slowest_figures_are_shown_too() -> None:
    made = a_run({"one": [1e-6, 1.1e-6], "two": [1e12, 1.1e12]})
    assert table_of(made)["one"]["images/s"].startswith("0.00000105 (")
    assert a_timing(1.0).window_s == 1000
