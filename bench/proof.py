"""Proof of work: the training losses inside the windows of two arms say whether both did the updates they were timed for.

A loss is taken at the end of every block (bench/loop.py). Both arms see the same batches in the same order from the same
initial weights, so that the losses after one update differ by rounding alone where there is no dropout, and by the masks where
there is.

What can be claimed: with d the logarithm of the ratio of two losses of the same update, the mean of d over the window is 0 but
for rounding and chance. It is called apart from 0 where it exceeds BOUND by more than SIGMAS of its standard errors. The
scatter of d is its own measure of the masks' noise, so that one rule serves with and without dropout. An arm that did less is
behind on the same curve: skipping every fifth of t updates leaves it at the loss of 0.8 t. That is seen as far as the curve
falls within the window: in 20 blocks that begin in the first hundred updates and with a noise of up to 3 % in 99 of 100 cases
(tests/test_proof.py). On a plateau, where an update more or less changes no loss, nothing is claimed. That an update is an
update is proven on the ladder, by its rung of the long run; this proves that the timed process ran that program.
"""

from collections.abc import Mapping, Sequence
from math import isfinite, log, sqrt
from statistics import fmean, stdev

BOUND: Mapping[str, float] = {"float64": 0.01, "float32": 0.01, "tf32": 0.03, "bfloat16": 0.05}
"""Precision -> relative difference of mean losses that rounding may lead to; over hundreds of steps it grows, as any
difference does in training."""

SIGMAS = 5.0
FEWEST = 5  # losses in common


def at_updates(losses: Sequence[float], *, before: int, block_steps: int) -> dict[int, float]:
    """Number of the update -> loss, where `before` updates came before the window and a loss is taken after each block."""
    return {before + block_steps * block: loss for block, loss in enumerate(losses, start=1)}


def losses_agree(first: Mapping[int, float], second: Mapping[int, float], precision: str) -> str | None:
    """None if two arms' losses, by the number of the update, agree; otherwise why they do not, in words."""
    common = sorted(first.keys() & second.keys())
    if len(common) < FEWEST:
        return f"losses of {len(common)} updates in common: at least {FEWEST} are needed to compare the work done"
    for losses in (first, second):
        wrong = next((update for update in common if not isfinite(losses[update]) or losses[update] <= 0), None)
        if wrong is not None:
            return f"the training loss of update {wrong} was {losses[wrong]}"
    ratios = [log(first[update] / second[update]) for update in common]
    apart, error = fmean(ratios), stdev(ratios) / sqrt(len(ratios))
    if abs(apart) <= BOUND[precision] + SIGMAS * error:
        return None
    higher = "higher" if apart > 0 else "lower"
    return (
        f"training losses {abs(apart):.1%} {higher} over {len(common)} equal updates, where at most {BOUND[precision]:.0%} "
        f"and {SIGMAS:g} standard errors of {error:.1%} are rounding and chance"
    )
