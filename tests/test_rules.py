"""Each rule of bench/records/rules.py on a record or a folder that breaks it and is otherwise sound."""

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from bench.checks import edits
from bench.records import disturbed, files, proof, rules
from bench.records.record import RUNGS, Bytes, Data, Disturbance, GpuState, Ladder, Record, Rung, Target
from bench.report import grouping, markdown
from tests.builders import a_ladder, a_memory, a_quality, a_record, a_row, a_run, a_timing, changed, write_records
from tests.test_report import FAST, SLOW, TWO, table_of

PUBLISHED = Path(__file__).parent.parent / "results" / "2026-11-22-mnist_mlp-standard-cpu-3"


def timed(**changes: Any) -> Record:
    """A speed process whose spec says how many items a step has."""
    spec = {"task": "mnist_mlp", "batch_size": 20}
    return a_record(spec=spec, timings=msgspec.structs.replace(a_timing(1000), **changes))


def trained(**changes: Any) -> Record:
    quality = msgspec.structs.replace(a_quality(0.95), **changes)
    return a_record(kind="quality", spec={"task": "mnist_mlp", "train_steps": 100}, quality=quality)


def told(**facts: Any) -> Record:
    """One of a version that told its source."""
    return a_record(source="a" * 64, **facts)


def with_rungs(ladder: Ladder, rungs: Sequence[Rung], height: int = len(RUNGS)) -> Ladder:
    return Ladder(ladder.precision, ladder.device, list(rungs), height)


WHOLE = [a_ladder(precision="float64"), a_ladder()]
LOOSE = Rung(number=4, name="gradients", difference=0.7, tolerance=1.0, where="dense_0/kernel")
TWICE = Ladder("float32", "cpu", [a_ladder().rungs[0]] * 7)

BROKEN: Sequence[tuple[Record, str]] = [
    (timed(window_s=0.1), "the window of 0.1 s is not its blocks of 1 s together"),
    (timed(items=10_000), "10,000 images in 50 steps of at most 20"),
    (timed(cpu_s=170.0), "170.0 cores were busy in a process that may use only 2"),
    (timed(compilations=7), "7 compilations inside the timed window"),
    (timed(unfinished_s=0.1), "the barrier does not wait"),
    (timed(losses=[(20, 1.0), (10, 2.0)]), "losses of the window are not in order"),
    (a_record(probe=msgspec.structs.replace(a_record().outcome.probe, error=0.01)), "a matrix product was off by 1.0e-02"),  # type: ignore[type-var]
    (a_record(disturbance=Disturbance(0.1, 0.5, 0.0, 0, 0, None)),
     "its window is not marked as disturbed, but its figures contradict that"),
    (a_record(disturbance=Disturbance(0.1, 0.0, 0.0, 0, 0, None, disturbed="no")),
     "its window is marked as disturbed, but its figures contradict that"),
    (a_record(probe=None), "a speed without a probe of its precision"),
    (a_record(disturbance=None), "a speed without a record of disturbances"),
    (a_record(settings={"device": "gpu", "precision": "bfloat16", "mode": "default"}),
     "device cpu was requested, but gpu was in force; precision float32 was requested, but bfloat16 was in force"),
    (a_record(settings={}), "mode default was requested, but None was in force"),
    (a_record(threads=1, settings={"device": "cpu", "precision": "float32", "mode": "default", "cores": 2}),
     "cores 1 was requested, but 2 was in force"),
    (trained(steps=1, curve=[(1, 1.0, 0.1)]), "1 training steps, but the task has 100"),
    (trained(curve=[(1, 1.0, 0.1)]), "the curve of the training does not lead to its last step"),
    (trained(metrics={"loss": 1.0}), "no accuracy, the metric that quality is judged by"),
    (trained(metrics={"accuracy": 95.0}), "accuracy 95 is not a share between 0 and 1"),
    (trained(train_s=0.0), "a training that took no time"),
    (a_record(kind="parity", ladders=[a_ladder()]), "parity was not checked in float64 on the cpu"),
    (a_record(kind="parity", ladders=[a_ladder(precision="float64")]), "parity was not checked in float32 on the cpu"),
    (a_record(kind="parity", ladders=[a_ladder(precision="float64"), a_ladder(passed=3)]), "parity failed"),
    (a_record(kind="parity", ladders=[a_ladder(precision="float64"), TWICE]), "parity failed"),
    (a_record(kind="memory", memory=a_memory(peak=Bytes(2**60))), "more than the machine has"),
    (a_record(kind="memory", memory=a_memory(imported=Bytes(2**30))), "host import is more than host peak"),
    (trained(metrics={"accuracy": 0.9, "confusion_00": 5.0, "confusion_01": 5.0, "confusion_10": 0.0, "confusion_11": 90.0}),
     "an accuracy of 0.9000, but 95 of 100 were right"),
    (told(precision="FP32"), "there is no precision 'FP32'"),
    (told(spec={"data": {"name": "mnist"}}), "its data set is not the one in its spec"),
    (told(wall_s=1.5), "what it did took 2.85 s, in a process of 1.5 s"),
    (told(timings=msgspec.structs.replace(a_timing(1000), cpu_s=0.0)), "no processor time in a window of 1 s"),
    (told(kind="quality", wall_s=0.05), "what it did took 1.1 s, in a process of 0.05 s"),
    (told(kind="parity", ladders=[with_rungs(ladder, ladder.rungs[:7], height=7) for ladder in WHOLE]),
     "its ladder in float64 does not have the 10 rungs of the ladder"),
    (told(kind="parity", ladders=[with_rungs(ladder, [*ladder.rungs[:3], LOOSE, *ladder.rungs[4:]]) for ladder in WHOLE]),
     "a tolerance of 1 on rung 4 in float64, never above 1e-05"),
    (a_record(measurement=1, disturbance=Disturbance(0.1, 0.0, 0.0, 0, 0, None, disturbed="busy")),
     "its window is marked as disturbed, but its figures contradict that"),
    (a_record(status="killed", reason=""), "status killed without a reason"),
    (a_record(kind="quality", quality=None), "status ok without figures of quality"),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "why"), BROKEN, ids=[why for _, why in BROKEN])
