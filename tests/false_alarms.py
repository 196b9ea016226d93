"""How often rung 8 calls a right dropout wrong: `python -m tests.false_alarms TASK CLIMBS` climbs it with so many seeds.

The subject is the reference, whose losses at a learning rate of 0 come from draws side by side; all else is the rung as it is.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

import backends
import tasks
from backends.api import Options
from backends.reference.session import ReferenceSession, draw_losses
from bench.worker import dropout, parity
from tasks.spec import Batch, Params, Task
from tests.drawing import Subject

AT_ONCE = 64


class DrawnAhead(ReferenceSession):
    """The losses of its steps are drawn many at a time."""

    def __init__(self, task: Task, params: Params, *, seed: int) -> None:
        super().__init__(task, params, seed=seed)
        self.params_, self.rng = params, np.random.default_rng(seed)
        self.drawn: Iterator[float] = iter(())

    def train_step(self, batch: Batch) -> float:
        loss = next(self.drawn, None)
        if loss is None:
            self.drawn = iter(draw_losses(self.task, self.params_, batch, count=AT_ONCE, rng=self.rng).tolist())
            loss = next(self.drawn)
        return loss


def main(name: str, climbs: int) -> None:
    """Prints each alarm, and the largest share of a limit that was seen."""
    timed = tasks.load(name, "quick").task
    small = timed.for_parity()
    params = parity.with_noise_on_vectors(small.init_params(0))
    alarms, largest = 0, 0.0
    for climb in range(climbs):
        found = list(
            dropout.compare(
                Subject(DrawnAhead),
                backends.load("reference"),
                small,
                timed=timed,
                params=params,
                options=replace(Options(precision="float64"), seed=2 * climb),
                tolerance=parity.TOLERANCES["float64"],
            )
        )
        wrong = [comparison for comparison in found if not comparison.passed]
        alarms += bool(wrong)
        largest = max(largest, *(comparison.share for comparison in found))
        for comparison in wrong:
            print(f"seed {2 * climb}: {comparison.where}: {comparison.difference:.2f} of {comparison.tolerance:.2f}")
    print(f"{name}: {alarms} false alarms in {climbs} climbs; the largest statistic was {largest:.0%} of its limit")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
