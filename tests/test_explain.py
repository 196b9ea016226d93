"""Where a step's time goes: what is timed, how a profile is shared out, what kinds of operations are, what is told of them."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from backends.operations import KINDS, Operation, kind_of
from bench.records import rules
from bench.records.record import Explanation, OperationTime, Probe, Profile, Record
from bench.report import explanation_plot, explanations, grouping, markdown, page, table_csv
from bench.worker import explain, timeline
from bench.worker.timeline import Span
from tests.builders import a_ladder, a_record, a_run, changed
from tests.fakes.campaign import FAKE as NAME
from tests.test_cli import FAKE, Done, bench
from tests.test_loop import PUT_S, STEP_S, WAIT_S, Clock, RecordingSession, TrainedOn, a_batch, of_three_lengths

__all__ = ["bench", "of_three_lengths"]  # fixtures

FORWARD_S, GRADIENT_S = STEP_S / 4, STEP_S / 2


class ExplainedSession(RecordingSession):
    """Takes a quarter of a step's time for the forward pass, and half of it for the gradient."""

    def training_loss(self, batch: Any) -> float:
        self.clock.now += FORWARD_S
        return 0.5

    def training_gradient(self, batch: Any) -> float:
        self.clock.now += GRADIENT_S
        return 0.5

    def optimizer_state(self) -> Iterator[Any]:
        yield np.array([0, 1, 1e-40, -1e-45, 1e-30], np.float32)
        yield np.array([3])  # a counter

    def profile(self, run: Callable[[], None], folder: Path) -> list[Operation]:
        (folder / "trace").write_text("kept")
        start = self.clock.now
        run()
        end = self.clock.now
        return [
            Operation("mm", "matrix products", start, start + (end - start) / 2, "main"),
            Operation("tanh", "elementwise", start, start + (end - start) / 4, "helper"),
        ]


def explained(session: Any, clock: Clock, tmp_path: Path, *, device: str = "cpu") -> Explanation:
    task = SimpleNamespace(train_batches=lambda seed: (a_batch() for _ in count()), name="a task")
    preset: Any = SimpleNamespace(task=task, warmup_steps=2, warmup_s=0.0, block_s=10 * (PUT_S + STEP_S))
    return explain.explain(session, preset, device=device, traces=tmp_path / "traces", clock=clock)


def test_parts_are_timed_in_turns_and_their_differences_are_the_passes(tmp_path: Path) -> None:
    clock = Clock()
    found = explained(ExplainedSession(clock), clock, tmp_path)
    assert {name: len(turns) for name, turns in found.parts.items()} == dict.fromkeys(
        ("step", "forward", "gradient"), explain.TURNS
    )
    barrier_s = found.parts["forward"][0] - FORWARD_S  # of a block, shared by its steps
    assert 0 < barrier_s < WAIT_S
    assert found.parts["gradient"] == pytest.approx([GRADIENT_S + barrier_s] * explain.TURNS)
    assert found.parts["step"] == pytest.approx([PUT_S + STEP_S + barrier_s] * explain.TURNS)
    parts = explanations.parts(found)
    assert parts["backward"] == pytest.approx(GRADIENT_S - FORWARD_S)
    assert parts["update"] == pytest.approx(PUT_S + STEP_S - GRADIENT_S)
    assert sum(parts.values()) == pytest.approx(found.parts["step"][0])


def test_on_a_gpu_the_transfer_is_a_part_of_its_own(tmp_path: Path) -> None:
    clock = Clock()
    parts = explanations.parts(explained(ExplainedSession(clock), clock, tmp_path, device="gpu"))
    assert set(parts) == {"forward", "backward", "update", "transfer"}
    assert parts["transfer"] > PUT_S
    assert sum(parts.values()) == pytest.approx(parts["forward"] + GRADIENT_S - FORWARD_S + PUT_S + STEP_S - GRADIENT_S)


def test_denormal_figures_of_the_optimizers_state_are_counted(tmp_path: Path) -> None:
    clock = Clock()
    found = explained(ExplainedSession(clock), clock, tmp_path)
    assert (found.denormals, found.state_values) == (2, 5)
    assert found.updates > explain.TURNS


def test_a_profile_is_shared_out_over_the_step_and_its_files_are_kept(tmp_path: Path) -> None:
    clock = Clock()
    profile = explained(ExplainedSession(clock), clock, tmp_path).profile
    assert profile is not None
    assert profile.kinds["matrix products"] == pytest.approx(profile.step_s * 3 / 8)  # half, shared for a half of that
    assert profile.kinds["elementwise"] == pytest.approx(profile.step_s / 8)
    assert profile.nothing_s == pytest.approx(profile.step_s / 2)
    assert [one.name for one in profile.largest] == ["mm", "tanh"]
    assert profile.operations == pytest.approx(2 / profile.steps)
    assert (tmp_path / "traces" / "trace").read_text() == "kept"


