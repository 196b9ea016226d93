"""The precision that is really in force, and the rate of matrix products that a row's speed is held against.

Both come from products in the framework itself, on the device and in the precision that were timed, after the window.
"""

import math
from collections.abc import Callable

import numpy as np

from backends.api import Session
from bench.records.record import Probe
from tasks.spec import Array

PROBE_SIZE = 256
RATE_SIZES = {"cpu": 1024, "gpu": 4096}
RATE_SECONDS = {"cpu": 0.3, "gpu": 1.0}  # of the longest chain; on a GPU the copies to and from it must not matter
LONGER = 32  # times at the most as long as the chain before: the first is short for a clock


def probe(session: Session, *, device: str, clock: Callable[[], float]) -> Probe:
    """The error of one product and the rate of a chain of them."""
    size = RATE_SIZES.get(device, RATE_SIZES["cpu"])
    return Probe(error(session), size, rate(session, size, seconds=RATE_SECONDS.get(device, 0.3), clock=clock))


def error(session: Session) -> float:
    """Relative norm of the difference between the session's product and NumPy's in double precision."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((PROBE_SIZE, PROBE_SIZE)).astype(np.float32) for _ in range(2))
    exact = left.astype(np.float64) @ right.astype(np.float64)
    found = session.fetch(session.matmul(left, right, times=1)).astype(np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def rate(session: Session, size: int, *, seconds: float, clock: Callable[[], float]) -> float:
    """Floating-point operations per second of a chain of square products, 2 * size^3 each.

    The chain is made longer until it lasts `seconds`; the last one counts.
    """
    left = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    right = orthogonal(size)  # a product with it keeps the norm, however long the chain
    session.fetch(session.matmul(left, right, times=1))  # compiles
    times = 1
    while True:
        start = clock()
        session.fetch(session.matmul(left, right, times=times))
        elapsed = clock() - start
        if elapsed >= seconds:
            return float(2 * size**3 * times / elapsed)
        times *= min(max(2, math.ceil(seconds / elapsed)), LONGER) if elapsed else 2


def orthogonal(size: int) -> Array:
    """float32[size, size]: the cosine transform of type IV, an orthogonal matrix without zeros that needs no factorisation."""
    halves = np.arange(size) + 0.5
    return np.asarray(np.sqrt(2 / size) * np.cos(np.pi / size * np.outer(halves, halves)), dtype=np.float32)
