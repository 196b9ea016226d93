"""Two implementations of one's own: the first thing in which they differ, or that they do not; and hostile sides."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.checks.pair import Pair, Side, pair
from tests.conftest import BACKENDS_UNDER_TEST

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(size=(8, 5)), RNG.integers(0, 3, 8)) for _ in range(4)]
WEIGHTS = {"kernel": ("weight", np.transpose), "bias": "bias"}


class Softmax:
    """Softmax regression with gradient descent; `weight` is [out, in] where it is `transposed`."""

    def __init__(self, *, transposed: bool, rate: float = 0.1, decay: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.kernel, self.bias = rng.normal(size=(5, 3)), rng.normal(size=3)
        self.transposed, self.rate, self.decay = transposed, rate, decay

    def logits(self, batch: Any) -> Any:
        return batch[0] @ self.kernel + self.bias

    def step(self, batch: Any) -> float:
        logits = self.logits(batch)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        rows = np.arange(len(batch[1]))
        loss = -np.mean(np.log(shares[rows, batch[1]]))
        shares[rows, batch[1]] -= 1
        self.kernel -= self.rate * (batch[0].T @ shares / len(rows) + self.decay * self.kernel)
        self.bias -= self.rate * shares.mean(axis=0)
        return float(loss)

    def params(self) -> dict[str, Any]:
        return (
            {"weight": self.kernel.T, "bias": self.bias}
            if self.transposed
            else {"kernel": self.kernel, "bias": self.bias}
        )

    def load(self, weights: Any) -> None:
        self.kernel = np.array(weights["weight"].T if self.transposed else weights["kernel"])
        self.bias = np.array(weights["bias"])

    def side(self, name: str, **changes: Any) -> Side:
        return Side(
            **{"name": name, "step": self.step, "params": self.params, "load": self.load, "forward": self.logits}
            | changes
        )


def compared(second: Side, *, weights: Any = WEIGHTS, turns: int = 0, **options: Any) -> Pair:
    return pair(
        Softmax(transposed=False, seed=1).side("first"),
        second,
        batches=BATCHES,
        weights=weights,
        turns=turns,
        **options,
    )


def fell(found: Pair) -> str:
    assert not found.proven
    assert found.ratio is None
    return str(found.rungs[-1])


@pytest.mark.slow
def test_two_that_compute_the_same_pass_every_rung_and_are_timed() -> None:
    found = compared(Softmax(transposed=True).side("second"), turns=5)
    assert found.proven
    assert [rung.name for rung in found.rungs] == [
        "names", "parameters", "forward", "gradients", "loss", "one update", "trajectory",
    ]  # fmt: skip
    assert found.ratio is not None
    assert found.ratio.n == 5
    assert re.search(r"first is .* times as fast as second \(.* 5 turns in one process\)", str(found))


@pytest.mark.parametrize(
    ("second", "rung"),
    [
        (Softmax(transposed=True, rate=0.101), "one update"),
        (Softmax(transposed=True, decay=0.01), "one update"),
    ],
    ids=["another learning rate", "weight decay"],
)
def test_another_update_is_found_though_the_first_loss_is_the_same(second: Softmax, rung: str) -> None:
    assert fell(compared(second.side("second"))).startswith(f"FAILED  {rung}: ")


def test_a_fault_that_begins_later_is_found_in_the_trajectory() -> None:
    second = Softmax(transposed=True)
    taken = []

    def skips(batch: Any) -> float:
        before = second.kernel.copy()
        loss = second.step(batch)
        taken.append(loss)
        if len(taken) % 5 == 0:
            second.kernel = before
        return loss

    assert fell(compared(second.side("second", step=skips))).startswith("FAILED  trajectory: ")


class SignDescent(Softmax):
    """Moves every weight by the sign of its gradient, as Adam does at first. The logits are the same whatever `shift` is."""

    def __init__(self, *, noise: float, decay: float = 0.0, wrong: bool = False) -> None:
        super().__init__(transposed=False, decay=decay)
        self.shift, self.noise, self.wrong = np.full(3, 0.5), noise, wrong

    def gradients(self, batch: Any) -> dict[str, Any]:
        shares = np.exp(self.logits(batch))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(len(batch[1])), batch[1]] -= 1
        kernel = batch[0].T @ shares / len(batch[1])
        return {
            "kernel": 1.001 * kernel if self.wrong else kernel,
            "bias": shares.mean(axis=0),
            "shift": self.noise * np.array([1.0, -2.0, 1.5]),
        }

    def step(self, batch: Any) -> float:
        logits = self.logits(batch)
        loss = float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(batch[1])), batch[1]]))
        found = self.gradients(batch)
        self.kernel = self.kernel - 1e-3 * (np.sign(found["kernel"]) + self.decay * self.kernel)
        self.bias = self.bias - 1e-3 * np.sign(found["bias"])
        self.shift = self.shift - 1e-3 * np.sign(found["shift"])
        return loss

    def params(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "bias": self.bias, "shift": self.shift}

    def load(self, weights: Any) -> None:
        self.kernel, self.bias, self.shift = (np.array(weights[name]) for name in ("kernel", "bias", "shift"))

    def both(self, name: str, *, told: bool = True) -> Side:
        return self.side(name, **({"gradients": self.gradients} if told else {}))


def of_signs(second: SignDescent, *, told: bool = True) -> Pair:
    """A pair whose first side has rounding of the other sign in the gradient of `shift`."""
    weights = {name: name for name in ("kernel", "bias", "shift")}
    first = SignDescent(noise=1e-9).both("first", told=told)
    return pair(first, second.both("second", told=told), batches=BATCHES, weights=weights, turns=0)


def test_a_gradient_of_rounding_alone_is_named_and_its_movement_is_not_compared() -> None:
    found = of_signs(SignDescent(noise=-1e-9))
    assert found.proven, str(found)
    (rung,) = (rung for rung in found.rungs if rung.name == "gradients")
    assert rung.note == "of rounding alone, so that movements are not compared: shift"
    assert f"\n        ({rung.note})" in str(found)


def test_without_gradients_that_movement_is_a_difference() -> None:
    found = of_signs(SignDescent(noise=-1e-9), told=False)
    assert fell(found).startswith("FAILED  one update: difference 2.0e+00")
    assert fell(found).endswith("movement of shift")


def test_a_gradient_that_is_small_and_no_rounding_is_compared() -> None:
    found = of_signs(SignDescent(noise=-1e-3))
    assert fell(found).startswith("FAILED  gradients: ")
    assert "gradient of shift" in fell(found)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            SignDescent(noise=1e-9, wrong=True),
            "FAILED  gradients: difference 1.0e-03, tolerance 1e-04, gradient of kernel",
        ),
        (SignDescent(noise=1e-9, decay=0.1), "FAILED  one update: "),
    ],
    ids=["gradient", "decay"],
)
def test_gradients_tell_a_wrong_gradient_from_a_wrong_update(second: SignDescent, said: str) -> None:
    assert said in fell(of_signs(second))


@pytest.mark.parametrize(
    ("gradients", "said"),
    [
        (lambda batch: {"kernel": np.zeros((5, 3))}, "FAILED  gradients: KeyError: 'bias'"),
        (lambda batch: dict.fromkeys(("kernel", "bias", "shift"), np.zeros(3)), "gradient of kernel: shapes (5, 3) and (3,)"),
        (lambda batch: 1 / 0, "FAILED  gradients: ZeroDivisionError"),
        (lambda batch: {"kernel": np.full((5, 3), np.nan), "bias": np.zeros(3), "shift": np.zeros(3)}, "difference nan"),
    ],
    ids=["missing", "shape", "raises", "NaN"],
)  # fmt: skip
def test_gradients_that_are_none_are_said(gradients: Callable[..., Any], said: str) -> None:
    second = SignDescent(noise=1e-9)
    weights = {name: name for name in ("kernel", "bias", "shift")}
    sides = SignDescent(noise=1e-9).both("first"), second.side("second", gradients=gradients)
    assert said in fell(pair(*sides, batches=BATCHES, weights=weights, turns=0))


def changed(side: Softmax, name: str, make: Callable[[Any], Any]) -> Side:
    return side.side("second", **{name: make})


@pytest.mark.parametrize(
    ("name", "call", "said"),
    [
        ("forward", lambda batch: np.zeros((8, 4)), "FAILED  forward: ValueError: outputs: shapes (8, 3) and (8, 4)"),
        ("forward", lambda batch: np.full((8, 3), np.nan), "FAILED  forward: difference nan"),
        ("step", lambda batch: float("nan"), "FAILED  loss: difference nan"),
        ("step", lambda batch: 1 / 0, "FAILED  loss: ZeroDivisionError: division by zero"),
        ("params", lambda: {"weight": np.zeros((3, 5))}, "weights of second without a counterpart: bias"),
        (
            "params",
            lambda: {"weight": np.zeros((5, 3)), "bias": np.zeros(3)},
            "weight is (5, 3) in second, and (3, 5) of",
        ),
        ("load", lambda weights: None, "FAILED  parameters: "),
    ],
)
def test_what_a_side_does_wrong_is_said(name: str, call: Callable[..., Any], said: str) -> None:
    assert said in fell(compared(Softmax(transposed=True).side("second", **{name: call})))


def test_a_weight_that_nobody_mapped_is_named() -> None:
    assert "weights of first without a counterpart: bias" in fell(
        compared(Softmax(transposed=True).side("second"), weights={"kernel": ("weight", np.transpose)})
    )


def test_a_call_that_never_ends_is_ended() -> None:
    found = compared(Softmax(transposed=True).side("second", forward=lambda batch: time.sleep(60)), limit_s=0.2)
    assert "TimeoutError: not done within 0.2 s" in fell(found)


def test_beside_the_main_thread_nothing_is_limited() -> None:
    found: list[Pair] = []
    thread = threading.Thread(target=lambda: found.append(compared(Softmax(transposed=True).side("second"))))
    thread.start()
    thread.join(60)
    assert found[0].proven


def test_batches_of_another_form_are_as_many() -> None:
    with pytest.raises(ValueError, match="4 batches for first and 1 for second"):
        compared(Softmax(transposed=True).side("second"), batches_of_second=BATCHES[:1])
    assert compared(Softmax(transposed=True).side("second"), batches_of_second=BATCHES).proven


@pytest.mark.slow
@pytest.mark.skipif(not {"pytorch", "jax"} <= set(BACKENDS_UNDER_TEST), reason="the example needs PyTorch and JAX")
@pytest.mark.parametrize(("argument", "last"), [("", "FAILED  loss: "), (", approximate=False", "torch is ")])
def test_the_example_of_the_documentation_prints_what_it_says(tmp_path: Path, argument: str, last: str) -> None:
    page = (ROOT / "docs" / "pair.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    script = tmp_path / "example.py"
    script.write_text(
        code.replace('weights["b0"])\n    logits', f'weights["b0"]{argument})\n    logits'), encoding="utf-8"
    )
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(last), done.stdout
    shown = re.findall(r"```text\n(.*?)```", page, re.DOTALL)[0].splitlines()
    assert [line[:20] for line in lines[: len(shown) - 1]] == [line[:20] for line in shown[:-1]]


def said_of(printed: str) -> list[str]:
    """What a program said, without figures and the line of the machine: differences are those of a processor's rounding."""
    lines = [re.sub(r": difference .*", "", line) for line in printed.splitlines()[1:]]
    return [line for line in lines if line and not re.search(r" turns in one process\)$", line)]


@pytest.mark.slow
@pytest.mark.skipif(not {"pytorch", "jax"} <= set(BACKENDS_UNDER_TEST), reason="the examples need PyTorch and JAX")
@pytest.mark.parametrize("name", ["dqn", pytest.param("mingpt", marks=pytest.mark.exhaustive)])
def test_a_public_pair_says_again_what_its_page_tells(name: str) -> None:
    program = ROOT / "docs" / "examples" / f"{name}.py"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, program, "0"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert said_of(done.stdout) == said_of(program.with_suffix(".txt").read_text(encoding="utf-8"))


def test_of_the_public_pairs_one_is_equal_and_one_differs_until_it_is_mended() -> None:
    told = {
        name: (ROOT / "docs" / "examples" / f"{name}.txt").read_text(encoding="utf-8") for name in ("dqn", "mingpt")
    }
    assert "FAILED" not in told["dqn"]
    assert "ok      trajectory" in told["dqn"]
    assert re.findall(r"^FAILED  ([a-z ]+):", told["mingpt"], re.MULTILINE) == ["forward", "forward", "one update"]
    assert "ok      trajectory" in told["mingpt"].split("With minGPT's weight decay too:")[1]
