"""The self-test: what is planted, what is judged, what is kept, and what a table says of it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
import pytest

from bench.campaign import campaign
from bench.campaign.plan import Choice, TaskPlan, make
from bench.checks import arms, selftest
from bench.records import record
from bench.records.record import Disturbance, Record, SelfTest
from bench.report import grouping, markdown, summary, table_csv
from bench.worker import answer as worker
from bench.worker import loop, slowdown
from bench.worker.answer import Request
from tests.conftest import a_run, a_timing
from tests.test_cli import FAKE, Done, bench, refusal
from tests.test_loop import PUT_S, STEP_S, WAIT_S, Clock, RecordingSession, a_batch, a_preset, endless
from tests.test_report import hostile_texts

__all__ = ["bench"]  # the fixture

TASK = "tests.fake_backend"
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
        preset = a_preset(clock, endless(a_batch(items=4)), warmup_steps=0, block_steps=10, blocks=blocks)
        session: Any = RecordingSession(clock)
        session = slowdown.slowed(session, slow_down) if slow_down else session
        return loop.measure(session, preset, clock=clock, min_window_s=0)

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


def test_the_worker_plants_what_the_request_says_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(slowdown, "slowed", lambda session, share: (asked.append(share), session)[1])
    assert loop.measure.__kwdefaults__ is not None
    monkeypatch.setitem(loop.measure.__kwdefaults__, "min_window_s", 0.01)  # which the fake backend sets, too
    monkeypatch.setattr(worker, "hide_what_is_not_measured", lambda name, but: None)
    for slow_down in (0.0, 0.25):
        cell = a_plan().cell(TASK, kind="speed")
        assert worker.answer(Request(cell, None, slow_down)).status == "ok"
    assert asked == [0.25]


# What is judged.


def test_a_machine_that_sees_what_is_there_and_nothing_else_passes() -> None:
    found = selftest.judge(a_test())
    assert found.faults == []
    assert found.noise == pytest.approx(0.005)
    assert (found.same.decision, found.planted.decision) == ("tie", "slower")
    assert found.planted.ratio.estimate == pytest.approx(1 / 1.1, rel=0.01)
    assert found.smallest_effect is not None
    assert 0.03 < found.smallest_effect < 0.05


def test_the_same_program_called_different_is_a_fault() -> None:
    assert selftest.judge(a_test(same=0.1)).faults == ["the same program was called faster than itself"]
    assert selftest.judge(a_test(same=-0.1)).faults == ["the same program was called slower than itself"]


def test_a_slow_down_that_was_missed_is_a_fault() -> None:
    for test in (a_test(slower=0.0), a_test(noise=0.1), a_test(slower=-0.1)):
        assert selftest.judge(test).faults == ["a planted slow-down of 10 % was missed"]


def test_too_few_rounds_for_a_tie_are_no_fault_but_are_said() -> None:
    test = a_test(noise=0.05, slower=math.log(1.5), slow_down=0.5)
    found = selftest.judge(test)
    assert (found.same.decision, found.faults) == ("not decided", [])
    needed = found.same.rounds_needed
    assert needed is not None
    assert needed > 8
    (line,) = [line for line in selftest.describe(test) if line.startswith("A/A: ")]
    assert line.endswith(f"; too few rounds for a tie, about {needed} would decide at this noise")


def test_the_findings_in_words() -> None:
    lines = selftest.describe(a_test(disturbed=2))
    assert (
        lines[0]
        == "noise: 0.50 % between processes (standard deviation within a round; 8 rounds, 2 more were disturbed)"
    )
    assert lines[1].startswith("smallest visible effect: 4.")
    assert lines[1].endswith(" % (called with 90% power)")
    assert lines[2].startswith("A/A: tie, ratio ")
    assert lines[3].startswith("planted 10 % slow-down: slower, ratio 0.9")
    assert lines[3].endswith("; 0.9091 is exact")


def test_rounds_that_do_not_vary_say_nothing_about_noise() -> None:
    test = a_test(rates=[(1000.0, 1000.0, 900.0)] * 3)
    found = selftest.judge(test)
    assert (found.noise, found.smallest_effect) == (None, None)
    assert found.faults == ["a planted slow-down of 10 % was missed"]  # without an interval nothing is decided
    assert selftest.describe(test)[0] == "noise: none was seen in 3 rounds, so nothing is known about it"


# What is run.


def a_plan(**changes: Any) -> TaskPlan:
    asked: dict[str, Any] = {
        "tasks": [TASK], "backends": [TASK], "absent": [], "preset": "smoke", "device": "cpu", "precision": "float32",
        "rounds": None, "seeds": None, "data_dir": None, "order_seed": 20260101,
    }  # fmt: skip
    return make(TASK, Choice(**asked | changes))


class Silent:
    def started(self, cell: Record, *, done: int, total: int, left_s: float) -> None: ...
    def finished(self, finished: Record) -> None: ...
    def note(self, text: str) -> None: ...


Answer = Callable[[Record, float], Record]


def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[tuple[int, int, float]]:
    """Replaces processes by a function of the cell and the planted slow-down; returns the list of (round, position, it)."""
    ran: list[tuple[int, int, float]] = []

    def execute(cell: Record, folder: Path, *, data_dir: Path | None, interpreter: object, slow_down: float) -> Record:
        ran.append((cell.round, cell.position, slow_down))
        return answer(cell, slow_down)

    monkeypatch.setattr(campaign, "execute", execute)
    return ran


def good(cell: Record, slow_down: float) -> Record:
    """A thousand per second, by what was planted less, with noise below 1 %."""
    noise = math.sin(10 * cell.round + 3 * cell.position) / 150
    done = msgspec.structs.replace(cell, status="ok", reason=None, wall_s=1.0, started_utc="2026-01-02T00:00:00Z")
    return msgspec.structs.replace(done, timings=a_timing(1000 / (1 + slow_down) * (1 + noise)))


def run(rounds: int) -> SelfTest:
    return arms.run(a_plan(), TASK, rounds=rounds, slow_down=0.1, data_dir=None, progress=Silent())


def test_every_round_holds_every_arm_once_in_shuffled_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = answering(monkeypatch, good)
    test = run(20)
    assert [(number, position) for number, position, _ in ran] == [(n, p) for n in range(1, 21) for p in (1, 2, 3)]
    for number in range(1, 21):
        assert sorted(planted for n, _, planted in ran if n == number) == [0.0, 0.0, 0.1]
    assert {position for _, position, planted in ran if planted} == {1, 2, 3}
    for first, again, slowed in test.rates:
        assert (first, again, slowed) == pytest.approx((1000, 1000, 1000 / 1.1), rel=0.01)
    assert selftest.judge(test).faults == []


def test_a_disturbed_round_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cell: Record, slow_down: float) -> Record:
        told = "the GPU throttled: heat" if (cell.round, cell.position) == (2, 3) else None
        return msgspec.structs.replace(
            good(cell, slow_down), disturbance=Disturbance(None, None, None, None, None, None, disturbed=told)
        )

    answering(monkeypatch, answer)
    test = run(5)
    assert (len(test.rates), test.disturbed) == (4, 1)
    with pytest.raises(arms.SelfTestError, match="fewer than two undisturbed rounds: the GPU throttled: heat"):
        run(2)


def test_a_process_that_fails_ends_the_self_test_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(cell: Record, slow_down: float) -> Record:
        return (
            msgspec.structs.replace(cell, status="oom", reason="no room") if cell.round == 2 else good(cell, slow_down)
        )

    ran = answering(monkeypatch, answer)
    with pytest.raises(arms.SelfTestError, match=f"{TASK}, round 2: oom: no room"):
        run(5)
    assert len(ran) == 4


# What is kept.


def test_the_latest_one_is_kept_for_this_cell_on_this_machine_only() -> None:
    cell = a_plan().cell(TASK)
    assert selftest.recall(cell) is None
    selftest.remember(cell, a_test())
    selftest.remember(cell, a_test(preset="smoke"))
    assert selftest.recall(cell) == a_test(preset="smoke")
    assert selftest.recall(msgspec.structs.replace(cell, preset="full", spec_hash="6" * 64)) is not None
    changes: list[dict[str, Any]] = [
        {"task": "other"},
        {"backend": "other"},
        {"device": "gpu"},
        {"precision": "float64"},
    ]
    changes += [{"threads": 1}, *({"machine": msgspec.structs.replace(cell.machine, **change)}
                                  for change in ({"cpu": "Another CPU"}, {"cores": 99}, {"gpu": "A GPU"}))]  # fmt: skip
    for change in changes:
        assert selftest.recall(msgspec.structs.replace(cell, **change)) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: b"", lambda kept: b"[]", lambda kept: b"\xff", lambda kept: json.dumps(kept)[:-9].encode(),
        lambda kept: json.dumps({**kept, "schema": 2}).encode(),
        lambda kept: json.dumps({**kept, "more": 1}).encode(),
        lambda kept: json.dumps({**kept, "cell": {**kept["cell"], "cpu": "Another CPU"}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[1.0, 1.0, 1.0]]}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[1.0, 1.0], [1.0, 1.0]]}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[0.0, 1.0, 1.0]] * 2}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[1e300, 1.0, 1.0]] * 2}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "rates": [[float("nan"), 1.0, 1.0]] * 2}}).encode(),
        lambda kept: json.dumps({**kept, "found": {**kept["found"], "slow_down": 0.0}}).encode(),
    ],
)  # fmt: skip
def test_a_file_that_is_no_self_test_of_this_cell_is_as_good_as_none(spoil: Callable[[Any], bytes]) -> None:
    cell = a_plan().cell(TASK)
    selftest.remember(cell, a_test())
    (path,) = (platformdirs.user_cache_path("framework-bench") / "selftest").iterdir()
    path.write_bytes(spoil(json.loads(path.read_bytes())))
    assert selftest.recall(cell) is None


@pytest.mark.parametrize(
    "rates", [[(1e-9, 1e18, 1.0), (1e18, 1e-9, 1.0)], [(1.0, 1.0, 1.0)] * 2, [(1e18, 1e-9, 1e-9)] * 2]
)
def test_whatever_rates_are_let_in_can_be_told(rates: Any) -> None:
    test = record.decode(record.encode(a_test(rates=rates)), SelfTest)
    assert selftest.summarise(test)


def test_a_comparison_carries_it_in_its_records_of_speed() -> None:
    selftest.remember(a_plan().cell(TASK), a_test())
    choice = Choice([TASK], [TASK, "b.b"], [], "smoke", "cpu", "float32", 2, 1, None, 1)
    plan = make(TASK, choice)
    carried = [(cell.backend, cell.selftest) for cells in plan.rounds(choice) for cell in cells]
    assert sorted(carried, key=lambda pair: pair[0]) == [("b.b", None)] * 2 + [(TASK, a_test())] * 2


# What a table says.


def with_selftest(made: list[Record], backend: str, test: SelfTest) -> list[Record]:
    return [msgspec.structs.replace(one, selftest=test) if one.backend == backend else one for one in made]


def test_a_table_shows_the_latest_self_test_of_each_backend_and_the_command_for_the_rest() -> None:
    old, new = a_test(same=0.1, started_utc="2025-12-31T00:00:00Z"), a_test()
    made = with_selftest(a_run(TWO), "fast", new)
    made = [
        msgspec.structs.replace(one, selftest=old) if one.backend == "fast" and one.round == 2 else one for one in made
    ]
    (section,) = grouping.sections(made)
    told = [text for name, text in summary.facts(section) if name == "Self-test"]
    assert told[0] == f"fast: passed (2026-01-02, preset quick); {'; '.join(selftest.describe(new))}"
    assert told[1] == "none on this machine of slow: framework-bench selftest --task mnist_mlp --backend slow"
    text = markdown.render(made)
    assert text.replace("\\", "").count("Self-test: ") == 2
    assert markdown.render(made[::-1]) == text


def test_a_table_shows_what_a_self_test_missed() -> None:
    (section,) = grouping.sections(with_selftest(a_run(TWO), "slow", a_test(noise=0.1)))
    (told,) = [text for name, text in summary.facts(section) if name == "Self-test" and text.startswith("slow")]
    assert told.startswith("slow: a planted slow-down of 10 % was missed (2026-01-02, preset quick); noise: 10 % ")


def test_the_command_names_the_precision_where_it_is_not_the_usual_one() -> None:
    (section,) = grouping.sections(a_run(TWO, precision="float64"))
    assert any(text.endswith(" --backend fast --precision float64") for _, text in summary.facts(section))


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


def test_the_command_prints_the_findings_keeps_them_and_writes_them(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, good)
    done = bench("selftest", *FAKE, "--preset", "smoke", "--json", "found.json")
    assert done.code == 0, done.error
    test = selftest.recall(a_plan().cell(TASK))
    assert test is not None
    expected = [f"{TASK} smoke {TASK}, float32 on the cpu: passed", *selftest.describe(test)]
    assert done.out.splitlines() == [expected[0], *(f"  {line}" for line in expected[1:])]
    (written,) = json.loads(Path("found.json").read_text())
    assert written["planted"]["decision"] == "slower"
    assert written["faults"] == []
    assert written["test"]["rates"] == [list(rates) for rates in test.rates]
    assert len(test.rates) == 8


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda cell, slow_down: good(cell, 0.0), "a planted slow-down of 10 % was missed"),
        (
            lambda cell, slow_down: msgspec.structs.replace(cell, status="killed", reason="by SIGKILL"),
            "killed: by SIGKILL",
        ),
    ],
)
def test_what_is_not_passed_ends_with_1(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, answer: Answer, fault: str
) -> None:
    answering(monkeypatch, answer)
    done = bench("selftest", *FAKE, "--rounds", 4)
    assert done.code == 1
    assert fault in done.error.splitlines()[-1]
    assert "passed" not in done.out


def test_an_a_a_pair_that_is_called_different_ends_with_1(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "run", lambda *a, **k: a_test(same=-0.1))
    done = bench("selftest", *FAKE, "--rounds", 4)
    assert done.code == 1
    assert "the same program was called slower than itself" in done.error
    assert "FAILED" in done.out


def test_a_slow_down_within_the_margin_is_refused(bench: Callable[..., Done]) -> None:
    line = refusal(bench("selftest", *FAKE, "--slow-down", "0.03"))
    assert "--slow-down 0.03 must be above 0.03" in line


def test_with_real_processes_the_exit_code_is_the_verdict(bench: Callable[..., Done]) -> None:
    """Windows of 10 ms are noisy: what is found is not the point, but that it is what is told."""
    done = bench("selftest", *FAKE, "--rounds", 2, "--slow-down", 1)
    test = selftest.recall(a_plan().cell(TASK))
    if test is None:  # both rounds disturbed
        assert done.code == 1
        assert "undisturbed" in done.error
        return
    faults = selftest.judge(test).faults
    assert done.code == (1 if faults else 0)
    assert test.slow_down == 1.0
    assert len(test.rates) + test.disturbed == 2
    assert not list(Path().iterdir())


def test_rounds_auto_with_real_processes(bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stats.power.MOST_ROUNDS", 5)
    done = bench("run", *FAKE, "--rounds", "auto", "--seeds", 1, "--output", "run")
    assert done.code == 0, done.error
    records, problems = record.read_folder(Path("run"))
    assert problems == []
    kinds = [one.kind for one in records]
    # One backend is nothing to compare: no noise of a pair, so the rounds are the preset's.
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "parity": 1,
        "pilot": 3,
        "speed": 2,
        "memory": 1,
        "quality": 1,
    }
    assert "2 rounds, the preset's: the pilot left no noise" in done.error
    assert "2 rounds, the preset's: the pilot left no noise" in done.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--effect", "0.1"], "--effect says what --rounds auto plans for"),
        (["--rounds", "4", "--effect", "0.1"], "--effect says what --rounds auto plans for"),
        (["--rounds", "auto", "--effect", "0.03"], "--effect 0.03 must be above 0.03"),
        (["--rounds", "auto", "--effect", "5"], "--effect"),
        (["--rounds", "atuo"], "'atuo' is not a valid integer"),
    ],
)
def test_an_effect_that_makes_no_sense_is_refused(bench: Callable[..., Done], arguments: list[str], part: str) -> None:
    assert part in refusal(bench("run", *FAKE, *arguments))
    assert not list(Path().iterdir())
