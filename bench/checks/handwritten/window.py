"""The arguments of a bare loop, the batches that it trains on, and the window that it is timed in."""

import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tasks
from bench.process import phases
from bench.worker.loop import LEAD
from tasks.spec import Batch, Preset


def preset_and_batches() -> tuple[Preset, list[Batch]]:
    """From the command line: task, preset and, where given, the folder of data sets."""
    name, preset_name, *rest = sys.argv[1:]
    preset = tasks.load(name, preset_name, data_dir=Path(rest[0]) if rest else None)
    return preset, list(islice(preset.task.train_batches(seed=0), 256))


def print_step_seconds(
    step: Callable[[Any], object], batches: list[Any], *, preset: Preset, wait: Callable[[], object]
) -> None:
    """Runs the loop for a warm-up, and then blocks whenever its parent gives it a turn; prints the seconds per step.

    Warm-up and blocks last as long as the harness's own (`warmup_steps`, `warmup_s` and `block_s` of the preset).
    """
    phases.attach()
    phases.enter("warm-up")
    upcoming = cycle(batches)

    def seconds_of(count: int, *, least_s: float = 0.0) -> tuple[float, int]:
        """Runs at least so many steps, for at least so long."""
        start, steps = time.perf_counter(), 0
        while steps < count or time.perf_counter() - start < least_s:
            step(next(upcoming))
            steps += 1
        wait()
        return time.perf_counter() - start, steps

    seconds_of(preset.warmup_steps, least_s=preset.warmup_s)
    took_s, steps = seconds_of(3, least_s=preset.block_s)
    size = max(1, round(preset.block_s / took_s * steps))
    blocks_s: list[float] = []
    while (word := phases.next_word(repr(blocks_s[-1]) if blocks_s else "")) != phases.END:
        if word == phases.AGAIN:
            blocks_s.clear()
        seconds_of(LEAD)  # as the harness's own arms
        start = time.perf_counter()
        for batch in islice(upcoming, size):
            step(batch)
        wait()
        blocks_s.append(time.perf_counter() - start)
    print(sum(blocks_s) / len(blocks_s) / size)
