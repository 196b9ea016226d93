"""The comparison with public implementations (bench/checks/handwritten): its list, its figures and its page."""

import subprocess
import sys
from pathlib import Path

import pytest

import backends
from bench.checks.handwritten import loops, page
from bench.checks.handwritten.loops import LOOPS
from bench.checks.handwritten.measured import Measured, Round, read
from bench.records import files
from tests.builders import MACHINE
from tests.conftest import BACKENDS_UNDER_TEST
from tests.test_backends import in_child

ROOT = Path(__file__).parents[1]
MEASURED = sorted((ROOT / "docs" / "implementations").glob("*.json"))


def some(*rounds: Round) -> Measured:
    return Measured(
        task="gru_lm", preset="standard", day="2026-01-01", machine=MACHINE, source="a" * 64,
        versions={"jax": {"jax": "1.0"}}, apart={"jax/flax.nnx.RNN": "no bias"}, tuned={"jax": "flat"}, rounds=list(rounds),
    )  # fmt: skip


def a_round(number: int, *, default: float, theirs: float, disturbed: str | None = None) -> Round:
    return Round("jax", number, {"default": default, "tuned": default / 2, "flax.nnx.RNN": theirs}, disturbed)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: f"{loop.task}-{loop.framework}-{loop.name}")
def test_every_listed_implementation_is_a_program_for_a_framework_that_there_is(loop):
    assert (ROOT / "bench" / "checks" / "handwritten" / f"{loop.module}.py").is_file()
    assert loop.framework in backends.BACKENDS


def test_two_implementations_of_a_framework_have_names_of_their_own():
    keys = [(loop.task, loop.framework, loop.name) for loop in LOOPS]
    assert len(set(keys)) == len(keys)


def test_a_ratio_is_our_speed_over_theirs_of_rounds_that_were_not_disturbed():
    found = some(
        a_round(1, default=0.1, theirs=0.2),
        a_round(2, default=0.1, theirs=0.2),
        a_round(3, default=9.0, theirs=0.2, disturbed="others had the cores"),
    )
    assert page.ratio(found, "jax", "default", "flax.nnx.RNN").estimate == pytest.approx(2.0)
    assert page.ratio(found, "jax", "tuned", "flax.nnx.RNN").estimate == pytest.approx(4.0)
    assert page.ratio(found, "jax", "default", "flax.nnx.RNN").n == 2
    assert page.ratio(found, "jax", "default", "another") is None


def test_a_table_says_what_is_another_function_and_which_round_is_left_out():
    found = some(a_round(1, default=0.1, theirs=0.2), a_round(2, default=0.1, theirs=0.2, disturbed="a neighbour"))
    text = "".join(page.section(found))
    (theirs,) = [line for line in text.splitlines() if "flax.nnx.RNN" in line]
    assert "no bias" in theirs
    assert "| flat" in text
    assert "round 2 of jax (a neighbour)" in text
    assert "jax 1.0" in text


def test_what_was_measured_is_read_as_it_was_written(tmp_path):
    found = some(a_round(1, default=0.1, theirs=0.2))
    files.write(tmp_path / "one.json", found)
    assert read(tmp_path / "one.json") == found


def test_the_page_of_the_docs_is_made_of_what_was_measured():
    assert MEASURED
    assert (ROOT / "docs" / "implementations.md").read_text(encoding="utf-8") == page.render(MEASURED)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(not BACKENDS_UNDER_TEST, reason="no framework is under test")
def test_the_programs_take_turns_with_the_backends(tmp_path):
    output = tmp_path / "mnist_mlp.json"
    command = [sys.executable, "-m", "bench.checks.handwritten", "--preset", "smoke", "--rounds", "2"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = read(output)
    assert {one.number for one in found.rounds} == {1, 2}
    for one in found.rounds:
        assert len(one.steps_s) > 1
        assert all(0 < step_s < 1 for step_s in one.steps_s.values())


CLIPPED = """
import keras, numpy as np, tensorflow as tf
rows = tf.IndexedSlices(tf.constant([[1.0], [1.0]]), tf.constant([0, 0]), tf.constant([2, 1]))  # of one token, twice
for gradient in (rows, tf.convert_to_tensor(rows)):
    weights = keras.Variable(np.zeros((2, 1), "float32"))
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=1.5)
    optimizer.build([weights])
    optimizer.apply([gradient], [weights])
    print(round(-float(weights.numpy()[0, 0]), 3))
"""


@pytest.mark.skipif("tensorflow" not in BACKENDS_UNDER_TEST, reason="TensorFlow is not under test")
@pytest.mark.slow
def test_keras_clips_by_a_norm_of_single_rows_as_its_lines_say():
    # The gradient is 2, and the norm of its two rows 1.41: below the limit.
    assert in_child("tensorflow", "-c", CLIPPED).stdout.split()[-2:] == ["2.0", "1.5"]
    assert {loop.name for loop in LOOPS if loops.NORM in loop.apart} == {
        loop.name for loop in LOOPS if loop.framework == "tensorflow" and loop.task != "mnist_mlp"
    }
