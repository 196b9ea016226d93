"""Arms in one table: modes, precisions, threads, interpreters and variables side by side, and which pairs are decided."""

import csv
import io
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest
from scipy.stats import t as student

from bench.records.limits import MARGIN
from bench.records.record import Record, Target
from bench.report import facts, figures, grouping, latex, markdown, page, summary, table_csv, table_json, totals
from bench.stats import verdict
from bench.stats.verdict import ERROR
from tests.builders import a_ladder, a_quality, a_row, changed
from tests.test_report import FAST, SLOW, only_section, replaced, table_of

MIDDLE = [150.0, 152.0, 149.0, 151.0, 150.5]


def arm(name: str, speeds: Sequence[float], **facts: Any) -> list[Record]:
    """All the records of an arm with this name; its backend is what stands before the colon."""
    return a_row(name.partition(":")[0], speeds, name=name, **facts)


def csv_lines(made: list[Record]) -> dict[str, dict[str, str]]:
    return {line["arm"]: line for line in csv.DictReader(io.StringIO(table_csv.render(made)))}


# What stands together.


@pytest.mark.parametrize(
    ("way", "title"),
    [
        ({"mode": "compile"}, "float32 on the cpu"),
        ({"precision": "float64"}, "several precisions on the cpu"),
        ({"threads": 1}, "float32 on the cpu"),
        ({"python": "3.12.1"}, "float32 on the cpu"),
        ({"environment": {"OMP_NUM_THREADS": "1"}}, "float32 on the cpu"),
        ({"device": "gpu"}, "float32 on several devices"),
        ({"device": "gpu", "precision": "bfloat16"}, "several precisions on several devices"),
        ({"slow_down": 0.1}, "float32 on the cpu"),
        ({}, "float32 on the cpu"),
    ],
    ids=str,
)
def test_two_ways_of_one_backend_stand_in_one_table(way: dict[str, Any], title: str) -> None:
    made = arm("alpha", SLOW) + arm("alpha:other", FAST, **way)
    section = only_section(made)
    assert [row.name for row in section.rows] == ["alpha:other", "alpha"]
    assert [row.arm.backend for row in section.rows] == ["alpha", "alpha"]
    assert section.verdicts["alpha:other", "alpha"].decision == "faster"
    assert summary.title(section) == f"mnist_mlp: preset quick, {title}"
    text = markdown.render(made).replace("\\", "")
    assert "alpha:other trains mnist_mlp 2.005 (1.990-2.021) times as fast as alpha (5 rounds)." in text
    assert list(table_of(made)) == ["alpha:other", "alpha"]


def test_the_same_arm_twice_under_two_labels_is_a_tie() -> None:
    made = a_row("alpha", SLOW, name="first") + a_row("alpha", [1.001 * s for s in reversed(SLOW)], name="second")
    section = only_section(made)
    assert section.verdicts["first", "second"].decision == "tie"
    first, second = section.rows
    assert first.arm.way == second.arm.way


@pytest.mark.slow
def test_the_first_column_says_arm_where_a_row_is_more_than_a_backend() -> None:
    for made, noun in (
        (arm("alpha", FAST) + arm("beta", SLOW), "backend"),
        (arm("alpha", FAST) + arm("beta", SLOW, precision="float64"), "backend"),
        (arm("alpha", FAST) + arm("alpha:compile", SLOW, mode="compile"), "arm"),
        (a_row("alpha", FAST, name="old") + a_row("beta", SLOW), "arm"),
    ):
        section = only_section(made)
        assert section.noun == noun
        assert figures.titles(section)[0] == noun
        assert f"| {noun} " in markdown.render(made)
        assert f"{noun} & " in latex.render(made)
        assert f'<th scope="col">{noun}</th>' in page.render(made)


def test_an_arm_is_ranked_by_a_ladder_in_its_own_precision_and_on_its_own_device() -> None:
    made = arm("alpha", FAST) + arm("alpha:bf16", SLOW, precision="bfloat16") + arm("alpha:gpu", MIDDLE, device="gpu")
    assert len(only_section(made).ranked) == 3
    plain = [a_ladder(precision="float64"), a_ladder()]
    for name, why in (
        ("alpha:bf16", "parity was not checked in bfloat16 on the cpu"),
        ("alpha:gpu", "parity was not checked in float32 on the gpu"),
    ):
        spoilt = replaced(made, lambda r, name=name: (r.cell.kind, r.cell.arm.name) == ("parity", name), ladders=plain)  # type: ignore[misc]
        section = only_section(spoilt)
        assert [row.name for row in section.rows if row.excluded] == [name]
        assert section.rows[-1].excluded == why


