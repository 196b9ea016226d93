"""Rung 8: dropout is the specification's: in every place, at the configured rate, anew in every step, off in evaluation.

Masks are random, so that two right implementations never agree on a loss; they agree on its distribution. A site is one place
of dropout while all others are off. At a learning rate of 0 and on one fixed batch, a session takes training steps there and
reports their losses, which are compared with REFERENCE_DRAWS losses of the NumPy reference, whose masks are its own:

    distribution   Lepage's statistic (https://doi.org/10.1093/biomet/58.1.213): Wilcoxon's rank sum sees another mean, the
                   squares of the ranks about the middle (Mood, 1954) see another variance. No dropout, another rate, no
                   1 / (1 - rate), or one mask for all examples, time steps or layers change one or the other
    repeats        the rank correlation of the losses with themselves at every lag that leaves OVERLAP pairs: masks that come
                   again

Then all sites are on together, at another rate:

    distribution   as above; that two rates agree shows that a rate is read from the configuration
    seeds          one seed draws the same losses again; two seeds draw losses without a correlation
    evaluation     losses and logits are those without any dropout, after training steps with it

Sums over ranks have an exact mean and variance under exchange of the two samples, and are nearly normal whatever the losses'
own distribution is. The statistics are in standard deviations. Their limits leave all of a climb together a chance of
FALSE_ALARM (Bonferroni; half of it for the distributions). Rounding may shift every loss by the tolerance of rung 3, and a
shift that this explains is no difference.

A site alone is looked at once or twice. After FIRST_DRAWS, a distribution less than CLEAR standard deviations off is right:
that of another rate hardly ever is. Else DRAWS decide, which a right one needs in one of 450 looks. tests/test_dropout.py has
the power of both together: a halved rate and a place without dropout are found with a chance of 0.99 and more, at each site of
the small tasks.

Not seen: masks of two rates or two kinds of places that are alike, masks that are alike in two layers only behind their
feed-forward networks, and a period longer than LAGS, or than FIRST_DRAWS - OVERLAP at one site only.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from math import log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from backends.api import Backend, Options, Session
from bench.worker import loop
from bench.worker.comparison import Comparison, size
from tasks.spec import Array, Batch, DropoutSite, Params, Task

AT_REST = 1e-300  # a learning rate that moves nothing, in single precision 0; a task may not have one of 0
DRAWS = 440
FIRST_DRAWS, CLEAR = 240, 3.5
REFERENCE_DRAWS = 4096
RATE = 0.22  # of a site alone: not a rate that a program has by default
JOINT_RATE = 0.37  # of all sites together
ROWS = 2  # examples of the batch, both the same: one mask for both then doubles the variance; one for each process at least
OVERLAP = 56  # pairs of losses: as many equal ones are beyond any limit here
LAGS = DRAWS - OVERLAP  # the longest period of repeated masks that is looked for
REPEATED = 16  # losses of a seed that are drawn a second time
OTHER_SEED = 128  # losses of another seed
FALSE_ALARM = 1e-6


def rates(task: Task) -> dict[str, float]:
    """The model's dropout rates: its fields named "dropout" or "..._dropout"."""
    names = [field.name for field in fields(task.model)]
    return {name: getattr(task.model, name) for name in names if name == "dropout" or name.endswith("_dropout")}


def sites(task: Task, params: Params) -> list[DropoutSite]:
    """Every place of dropout: the task's own account, or one for each rate of its model."""
    own: Callable[[Params], list[DropoutSite]] | None = getattr(task, "dropout_sites", None)
    return own(params) if own is not None else [DropoutSite(name, name, params) for name in rates(task)]


def with_rates(task: Any, **changed: float) -> Any:
    """The task with these dropout rates, and all others 0."""
    return replace(task, model=replace(task.model, **dict.fromkeys(rates(task), 0.0) | changed))


