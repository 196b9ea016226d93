"""Did the speed of a window change from its beginning to its end, and only its own?"""

import math
from collections.abc import Sequence
from statistics import fmean, geometric_mean

from bench.records.limits import MARGIN

SURE = 3.0  # standard errors


def drift(blocks_s: Sequence[float]) -> float:
    """How much longer the blocks of the second half took than those of the first; 0.05 is 5 %."""
    middle = len(blocks_s) // 2
    return fmean(blocks_s[middle:]) / fmean(blocks_s[:middle]) - 1 if middle and min(blocks_s) > 0 else 0.0


def is_steady(blocks_s: Sequence[float]) -> bool:
    """Whether the change lies within the margin, or is no more than what the blocks scatter by."""
    change, middle = drift(blocks_s), len(blocks_s) // 2
    if abs(change) <= MARGIN or middle < 2:
        return True
    halves = blocks_s[:middle], blocks_s[middle:]
    error = math.sqrt(sum(_variance(half) / len(half) for half in halves)) / fmean(halves[0])
    return abs(change) <= SURE * error


def changed(windows: Sequence[Sequence[float]]) -> list[bool]:
    """Of each of the windows that took turns, whether its speed changed, and not as that of the others did meanwhile.

    What the machine does to all of them alike leaves their ratios as they are. It is so where a window is steady, and has at
    most half of its change, in units of what the others took.
    """
    return [
        not is_steady(one) and not _is_shared(one, [*windows[:at], *windows[at + 1 :]])
        for at, one in enumerate(windows)
    ]


def _is_shared(blocks_s: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    left = _in_units_of(others, blocks_s)
    return is_steady(left) and 2 * abs(drift(left)) <= abs(drift(blocks_s))


def _in_units_of(others: Sequence[Sequence[float]], blocks_s: Sequence[float]) -> Sequence[float]:
    """A window's blocks over the geometric mean of the others' in the same turns; as they are where there is none."""
    turns = list(zip(*others, strict=False))
    if any(len(other) != len(blocks_s) or min(other) <= 0 for other in others) or not turns:
        return blocks_s
    return [block_s / geometric_mean(turn) for block_s, turn in zip(blocks_s, turns, strict=True)]


def standard_error(blocks_s: Sequence[float]) -> float:
    """That of the mean of the blocks, as a share of it; 0 of fewer than two."""
    if len(blocks_s) < 2 or not fmean(blocks_s):
        return 0.0
    return math.sqrt(_variance(blocks_s) / len(blocks_s)) / fmean(blocks_s)


def _variance(values: Sequence[float]) -> float:
    """That of a sample; the library's own is exact and takes a hundred times as long."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
