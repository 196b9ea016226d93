"""What it takes to ask a model: what is timed, what makes a record of it invalid, what is compared, and what is told."""

import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import numpy as np
import pytest

import backends
from bench.campaign import plan
from bench.cli import options
from bench.process.request import Request
from bench.records import rules
from bench.records.record import Calls, Inference, Probe, Record
from bench.report import (
    apart,
    apart_plot,
    grouping,
    inference,
    inference_plot,
    latex,
    markdown,
    page,
    table_csv,
    table_json,
)
from bench.worker import answer
from bench.worker import inference as asking
from bench.worker.loop import Alone
from tasks.spec import Batch
from tests.builders import QUIET, a_ladder, a_record, a_run, changed, settings_of
from tests.fakes.campaign import FAKE as NAME
from tests.fakes.campaign import a_planned_cell, an_arm
from tests.test_cli import FAKE, Done, bench

__all__ = ["bench"]  # the fixture

ROWS = 4
FIRST_S, CALL_S, ROW_S = 1.0, 1e-3, 2e-3


class Asked:
    """A model that takes a second for the first call of a shape, and then a time that grows with the rows."""

    def __init__(self) -> None:
        self.now = 0.0
        self.shapes: list[tuple[int, ...]] = []
        self.compiled = 0

    def __call__(self) -> float:
        return self.now

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        (value,) = inputs.values()
        if value.shape not in self.shapes:
            self.now += FIRST_S
            self.compiled += 1
        self.shapes.append(value.shape)
        self.now += CALL_S + ROW_S * len(value)
        return np.full((len(value), 2), -2.0)

    def compilations(self) -> int:
        return self.compiled


def a_batch(*, rows: int = ROWS, width: int = 3) -> Batch:
    weights = np.ones(rows, np.float32)
    weights[-1] = 0  # padding
    return Batch({"x": np.ones((rows, width), np.float32)}, np.zeros(rows, np.int32), weights)


def measured(model: Any, *, rows: int = ROWS, blocks: int = 10) -> asking.Window:
    task = SimpleNamespace(train_batches=lambda seed: (a_batch(rows=rows) for _ in count()), name="a task")
    preset: Any = SimpleNamespace(task=task, warmup_s=0.5)
    return asking.measure(model, preset, turns=Alone(blocks, 0.2), clock=model)


def test_single_examples_and_batches_share_a_block_and_are_told_apart() -> None:
    window = measured(Asked())
    one, four = window.calls
    assert (one.batch_size, four.batch_size) == (1, ROWS)
    assert one.p50_s == one.p99_s == pytest.approx(CALL_S + ROW_S)
    assert four.p50_s == pytest.approx(CALL_S + 4 * ROW_S)
    assert one.throughput == pytest.approx(1 / (CALL_S + ROW_S))
    assert four.throughput == pytest.approx(3 / (CALL_S + 4 * ROW_S))  # padding is no item
    for calls in (one, four):
        assert calls.window_s == pytest.approx(10 * 0.1, rel=0.1)
    assert sum(window.blocks_s) == pytest.approx(one.window_s + four.window_s)
    assert window.compilations == 0
    assert window.outputs == [2.0] * asking.BATCHES


@pytest.mark.parametrize("slower", [1.0, 1.7])
def test_a_window_begins_with_the_first_input_however_long_the_warm_up_was(slower: float) -> None:
    class Noted(Asked):
        def predict(self, inputs: Mapping[str, Any]) -> Any:
            asked.append(inputs["x"])
            self.now += slower * CALL_S
            return super().predict(inputs)

    asked: list[Any] = []
    numbered = (
        batch._replace(inputs={"x": np.full((ROWS, 3), at)}) for at, batch in enumerate(a_batch() for _ in count())
    )
    task = SimpleNamespace(train_batches=lambda seed: numbered, name="a task")
    preset: Any = SimpleNamespace(task=task, warmup_s=0.5)
    model = Noted()
    _, four = asking.measure(model, preset, turns=Alone(10, 0.2), clock=model).calls
    of_four = [int(x[0, 0]) for x in asked if len(x) == ROWS][-four.count :]
    assert of_four == [at % asking.BATCHES for at in range(four.count)]


def test_the_first_call_is_that_of_every_shape_and_no_part_of_the_window() -> None:
    one, four = measured(Asked()).calls
    assert one.first_s == pytest.approx(FIRST_S + CALL_S + ROW_S)
    assert four.first_s == pytest.approx(FIRST_S + CALL_S + 4 * ROW_S)
    assert max(one.p99_s, four.p99_s) < FIRST_S