def test_changes_of_the_task_stand_in_the_title() -> None:
    section = only_section(arm("alpha", FAST, changes={"batch_size": "64", "epochs": "2"}))
    assert summary.title(section) == "mnist_mlp: preset quick, batch_size=64, epochs=2, float32 on the cpu"


# What stands below.


def below(made: list[Record]) -> dict[str, str]:
    return dict(facts.facts(only_section(made)))


@pytest.mark.slow
def test_variables_that_an_arm_asked_for_stand_below_the_table() -> None:
    made = arm("alpha", FAST) + arm("alpha:few", SLOW, environment={"OMP_NUM_THREADS": "1", "A": "b"})
    made = replaced(made, lambda _: True, settings={"compile": "eager"})
    found = below(made)
    way = "alpha:env.A=b,env.OMP_NUM_THREADS=1"
    assert found["alpha:few"] == f"{way}: alpha 1.0 (compile: eager, A=b, OMP_NUM_THREADS=1)"
    assert found["alpha"] == "alpha 1.0 (compile: eager)"
    assert f"- alpha:few: {found['alpha:few']}" in markdown.render(made).replace("\\", "")
    assert "OMP_NUM_THREADS=1" in page.render(made)


@pytest.mark.parametrize(
    ("threads", "cores"),
    [((None, None), "2 cores"), ((1, 1), "1 of 2 cores"), ((1, None), "1 or 2 of 2 cores"), ((2, None), "2 cores")],
)
def test_the_cores_in_use_stand_below_the_table(threads: tuple[int | None, int | None], cores: str) -> None:
    made = arm("alpha", FAST, threads=threads[0]) + arm("alpha:b", SLOW, threads=threads[1])
    assert below(made)["Machine"].startswith(f"A CPU, {cores} in use, 8 GiB")


def test_the_interpreters_stand_below_the_table_with_their_arms() -> None:
    made = a_row("alpha", FAST, name="new") + a_row("alpha", SLOW, name="old", python="3.12.1")
    assert below(made)["Machine"].endswith("Python 3.11.7 (new), 3.12.1 (old)")
    assert [line["python"] for line in csv_lines(made).values()] == ["3.11.7", "3.12.1"]


# Which pairs are decided.

SIX = {
    "pytorch": "default", "pytorch:compile": "compile", "jax": "default", "jax:rbg": "rbg", "tensorflow": "default",
    "tensorflow:eager": "eager",
}  # fmt: skip


def six(order: Sequence[str]) -> list[Record]:
    """Two modes of three backends, the fastest first, each by a fifth faster than the next."""
    noise = random.Random(1)
    return [
        record
        for place, name in enumerate(order)
        for record in arm(name, [100 / 1.2**place * noise.gauss(1, 0.003) for _ in range(8)], mode=SIX[name])
    ]


@pytest.mark.parametrize(
    ("fastest", "pairs"),
    [
        (
            "jax:rbg",
            5 + 3 + 2,
        ),  # each with the fastest, the defaults, pytorch's and tensorflow's modes with their defaults
        ("jax", 5 + 1 + 2),  # of the defaults' pairs only pytorch with tensorflow is another one
    ],
)
def test_the_family_of_verdicts_of_six_arms(fastest: str, pairs: int) -> None:
    order = [fastest, *(name for name in SIX if name != fastest)]
    section = only_section(six(order))
    assert [row.name for row in section.rows] == order
    family = {frozenset(pair) for pair in section.family}
    assert len(section.family) == len(family) == pairs
    assert family == {
        *(frozenset((fastest, name)) for name in order[1:]),
        *map(frozenset, combinations(("pytorch", "jax", "tensorflow"), 2)),
        *(frozenset((name, name.partition(":")[0])) for name in SIX if ":" in name),
    }
    assert {frozenset(pair) for pair in section.verdicts} == family
    assert [text for text in summary.sentences(section) if " trains " not in text] == []
    assert len(summary.sentences(section)) == pairs


