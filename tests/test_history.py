"""A framework over its releases: what is compared, which changes are steps, and what is said of a release that failed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.cli import histories, running
from bench.cli.options import UserError
from bench.process import interpreters, releases
from bench.process.interpreters import Interpreter
from bench.records import files
from bench.records.record import Record
from bench.report import history, history_plot, publish
from tests.builders import a_record, a_row
from tests.fakes.campaign import Answers, campaigns
from tests.test_cli import Done, bench

__all__ = ["bench"]  # the fixture

PUBLISHED = Path(__file__).parent.parent / "results" / "2026-11-27-mnist_mlp-standard-cpu"
NOISE = (1.0, 1.006, 0.995, 1.003, 0.998)


def released(speeds: dict[str, float], *, first_step_s: dict[str, float] | None = None, **more: Any) -> list[Record]:
    """Five rounds of a framework's releases: release -> items per second."""
    made = []
    for at, (release, speed) in enumerate(speeds.items()):
        values = [speed * NOISE[(at + number) % len(NOISE)] for number in range(len(NOISE))]
        common = {"name": f"jax=={release}", "versions": {"jax": release}, "python": "3.11.7", **more}
        for one in a_row("jax", values, **common):
            timings = one.outcome.timings
            if timings is not None:
                seconds = (first_step_s or {}).get(release, 1.0) * NOISE[(2 * at + one.cell.round) % len(NOISE)]
                timings = msgspec.structs.replace(timings, first_step_s=seconds)
                one = msgspec.structs.replace(one, outcome=msgspec.structs.replace(one.outcome, timings=timings))
            made.append(one)
    return made


def test_a_step_between_two_releases_is_found_where_it_is_and_noise_is_none() -> None:
    speeds = {"0.10.1": 90.0, "0.9.2": 100.0, "0.10.0": 100.0, "0.10.2": 90.0}
    (found,) = history.histories(released(speeds))
    assert list(found.rows) == ["0.9.2", "0.10.0", "0.10.1", "0.10.2"]
    speed, first_step = history.QUANTITIES
    assert {release: one.decision for release, one in found.steps(speed).items()} == {"0.10.1": "slower"}
    assert found.steps(first_step) == {}
    told, other = history.sentences(found)
    assert told.startswith("Speed of jax on mnist_mlp, over 0.9.2, 0.10.0, 0.10.1, 0.10.2: a step at 0.10.1, 0.9")
    assert "(against the release before: 0.10.0 1.00" in told
    assert told.endswith("times as fast, slower.")
    assert other.startswith(
        "First step of jax on mnist_mlp, over 0.9.2, 0.10.0, 0.10.1, 0.10.2: no step beyond the noise"
    )


def test_a_first_step_that_grows_is_a_step_of_its_own() -> None:
    same = {"1.0": 100.0, "1.1": 100.0}
    (found,) = history.histories(released(same, first_step_s={"1.0": 1.0, "1.1": 1.5}))
    assert {release: one.decision for release, one in found.steps(history.QUANTITIES[1]).items()} == {"1.1": "slower"}
    assert found.steps(history.QUANTITIES[0]) == {}
    _, one, two = history.table(found)
    assert one[2] == ""
    assert two[4].startswith("0.66")


def test_a_drift_too_small_for_each_release_is_seen_from_the_first_to_the_last() -> None:
    (found,) = history.histories(released({"1.0": 100.0, "1.1": 98.0, "1.2": 96.0, "1.3": 94.0}))
    assert found.steps(history.QUANTITIES[0]) == {}
    overall = found.change(history.QUANTITIES[0], "1.3", "1.0")
    assert overall is not None
    assert overall.decision == "slower"
    assert "From 1.0 to 1.3: 0.94" in history.sentences(found)[0]


def test_a_release_that_fails_is_a_point_with_its_reason_and_its_neighbours_are_compared() -> None:
    records = released({"1.0": 100.0, "1.2": 80.0})
    why = "--arm jax==1.1: pip cannot install jax==1.1: ERROR: no matching distribution"
    skipped = a_record(backend="jax", name="jax==1.1", status="skipped", reason=why, versions={})
    (found,) = history.histories([*records, skipped])
    assert list(found.rows) == ["1.0", "1.1", "1.2"]
    assert (found.fit, found.pairs) == (["1.0", "1.2"], [("1.2", "1.0")])
    assert set(found.steps(history.QUANTITIES[0])) == {"1.2"}
    assert history.sentences(found)[-1] == f"jax 1.1: {why}"
    titles, _, failed, _ = history.table(found)
    assert failed[:2] == ["1.1", f"not compared: {why}"]
    assert len(failed) == len(titles)
    assert "- 1.1: not installed" in history.render([*records, skipped])


def test_ways_of_using_a_framework_have_histories_of_their_own_and_one_release_has_none() -> None:
    both = released({"1.0": 100.0, "1.1": 80.0})
    both += [
        msgspec.structs.replace(
            one, cell=msgspec.structs.replace(
                one.cell, arm=msgspec.structs.replace(one.cell.arm, name=f"{one.cell.arm.name}:rbg", mode="rbg")
            )
        )
        for one in released({"1.0": 100.0, "1.1": 100.0}, settings={"device": "cpu", "precision": "float32", "mode": "rbg"})
    ]  # fmt: skip
    assert [found.name for found in history.histories(both)] == ["jax", "jax:rbg"]
    assert history.histories(released({"1.0": 100.0})) == []
    assert history.render(released({"1.0": 100.0})) == history.NOTHING