def test_a_profiler_that_breaks_or_sees_nothing_leaves_the_rest(tmp_path: Path) -> None:
    def breaks(run: Callable[[], None], folder: Path) -> list[Operation]:
        raise RuntimeError("no profiler today\nat all")

    for watch, why in ((breaks, "RuntimeError: no profiler today"), (lambda run, folder: [], "saw no operation")):
        clock = Clock()
        session = ExplainedSession(clock)
        session.profile = watch  # type: ignore[method-assign, assignment]
        found = explained(session, clock, tmp_path)
        assert found.profile is None
        assert why in str(found.no_profile)
        assert found.parts["step"]


def test_a_backend_that_offers_nothing_has_its_step_explained_as_far_as_that_goes(tmp_path: Path) -> None:
    clock = Clock()
    found = explained(RecordingSession(clock), clock, tmp_path)
    assert set(found.parts) == {"step"}
    assert (found.denormals, found.no_profile) == (None, "the backend has none")


def test_where_batches_are_cut_every_arm_has_the_same_ones_with_their_lengths_in_their_shares(
    of_three_lengths: Any, tmp_path: Path
) -> None:
    clock, preset, items = of_three_lengths
    preset.task.batch_flops = lambda batch: 100 * len(batch.inputs["x"])
    found = []
    batches = [a_batch(items=one, padding=6 - one, first=at) for at, one in items.items()]
    preset.task.train_batches = lambda seed: iter(batches)
    for slower in (1, 7):  # whose blocks have fewer steps
        session: Any = TrainedOn(clock, trims=True)
        session.durations = repeat(slower * STEP_S)
        session.profile = lambda run, folder: run() or [Operation("mm", "matrix products", 0.0, 1.0, "main")]
        preset.block_s = 3 * STEP_S
        found.append((explain.explain(session, preset, device="cpu", traces=tmp_path, clock=clock), session.trained))
    (one, trained), (other, slowly) = found
    assert one.flops == other.flops == pytest.approx(100 * np.mean(list(items.values())), rel=0.05)
    assert one.profile is not None
    assert other.profile is not None
    assert one.profile.steps == other.profile.steps == explain.MIXED_BATCHES
    profiled = trained[-explain.MIXED_BATCHES :]
    assert len(set(profiled)) == explain.MIXED_BATCHES
    assert sorted(slowly[-explain.MIXED_BATCHES :]) == sorted(profiled)


# The time line.


def test_the_innermost_has_the_time_and_those_at_once_share_it() -> None:
    spans = [
        Span("a", 0.0, 10.0, ("outer", "")),
        Span("a", 2.0, 4.0, ("inner", "")),
        Span("a", 4.0, 5.0, ("next", "")),
        Span("b", 9.0, 12.0, ("other", "")),
    ]
    found = {name: seconds for (name, _), seconds in timeline.shared(spans).items()}
    assert found == pytest.approx({"outer": 6.5, "inner": 2.0, "next": 1.0, "other": 2.5})


def test_one_that_ends_a_tick_after_the_one_around_it_ends_with_it() -> None:
    found = timeline.shared([Span("a", 0.0, 1.0, ("outer", "")), Span("a", 0.5, 1.1, ("inner", ""))])
    assert found == pytest.approx({("outer", ""): 0.5, ("inner", ""): 0.5})


@given(
    some.lists(
        some.tuples(some.sampled_from("abc"), some.integers(0, 50), some.integers(0, 20), some.sampled_from("xyz"))
    )
)
def test_together_they_have_the_time_in_which_anything_ran(drawn: list[tuple[str, int, int, str]]) -> None:
    nested: list[Span] = []
    for thread, start, length, label in drawn:
        own = [span for span in nested if span.thread == thread]
        inside = [span for span in own if span.start_s <= start < span.end_s]
        end = min([start + length, *(span.end_s for span in inside)])
        crosses = any(start < span.start_s < end < span.end_s or start < span.start_s < end for span in own)
        if not crosses:
            nested.append(Span(thread, float(start), float(end), (label, label)))
    ran = sum(any(span.start_s <= at < span.end_s for span in nested) for at in range(80))
    assert sum(timeline.shared(nested).values()) == pytest.approx(ran)