def in_tracks(speeds: Mapping[str, float], *, noise: float = 0.003) -> list[Record]:
    chance = random.Random(1)
    return [
        record
        for name, speed in speeds.items()
        for record in arm(
            name, [speed * chance.gauss(1, noise) for _ in range(8)], mode=name.partition(":")[2] or "default"
        )
    ]


@pytest.mark.parametrize(
    ("speeds", "told"),
    [
        ({"jax": 100, "pytorch": 80, "jax:tuned": 120, "pytorch:tuned": 200},
         "Tuning changes the order: jax is ahead of pytorch by default, and behind it where both are tuned."),
        ({"jax": 100, "pytorch": 80, "jax:tuned": 220, "pytorch:tuned": 200},
         "Tuning does not change the order of the frameworks."),
        ({"jax": 100, "pytorch": 80, "jax:tuned": 203, "pytorch:tuned": 200},
         "It is not decided whether tuning changes the order of the frameworks."),
    ],
)  # fmt: skip
def test_a_table_of_both_tracks_says_whether_the_order_changes(speeds: Mapping[str, float], told: str) -> None:
    section = only_section(in_tracks(speeds))
    assert frozenset(("jax:tuned", "pytorch:tuned")) in {frozenset(pair) for pair in section.family}
    assert [text for text in summary.sentences(section) if "order" in text] == [told]


def test_of_one_track_nothing_is_told_about_the_order() -> None:
    for speeds in ({"jax": 100.0, "pytorch": 80.0}, {"jax": 100.0, "pytorch:tuned": 80.0}):
        assert not [text for text in summary.sentences(only_section(in_tracks(speeds))) if "order" in text]


@pytest.mark.parametrize(
    ("tuned", "changes", "told"), [("default", {}, True), ("trim", {}, False), ("default", {"threads": 1}, False)]
)
def test_a_tuned_row_that_is_the_default_once_more_says_so(tuned: str, changes: dict[str, Any], told: bool) -> None:
    made = []
    for one in in_tracks({"jax": 100.0, "pytorch": 80.0, "pytorch:tuned": 81.0}):
        if one.cell.arm.mode == "tuned":
            settings = {**one.outcome.settings, "tuned": tuned}
            one = changed(one, settings=settings, **changes)
        made.append(one)
    said = [text for text in summary.sentences(only_section(made)) if "once more" in text]
    assert said == (
        ["pytorch:tuned is pytorch once more, for its tuned mode is the default here: what lies between them is noise."]
        if told
        else []
    )


def test_three_backends_are_compared_pairwise_as_ever() -> None:
    section = only_section(arm("a", FAST) + arm("b", MIDDLE) + arm("c", SLOW))
    assert section.family == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_mode_whose_default_is_not_ranked_is_compared_with_the_fastest_alone() -> None:
    made = six(["jax:rbg", *(name for name in SIX if name != "jax:rbg")])
    made = [one for one in made if (one.cell.kind, one.cell.arm.name) != ("parity", "pytorch")]
    section = only_section(made)
    assert [pair for pair in section.family if "pytorch:compile" in pair] == [("jax:rbg", "pytorch:compile")]
    assert not [pair for pair in section.verdicts if "pytorch" in pair]


def test_holms_correction_counts_the_pairs_of_the_family_alone() -> None:
    """Of 6 arms 10 pairs are decided: the surest is judged at a tenth of the level, where all 15 would ask for a fifteenth."""
    surest = ERROR / 2 / 10 * 0.99
    assert surest > ERROR / 2 / 15
    mean, n = math.log(1.2), 8
    deviation = (mean - math.log1p(MARGIN)) * math.sqrt(n) / student.isf(surest, n - 1)  # at which that is the p-value
    swing = deviation * math.sqrt((n - 1) / n)
    rates = {name: [100.0] * n for name in SIX}  # equal in every round, which decides nothing
    rates["jax:rbg"] = [100 * math.exp(mean + (-1) ** round_number * swing) for round_number in range(n)]
    section = only_section([one for name in SIX for one in arm(name, rates[name], mode=SIX[name])])
    assert len(section.family) == 10
    fastest = {pair: found.decision for pair, found in section.verdicts.items() if pair[0] == "jax:rbg"}
    assert list(fastest.values()) == ["faster"] * 5
    cells = {row.name: row.throughputs for row in section.rows}
    assert {found.decision for found in verdict.compare_all(cells).values()} == {"not decided"}


