"""Grain's loader over arrays in memory (https://google-grain.readthedocs.io/en/latest/tutorials/dataset_basic_tutorial.html)."""

from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from tasks import batching
from tasks.spec import Array, Batch, Examples

LABELS = "labels"


class Rows:
    """A source of single examples, each a dictionary of its arrays."""

    def __init__(self, examples: Examples) -> None:
        self._arrays: Mapping[str, Array] = {**examples.inputs, LABELS: examples.labels}

    def __len__(self) -> int:
        return len(self._arrays[LABELS])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: array[row] for name, array in self._arrays.items()}


def batches(examples: Examples, *, seed: int) -> Iterator[Batch]:
    """One pass; another seed is another order. Grain reads rows in threads and ahead, as many as its defaults say."""
    rows: Any = grain.MapDataset.source(Rows(examples))
    if examples.shuffled:
        rows = rows.shuffle(seed=seed)
    size = examples.batch_size
    weights = np.ones((size, *examples.labels.shape[1:]), np.float32)
    for made in rows.batch(size).to_iter_dataset():
        labels = made.pop(LABELS)
        if len(labels) == size:
            yield Batch(made, labels, weights)
        else:  # the last: padded as the task's is
            yield next(batching.one_pass(made, labels, order=np.arange(len(labels)), batch_size=size))
