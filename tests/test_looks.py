"""Looks: rounds that are added where a verdict is open, and the error that each look may spend."""

import json
import math
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.campaign import resume
from bench.checks import review
from bench.cli import sweeping
from bench.records import digest, files, sweep_folder
from bench.records.record import Record
from bench.report import grouping, markdown, publish, summary, sweep
from bench.stats import intervals, looks, verdict
from bench.stats.verdict import ERROR, MARGIN
from tests.builders import a_row, a_run, changed
from tests.fakes.campaign import a_plan
from tests.test_cli import FAKE, Done, bench

__all__ = ["bench"]  # the fixture

# What is declared, and what it promises.


def test_each_look_has_twice_the_rounds_and_half_of_what_is_left() -> None:
    assert [looks.rounds(5, look) for look in (1, 2, 3)] == [5, 10, 20]
    assert [looks.share(look) for look in (1, 2, 3)] == [0.5, 0.25, 0.125]
    assert sum(looks.share(look) for look in range(1, 60)) <= 1
    assert (looks.rounds(5, None), looks.share(None)) == (5, 1)
    assert [looks.of_round(number, 3) for number in (1, 3, 4, 6, 7, 12, 13)] == [1, 1, 2, 2, 3, 3, 4]


def wrong(first: int, last: int, share: Callable[[int], float]) -> float:
    """How often one pair that differs by exactly the margin, of which every decision is wrong, is decided at any look."""
    rng = np.random.default_rng(1)
    logs = rng.normal(math.log1p(MARGIN), 0.01, (20_000, looks.rounds(first, last)))
    decided = np.zeros(len(logs), dtype=bool)
    for look in range(1, last + 1):
        seen = logs[:, : looks.rounds(first, look)]
        error = seen.std(axis=1, ddof=1) / math.sqrt(seen.shape[1])
        p = scipy_stats.t.sf(np.abs(np.abs(seen.mean(axis=1)) - math.log1p(MARGIN)) / error, seen.shape[1] - 1)
        decided |= p <= ERROR / 2 * share(look)
    return float(decided.mean())


@pytest.mark.parametrize("first", [3, 5])
def test_whoever_adds_rounds_until_something_is_decided_is_wrong_no_more_often_than_once_in_twenty(first: int) -> None:
    assert wrong(first, 1, lambda look: 1) == pytest.approx(ERROR, abs=0.006)
    assert wrong(first, 4, lambda look: 1) > 2 * ERROR  # as it would be without
    assert 0.6 * ERROR < wrong(first, 4, looks.share) <= ERROR


def rates(ratio: float, *, rounds: int, deviation: float = 0.01) -> tuple[dict[int, float], dict[int, float]]:
    """Two arms whose log ratio has exactly this mean and deviation."""
    drawn = np.random.default_rng(1).normal(size=rounds)
    logs = math.log(ratio) + deviation * (drawn - drawn.mean()) / drawn.std(ddof=1)
    return dict(enumerate(map(math.exp, logs), start=1)), dict.fromkeys(range(1, rounds + 1), 1.0)


def test_a_verdict_that_may_spend_a_half_is_decided_and_shown_at_half_the_error() -> None:
    one, other = rates(1.05, rounds=5)
    cells = {"one": one, "other": other}
    found = verdict.compare_all(cells, shares={"one": 0.5})["one", "other"]
    assert found.ratio == intervals.geometric_mean(list(one.values()), 1 - ERROR / 2)
    distance = (math.log(1.05) - math.log1p(MARGIN)) / (0.01 / math.sqrt(5))
    p = float(scipy_stats.t.sf(distance, 4))
    assert ERROR / 8 < p < ERROR / 2  # the whole error decides it, and a quarter does not
    assert verdict.compare_all(cells)["one", "other"].decision == "faster"
    assert verdict.compare_all(cells, shares={"other": 0.25})["one", "other"].decision == "not decided"


# What is planned.


def test_the_rounds_of_a_later_look_stand_after_those_of_the_first_and_say_so() -> None:
    name = a_plan().name
    first, second = (a_plan(rounds=3, looks={name: look}) for look in (1, 2))
    told = [(cell.round, cell.look) for cell in second.of_kind("speed")]
    assert sorted(set(told)) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert second.of_kind("speed")[: len(first.of_kind("speed"))] == first.of_kind("speed")
    assert {cell.look for cell in first.spare_round("speed", 4)} == {1}  # in place of a disturbed one
    assert {cell.look for cell in a_plan(rounds=3).cells} == {None}
    assert {cell.look for cell in second.of_kind("memory")} == {None}


def test_a_run_with_looks_is_continued_as_one_and_as_no_other() -> None:
    plain, first, second = (a_plan(rounds=3, looks=found) for found in ({}, {"t": 1}, {"t": 2}))
    facts = [resume.facts([plan]) for plan in (plain, first, second)]
    assert facts[1] == facts[2]
    assert {name for name in facts[1] if facts[1][name] != facts[0].get(name)} == {resume.BUDGET}


# What is told.