def test_a_batch_of_one_example_is_asked_once() -> None:
    task_of_one = Batch({"x": np.ones((1, 3), np.float32)}, np.zeros(1, np.int32), np.ones(1, np.float32))
    (size,) = asking.sizes([task_of_one], None)
    assert size.batch_size == 1


def test_no_example_of_padding_is_asked_alone_and_a_cut_batch_has_a_first_call_for_each_length() -> None:
    batches = [a_batch(width=width) for width in (3, 6, 3)]
    one, four = asking.sizes(batches, lambda batch: batch)
    assert len(one.asks) == 3 * (ROWS - 1)
    assert [ask.new_shape for ask in four.asks] == [True, True, False]


def test_what_is_forgotten_is_warm_up() -> None:
    window = measured(Asked())
    before, blocks_s = window.warmup_s, sum(window.blocks_s)
    window.forget()
    assert window.warmup_s == pytest.approx(before + blocks_s)
    assert window.blocks_s == []
    assert all(size.calls_s == [] and size.items == 0 for size in window.sizes)


def test_a_compilation_inside_the_window_is_seen() -> None:
    class Compiles(Asked):
        def predict(self, inputs: Mapping[str, Any]) -> Any:
            self.compiled += 1
            return super().predict(inputs)

    window = measured(Compiles())
    assert window.compilations
    found = msgspec.structs.replace(an_inference(1.0), compilations=window.compilations)
    assert "compilations inside the timed window" in "; ".join(rules.inference_faults(found))


DRILLED = """
MODES = {"default": "as it is", "drilled": "other steps of training", "fused": "another program"}
TRAINING_ONLY = ("drilled",)
TUNED = {"cpu": {"tests.fakes.backend": "drilled+fused"}}
"""
REFUSAL = "drilled changes how a model is trained, not how it answers: inference is the same in the mode"


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("schooled.one:drilled", "drilled", f"{REFUSAL} default; ask for --arm schooled.one"),
        ("mine", "drilled+trim", f"{REFUSAL} trim; ask for --arm mine=schooled.one:trim"),
        ("schooled.one:tuned", "tuned", f"tuned is drilled+fused here. {REFUSAL} fused; ask for --arm schooled.one:fused"),
    ],
    ids=["alone", "joined", "tuned"],
)  # fmt: skip
def test_a_mode_of_training_alone_has_no_inference_and_its_reason_names_the_arm_that_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str, told: str
) -> None:
    (tmp_path / "schooled").mkdir()
    (tmp_path / "schooled" / "one.py").write_text(DRILLED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "schooled", raising=False)
    _, cell = a_planned_cell()
    arm = an_arm(name, backend="schooled.one", mode=mode)
    cell = msgspec.structs.replace(cell, kind="inference", arm=arm)
    asked = answer.answer(Request(cell, None, takes_turns=False, hidden=[]))
    assert (asked.status, asked.reason) == ("unsupported", told)


@pytest.mark.parametrize(
    ("backend", "mode", "left"),
    [
        ("pytorch", "compile+cuda-graph", "compile"),
        ("pytorch", "flush-denormal", "flush-denormal"),
        ("jax", "rbg+flat+multi-step", "default"),
        ("jax", "flat+trim", "trim"),
        ("tensorflow", "steps-per-execution", "default"),
        ("tensorflow", "xla", "xla"),
    ],
)
def test_what_is_left_of_a_mode_when_a_model_is_asked(backend: str, mode: str, left: str) -> None:
    assert backends.mode_of_inference(backend, mode) == left


# Rules.


def an_inference(p50_ms: float, *, output: float = 1.0) -> Inference:
    one_s = p50_ms / 1e3
    one = Calls(1, 0.5, 100, [100 * one_s] * 10, 1000, one_s, 1.1 * one_s, 1.5 * one_s)
    four_s = 4 * one_s
    four = Calls(4, 0.6, 10, [10 * four_s] * 10, 400, four_s, 1.1 * four_s, 1.2 * four_s)
    return Inference(1.0, 0.1, 2.0, [one, four], [output] * 16, 0, 1.0)