def test_a_record_that_breaks_a_rule_is_no_record(broken: Record, why: str) -> None:
    assert why in "; ".join(rules.invalid(broken))
    with pytest.raises(files.RecordError):
        files.decode(files.encode(broken))


@pytest.mark.parametrize("sound", [timed(), trained(), a_record(), a_record(kind="parity", ladders=WHOLE)])
def test_a_sound_record_breaks_none(sound: Record) -> None:
    assert rules.invalid(sound) == []


def test_what_was_published_breaks_none() -> None:
    for folder in PUBLISHED.parent.glob("*/records"):
        records, problems = files.read_folder(folder.parent)
        assert problems == rules.judged(records)[1] == []


# What lies together.


def first_of(made: list[Record], kind: str, arm: str = "fast") -> int:
    return next(at for at, one in enumerate(made) if (one.cell.kind, one.cell.arm.name) == (kind, arm))


def with_one(kind: str = "speed", **facts: Any) -> list[Record]:
    """A comparison of which one record has other facts."""
    made = a_run(TWO)
    at = first_of(made, kind)
    return [*made[:at], changed(made[at], **facts), *made[at + 1 :]]


APART = [
    (with_one(data=Data("digits", "real handwritten digits", "e" * 64)), "data set"),
    (with_one(target=Target("accuracy", at_least=0.5)), "target"),
    (with_one(target=Target("accuracy", at_least=0.9, margin=0.5)), "target"),
    (with_one(unit="tokens"), "unit"),
    (with_one(spec={"task": "mnist_mlp", "epochs": 1}), "spec"),
    (with_one(measurement=1), "version of the measurement"),
    (with_one(source="b" * 64), "source of framework-bench"),
    (with_one(step_flops=5), "number of operations in a step"),
    (with_one(versions={"fast": "2.0"}), "versions"),
    (with_one("quality", versions={"fast": "2.0"}), "versions"),
]


