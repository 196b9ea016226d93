"""What a rung of the ladder of parity is made of: differences, each beside what it must not exceed."""

from dataclasses import dataclass

import numpy as np

from tasks.spec import Array, Params


@dataclass(frozen=True)
class Comparison:
    """A difference beside the tolerance that it must not exceed."""

    where: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return bool(self.difference <= self.tolerance)  # False for NaN

    @property
    def share(self) -> float:
        """How much of its tolerance it used up."""
        if not np.isfinite(self.difference):
            return float("inf")
        return self.difference / self.tolerance if self.tolerance else self.difference * 1e300


def size(value: Array) -> float:
    """The Euclidean norm, in float64."""
    return float(np.linalg.norm(value.astype(np.float64)))


def norm(params: Params) -> float:
    """The Euclidean norm of all tensors together."""
    return float(np.sqrt(sum(size(value) ** 2 for value in params.values())))