def an_asked_run(
    latencies_ms: Mapping[str, list[float]],
    *,
    proven: bool = True,
    outputs: Mapping[str, float] | None = None,
    **more: Any,
) -> list[Record]:
    """A climb and predictions of arms: name -> milliseconds of a single call, process by process."""
    records = []
    for name, values in latencies_ms.items():
        precision = more.get("precision", "float32")
        ladders = [a_ladder(precision="float64"), a_ladder(precision=precision)]
        more["versions"] = {name: "1.0"}
        records.append(a_record(kind="parity", backend=name, ladders=ladders, **more))
        for number, value in enumerate(values, start=1):
            found = an_inference(value, output=(outputs or {}).get(name, 1.0))
            made = a_record(
                kind="inference", backend=name, round=number, inference=found, probe=Probe(1e-7, 1024, 5e10), disturbance=QUIET,
                **more,
            )  # fmt: skip
            records.append(changed(made, ladders=ladders if proven else []))
    return records


def a_good_record(**changes: Any) -> Record:
    found = msgspec.structs.replace(an_inference(1.0), **changes)
    return a_record(kind="inference", inference=found, probe=Probe(1e-7, 1024, 5e10), disturbance=QUIET)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"compilations": 2}, "2 compilations inside the timed window"),
        (
            {"calls": [an_inference(1.0).calls[0], Calls(4, 0.5, 1, [1.0], 4, 1.0, 1.0, 1.0)]},
            "do not all have the same number of blocks",
        ),
        ({"calls": [Calls(1, 0.5, 10, [1.0], 10, 0.2, 0.1, 0.3)]}, "out of order"),
        ({"calls": [Calls(1, 0.5, 1000, [0.1], 1000, 1e-3, 2e-3, 3e-3)]}, "1,000 calls of 0.001 s and more in 0.1 s"),
        ({"calls": [an_inference(1.0).calls[0]] * 2}, "a batch size appears twice"),
        ({"calls": [Calls(4, 0.5, 100, [1.0], 401, 0.01, 0.01, 0.01)]}, "401 images in 100 calls of at most 4"),
    ],
)
def test_predictions_that_contradict_themselves_are_refused(changes: dict[str, Any], why: str) -> None:
    assert rules.invalid(a_good_record()) == []
    assert why in "; ".join(rules.invalid(a_good_record(**changes)))


def test_predictions_without_probe_or_watch_or_in_another_precision_are_refused() -> None:
    good = a_good_record()
    assert "without a probe of their precision" in "; ".join(rules.invalid(changed(good, probe=None)))
    assert "without a record of disturbances" in "; ".join(rules.invalid(changed(good, disturbance=None)))
    assert "a matrix product was off by 1.0e-03" in "; ".join(
        rules.invalid(changed(good, probe=Probe(1e-3, 1024, 5e10)))
    )
    assert settings_of(good.cell.arm)["mode"] == "default"


# What is told.

FAST, SLOW = [1.0, 1.01, 0.99], [2.0, 2.02, 1.99]


def test_arms_are_compared_with_each_size_and_the_verdicts_come_first() -> None:
    (group,) = inference.groups(an_asked_run({"slow": SLOW, "fast": FAST}))
    assert [row.arm.name for row in group.rows] == ["fast", "slow"]
    one, four = inference.sentences(group)
    assert one.startswith("Batch 1, median latency: fast answers 2.0")
    assert four.startswith("Batch 4: fast answers 2.0")
    assert one.endswith("times as fast as slow (3 rounds).")
    titles, fast, slow = inference.table(group)
    assert titles[:6] == [
        "arm", "batch 1: p50, ms", "batch 1: p90, ms", "batch 1: p99, ms", "batch 1: relative", "batch 4: images/s",
    ]  # fmt: skip
    assert fast[1].startswith("1.000 (0.975")
    assert fast[4] == "1"
    assert slow[4].endswith(": slower")
    assert "device memory peak" not in titles  # nobody has one on a CPU
    assert slow[titles.index("processes")] == "3"
    (alone,) = inference.groups(an_asked_run({"one": FAST[:1]}))
    assert "1, no interval" in inference.table(alone)[1]


def test_all_sizes_are_one_family() -> None:
    """Twice as many pairs: each has to be surer."""
    records = an_asked_run({"slow": [1.1, 1.15, 1.09], "fast": FAST})
    (group,) = inference.groups(records)
    widths = {size: group.verdicts[size, "slow", "fast"].ratio for size in (1, 4)}
    alone = grouping.verdict.compare_all({row.arm.name: row.rates(1) for row in group.rows})["slow", "fast"].ratio
    for ratio in widths.values():
        assert ratio.low is not None
        assert alone.low is not None
        assert ratio.low <= alone.low


