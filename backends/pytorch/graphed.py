"""The mode `cuda-graph` of this backend: the kernels of a training step are recorded once, and started all together.

Whole-network capture, as in https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture. A graph reads and
writes the same memory whenever it is replayed: batch and recurrent state are copied there, and the loss is copied out.
"""

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from backends.pytorch.models import State

WARM_UP = 3
"""Steps of a shape before one is captured, as the page above has them: libraries find their kernels and workspaces."""

Step = Callable[[Any, State], tuple[torch.Tensor, State]]
"""(batch, state before it) -> (loss, state after it); a batch is session.DeviceBatch."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""What makes of a run its replay."""


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """What starts anew the kernels that `run` starts; they do not run yet.

    Python's garbage collector rests meanwhile: an older graph that it destroyed would break off the capture of this one
    (https://github.com/pytorch/pytorch/pull/161037).
    """
    graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            run()
    finally:
        if collects:
            gc.enable()
    replay: Callable[[], None] = graph.replay
    return replay


class Graphed:
    """A step that is taken kernel by kernel until its shape is warm, and then replayed from a graph of that shape."""

    def __init__(self, step: Step, *, capture: Capture = captured) -> None:
        self._step, self._capture = step, capture
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self._taken: Counter[tuple[torch.Size, ...]] = Counter()

    def __call__(self, batch: Any, state: State) -> tuple[torch.Tensor, State]:
        shape = tuple(part.shape for part in _parts(batch, state))
        self._taken[shape] += 1
        if self._taken[shape] <= WARM_UP:
            return self._on_another_stream(batch, state)
        if shape not in self._graphs:
            self._graphs[shape] = _Graph(self._step, batch, state, self._capture)
        return self._graphs[shape](batch, state)

    @property
    def captures(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    @property
    def in_force(self) -> bool:
        """Whether every shape that is warm is replayed."""
        return self.captures == sum(taken > WARM_UP for taken in self._taken.values())

    def _on_another_stream(self, batch: Any, state: State) -> tuple[torch.Tensor, State]:
        """As the page says: what a library allocates for the default stream, it may look for again while capturing."""
        if not batch.labels.is_cuda:  # the tests' graphs
            return self._step(batch, state)
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.cuda.stream(other):
            taken = self._step(batch, state)
        current.wait_stream(other)
        return taken


class _Graph:
    """One step of one shape, and the memory that it reads and writes."""

    def __init__(self, step: Step, batch: Any, state: State, capture: Capture) -> None:
        self._batch = batch._replace(
            inputs={name: value.clone() for name, value in batch.inputs.items()},
            labels=batch.labels.clone(), weights=batch.weights.clone(),
        )  # fmt: skip
        self._state = tuple(part.clone() for part in state)
        self._result: tuple[torch.Tensor, State]

        def run() -> None:
            self._result = step(self._batch, self._state)

        self._replay = capture(run)

    def __call__(self, batch: Any, state: State) -> tuple[torch.Tensor, State]:
        for mine, given in zip(_parts(self._batch, self._state), _parts(batch, state), strict=True):
            mine.copy_(given, non_blocking=True)
        self._replay()
        loss, state = self._result
        return loss.clone(), state


def _parts(batch: Any, state: State) -> tuple[torch.Tensor, ...]:
    return (*batch.inputs.values(), batch.labels, batch.weights, *state)
