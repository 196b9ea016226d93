"""The self-test: what is planted, what is judged, what is kept, and what a table says of it."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
import pytest

from bench.campaign.plan import TaskPlan
from bench.checks import selftest
from bench.cli import running
from bench.process.request import Request
from bench.records import files
from bench.records.record import Arm, Cell, Disturbance, Outcome, Record, SelfTest
from bench.report import facts, grouping, markdown, summary, table_csv, words
from bench.stats.selftest import NAMES, judge
from bench.worker import answer as worker
from bench.worker import loop, slowdown
from tests.builders import a_run, a_timing, changed
from tests.fakes.campaign import FAKE as TASK
from tests.fakes.campaign import Answers, Watcher, a_plan, a_planned_cell, an_arm, campaigns
from tests.test_cli import FAKE, Done, bench, refusal
from tests.test_loop import PUT_S, STEP_S, WAIT_S, Clock, RecordingSession, a_batch, a_preset, endless
from tests.test_report import hostile_texts

__all__ = ["bench"]  # the fixture

TWO = {"fast": [200.0, 204.0, 198.0], "slow": [100.0, 101.0, 99.5]}


def a_test(
    *, same: float = 0.0, slower: float = math.log(1.1), noise: float = 0.005, rounds: int = 8, **changes: Any
) -> SelfTest:
    """Arms that differ so much in log throughput, with noise of exactly this deviation within a round."""
    rng = np.random.default_rng(20260101)
    residuals = rng.normal(size=(rounds, 3))
    residuals += residuals.mean() - residuals.mean(axis=0) - residuals.mean(axis=1, keepdims=True)
    residuals *= noise / math.sqrt((residuals**2).sum() / ((rounds - 1) * 2))
    weather = rng.normal(0, 0.1, (rounds, 1))
    logs = math.log(1000) + weather + np.array([0.0, same, -slower]) + residuals
    asked: dict[str, Any] = {
        "preset": "quick", "rates": [tuple(map(float, row)) for row in np.exp(logs)], "slow_down": 0.1, "disturbed": 0,
        "started_utc": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    return SelfTest(**asked | changes)


# What is planted.


@pytest.mark.parametrize(("share", "blocks"), [(0.1, 10), (0.25, 10), (0.5, 4), (1.0, 3), (0.07, 100)])
def test_a_planted_slow_down_is_exactly_so_much_more_work_and_no_more_items(share: float, blocks: int) -> None:
    def measured(slow_down: float) -> loop.Window:
        clock = Clock()
        preset = a_preset(clock, endless(a_batch(items=4)), warmup_steps=0)
        session: Any = RecordingSession(clock)
        session = slowdown.slowed(session, slow_down) if slow_down else session
        return loop.measure(session, preset, clock=clock, turns=loop.Alone(blocks, block_s=1.0), block_steps=10)

    plain, slowed = measured(0.0), measured(share)
    assert slowed.items == plain.items
    steps = 10 * blocks
    more = (slowed.window_s - plain.window_s) / (PUT_S + STEP_S)
    assert more == pytest.approx(share * steps, abs=1)  # whole steps, not more than one of them to or fro
    assert plain.window_s == steps * (PUT_S + STEP_S) + blocks * WAIT_S


def test_a_repeated_step_is_a_whole_one_in_front_of_the_counted_one() -> None:
    clock = Clock()
    session = slowdown.slowed(RecordingSession(clock), 0.5)  # type: ignore[arg-type]
    for _ in range(4):
        loop.step(session, a_batch())
    step = ["put", "train"]
    assert clock.calls == [*step, *step, *step, *step, *step, *step]
    session.wait()
    assert clock.calls[-1] == "wait"


@pytest.mark.slow
def test_the_worker_plants_what_the_arm_says_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(slowdown, "slowed", lambda session, share: (asked.append(share), session)[1])
    monkeypatch.setattr(worker, "hide", lambda names: None)
    for slow_down in (0.0, 0.25):
        _, cell = a_planned_cell(an_arm(slow_down=slow_down))
        assert worker.answer(Request(cell, None, takes_turns=False, hidden=[])).status == "ok"
    assert asked == [0.25]


# What is judged.


def test_a_machine_that_sees_what_is_there_and_nothing_else_passes() -> None:
    test = a_test()
    found = judge(test.rates)
    assert found.passed
    assert words.selftest_faults(test) == []
    assert found.noise == pytest.approx(0.005)
    assert (found.same.decision, found.slowed.decision) == ("tie", "slower")
    assert found.slowed.ratio.estimate == pytest.approx(1 / 1.1, rel=0.01)
    assert found.smallest_effect is not None
    assert 0.03 < found.smallest_effect < 0.05


def test_what_company_costs_is_told_and_explained_where_it_is_much() -> None:
    assert not any("among the others" in line for line in words.selftest(a_test()))
    cheap = words.selftest(a_test(company=[1.01, 1.0, 1.02, 1.01]))[-1]
    assert cheap.startswith("a step among the others takes 1.010 (")
    assert cheap.endswith("times as long as alone")
    dear = words.selftest(a_test(company=[1.08, 1.09, 1.1, 1.09]))[-1]
    assert "caches" in dear
    unsure = words.selftest(a_test(company=[1.0, 1.1, 1.2]))[-1]
    assert "caches" not in unsure


def test_the_same_program_called_different_is_a_fault() -> None:
    assert words.selftest_faults(a_test(same=0.1)) == ["the same program was called faster than itself"]
    assert words.selftest_faults(a_test(same=-0.1)) == ["the same program was called slower than itself"]


def test_a_slow_down_that_was_missed_is_a_fault() -> None:
    for test in (a_test(slower=0.0), a_test(noise=0.1), a_test(slower=-0.1)):
        assert words.selftest_faults(test) == ["a planted slow-down of 10 % was missed"]


def test_too_few_rounds_for_a_tie_are_no_fault_but_are_said() -> None:
    test = a_test(noise=0.05, slower=math.log(1.5), slow_down=0.5)
    found = judge(test.rates)
    assert (found.same.decision, words.selftest_faults(test)) == ("not decided", [])
    needed = found.same.rounds_needed
    assert needed is not None
    assert needed > 8
    (line,) = [line for line in words.selftest(test) if line.startswith("A/A: ")]
    assert line.endswith(f"; too few rounds for a tie, about {needed} would decide at this noise")


def test_the_findings_in_words() -> None:
    lines = words.selftest(a_test(disturbed=2))
    assert (
        lines[0]
        == "noise: 0.50 % between processes (standard deviation within a round; 8 rounds, 2 more were disturbed)"
    )
    assert lines[1].startswith("smallest visible effect: 4.")
    assert lines[1].endswith(" % (called with 90 % power)")
    assert lines[2].startswith("A/A: tie, ratio ")
    assert lines[3].startswith("planted 10 % slow-down: slower, ratio 0.9")
    assert lines[3].endswith("; 0.9091 is exact")


def test_rounds_that_do_not_vary_say_nothing_about_noise() -> None:
    test = a_test(rates=[(1000.0, 1000.0, 900.0)] * 3)
    found = judge(test.rates)
    assert (found.noise, found.smallest_effect) == (None, None)
    assert words.selftest_faults(test) == [
        "a planted slow-down of 10 % was missed"
    ]  # without an interval nothing is decided
    assert words.selftest(test)[0] == "noise: none was seen in 3 rounds, so nothing is known about it"


# What is run.


def good(cell: Cell) -> Outcome:
    """A thousand per second, by what was planted less, with noise below 1 %."""
    noise = math.sin(10 * cell.round + 3 * cell.position) / 150
    timings = a_timing(1000 / (1 + cell.arm.slow_down) * (1 + noise))
    return Outcome(status="ok", wall_s=1.0, started_utc="2026-01-02T00:00:00Z", timings=timings)


def run(folder: Path, answers: Answers, *, rounds: int, arm: Arm | None = None) -> SelfTest:
    """The self-test of an arm, without processes."""
    plan = a_plan(arm or TASK)
    folder.mkdir(exist_ok=True)
    return selftest.run(
        plan, plan.choice.arms[0], rounds=rounds, slow_down=0.1, folder=folder, progress=Watcher(), execute=answers,
        execute_round=None,
    )  # fmt: skip


@pytest.mark.slow
def test_every_round_holds_every_arm_once_in_shuffled_order(tmp_path: Path) -> None:
    answers = Answers(good)
    test = run(tmp_path / "run", answers, rounds=20)
    ran = [(cell.round, cell.position, cell.arm.slow_down) for cell in answers.ran]
    assert [(number, position) for number, position, _ in ran] == [(n, p) for n in range(1, 21) for p in (1, 2, 3)]
    for number in range(1, 21):
        assert sorted(planted for n, _, planted in ran if n == number) == [0.0, 0.0, 0.1]
    assert {position for _, position, planted in ran if planted} == {1, 2, 3}
    for first, again, slowed in test.rates:
        assert (first, again, slowed) == pytest.approx((1000, 1000, 1000 / 1.1), rel=0.01)
    assert words.selftest_faults(test) == []


def test_its_arms_are_the_arm_in_all_but_their_names_and_the_slow_down(tmp_path: Path) -> None:
    arm = an_arm("mine", backend=TASK, mode="fast", threads=1, environment={"A": "1"})
    answers = Answers(good)
    run(tmp_path / "run", answers, rounds=2, arm=arm)
    assert {cell.kind for cell in answers.ran} == {"speed"}
    for cell in answers.ran:
        assert {**cell.arm.way, "slow_down": 0.0} == arm.way


def test_a_disturbed_round_is_left_out_and_counted(tmp_path: Path) -> None:
    def answer(cell: Cell) -> Outcome:
        told = "the GPU throttled: heat" if (cell.round, cell.position) == (2, 3) else None
        return msgspec.structs.replace(
            good(cell), disturbance=Disturbance(None, None, None, None, None, None, disturbed=told)
        )

    test = run(tmp_path / "run", Answers(answer), rounds=5)
    assert (len(test.rates), test.disturbed) == (5, 1)  # in its place there is one more
    throttled = Disturbance(None, None, None, None, None, None, disturbed="the GPU throttled: heat")
    with pytest.raises(selftest.SelfTestError, match="fewer than two undisturbed rounds: the GPU throttled: heat"):
        run(tmp_path / "again", Answers(good, disturbance=throttled), rounds=2)


def test_a_process_that_fails_ends_the_self_test_with_its_reason(tmp_path: Path) -> None:
    def answer(cell: Cell) -> Outcome:
        return Outcome(status="oom", reason="no room") if cell.round == 2 else good(cell)

    answers = Answers(answer)
    with pytest.raises(selftest.SelfTestError, match=f"{TASK}, round 2: oom: no room"):
        run(tmp_path / "run", answers, rounds=5)
    assert len(answers.ran) == 4


# What is kept.


def remember(plan: TaskPlan, test: SelfTest) -> None:
    plan.remember_selftest(plan.choice.arms[0], test)


def recall(plan: TaskPlan) -> SelfTest | None:
    """What the speed processes of a plan carry."""
    plan = dataclasses.replace(plan)  # which has looked for nothing yet
    (found,) = {json.dumps(msgspec.to_builtins(cell.selftest)) for cell in plan.of_kind("speed")}
    return msgspec.convert(json.loads(found), SelfTest | None)


@pytest.mark.slow
def test_the_latest_one_is_kept_for_this_arm_on_this_machine_only() -> None:
    plan = a_plan()
    assert recall(plan) is None
    remember(plan, a_test())
    remember(plan, a_test(same=0.01))
    assert recall(plan) == a_test(same=0.01)
    assert recall(a_plan(an_arm("another name", backend=TASK))) is not None  # the same program
    others = [
        a_plan(an_arm(**change))
        for change in (
            {"backend": "backends.reference"}, {"mode": "fast"}, {"device": "gpu"}, {"precision": "float64"}, {"threads": 1},
            {"environment": {"OMP_NUM_THREADS": "1"}}, {"python": "3.99.0"},
        )
    ]  # fmt: skip
    others += [a_plan(preset="full"), a_plan(changes={"batch_size": "8"})]
    for change in ({"cpu": "Another CPU"}, {"cores": 99}, {"gpu": "A GPU"}):
        machine = msgspec.structs.replace(plan.run.machine, **change)
        others.append(dataclasses.replace(plan, run=msgspec.structs.replace(plan.run, machine=machine)))
    for other in others:
        assert recall(other) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: b"", lambda kept: b"[]", lambda kept: b"\xff", lambda kept: json.dumps(kept)[:-9].encode(),
        lambda kept: json.dumps({**kept, "more": 1}).encode(),
        lambda kept: json.dumps({**kept, "key": "0" * 64}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[1.0, 1.0, 1.0]]}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[1.0, 1.0], [1.0, 1.0]]}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[0.0, 1.0, 1.0]] * 2}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[1e300, 1.0, 1.0]] * 2}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[float("nan"), 1.0, 1.0]] * 2}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "slow_down": 0.0}}).encode(),
    ],
)  # fmt: skip
def test_a_file_that_is_no_self_test_of_this_arm_is_as_good_as_none(spoil: Callable[[Any], bytes]) -> None:
    plan = a_plan()
    remember(plan, a_test())
    (path,) = (platformdirs.user_cache_path("framework-bench") / "selftest").iterdir()
    path.write_bytes(spoil(json.loads(path.read_bytes())))
    assert recall(plan) is None


@pytest.mark.parametrize(
    "rates", [[(1e-9, 1e18, 1.0), (1e18, 1e-9, 1.0)], [(1.0, 1.0, 1.0)] * 2, [(1e18, 1e-9, 1e-9)] * 2]
)
def test_whatever_rates_are_let_in_can_be_told(rates: Any) -> None:
    test = files.decode(files.encode(a_test(rates=rates)), SelfTest)
    assert words.selftest_in_short(test)


def test_a_comparison_carries_it_in_its_records_of_speed() -> None:
    remember(a_plan(), a_test())
    plan = a_plan(TASK, an_arm("fast", backend=TASK, mode="fast"), rounds=2)
    carried = [(cell.arm.name, cell.selftest) for cell in plan.of_kind("speed")]
    assert sorted(carried, key=lambda pair: pair[0]) == [("fast", None)] * 2 + [(TASK, a_test())] * 2
    assert not any(cell.selftest for kind in ("parity", "memory", "quality") for cell in plan.of_kind(kind))


# What a table says.


def with_selftest(made: list[Record], backend: str, test: SelfTest) -> list[Record]:
    return [changed(one, selftest=test) if one.cell.arm.name == backend else one for one in made]


def test_a_table_shows_the_latest_self_test_of_each_backend_and_the_command_for_the_rest() -> None:
    old, new = a_test(same=0.1, started_utc="2025-12-31T00:00:00Z"), a_test()
    made = with_selftest(a_run(TWO), "fast", new)
    made = [changed(one, selftest=old) if (one.cell.arm.name, one.cell.round) == ("fast", 2) else one for one in made]
    (section,) = grouping.sections(made)
    told = [text for name, text in facts.facts(section) if name == "Self-test"]
    assert told[0] == f"fast: passed (2026-01-02, preset quick); {'; '.join(words.selftest(new))}"
    assert told[1] == "none on this machine of slow: framework-bench selftest --task mnist_mlp --backend slow"
    text = markdown.render(made)
    assert text.replace("\\", "").count("Self-test: ") == 2
    assert markdown.render(made[::-1]) == text


def test_the_command_that_a_table_lacks_is_of_the_tables_own_preset_and_sizes() -> None:
    made = [changed(one, preset="standard", changes={"batch_size": 64}) for one in a_run(TWO)]
    (section,) = grouping.sections(made)
    (told,) = (text for name, text in facts.facts(section) if name == "Self-test")
    assert told.endswith("selftest --task mnist_mlp --backend fast --preset standard --set batch_size=64")


def test_a_verdict_says_which_of_its_self_tests_failed() -> None:
    told = "(In the self-test of slow, a planted slow-down of 10 % was missed.)"
    for test, is_told in ((a_test(slower=0.0), True), (a_test(), False)):
        (section,) = grouping.sections(with_selftest(a_run(TWO), "slow", test))
        for text in (summary.sentences(section)[0], summary.conclusion(section)):
            assert text.endswith(told) == is_told
            assert ("self-test" in text) == is_told


def test_a_table_shows_what_a_self_test_missed() -> None:
    (section,) = grouping.sections(with_selftest(a_run(TWO), "slow", a_test(noise=0.1)))
    (told,) = [text for name, text in facts.facts(section) if name == "Self-test" and text.startswith("slow")]
    assert told.startswith("slow: a planted slow-down of 10 % was missed (2026-01-02, preset quick); noise: 10 % ")


def test_the_command_names_the_precision_where_it_is_not_the_usual_one() -> None:
    (section,) = grouping.sections(a_run(TWO, precision="float64"))
    assert any(text.endswith(" --backend fast --precision float64") for _, text in facts.facts(section))


def test_the_command_names_an_arm_that_is_not_a_backend_as_it_is() -> None:
    (section,) = grouping.sections(a_run(TWO, mode="quick"))
    commands = [text for name, text in facts.facts(section) if name == "Self-test"]
    assert [text.partition(" --task mnist_mlp ")[2] for text in commands] == ["--arm fast=fast:quick"]


@hostile_texts()
def test_hostile_self_tests_are_harmless(text: str) -> None:
    made = with_selftest(a_run(TWO), "fast", a_test(preset=text, started_utc=text))
    plain = with_selftest(a_run(TWO), "fast", a_test())
    rendered = markdown.render(made)
    rendered.encode()
    assert len(rendered.splitlines()) == len(markdown.render(plain).splitlines())
    assert not set(map(ord, rendered)) & ({*range(32), *range(127, 160)} - {10})
    assert "<script" not in rendered
    assert table_csv.render(made) == table_csv.render(plain)


# The command.


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Cell], Outcome]) -> None:
    """Lets the command run without processes."""
    monkeypatch.setattr(selftest, "Campaign", campaigns(Answers(answer)))


@pytest.mark.slow
def test_the_command_prints_the_findings_keeps_them_and_writes_them(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, good)
    done = bench("selftest", *FAKE, "--preset", "smoke", "--json", "found.json")
    assert done.code == 0, done.error
    test = recall(a_plan())
    assert test is not None
    expected = [f"{TASK} smoke {TASK}, float32 on the cpu: passed", *words.selftest(test)]
    assert done.out.splitlines() == [expected[0], *(f"  {line}" for line in expected[1:])]
    (written,) = json.loads(Path("found.json").read_text())
    assert written["planted"]["decision"] == "slower"
    assert written["faults"] == []
    assert written["test"]["rates"] == [list(rates) for rates in test.rates]
    assert len(test.rates) == 8


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda cell: msgspec.structs.replace(good(cell), timings=a_timing(1000 + cell.round + cell.position)),
         "a planted slow-down of 10 % was missed"),
        (lambda cell: Outcome(status="killed", reason="by SIGKILL"), "killed: by SIGKILL"),
    ],
)  # fmt: skip
def test_what_is_not_passed_ends_with_1(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, answer: Callable[[Cell], Outcome], fault: str
) -> None:
    answering(monkeypatch, answer)
    done = bench("selftest", *FAKE, "--rounds", 4)
    assert done.code == 1
    assert fault in done.error.splitlines()[-1]
    assert "passed" not in done.out


def test_an_a_a_pair_that_is_called_different_ends_with_1(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = dict(zip(NAMES, (1000, 900, 700), strict=True))
    answering(
        monkeypatch,
        lambda cell: msgspec.structs.replace(good(cell), timings=a_timing(speeds[cell.arm.name] + cell.round)),
    )
    done = bench("selftest", *FAKE, "--rounds", 4)
    assert done.code == 1
    assert "the same program was called slower than itself" in done.error
    assert "FAILED" in done.out


@pytest.mark.slow
def test_each_arm_has_a_self_test_of_its_own_which_stands_below_its_table(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answering(monkeypatch, good)
    arms = ("--arm", TASK, "--arm", f"{TASK}:fast", "--arm", f"one={TASK}:threads=1")
    done = bench("selftest", "--task", TASK, "--device", "cpu", *arms[:4], "--rounds", 4)
    assert done.code == 0, done.error
    assert [line.partition(",")[0] for line in done.out.splitlines() if not line.startswith(" ")] == [
        f"{TASK} quick {TASK}", f"{TASK} quick {TASK}:fast",
    ]  # fmt: skip
    monkeypatch.setattr(running, "Campaign", campaigns(Answers()))
    done = bench("run", "--task", TASK, "--device", "cpu", *arms, "--rounds", 2, "--output", tmp_path / "run")
    assert done.code == 0, done.error
    (section,) = grouping.sections(files.read_folder(tmp_path / "run")[0])
    told = [text for name, text in facts.facts(section) if name == "Self-test"]
    assert [text.partition(": ")[0] for text in told] == [TASK, f"{TASK}:fast", "none on this machine of one"]
    assert told[-1].endswith(f" --arm one={TASK} --threads 1")


def test_a_slow_down_within_the_margin_is_refused(bench: Callable[..., Done]) -> None:
    line = refusal(bench("selftest", *FAKE, "--slow-down", "0.03"))
    assert "--slow-down 0.03 must be above 0.03" in line


@pytest.mark.slow
def test_with_real_processes_the_exit_code_is_the_verdict(bench: Callable[..., Done]) -> None:
    """Windows of 10 ms are noisy: what is found is not the point, but that it is what is told."""
    done = bench("selftest", *FAKE, "--rounds", 2, "--slow-down", 1)
    test = recall(a_plan(preset="quick"))
    if test is None:  # on a machine so busy that a window of 10 ms became one of a third of a second
        assert done.code == 1
        assert "fewer than two undisturbed rounds: " in done.error
        return
    faults = words.selftest_faults(test)
    assert done.code == (1 if faults else 0)
    assert test.slow_down == 1.0
    assert len(test.rates) + test.disturbed == 2
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_rounds_auto_with_real_processes(bench: Callable[..., Done]) -> None:
    done = bench("run", *FAKE, "--rounds", "auto", "--seeds", 1, "--output", "run")
    assert done.code == 0, done.error
    records, problems = files.read_folder(Path("run"))
    assert problems == []
    kinds = Counter(one.cell.kind for one in records)
    # One backend is nothing to compare: no noise of a pair, so the rounds are the preset's.
    assert kinds == {"parity": 1, "pilot": 3, "speed": 2, "memory": 1, "quality": 1}
    assert "2 rounds, the preset's: the pilot left no noise" in done.error
    assert "2 rounds, the preset's: the pilot left no noise" in done.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--effect", "0.1"], "--effect needs --rounds auto"),
        (["--rounds", "4", "--effect", "0.1"], "--effect needs --rounds auto"),
        (["--rounds", "auto", "--effect", "0.03"], "--effect 0.03 must be above 0.03"),
        (["--rounds", "auto", "--effect", "5"], "--effect"),
        (["--rounds", "atuo"], "'atuo' is not a valid integer"),
    ],
)
def test_an_effect_that_makes_no_sense_is_refused(bench: Callable[..., Done], arguments: list[str], part: str) -> None:
    assert part in refusal(bench("run", *FAKE, *arguments))
    assert not list(Path().iterdir())