def test_a_pair_outside_of_the_family_has_neither_a_verdict_nor_a_break_even_step() -> None:
    made = six(["jax:rbg", *(name for name in SIX if name != "jax:rbg")])
    section = only_section(made)
    told = [*summary.sentences(section), *totals.sentences(section)]
    assert len(told) == 2 * len(section.family)
    assert not [text for text in told if "pytorch:compile" in text and "tensorflow" in text]
    (table,) = json.loads(table_json.render(made))["tables"]
    assert {frozenset((pair["first"], pair["second"])) for pair in table["pairs"]} == set(
        map(frozenset, section.family)
    )


def test_quality_is_compared_between_defaults_and_of_each_arm_with_its_own_default() -> None:
    target = Target("accuracy", at_least=0.9, margin=0.02)
    learned = iter([0.95, 0.951, 0.949, 0.9495, 0.952, 0.9501] * 4)
    made = [
        changed(one, target=target, **({"quality": a_quality(next(learned))} if one.cell.kind == "quality" else {}))
        for one in six(["jax:rbg", *(name for name in SIX if name != "jax:rbg")])
    ]
    section = only_section(made)
    assert {frozenset(pair) for pair in section.equivalences} == {
        *map(frozenset, combinations(("pytorch", "jax", "tensorflow"), 2)),
        *(frozenset((name, name.partition(":")[0])) for name in SIX if ":" in name),
    }
    lines = csv_lines(made)
    assert lines["jax"]["equivalence"] != ""
    assert lines["pytorch"]["equivalence"] == ""  # the fastest is another backend's mode: not a pair that is judged


# For programs.


def test_csv_and_json_say_which_arm_a_row_is() -> None:
    made = arm("alpha", FAST) + arm(
        "alpha:other", SLOW, mode="compile", precision="float64", threads=2, environment={"B": "2", "A": "1"},
        changes={}, python="3.12.1",
    )  # fmt: skip
    expected = {
        "arm": "alpha:other", "backend": "alpha", "mode": "compile", "device": "cpu", "precision": "float64", "threads": 2,
        "python": "3.12.1",
    }  # fmt: skip
    (table,) = json.loads(table_json.render(made))["tables"]
    fast, slow = table["rows"]
    assert {name: slow[name] for name in expected} == expected
    assert slow["environment"] == {"A": "1", "B": "2"}
    assert (fast["mode"], fast["threads"], fast["environment"]) == ("default", None, {})
    line = csv_lines(made)["alpha:other"]
    assert {name: line[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    assert line["environment"] == "A=1 B=2"
    assert list(line)[:2] == ["arm", "backend"]


@pytest.mark.slow
def test_the_page_filters_rows_by_arm_device_and_precision() -> None:
    """Each row says by itself what it is; a browser's part in it is in tests/test_page.py."""
    made = arm("alpha", FAST) + arm("alpha:gpu", SLOW, device="gpu", precision="bfloat16")
    text = page.render(made)
    options = {
        name: re.findall(r"<option value=\"\d+\">([^<]+)</option>", block)
        for name, block in re.findall(r'<select name="(\w+)">(.*?)</select>', text, re.DOTALL)
    }
    assert options["arm"] == ["alpha", "alpha:gpu"]
    assert options["device"] == ["cpu", "gpu"]
    assert options["precision"] == ["bfloat16", "float32"]
    rows = re.findall(r'<tr data-arm="(\d)" data-device="(\d)" data-precision="(\d)">', text)
    assert rows == [("1", "1", "2"), ("2", "2", "1")] * 3  # in the tables of figures, of times and of how quality grew


@pytest.mark.slow
@pytest.mark.parametrize("name", [r'a"b', "<b>", "a&b", "é"])
def test_arms_of_any_name_have_rows_and_filters(name: str) -> None:
    text = page.render(arm("alpha", FAST) + arm(name, SLOW))
    assert len(grouping.sections(arm("alpha", FAST) + arm(name, SLOW))[0].rows) == 2
    assert text.count('<tr data-arm="2"') == 3