# Kinds.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("aten::native_layer_norm_backward", "reductions"),
        ("aten::_softmax", "reductions"),
        ("aten::add_", "elementwise"),
        ("aten::gelu_backward", "elementwise"),
        ("aten::native_dropout", "random numbers"),
        ("aten::bernoulli_", "random numbers"),
        ("aten::copy_", "copies and lookups"),
        ("aten::embedding_dense_backward", "copies and lookups"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::empty", "other"),
        ("BatchMatMulV2", "matrix products"),
        ("BiasAddGrad", "reductions"),
        ("StatelessRandomUniformV2", "random numbers"),
        ("ResourceGather", "copies and lookups"),
        ("AddV2", "elementwise"),
        ("Softmax", "reductions"),
        ("dot_general", "matrix products"),
        ("dot.3", "matrix products"),
        ("broadcast_add_fusion.12", "elementwise"),
        ("reduce_sum", "reductions"),
        ("scatter-add", "copies and lookups"),
        ("transpose.4", "copies and lookups"),
        ("threefry2x32", "random numbers"),
    ],
)  # fmt: skip
def test_the_kind_of_an_operation_is_told_by_the_words_in_its_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind
    assert kind in KINDS


def test_an_operation_inside_the_optimizer_is_the_optimizers_whatever_it_is() -> None:
    assert kind_of("mul", "jit(_train)/optimizer") == "optimizer"
    assert kind_of("Mul", "adam_with_corrected_epsilon/mul_3") == "optimizer"


# What is told.


def an_explanation(
    step_ms: float, *, profile: bool = True, gradient: float = 0.7, flops: int | None = None
) -> Explanation:
    turns = {"step": 1.0, "forward": 0.3, "gradient": gradient}
    kinds = {"matrix products": step_ms / 2e3, "elementwise": step_ms / 4e3}
    largest = [OperationTime("dot.3", "matrix products", step_ms / 2e3)]
    return Explanation(
        parts={name: [share * step_ms / 1e3] * 3 for name, share in turns.items()},
        cpu_s=1.5 * step_ms / 1e3, page_faults=2.0, updates=500, state_values=1000, denormals=20,
        profile=Profile(10, step_ms / 1e3, kinds, 120.0, largest) if profile else None,
        no_profile=None if profile else "ImportError: no profiler", flops=flops,
    )  # fmt: skip


def an_explained_run(
    steps_ms: dict[str, list[float]], *, proven: bool = True, versions: Mapping[str, str] | None = None, **more: Any
) -> list[Record]:
    """A climb and explanations of arms: name -> milliseconds of a step, process by process."""
    facts = {"versions": dict(versions)} if versions else {}
    ladders = [a_ladder(precision="float64"), a_ladder()]
    records = []
    for name, values in steps_ms.items():
        records.append(a_record(kind="parity", backend=name, ladders=ladders, **facts))
        for number, value in enumerate(values, start=1):
            found = an_explanation(value, **more)
            made = a_record(kind="explain", backend=name, round=number, explanation=found, step_flops=10**8, **facts)
            records.append(changed(made, ladders=ladders if proven else []))
    return records


