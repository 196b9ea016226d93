"""The arguments of a bare loop, and the batches that it trains on."""

import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tasks
from tasks.spec import Batch, Preset

WINDOW_S = 2.0
BLOCK_STEPS = 10


def preset_and_batches() -> tuple[Preset, list[Batch]]:
    """From the command line: task, preset and, where given, the folder of data sets."""
    name, preset_name, *rest = sys.argv[1:]
    preset = tasks.load(name, preset_name, data_dir=Path(rest[0]) if rest else None)
    return preset, list(islice(preset.task.train_batches(seed=0), 256))


def print_step_seconds(
    step: Callable[[Any], object], batches: list[Any], *, warmup: int, block: int, wait: Callable[[], object]
) -> None:
    """Runs the loop for a warm-up and then a window, and prints the seconds per step.

    The clock is looked at after every `block` steps; the window has at least 10 of them, and lasts at least WINDOW_S.
    """
    upcoming = cycle(batches)
    for batch in islice(upcoming, warmup):
        step(batch)
    wait()
    steps = 0
    start = time.perf_counter()
    while time.perf_counter() - start < WINDOW_S or steps < 10 * block:
        for batch in islice(upcoming, block):
            step(batch)
        steps += block
    wait()
    print((time.perf_counter() - start) / steps)