@pytest.mark.parametrize(("made", "what"), APART, ids=[what for _, what in APART])
def test_a_record_that_is_not_like_the_others_takes_part_in_nothing(made: list[Record], what: str) -> None:
    judged, (problem,) = rules.judged(made)
    assert f"its {what} differs from that of the others" in problem
    assert [one.outcome.status for one in judged].count("invalid") == 1
    assert table_of(made)["fast"]["relative to the fastest"].startswith("not ranked: ")
    assert problem.partition(": ")[2] in markdown.render(made)


def test_where_no_value_has_a_majority_none_takes_part() -> None:
    made = [changed(one, versions={"fast": f"{at % 5}.0"}) for at, one in enumerate(a_row("fast", FAST))]
    _, problems = rules.judged(made)
    assert len(problems) == len(made)


def test_a_cell_that_stands_twice_counts_for_neither() -> None:
    made = a_run(TWO)
    again = changed(made[first_of(made, "speed")], timings=a_timing(10_000))
    _, problems = rules.judged([*made, again])
    assert [problem.partition(": ")[2] for problem in problems] == ["there are 2 records of this cell"] * 2
    assert table_of([*made, again])["fast"]["relative to the fastest"].startswith("not ranked: 4 of 5 rounds")


@pytest.mark.parametrize("name", ["probe", "disturbance"])
def test_what_the_others_say_may_not_be_left_out_of_an_older_record(name: str) -> None:
    made = [changed(one, measurement=1) for one in with_one(**{name: None})]
    _, (problem,) = rules.judged(made)
    assert f"it has no {name}, but the others of its run do" in problem


def test_fewer_items_in_the_same_steps_are_told() -> None:
    made = with_one(timings=msgspec.structs.replace(a_timing(200.0), items=950))
    _, (problem,) = rules.judged(made)
    assert "19 items in a step, but the others of its run have 20" in problem
    one_padded_batch = with_one(timings=msgspec.structs.replace(a_timing(200.0), items=981))
    assert rules.judged(one_padded_batch)[1] == []


def test_a_failed_process_and_its_repetition_are_no_two_records() -> None:
    made = a_run(TWO)
    failed = changed(made[first_of(made, "speed")], status="killed", reason="by SIGKILL", timings=None)
    assert rules.judged([*made, failed])[1] == []


def test_a_ladder_that_the_arm_did_not_climb_is_no_proof() -> None:
    made = with_one(ladders=WHOLE)
    assert rules.judged(made)[1] == []
    made = with_one(ladders=[a_ladder()])
    assert "it has a ladder that its arm did not climb" in rules.judged(made)[1][0]


@pytest.mark.parametrize("without", [[a_ladder()], [a_ladder(precision="float64")], []])
def test_without_a_whole_proof_an_arm_is_not_ranked(without: list[Ladder]) -> None:
    made = [changed(one, ladders=without) if one.cell.kind == "parity" else one for one in a_run(TWO)]
    assert {row.excluded is None for row in grouping.sections(made)[0].rows} == {False}


def test_a_climb_that_failed_is_no_proof_whatever_its_ladder_says() -> None:
    made = with_one("parity", status="failed", reason="parity: fell at rung 2")
    assert table_of(made)["fast"]["relative to the fastest"] == "not ranked: parity failed"


def test_judging_changes_nothing_that_was_judged() -> None:
    once, problems = rules.judged(with_one(unit="tokens"))
    assert problems
    assert rules.judged(once) == (once, [])


# Files.


def test_a_file_under_another_records_name_is_told(tmp_path: Path) -> None:
    write_records(tmp_path, a_row("slow", SLOW))
    one, other = sorted((tmp_path / "records").glob("*speed*"))[:2]
    one.rename(other)
    _, (problem,) = files.read_folder(tmp_path)
    assert f"{other}: its name does not match its content, which is " in problem