def compare(
    subject: Backend,
    arbiter: Any,
    task: Task,
    *,
    timed: Task,
    params: Params,
    options: Options,
    tolerance: Mapping[str, float],
) -> Iterator[Comparison]:
    """The rung for a small task, at the sites that have dropout in the task that is timed: each alone, and all together.

    `arbiter` is the reference; `tolerance` has the precision's for "loss" and "forward". The masks are those of options.seed
    and of the next one.
    """
    rounding = tolerance["loss"]
    on = {name for name, rate in rates(timed).items() if rate > 0}
    looked_at = [site for site in sites(task, params) if site.rate in on]
    if not looked_at:
        yield Comparison("no dropout in this task", 0.0, 0.0)
        return
    at_rest = replace(task.optimizer, learning_rate=AT_REST, clip_norm=None, warmup_steps=0, decay_steps=None)
    task = replace(task, optimizer=at_rest)  # type: ignore[type-var]  # tasks are dataclasses
    batch = alike(next(iter(task.train_batches(seed=0))), rows=max(ROWS, options.processes))
    # Another stream than that of a session of the reference with the same seed.
    rng = np.random.default_rng((options.seed, 8))
    samples = len(looked_at) + 1

    def opened(task: Task, params: Params, *, seed: int = options.seed) -> Session:
        return subject.open_session(task, params, replace(options, seed=seed))

    def expected(task: Task, params: Params) -> Array:
        drawn: Array = arbiter.draw_losses(task, params, batch, count=REFERENCE_DRAWS, rng=rng)
        return drawn

    for site in looked_at:
        alone, where = with_rates(task, **{site.rate: RATE}), f"{site.name}, rate {RATE}"
        session, right = opened(alone, site.params), expected(alone, site.params)
        yield from look(session, batch, right, where=where, rounding=rounding, samples=samples)

    together = with_rates(task, **dict.fromkeys(on, JOINT_RATE))
    where = f"all sites, rate {JOINT_RATE}"
    session = opened(together, params)
    found = draw(session, batch, draws=DRAWS)
    yield distribution(where, found, expected(together, params), rounding=rounding, samples=samples)
    yield repeats(where, found, samples=samples)
    reference = arbiter.open_session(together, params, Options(precision="float64"))
    yield from evaluation(session, reference, batch, tolerance=tolerance)
    again = draw(opened(together, params), batch, draws=REPEATED)
    changed = float(np.max(np.abs(again / found[:REPEATED] - 1)))
    yield Comparison(f"{where}: the same seed again", changed, rounding)
    # Two seeds that have the masks of one process of several in common are correlated the less, the more there are.
    draws = min(DRAWS, OTHER_SEED * options.processes)
    other = draw(opened(together, params, seed=options.seed + 1), batch, draws=draws)
    yield seeds(where, found[:draws], other, samples=samples)


def look(
    session: Session, batch: Batch, expected: Array, *, where: str, rounding: float, samples: int
) -> Iterator[Comparison]:
    """A site alone: at FIRST_DRAWS losses, and at DRAWS where those are not clearly right."""
    found = draw(session, batch, draws=FIRST_DRAWS)
    off = distribution(where, found, expected, rounding=rounding, samples=samples)
    if off.difference >= CLEAR:
        found = np.concatenate([found, draw(session, batch, draws=DRAWS - FIRST_DRAWS)])
        off = distribution(where, found, expected, rounding=rounding, samples=samples)
    yield off
    yield repeats(where, found, samples=samples)


def alike(batch: Batch, *, rows: int = ROWS) -> Batch:
    """So many times the batch's first example, without padding."""
    inputs = {name: np.repeat(value[:1], rows, axis=0) for name, value in batch.inputs.items()}
    labels = np.repeat(batch.labels[:1], rows, axis=0)
    return Batch(inputs, labels, np.ones(labels.shape, np.float32), starts_sequence=True)


def draw(session: Session, batch: Batch, *, draws: int) -> Array:
    """Training losses of one batch, each from zero recurrent state; float64[draws]."""
    handles = []
    for _ in range(draws):
        session.reset_state()
        handles.append(session.train_step(loop.put(session, batch)))
    return np.array([float(session.fetch(handle)) for handle in handles])