def test_a_report_has_predictions_apart_from_training_in_every_format() -> None:
    records = an_asked_run({"slow": SLOW, "fast": FAST})
    text = markdown.render(records)
    assert text.startswith("## Inference: mnist_mlp, preset quick")
    assert grouping.sections(records) == []
    assert markdown.render(list(reversed(records))) == text
    assert "<h1>Inference: mnist_mlp" in page.render(records)
    assert "Inference: mnist" in latex.render(records)
    (told,) = msgspec.json.decode(table_json.render(records))["inference"]
    assert [row["arm"] for row in told["rows"]] == ["fast", "slow"]
    assert {pair["decision"] for pair in told["pairs"]} == {"faster", "slower"}
    assert table_csv.lines(records)[0]["predict_one_p50_s"] == pytest.approx(1e-3, rel=1e-3)
    assert table_csv.lines(records)[1]["predict_batch_verdict"] == "slower"


def test_a_row_of_training_has_its_predictions_beside_it_and_is_else_what_it_was() -> None:
    trained = a_run({"fast": [100, 101, 102], "slow": [50, 51, 52]})
    asked = [one for one in an_asked_run({"slow": SLOW, "fast": FAST}) if one.cell.kind == "inference"]
    lines = table_csv.lines([*trained, *asked])
    assert [line["arm"] for line in lines] == ["fast", "slow"]
    assert lines[0]["predict_rounds"] == 3
    for before, after in zip(table_csv.lines(trained), lines, strict=True):
        assert {name: after[name] for name in before} == before
    both = markdown.render([*trained, *asked])
    assert both.startswith(markdown.render(trained))


def test_no_answer_is_shown_of_an_arm_that_is_not_proven_or_answers_something_else() -> None:
    records = an_asked_run({"one": FAST, "two": FAST, "other": SLOW}, outputs={"other": 1.1})
    records += an_asked_run({"unproven": FAST}, proven=False)
    (group,) = inference.groups(records)
    assert [row.arm.name for row in group.rows] == ["one", "two"]
    told = "; ".join(group.failures)
    assert "other: its answers differ from those of one, two" in told
    assert "unproven, inference, round 1: parity was not checked" in told


def test_bfloat16_answers_as_bfloat16_may() -> None:
    exact = an_asked_run({"one": FAST})
    (rounded,) = {inference.BOUND["bfloat16"]}
    half = an_asked_run({"two": FAST}, outputs={"two": 1 + rounded / 2}, precision="bfloat16")
    half = [
        msgspec.structs.replace(one, outcome=msgspec.structs.replace(one.outcome, probe=Probe(2e-3, 1024, 5e10)))
        if one.cell.kind == "inference" else one
        for one in half
    ]  # fmt: skip
    (group,) = inference.groups([*exact, *half])
    assert len(group.rows) == 2


def test_an_arm_that_fails_in_a_round_is_compared_with_none() -> None:
    records = an_asked_run({"one": FAST, "two": SLOW, "fails": FAST})
    records[-1] = changed(records[-1], status="oom", reason="out of memory", inference=None)
    (group,) = inference.groups(records)
    assert [row.arm.name for row in group.rows] == ["one", "two"]
    assert "fails, inference, round 3: oom: out of memory" in group.failures


def test_a_disturbed_round_is_in_no_figure() -> None:
    records = an_asked_run({"slow": [2.0, 2.02, 9.0], "fast": [1.0, 1.01, 0.99]})
    disturbed = msgspec.structs.replace(QUIET, others_share=0.5, disturbed="others had half of the cores")
    records[3] = changed(records[3], disturbance=disturbed)
    (group,) = inference.groups(records)
    assert all(sorted(row.records) == [1, 2] for row in group.rows)
    assert any("in no figure: round 3" in told for told in group.failures)


def test_a_lead_takes_no_input_out_of_turn() -> None:
    asked: list[int] = []
    session = SimpleNamespace(predict=lambda inputs: asked.append(inputs["at"]))
    size = asking.Size(1, [asking.Ask({"at": at}, 1, at == 0) for at in range(3)])  # type: ignore[dict-item]
    size.block_calls = 2
    for _ in range(3):
        size.lead(session, 1)  # type: ignore[arg-type]
        size.block(session, iter(count()).__next__)  # type: ignore[arg-type]
    assert asked == [0, 0, 1, 0, 2, 0, 0, 1, 2]
    assert (size.items, len(size.calls_s)) == (6, 6)