def edited(tmp_path: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> str:
    """What `read_folder` says after the first published record of a name was edited."""
    shutil.copytree(PUBLISHED / "records", tmp_path / "records")
    path = min((tmp_path / "records").glob(f"*-{name}-*.json"))
    plain = json.loads(path.read_text())
    edit(plain)
    path.write_text(json.dumps(plain))
    return "; ".join(files.read_folder(tmp_path)[1])


def set_to(*keys: Any) -> Callable[[dict[str, Any]], object]:
    """Sets what the keys but the last lead to, to the last."""

    def edit(plain: Any) -> None:
        *path, last, value = keys
        for key in path:
            plain = plain[key]
        plain[last] = value

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "why"),
    [
        ("speed", set_to("timings", "window_s", 0.01), "the window of 0.01 s is not its blocks"),
        ("speed", set_to("timings", "items", 10**9), "1,000,000,000 images in 2,000 steps of at most 128"),
        ("speed", set_to("timings", "cpu_s", 1e4), "cores were busy"),
        ("speed", set_to("timings", "compilations", 7), "7 compilations"),
        ("speed", set_to("probe", "error", 0.01), "a matrix product was off"),
        ("speed", set_to("settings", "precision", "bfloat16"), "bfloat16 was in force"),
        ("speed", set_to("round", -1), "round"),
        ("speed", set_to("spec_hash", "0" * 64), "spec_hash is not the hash"),
        ("quality", set_to("quality", "steps", 1), "1 training steps"),
        ("quality", set_to("quality", "metrics", "accuracy", 0.1), ""),  # below the target, whatever it says it reached
        ("parity", set_to("parity", 0, "rungs", 3, "difference", 5.0), "contradicts its own figures"),
    ],
)
def test_an_edited_published_record_is_told(
    tmp_path: Path, name: str, edit: Callable[[dict[str, Any]], object], why: str
) -> None:
    assert why in edited(tmp_path, name, edit)