def test_of_cut_batches_the_share_of_the_matrix_rate_counts_what_was_left() -> None:
    (whole,), (cut,) = (
        explanations.groups(an_explained_run({"arm": [20.0, 20.2]}, flops=flops))[0].rows
        for flops in (None, 10**8 // 4)
    )
    assert whole.of_matrix_rate is not None
    assert cut.of_matrix_rate is not None
    assert cut.of_matrix_rate.estimate == pytest.approx(whole.of_matrix_rate.estimate / 4)


def test_the_difference_of_two_arms_is_told_by_its_parts_and_by_the_profiles() -> None:
    (group,) = explanations.groups(an_explained_run({"slow": [20.0, 20.2, 19.8], "fast": [10.0, 10.1, 9.9]}))
    (told,) = explanations.sentences(group)
    assert told.startswith(
        "A step of slow takes 20.00 (19.51-20.50) ms, one of fast 10.00 (9.75-10.25) ms. Of the +10.00 ms: "
    )
    assert "+4.00 backward" in told
    assert "+3.00 forward" in told
    assert "+3.00 update" in told
    assert "by the profiles +5.00 matrix products, +2.50 elementwise, +2.50 no operation." in told


def test_where_intervals_overlap_there_is_nothing_to_explain() -> None:
    (group,) = explanations.groups(an_explained_run({"one": [10.0, 12.0, 11.0], "two": [10.5, 11.5, 11.2]}))
    assert explanations.sentences(group)[0].endswith("the intervals overlap, and there is no difference to explain.")


def test_a_part_that_takes_less_than_nothing_is_said_and_not_hidden() -> None:
    (group,) = explanations.groups(an_explained_run({"one": [10.0, 10.1, 9.9]}, gradient=1.2))
    assert any("would take less than nothing" in told for told in explanations.sentences(group))
    assert explanations.neutral(group)[1][4].startswith("-2.00")


def test_a_missing_profile_is_told_with_its_reason() -> None:
    (group,) = explanations.groups(an_explained_run({"one": [10.0, 10.1]}, profile=False))
    assert "No profile of one: ImportError: no profiler." in explanations.sentences(group)
    assert explanations.profiled(group) == []
    assert explanation_plot.plot(group).name == "explained"


def test_a_report_has_the_explanation_and_no_table_of_a_comparison() -> None:
    records = an_explained_run({"slow": [20.0, 20.2], "fast": [10.0, 10.1]})
    text = markdown.render(records)
    assert "## Where a step's time goes: mnist_mlp, preset quick" in text
    assert "tables regenerate" not in text
    assert "relative to the fastest" not in text
    assert "20 of 1,000 after 500 updates" in text
    assert grouping.sections(records) == []
    assert table_csv.render(records) == table_csv.render([])
    assert "Where a step&#39;s time goes" in page.render(records)
    assert markdown.render(list(reversed(records))) == text


def test_no_step_is_shown_of_an_arm_that_is_not_proven_and_those_that_are_say_so() -> None:
    proven = an_explained_run({"alpha": [10.0, 10.1]})
    text = markdown.render([*proven, *an_explained_run({"beta": [5.0, 5.1]}, proven=False)])
    assert "| alpha" in text
    assert "| beta" not in text
    assert "beta, round 1: parity was not checked" in text
    assert "parity float64 10/10, float32 10/10" in text
    assert "parity float64 10/10, float32 10/10" in markdown.brief(proven)


def test_arms_that_have_climbed_alike_share_a_line() -> None:
    records = an_explained_run({"alpha": [10.0, 10.1], "beta": [11.0, 11.1], "gamma": [12.0]})
    (group,) = explanations.groups(records)
    ladders = "float64 10/10, float32 10/10"
    assert explanations.proofs(group) == [f"parity of alpha, beta: {ladders}, n=2", f"parity of gamma: {ladders}, n=1"]


def test_explanations_change_nothing_in_a_comparison_beside_them() -> None:
    compared = a_run({"alpha": [100, 101], "beta": [50, 51]})
    explained = [
        msgspec.structs.replace(one, run=msgspec.structs.replace(one.run, id="another"))
        for one in an_explained_run({"alpha": [10.0, 11.0]})
    ]
    both = markdown.render([*compared, *explained])
    assert both.startswith(markdown.render(compared))
    assert both.endswith(markdown.render(explained))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"parts": {"forward": [1.0]}}, "the parts of a step were not timed in the same number of turns"),
        (
            {"parts": {"step": [1.0, 1.0], "forward": [1.0]}},
            "the parts of a step were not timed in the same number of turns",
        ),
        (
            {"profile": Profile(1, 0.01, {"elementwise": 0.02}, 1.0, [])},
            "the operations of a profile took longer than the steps that it watched",
        ),
    ],
)
def test_an_explanation_that_contradicts_itself_is_refused(changes: dict[str, Any], why: str) -> None:
    found = msgspec.structs.replace(an_explanation(10.0), **changes)
    record = a_record(kind="explain", explanation=found)
    assert why in "; ".join(rules.invalid(record))
    assert rules.invalid(a_record(kind="explain", explanation=an_explanation(10.0))) == []


def test_the_share_of_the_matrix_rate_is_the_models_operations_over_the_best_rate() -> None:
    records = [
        msgspec.structs.replace(one, outcome=msgspec.structs.replace(one.outcome, probe=Probe(1e-7, 1024, 2e10)))
        if one.cell.kind == "explain" else one
        for one in an_explained_run({"one": [10.0, 10.0]})
    ]  # fmt: skip
    (group,) = explanations.groups(records)
    assert "50 %" in explanations.neutral(group)[1]  # 10^8 operations in 10 ms are 10^10 a second


# The command.


def test_in_the_page_too_hatches_tell_the_parts_apart() -> None:
    shown = page.render(an_explained_run({"slow": [20.0, 20.2], "fast": [10.0, 10.1]}))
    patterns = re.findall(r"<pattern.*?</pattern>", shown, re.DOTALL)
    assert patterns
    assert all("stroke: var(--paper)" in one for one in patterns)


@pytest.mark.slow
def test_explain_proves_explains_and_can_be_reported_and_checked(bench: Callable[..., Done], tmp_path: Path) -> None:
    folder = tmp_path / "explained"
    done = bench("explain", *FAKE, "--preset", "smoke", "--rounds", 2, "--output", folder)
    assert (done.code, done.error.count("explain round")) == (0, 2), done.error
    assert "Where a step's time goes" in done.out
    assert f"No profile of {NAME}: the backend has none." in done.out
    assert bench("report", folder).out == (folder / "table.md").read_text()
    assert "0 findings" in bench("check", folder).out
    assert bench("report", folder, "--plots", tmp_path / "plots").code == 0
    assert [path.name for path in sorted((tmp_path / "plots").iterdir())] == [
        "step1-explained.png",
        "step1-explained.svg",
    ]
    refused = bench("run", *FAKE, "--preset", "smoke", "--output", folder)
    assert refused.code == 2
    assert "what is measured was what a step's time is made of, now absent" in refused.error