def test_an_arm_whose_calls_are_not_steady_is_in_no_table_and_its_absence_is_told() -> None:
    made = an_asked_run({"a": [1.0, 1.01], "b": [2.0]})
    slower = [0.1] * 5 + [0.2] * 5  # its second half takes twice as long

    def slowed(one: Record) -> Record:
        found = one.outcome.inference
        if found is None or one.cell.arm.name != "b":
            return one
        calls = [msgspec.structs.replace(part, blocks_s=slower) for part in found.calls]
        return changed(one, inference=msgspec.structs.replace(found, calls=calls))

    (group,) = inference.groups(map(slowed, made))
    assert [row.arm.name for row in group.rows] == ["a"]
    assert "b, inference, round 1: not steady" in group.failures
    alone = [slowed(one) for one in made if one.cell.arm.name == "b"]
    assert apart.unshown(alone) == ["mnist_mlp: there is no table of inference: b, inference, round 1: not steady"]


def test_a_control_is_no_row_and_a_failed_one_comes_first() -> None:
    def with_control(values: list[float]) -> inference.Group:
        made = an_asked_run({"fast": FAST, "slow": SLOW})
        made += [changed(one, name="control") for one in an_asked_run({"fast": values})]
        (group,) = inference.groups(made)
        return group

    good = with_control([1.005, 1.0, 0.995])
    assert [row.arm.name for row in good.rows] == ["fast", "slow"]
    assert not any("control" in told.lower() for told in inference.sentences(good))
    assert any(name == "Control" and text.endswith("tie") for name, text in inference.about(good))
    bad = with_control([1.2, 1.21, 1.19])
    assert inference.sentences(bad)[0].startswith(
        "The control failed: with batch 1, the same program was called slower"
    )


def test_the_plot_has_a_panel_for_each_size() -> None:
    records = an_asked_run({"slow": SLOW, "fast": FAST})
    (group,) = inference.groups(records)
    assert len(inference_plot.plot(group).figure.axes) == 2
    assert [name for name, _ in apart_plot.files(records)] == ["inference1.svg", "inference1.png"]


# The command.


def test_what_to_measure_is_typed_with_commas_and_checked() -> None:
    assert tuple(plan.MEASURES) == options.MEASURES
    kind = options.Measures(options.MEASURES)
    assert kind.convert("inference, training", None, None) == ("inference", "training")
    with pytest.raises(click.BadParameter, match="did you mean 'inference'"):
        kind.convert("inferrence", None, None)


@pytest.mark.slow
def test_inference_alone_is_proven_measured_reported_continued_and_checked(
    bench: Callable[..., Done], tmp_path: Path
) -> None:
    folder = tmp_path / "asked"
    asked = ("run", *FAKE, "--preset", "smoke", "--measure", "inference", "--rounds", 2, "--output", folder)
    done = bench(*asked)
    assert (done.code, done.error.count(" inference round ")) == (0, 2), done.error
    assert "a call of batch 1" in done.error
    assert f"## Inference: {NAME}, preset smoke" in done.out
    assert bench("report", folder).out == (folder / "table.md").read_text()
    assert f"{NAME}" in (folder / "table.csv").read_text()
    assert "0 findings" in bench("check", folder).out
    assert "inference round" not in bench(*asked).error  # nothing is left to do
    other = bench("run", *FAKE, "--preset", "smoke", "--rounds", 2, "--output", folder)
    assert other.code == 2
    assert "what is measured" in other.error


@pytest.mark.slow
def test_training_and_inference_in_one_run(bench: Callable[..., Done], tmp_path: Path) -> None:
    folder = tmp_path / "both"
    asked = ("run", *FAKE, "--preset", "smoke", "--measure", "training,inference", "--rounds", 2, "--output", folder)
    done = bench(*asked)
    assert done.code == 0, done.error
    assert {path.name.split("-")[2] for path in (folder / "records").iterdir()} == {
        "parity", "speed", "memory", "quality", "inference",
    }  # fmt: skip
    assert "0 findings" in bench("check", folder).out


@pytest.mark.slow
def test_a_pilot_of_training_plans_no_predictions(bench: Callable[..., Done], tmp_path: Path) -> None:
    done = bench("run", *FAKE, "--measure", "inference", "--rounds", "auto", "--output", tmp_path / "x")
    assert done.code == 2
    assert "for --measure inference alone, give a number" in done.error
    done = bench("run", *FAKE, "--measure", "inference", "--energy", "--output", tmp_path / "x")
    assert done.code == 2
    assert "--energy reads the counters of a training's window" in done.error
