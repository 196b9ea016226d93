"""Proof of work: the training losses inside the windows of two arms say whether both did the updates they were timed for.

The losses of the first 50 updates and of every tenth after them are kept (bench/worker/loop.py). Both arms see the same batches
in the same order from the same initial weights, so that the losses after one update differ by rounding alone where there is no
dropout, and by the masks where there is.

What can be claimed: with d the logarithm of the ratio of two losses of the same update, the mean of d over the window is 0 but
for rounding and chance. It is called apart from 0 where it exceeds BOUND by more than SIGMAS of its standard errors. The
scatter of d is its own measure of the masks' noise, so that one rule serves with and without dropout. An arm that did less is
behind on the same curve: skipping every fifth of t updates leaves it at the loss of 0.8 t. That is seen as far as the curve
falls within the window: in 20 losses of the first few hundred updates and with a noise of up to 3 % in 99 of 100 cases
(tests/test_proof.py). On a plateau, where an update more or less changes no loss, nothing is claimed. That an update is an
update is proven on the ladder, by its rung of the long run; this proves that the timed process ran that program.
"""

from collections.abc import Mapping
from math import fsum, log, sqrt
from statistics import fmean

BOUND: Mapping[str, float] = {"float64": 0.01, "float32": 0.01, "tf32": 0.03, "bfloat16": 0.05}
"""Precision -> relative difference of mean losses that rounding may lead to; over hundreds of steps it grows, as any
difference does in training."""

SIGMAS = 5.0
FEWEST = 5  # losses in common


def losses_agree(first: Mapping[int, float], second: Mapping[int, float], precision: str) -> str | None:
    """None if two arms' losses, by the number of the update, agree; otherwise why they do not, in words."""
    bound = BOUND.get(precision, max(BOUND.values()))
    common = [update for update in sorted(first.keys() & second.keys()) if first[update] > 0 and second[update] > 0]
    if len(common) < FEWEST:
        return f"losses of {len(common)} updates in common: at least {FEWEST} are needed to compare the work done"
    ratios = [log(first[update]) - log(second[update]) for update in common]
    apart = fmean(ratios)
    error = sqrt(fsum((ratio - apart) ** 2 for ratio in ratios) / (len(ratios) - 1) / len(ratios))
    if abs(apart) <= bound + SIGMAS * error:
        return None
    higher = "higher" if apart > 0 else "lower"
    return (
        f"training losses {100 * abs(apart):.1f} % {higher} over {len(common)} equal updates, where at most "
        f"{100 * bound:.0f} % and {SIGMAS:g} standard errors of {100 * error:.1f} % are rounding and chance"
    )
