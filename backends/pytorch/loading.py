"""torch's DataLoader over arrays in memory (https://docs.pytorch.org/docs/stable/data.html)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

WORKERS = 2  # of the mode `workers`, as in https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html


def data_loader(
    tensors: Sequence[torch.Tensor],
    *,
    batch_size: int,
    shuffled: bool,
    seed: int,
    at_once: bool,
    workers: int,
    pinned: bool,
) -> DataLoader[Any]:
    """A loader of tuples of tensors, `batch_size` rows of each but for the last.

    It fetches a batch row by row and puts the rows together, which is what `DataLoader(dataset, batch_size, shuffle=True)` of
    the tutorials does; or `at_once`, by a batch of indices that a BatchSampler draws.
    """
    dataset = TensorDataset(*tensors)
    generator = torch.Generator().manual_seed(seed)
    common: dict[str, Any] = {"num_workers": workers, "pin_memory": pinned, "generator": generator}
    if not at_once:
        return DataLoader(dataset, batch_size, shuffle=shuffled, **common)
    rows = RandomSampler(dataset, generator=generator) if shuffled else SequentialSampler(dataset)
    return DataLoader(dataset, batch_size=None, sampler=BatchSampler(rows, batch_size, drop_last=False), **common)


def describe(loader: DataLoader[Any]) -> str:
    """What a loader is, by its own account."""
    rows = "batches of indices" if loader.batch_size is None else "row by row"
    return f"torch DataLoader, {rows}, num_workers={loader.num_workers}"
