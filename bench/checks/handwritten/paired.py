"""One framework's session and its bare loop in one process, in alternating blocks: no noise between processes.

    python -m bench.checks.handwritten.paired pytorch mnist_mlp standard DIR

prints the median and the quartiles of the ratio of a session's block to the bare loop's. For TensorFlow, set
KERAS_BACKEND=tensorflow.
"""

import importlib
import statistics
import sys
import time
from itertools import cycle, islice
from typing import Any

import backends
from backends.api import Options
from bench.checks.handwritten import window
from bench.worker import loop

BLOCK_STEPS = 10
PAIRS = 150
LONGEST_S = 100.0  # then fewer pairs, but not less than FEWEST
FEWEST = 20


def main() -> None:
    """Arguments: backend, task, preset and, where the preset needs it, the folder of data sets."""
    name = sys.argv.pop(1)
    bare: dict[str, Any] = {}
    window.print_step_seconds = lambda step, batches, **rest: bare.update(step=step, batches=cycle(batches), **rest)
    importlib.import_module(f"bench.checks.handwritten.{sys.argv[1]}_{name}")
    preset, batches = window.preset_and_batches()
    session = backends.load(name).open_session(preset.task, preset.task.init_params(0), Options())
    upcoming = cycle([(session.prepare(batch), batch.starts_sequence) for batch in batches])

    def harness_block() -> float:
        start = time.perf_counter()
        for prepared, starts_sequence in islice(upcoming, BLOCK_STEPS):
            loop.step_prepared(session, prepared, starts_sequence=starts_sequence)
        session.wait()
        return time.perf_counter() - start

    def bare_block() -> float:
        start = time.perf_counter()
        for batch in islice(bare["batches"], BLOCK_STEPS):
            bare["step"](batch)
        bare["wait"]()
        return time.perf_counter() - start

    ratios: list[float] = []
    opened = time.perf_counter()
    for pair in range(PAIRS + 4):
        if len(ratios) >= FEWEST and time.perf_counter() - opened > LONGEST_S:
            break
        # Whoever is first in one pair is second in the next.
        if pair % 2:
            ours, theirs = harness_block(), bare_block()
        else:
            theirs, ours = bare_block(), harness_block()
        if pair >= 4:  # the first pairs compile and warm up
            ratios.append(ours / theirs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name}: session / bare loop = {middle:.3f}, quartiles {low:.3f}-{high:.3f}, {len(ratios)} pairs")


if __name__ == "__main__":
    main()