def with_looks(records: Sequence[Record], *, first: int) -> list[Record]:
    return [
        changed(one, look=looks.of_round(one.cell.round, first)) if one.cell.kind == "speed" else one for one in records
    ]


def test_a_table_decides_at_what_the_look_may_spend_and_says_so() -> None:
    one, _ = rates(1.05, rounds=5)
    records = a_run({"jax": [100 * value for value in one.values()], "pytorch": [100.0] * 5})
    (plain,) = grouping.sections(records)
    (looked,) = grouping.sections(with_looks(records, first=3))
    assert plain.verdicts["jax", "pytorch"].decision == "faster"
    assert looked.verdicts["jax", "pytorch"].decision == "not decided"
    assert looked.verdicts["jax", "pytorch"].ratio == intervals.geometric_mean(list(one.values()), 1 - ERROR / 4)
    told = markdown.render(with_looks(records, first=3)).replace("\\", "")
    assert "- Looks: 5; where a verdict was open, more were added" in told
    assert "the first look spends half of the 5 % for wrong verdicts, each later one half of the rest" in told
    assert "- Looks:" not in markdown.render(records)
    assert "not decided" in " ".join(summary.sentences(looked))


SPEEDS = {"clear": 2.0, "near": 1.05, "noisy": 1.03}
DEVIATIONS = {"clear": 0.01, "near": 0.012, "noisy": 0.05}


def at_point(point: str, look: int, *, first: int = 5) -> list[Record]:
    """Of two arms at a point: far from each other, nearer, or exactly the margin apart."""
    rng = random.Random(point)
    drawn = [rng.gauss(0, 1) for _ in range(100)][: looks.rounds(first, look)]
    mean = sum(drawn) / len(drawn)
    spread = math.sqrt(sum((value - mean) ** 2 for value in drawn) / (len(drawn) - 1))
    logs = [math.log(SPEEDS[point]) + DEVIATIONS[point] * (value - mean) / spread for value in drawn]
    common = {"id": point, "changes": {"batch_size": point}, "spec": {"task": "mnist_mlp", "batch_size": point},
              "wall_s": 10.0, "beside": 1}  # fmt: skip
    speeds = {"jax": [100 * math.exp(value) for value in logs], "pytorch": [100.0] * len(logs)}
    made = [one for name, values in speeds.items() for one in a_row(name, values, **common)]
    return with_looks([one for one in made if one.cell.kind != "quality"], first=first)


class Points:
    """Stands for what measures: remembers what was asked, and lets the clock go on by ten seconds for each round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.asked: list[tuple[str, int]] = []
        self.records: dict[str, list[Record]] = {}
        self.now = 0.0
        self.folder = folder
        monkeypatch.setattr(sweeping.running, "run", self.run)
        monkeypatch.setattr(sweeping.running, "refuse_other", lambda choice, folder: None)
        monkeypatch.setattr(sweeping.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(sweeping, "records_of", lambda output: [one for of in self.records.values() for one in of])

    def run(self, choice: Any, folder: Path, **options: Any) -> tuple[Any, bool]:
        point, look = choice.changes["batch_size"], choice.looks.get("mnist_mlp", 1)
        self.asked.append((point, look))
        before = len(self.records.get(point, ())) // 2
        self.records[point] = at_point(point, look)
        self.now += 10 * (len(self.records[point]) // 2 - before)
        plan = SimpleNamespace(name="mnist_mlp", first_rounds=5, choice=choice)
        return SimpleNamespace(run=SimpleNamespace(id=point), plans=[plan], records=self.records[point]), True

    def sweep(self, budget_s: float | None) -> None:
        asked = a_plan(rounds=5).choice
        made = [
            sweeping.dataclasses.replace(asked, tasks=("mnist_mlp",), changes={"batch_size": point}) for point in SPEEDS
        ]
        sweeping.run({"batch_size": list(SPEEDS)}, made, self.folder, budget_s=budget_s)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Points:
    return Points(monkeypatch, tmp_path / "sweep")


FIRST = [("clear", 1), ("near", 1), ("noisy", 1)]


def test_rounds_are_added_where_verdicts_are_open_the_nearest_to_a_decision_first(
    points: Points, capsys: pytest.CaptureFixture[str]
) -> None:
    points.sweep(10_000)
    assert points.asked[:3] == FIRST
    assert points.asked[3] == ("near", 2)
    assert {point for point, _ in points.asked[3:]} == {"near", "noisy"}
    assert points.asked.count(("noisy", 3)) == 1
    assert max(look for _, look in points.asked) == 3  # the fourth would have 40 rounds
    said = capsys.readouterr().err
    assert "not decided at batch_size=near: 10 rounds, about 50 s more" in said
    assert "1 verdict is not decided: a point has at most 30 rounds" in said


def test_no_look_begins_that_does_not_fit_into_the_budget_and_what_is_open_is_told(
    points: Points, capsys: pytest.CaptureFixture[str]
) -> None:
    points.sweep(280)  # the first looks take 210 s, another one 50 s
    assert points.asked == [*FIRST, ("near", 2)]
    said = capsys.readouterr().err
    assert "not decided: the budget is used; the next look takes about" in said
    points.asked.clear()
    points.sweep(10_000)
    assert points.asked[0] == ("clear", 1)


def test_without_a_budget_every_point_is_measured_once(points: Points) -> None:
    points.sweep(None)
    assert points.asked == FIRST


def test_where_points_are_left_none_gets_more_rounds(points: Points, capsys: pytest.CaptureFixture[str]) -> None:
    points.sweep(100)
    assert points.asked == [("clear", 1)]
    assert "2 of 3 points are not measured" in capsys.readouterr().err


# What is run.


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("looked") / "sweep"


ASKED = ("sweep", *FAKE, "--arm", "tests.fakes.backend:fast", "--vary", "batch_size=8,16", "--rounds", 1)


@pytest.fixture
def looked(begun: Path, bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep whose points had one round, which decides nothing, and then another one; more where a round was disturbed."""
    if not begun.exists():
        monkeypatch.setattr(sweeping, "MOST_ROUNDS", 2)
        monkeypatch.setattr(sweeping.sweep, "undecided", all_open)
        done = bench(*ASKED, "--budget", "10m", "--output", begun)
        assert done.code == 0, done.error
        assert done.error.count(": 2 rounds, about") == 2
    return begun


