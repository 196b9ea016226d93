"""Batches of fixed shapes: seeded shuffles, and padding with weight 0."""

from collections.abc import Iterator, Mapping

import numpy as np

from tasks.spec import Array, Batch


def shuffled(inputs: Mapping[str, Array], labels: Array, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless epochs over the examples, each in a new order drawn from PCG64(seed); an epoch's last batch is padded."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(labels))
        yield from _slices(inputs, labels, order=order, batch_size=batch_size)


def in_order(inputs: Mapping[str, Array], labels: Array, *, batch_size: int) -> Iterator[Batch]:
    """The examples once, in their own order; the last batch is padded."""
    return _slices(inputs, labels, order=np.arange(len(labels)), batch_size=batch_size)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches in one pass, the padded one included."""
    return -(-examples // batch_size)


def _slices(inputs: Mapping[str, Array], labels: Array, *, order: Array, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        weights = np.zeros(batch_size, np.float32)
        weights[: len(rows)] = 1
        # Padding repeats the slice's first example: real values, so that nothing in the model sees an odd input.
        rows = np.concatenate([rows, np.full(batch_size - len(rows), rows[0])])
        yield Batch({name: array[rows] for name, array in inputs.items()}, labels[rows], weights)