def evaluation(
    session: Session, reference: Session, batch: Batch, *, tolerance: Mapping[str, float]
) -> Iterator[Comparison]:
    """That a session with dropout evaluates as one without."""
    session.reset_state()
    expected = reference.eval_step(loop.put(reference, batch))[0]
    found = session.fetch(session.eval_step(loop.put(session, batch))[0])
    off = size(found.astype(np.float64) - expected) / size(expected)
    yield Comparison("evaluated losses after steps with dropout", off, tolerance["forward"])
    draw(session, batch, draws=1)  # back to training: each of the two has to leave it by itself
    expected, found = reference.predict(batch.inputs), session.predict(batch.inputs)
    off = size(found.astype(np.float64) - expected) / size(expected)
    yield Comparison("logits after steps with dropout", off, tolerance["forward"])


def distribution(where: str, found: Array, expected: Array, *, rounding: float, samples: int) -> Comparison:
    """Lepage's statistic of two samples: the root of two squares, each of a nearly standard normal figure."""
    middle = float(np.median(expected))
    allowed = rounding * abs(middle)
    shifted = found + np.clip(middle - np.median(found), -allowed, allowed)
    ranks = _centred_ranks(np.concatenate([shifted, expected]))
    location, spread = (_standardised(scores, len(found)) for scores in (ranks, np.square(ranks)))
    if np.ptp(found) == 0:
        where = f"{where}: all losses are equal"
    else:
        where = f"{where}: mean {location:+.1f} and spread {spread:+.1f} standard deviations off"
    # The root of chi-square with two degrees of freedom is beyond r with a chance of exp(-r^2 / 2).
    return Comparison(where, sqrt(location**2 + spread**2), sqrt(-2 * log(FALSE_ALARM / 2 / samples)))


def repeats(where: str, found: Array, *, samples: int) -> Comparison:
    """The rank correlation of losses with those that came `lag` steps before, at the lag where it is largest."""
    ranks, lags = _centred_ranks(found), np.arange(1, len(found) - OVERLAP + 1)
    products = np.correlate(ranks, ranks, mode="full")[len(ranks) :]  # with the ranks `lag` places before, summed
    scale = np.mean(np.square(ranks)) * np.sqrt(len(ranks) - lags)
    correlated = np.abs(products[: len(lags)]) / scale if np.ptp(ranks) else np.zeros(len(lags))
    worst = int(np.argmax(correlated))
    return Comparison(
        f"{where}: correlation with the losses {lags[worst]} steps before", float(correlated[worst]), _limit(samples)
    )


def seeds(where: str, first: Array, second: Array, *, samples: int) -> Comparison:
    """The rank correlation of the losses of two seeds, step by step."""
    one, other = _centred_ranks(first), _centred_ranks(second)
    scale = np.sqrt(np.mean(np.square(one)) * np.mean(np.square(other)) * len(one))
    product = abs(float(np.sum(one * other)))
    correlated = product / float(scale) if scale else 0.0  # without dropout, which has been found before
    return Comparison(f"{where}: correlation of the losses of two seeds", correlated, _limit(samples))


def _limit(samples: int) -> float:
    """For the correlations at LAGS lags of each sample, and that of two seeds."""
    return -NormalDist().inv_cdf(FALSE_ALARM / 2 / (samples * LAGS + 1) / 2)


def _standardised(scores: Array, first: int) -> float:
    """The sum of the first scores, less its mean and in standard deviations, over all ways to choose as many of them."""
    deviations, total = scores - np.mean(scores), len(scores)
    variance = first * (total - first) / total / (total - 1) * np.sum(np.square(deviations))
    return float(np.sum(deviations[:first]) / np.sqrt(variance))


def _centred_ranks(values: Array) -> Array:
    """Ranks less their mean; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = np.cumsum(counts) - (counts - 1) / 2 - (len(values) + 1) / 2
    centred: Array = ranks[places]
    return centred