def all_open(found: Sequence[sweep.Sweep]) -> dict[tuple[str, str], list[verdict.Verdict]]:
    """Every point, also one of which a neighbour on this machine has left no round that counts."""
    spots = [spot for one in found for spots in one.points.values() for spot in spots.values()]
    open_verdict = verdict.Verdict("not decided", intervals.Interval(1.0, None, None, 1), None)
    return {(spot.section.run.id, spot.section.first.task): [open_verdict] for spot in spots}


def lines(folder: Path) -> list[tuple[int, int | None]]:
    found = [one.cell for one in files.read_folder(folder)[0] if one.cell.kind == "speed"]
    return sorted({(cell.round, cell.look) for cell in found})


@pytest.mark.slow
def test_a_sweep_with_a_budget_has_its_looks_in_its_records_and_is_sound(
    looked: Path, bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    for point in sweep_folder.points(looked):
        assert lines(point)[0] == (1, 1)
        assert lines(point)[-1][1] == 2
        assert json.loads((point / "plan.json").read_text())["facts"][resume.BUDGET] == resume.SPENT
    assert [one for one in review.check(looked) if not one.gap] == []
    assert "- Rounds of a point: " in (looked / "sweep.md").read_text()
    (found,) = sweep.sweeps(sweeping.records_of(looked))
    command = publish.command_of_sweep(found)
    assert "--rounds 1 " in command
    assert re.search(r"--budget [12]m$", command)
    monkeypatch.setattr(sweeping, "MOST_ROUNDS", 2)
    before = {path: path.read_bytes() for path in looked.glob("*/records/*.json")}
    assert bench(*ASKED, "--budget", "10m", "--output", looked).code == 0
    assert {path: path.read_bytes() for path in looked.glob("*/records/*.json")} == before


@pytest.mark.slow
def test_without_a_budget_it_goes_on_as_it_was_begun_and_what_had_the_whole_error_gets_no_other_look(
    looked: Path, bench: Callable[..., Done], tmp_path: Path
) -> None:
    shutil.copytree(looked, tmp_path / "copy")
    again = (*ASKED[:-3], "batch_size=8,32", *ASKED[-2:])
    done = bench(*again, "--output", tmp_path / "copy")
    assert done.code == 0, done.error
    found = {str(point): {look for _, look in lines(point)} for point in sweep_folder.points(tmp_path / "copy")}
    assert [looked for point, looked in found.items() if "batch_size=32" in point] == [{1}]
    assert list(found.values()).count({1, 2}) == 2

    assert bench(*ASKED, "--output", tmp_path / "whole").code == 0
    done = bench(*ASKED, "--budget", "10m", "--output", tmp_path / "whole")
    assert done.code == 2
    assert "--budget was absent, now more rounds where verdicts are open" in done.error


def without_looks(plain: Any) -> None:
    plain["cell"]["look"] = None


def of_the_first_look(plain: Any) -> None:
    plain["cell"]["look"] = 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (without_looks, "--budget is not what it says, but was more rounds"),
        (of_the_first_look, " rounds, but 1 were planned"),
    ],
)  # fmt: skip
def test_records_that_hide_their_looks_are_found(
    looked: Path, tmp_path: Path, edit: Callable[[Any], None], said: str
) -> None:
    point = sweep_folder.points(looked)[0]
    copy = tmp_path / "copy"
    shutil.copytree(point, copy)
    for path in (copy / "records").glob("*-speed-*.json"):
        plain = json.loads(path.read_bytes())
        edit(plain)
        plain["outcome"]["disturbance"] |= {"others_share": 0.0, "siblings_share": 0.0, "disturbed": None}
        path.write_bytes(files.encode(plain))
    (copy / digest.NAME).unlink()
    files.write_digest(copy)
    assert any(said in f"{one.about}: {one.text}" for one in review.check(copy)), review.check(copy)