def test_the_published_releases_have_a_history_and_the_same_records_give_the_same_bytes() -> None:
    records, problems = files.read_folder(PUBLISHED)
    assert problems == []
    (found,) = history.histories(records)
    assert list(found.rows) == ["0.9.2", "0.10.0", "0.10.1", "0.10.2"]
    assert len(history.table(found)) == 5
    text = history.render(records)
    assert text == history.render(list(reversed(records)))
    assert all(told in publish.sentences(records) for told in history.sentences(found))


def test_the_plot_has_three_panels_and_marks_the_steps() -> None:
    records = released({"1.0": 100.0, "1.1": 80.0, "1.2": 80.0})
    (found,) = history.histories(records)
    speed, first_step, memory = history_plot.plot(found).figure.axes
    dashed = [[line for line in axes.lines if line.get_linestyle() == "--"] for axes in (speed, first_step, memory)]
    assert [len(lines) for lines in dashed] == [1, 0, 0]
    assert list(dashed[0][0].get_xdata()) == [0.5, 0.5]
    assert speed.texts[0].get_text().strip().startswith("slower: 0.80")
    assert [name for name, _ in history_plot.files(records)] == ["history1.svg", "history1.png"]


# The command.


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every release of JAX can be had but 9.9."""

    def python_of(backend: str, release: str, *, said: str, tell: object) -> Path:
        if release == "9.9":
            raise interpreters.InterpreterError(f"{said}: pip cannot install {backend}==9.9: there is none")
        return Path("/cache", release, "bin", "python")

    def ask(backend: str, typed: str, *, said: str) -> Interpreter:
        return Interpreter(typed, "3.11.7", {"jax": Path(typed).parts[2]})

    monkeypatch.setattr(releases, "python_of", python_of)
    monkeypatch.setattr(interpreters, "ask", ask)


def test_folders_are_read_and_printed(bench: Callable[..., Done]) -> None:
    done = bench("history", PUBLISHED)
    assert done.code == 0, done.error
    assert done.out.startswith(
        "## History: mnist\\_mlp, preset standard, jax over its releases"
    ) or done.out.startswith("## History: mnist_mlp, preset standard, jax over its releases")
    assert bench("report", PUBLISHED, "--format", "history").out == done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give either folders"),
        ((PUBLISHED, "--releases", "1.0,1.1"), "give either folders"),
        ((PUBLISHED, "--output", "x"), "--output is for --releases"),
        (("--releases", "1.0,1.1"), "name it, as in --arm jax"),
        (("--arm", "jax", "--releases", "1.0"), "two releases or more"),
        (("--arm", "jax", "--releases", "1.0,1.0"), "a release stands twice"),
        (("--arm", "jax", "--releases", "1.0,newest"), "'newest' is no release"),
        (("--arm", "old=jax", "--releases", "1.0,1.1"), "has no label"),
        (("--arm", "jax", "--releases", "9.9,9.9.0", "--device", "cpu"), "none of 9.9, 9.9.0 can be had"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, words: tuple[Any, ...], said: str
) -> None:
    def python_of(backend: str, release: str, *, said: str, tell: object) -> Path:
        raise interpreters.InterpreterError(f"{said}: there is none")

    monkeypatch.setattr(releases, "python_of", python_of)
    done = bench("history", *words)
    assert (done.code, said in done.error) == (2, True), done.error


def test_releases_are_arms_and_one_that_cannot_be_had_is_absent(installed: None) -> None:
    options: dict[str, Any] = {"task_names": ("mnist_mlp",), "preset": "smoke", "device": "cpu", "backend_names": ()}
    choice = histories.chosen(["0.10.1", "9.9", "0.10.2"], {**options, "arm_texts": ("jax", "jax:rbg")})
    assert [arm.name for arm in choice.arms] == ["jax==0.10.1", "jax==0.10.2", "jax==0.10.1:rbg", "jax==0.10.2:rbg"]
    absent = {arm.name: (arm.mode, why) for arm, why in choice.absent}
    assert set(absent) == {"jax==9.9", "jax==9.9:rbg"}
    assert absent["jax==9.9:rbg"][0] == "rbg"
    assert "pip cannot install jax==9.9" in absent["jax==9.9"][1]
    assert "quality" not in choice.kinds
    with pytest.raises(UserError, match=r"none of 9\.9 can be had"):
        histories.chosen(["9.9"], {**options, "arm_texts": ("jax",)})


@pytest.mark.slow
def test_a_history_is_measured_told_drawn_and_continued(
    bench: Callable[..., Done], installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "Campaign", campaigns(Answers()))
    asked = (
        "history", "--task", "mnist_mlp", "--preset", "smoke", "--device", "cpu", "--arm", "jax", "--releases",
        "0.10.1,9.9,0.10.2", "--rounds", 2, "--output", tmp_path / "told",
    )  # fmt: skip
    done = bench(*asked)
    assert done.code == 0, done.error
    assert "| 9.9 " in done.out
    assert "pip cannot install jax==9.9" in done.out
    assert {path.name for path in (tmp_path / "told").iterdir()} >= {"history.md", "history1.png", "history1.svg"}
    assert bench("history", tmp_path / "told").out == (tmp_path / "told" / "history.md").read_text()
    assert bench(*asked).code == 0