RECORDS: dict[str, list[Any]] = {
    "published": [json.loads(path.read_bytes()) for path in sorted((PUBLISHED / "records").glob("*.json"))],
    "of today": [json.loads(files.encode(one)) for one in a_run(TWO)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
@hypothesis.settings(max_examples=200)
@hypothesis.given(seed=st.integers(0, 2**32))
def test_no_edit_of_a_field_changes_a_ranking_unnoticed(name: str, seed: int) -> None:
    """`python -m bench.checks.edits` tries thousands."""
    plain = RECORDS[name]
    before = edits.ranking([files.decode(json.dumps(one).encode()) for one in plain])
    edit = edits.draw(plain, random.Random(seed))
    assert not edits.unnoticed(plain, before, edit), str(edit)


def test_an_edit_that_is_not_noticed_would_be_seen() -> None:
    """Of the windows and the items of all blocks together, which a forger can make agree."""
    plain = RECORDS["of today"]
    before = edits.ranking([files.decode(json.dumps(one).encode()) for one in plain])
    at = next(
        at for at, one in enumerate(plain) if one["cell"]["kind"] == "speed" and one["cell"]["arm"]["name"] == "slow"
    )
    timings = plain[at]["outcome"]["timings"]
    faster = timings | {"blocks_s": [0.01] * 10, "window_s": 0.1}
    assert edits.unnoticed(plain, before, edits.Edit(at, ("outcome", "timings"), faster))


@pytest.mark.parametrize(
    "spoil",
    [
        set_to("cell", "position", 10**12), set_to("cell", "round", 10**12),
        set_to("cell", "ladders", [{"precision": "float32", "device": "cpu", "rungs": [], "height": 10**14}]),
        set_to("outcome", "remarks", ["x" * 10**6]),
        set_to("outcome", "disturbance", "siblings_share", -1.0),
    ],
)  # fmt: skip
def test_absurd_numbers_and_texts_are_refused_at_once(spoil: Callable[[dict[str, Any]], object]) -> None:
    plain = json.loads(files.encode(a_record()))
    spoil(plain)
    with pytest.raises(files.RecordError):
        files.decode(json.dumps(plain).encode())


@pytest.mark.parametrize("rung", [{"difference": -1.0}, {"tolerance": 1e300}])
def test_a_rung_that_cannot_be_is_refused(rung: dict[str, float]) -> None:
    plain = json.loads(files.encode(a_record(kind="parity", ladders=WHOLE)))
    plain["outcome"]["ladders"][1]["rungs"][3].update(rung)
    with pytest.raises(files.RecordError):
        files.decode(json.dumps(plain).encode())


def test_extremes_of_losses_are_compared() -> None:
    tiny, huge = dict.fromkeys(range(10, 100, 10), 5e-324), dict.fromkeys(range(10, 100, 10), 1e150)
    assert proof.losses_agree(tiny, huge, "float32")


def test_a_reason_to_throttle_without_its_share_is_one_for_the_whole_window() -> None:
    gpu = GpuState(None, None, None, ["heat"], None, throttled_shares={})
    shares = dict.fromkeys(("others_share", "siblings_share", "stolen_share", "withheld_share"))
    assert "heat" in str(disturbed.judge(**shares, own_share=None, gpu=gpu))


def test_a_ladder_is_that_of_the_process_of_parity() -> None:
    made = [one for one in a_run(TWO) if one.cell.kind != "parity"]
    at = first_of(made, "speed")
    ladders = msgspec.structs.replace(made[at].outcome, ladders=WHOLE)
    made[at] = msgspec.structs.replace(made[at], outcome=ladders)
    assert table_of(made)["fast"]["relative to the fastest"] == "not ranked: parity was not checked"


def test_other_rungs_than_those_of_the_other_arms_are_told() -> None:
    made = [*a_run(TWO), *a_row("third", SLOW)]
    at = first_of(made, "parity")
    low = [msgspec.structs.replace(one, rungs=one.rungs[:1], height=1) for one in WHOLE]
    made[at] = changed(made[at], ladders=low)
    assert "its ladder differs from that of the other arms" in rules.judged(made)[1][0]


def test_a_round_that_did_other_work_than_the_others_of_its_arm_is_told() -> None:
    made = a_run(TWO)
    for at, one in enumerate(made):
        if one.outcome.timings is not None:
            fall = 2.0 if (one.cell.arm.name, one.cell.round) == ("slow", 3) else 1.0
            losses = [(update, fall / update) for update in range(10, 110, 10)]
            made[at] = changed(one, timings=msgspec.structs.replace(one.outcome.timings, losses=losses))
    assert "in round 3, against another of its rounds" in table_of(made)["slow"]["relative to the fastest"]


def falling(made: list[Record], falls: Mapping[str, float]) -> list[Record]:
    """The records with the losses of a curve in every window, higher by a factor for some arms."""
    found = []
    for one in made:
        if one.outcome.timings is not None:
            fall = falls.get(one.cell.arm.name, 1.0)
            losses = [(update, fall / update) for update in range(10, 110, 10)]
            one = changed(one, timings=msgspec.structs.replace(one.outcome.timings, losses=losses))
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("falls", "out"),
    [
        ({}, {}),
        ({"slow": 2.0}, {"slow": "fast"}),
        ({"slow": 2.0, "third": 3.0}, {"fast": "slow", "slow": "fast", "third": "fast"}),
    ],
)
def test_of_three_arms_those_whose_work_differs_from_that_of_most_are_shut_out(
    falls: Mapping[str, float], out: Mapping[str, str]
) -> None:
    made = falling([*a_run(TWO), *a_row("third", FAST)], falls)
    (section,) = grouping.sections(made)
    assert {row.name: row.apart.split(":")[0] for row in section.rows if row.apart} == {
        name: f"against {other}" for name, other in out.items()
    }
    assert {row.name for row in section.ranked} == {"fast", "slow", "third"} - set(out)


def test_of_two_arms_whose_work_differs_both_are_shut_out() -> None:
    (section,) = grouping.sections(falling(a_run(TWO), {"slow": 2.0}))
    assert section.ranked == []


def test_what_is_faster_than_the_machines_matrix_products_is_not_ranked() -> None:
    (section,) = grouping.sections(a_run(TWO, step_flops=10**9))  # 10 and 5 of 50 GFLOP/s
    assert [row.name for row in section.ranked] == ["fast", "slow"]
    made = a_run(TWO, step_flops=10**10)
    (section,) = grouping.sections(made)
    assert [row.name for row in section.ranked] == ["slow"]
    assert "operations a second, where matrix products reach 5e+10" in markdown.render(made)
