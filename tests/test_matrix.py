"""The probe of the precision tells formats apart, and the rate is that of the longest chain."""

from typing import Any

import numpy as np
import pytest

from bench.records import rules
from bench.worker import precision_probe
from tasks.spec import Array


def rounded(value: Array, bits: int) -> Array:
    """A float32 with so many bits of mantissa, rounded to nearest."""
    mantissa, exponent = np.frexp(value.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


FORMATS = {
    "float64": lambda left, right: left.astype(np.float64) @ right.astype(np.float64),
    "float32": lambda left, right: left.astype(np.float32) @ right.astype(np.float32),
    "tf32": lambda left, right: (rounded(left, 11) @ rounded(right, 11)).astype(np.float32),
    "bfloat16": lambda left, right: rounded(rounded(left, 8) @ rounded(right, 8), 8),
}
"""What a matrix unit does: its operands in the format's mantissa, its sums in more."""


class Computing:
    """The part of a session that is asked, in a format and at a speed."""

    def __init__(self, precision: str, clock: "Clock | None" = None) -> None:
        self.product, self.clock, self.chains = FORMATS[precision], clock, []  # type: ignore[var-annotated]

    def matmul(self, left: Array, right: Array, *, times: int) -> Any:
        self.chains.append(times)
        if self.clock is not None:
            self.clock.now += 0.01 * times
            return left
        return self.product(left, right)

    def fetch(self, value: Any) -> Array:
        return np.asarray(value)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("computed", FORMATS)
@pytest.mark.parametrize("asked", FORMATS)
def test_a_precision_is_told_from_every_other(computed: str, asked: str) -> None:
    error = precision_probe.error(Computing(computed))  # type: ignore[arg-type]
    assert (rules.probe_fault(asked, error) is None) == (asked == computed)


def test_an_error_that_is_no_number_agrees_with_nothing() -> None:
    assert all(rules.probe_fault(precision, float("nan")) for precision in rules.PROBE_BOUNDS)


def test_the_rate_counts_the_first_chain_that_is_long_enough() -> None:
    session = Computing("float32", clock := Clock())
    rate = precision_probe.rate(session, 64, seconds=0.295, clock=clock)  # type: ignore[arg-type]
    assert session.chains == [1, 1, 30]
    assert rate == pytest.approx(2 * 64**3 / 0.01)


def test_the_chain_grows_by_steps() -> None:
    session = Computing("float32", clock := Clock())
    precision_probe.rate(session, 64, seconds=0.025 + 0.01 * precision_probe.LONGER, clock=clock)  # type: ignore[arg-type]
    assert session.chains == [1, 1, precision_probe.LONGER, 2 * precision_probe.LONGER]


def test_a_chain_of_products_keeps_its_norm() -> None:
    factor = precision_probe.orthogonal(300).astype(np.float64)
    np.testing.assert_allclose(factor @ factor.T, np.eye(300), atol=1e-6)
    assert np.abs(factor).min() > 0  # zeros would be faster, on some cards
