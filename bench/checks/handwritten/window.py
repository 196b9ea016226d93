"""The arguments of a bare loop, the batches that it trains on, and the window that it is timed in."""

import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tasks
from bench.process import phases
from tasks.spec import Batch, Preset

BLOCK_STEPS = 10


def preset_and_batches() -> tuple[Preset, list[Batch]]:
    """From the command line: task, preset and, where given, the folder of data sets."""
    name, preset_name, *rest = sys.argv[1:]
    preset = tasks.load(name, preset_name, data_dir=Path(rest[0]) if rest else None)
    return preset, list(islice(preset.task.train_batches(seed=0), 256))


def print_step_seconds(
    step: Callable[[Any], object], batches: list[Any], *, warmup: int, block: int, wait: Callable[[], object]
) -> None:
    """Runs the loop for a warm-up, and then blocks whenever its parent gives it a turn; prints the seconds per step.

    A block lasts about as long as the harness's own (`Preset.block_s`), in whole multiples of `block` steps.
    """
    phases.attach()
    phases.enter("warm-up")
    preset, _ = preset_and_batches()
    upcoming = cycle(batches)
    start, steps = time.perf_counter(), 0
    while steps < warmup or time.perf_counter() - start < preset.warmup_s:
        step(next(upcoming))
        steps += 1
    wait()
    start = time.perf_counter()
    for batch in islice(upcoming, block):
        step(batch)
    wait()
    size = block * max(1, round(preset.block_s / (time.perf_counter() - start)))
    blocks_s: list[float] = []
    while (word := phases.next_word(repr(blocks_s[-1]) if blocks_s else "")) != phases.END:
        if word == phases.AGAIN:
            blocks_s.clear()
        start = time.perf_counter()
        for batch in islice(upcoming, size):
            step(batch)
        wait()
        blocks_s.append(time.perf_counter() - start)
    print(sum(blocks_s) / len(blocks_s) / size)
