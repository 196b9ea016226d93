"""Where the time of a training step goes: what it is made of, and what the framework's own profiler saw.

Without a profiler: the forward pass, the gradient (forward and backward pass) and the whole step are timed in turns, in one
process, on the same batches. Their differences are the backward pass and the update. A framework that compiles does so for
each of the three, and may leave out of a smaller one what only the larger one needs.

Then the profiler watches some steps. Of what it saw, the innermost operation has the time, and operations on several threads
at once share it: with the time in which none ran, the kinds of operations add up to the profiled step.
"""

import random
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backends.api import Session
from backends.operations import Operation
from bench.process import phases
from bench.records.record import Explanation, OperationTime, Profile
from bench.records.text import one_line
from bench.worker import loop, timeline
from bench.worker.loop import Clock
from tasks.spec import Preset

TURNS = 12
BATCHES = 16
MIXED_BATCHES = 24  # where they differ in length: twice as many steps of a part are timed, so that each has its two
PROFILED_S, MOST_PROFILED = 2.0, 50  # about so long, and no more steps: a trace of each has thousands of operations
LARGEST = 8  # operations that are named

Profiler = Callable[[Callable[[], None], Path], list[Operation]]


class Ready(NamedTuple):
    """A batch of the host and of the device, and what a step on it counts for."""

    prepared: Any
    on_device: Any
    starts_sequence: bool
    flops: int  # 0 where batches are whole


def explain(
    session: Session, preset: Preset, *, device: str, traces: Path | None, clock: Clock = time.perf_counter
) -> Explanation:
    """Warms a session up, times its parts, and profiles it; the profiler's own files stay in `traces`.

    Where batches are cut, the parts and the profile are of the same ones in every arm, with the lengths in their shares.
    """
    counted = loop.count_batches(session, preset)
    shapes = loop.until_every_shape(counted)
    mixed = shapes > 1
    chosen = counted[shapes : shapes + MIXED_BATCHES] if mixed else counted[:BATCHES]
    batches = [Ready(one.prepared, session.put(one.prepared), one.starts_sequence, one.flops) for one in chosen]
    steps = _Steps(session, batches)
    steps.run(len(batches))  # of every shape that there is
    phases.enter("warm-up")
    size = loop.warm_up(
        session, preset, cycle((one.prepared, one.starts_sequence) for one in batches), clock=clock,
        block_s=preset.block_s, block_steps=None, note=steps.count,
    )  # fmt: skip
    if mixed:
        size = max(loop.MIXED_STEPS, size)
    phases.enter("parts")
    calls = _parts(session, steps, device=device)
    parts, cpu_s, page_faults = _timed(session, calls, batches, size, clock=clock)
    timed = list(islice(cycle(batches), size * TURNS))
    values = _state(session)
    phases.enter("profile")
    profile, why_not = None, "the backend has none"
    watch: Profiler | None = getattr(session, "profile", None)
    if watch is not None and traces is not None:
        count = MIXED_BATCHES if mixed else max(1, min(MOST_PROFILED, round(PROFILED_S / min(parts["step"]))))
        try:
            profile, why_not = _profiled(watch, steps, count, traces, clock=clock), ""
        except Exception as error:  # a profiler that breaks takes nothing else with it
            why_not = one_line(f"{type(error).__name__}: {error}")
    return Explanation(
        parts=parts, cpu_s=cpu_s, page_faults=page_faults, updates=steps.done,
        state_values=values[0] if values else None, denormals=values[1] if values else None,
        profile=profile, no_profile=why_not or None, flops=round(sum(one.flops for one in timed) / len(timed)) or None,
    )  # fmt: skip


class _Steps:
    """Training steps, counted."""

    def __init__(self, session: Session, batches: list[Ready]) -> None:
        self.session, self.batches, self.done = session, cycle(batches), 0

    def run(self, count: int) -> None:
        """So many steps, to their end."""
        for batch in islice(self.batches, count):
            self.one(batch)
        self.session.wait()

    def one(self, batch: Ready) -> None:
        self.count(loop.step_prepared(self.session, batch.prepared, starts_sequence=batch.starts_sequence))

    def count(self, loss: Any) -> None:
        self.done += 1


Calls = Mapping[str, Callable[[Ready], object]]


def _parts(session: Session, steps: _Steps, *, device: str) -> Calls:
    """What is timed: the whole step, and of the rest what the backend offers."""
    found: dict[str, Callable[[Ready], object]] = {"step": steps.one}
    for part, method in (("forward", "training_loss"), ("gradient", "training_gradient")):
        if (call := getattr(session, method, None)) is not None:
            found[part] = _of_the_device(call)
    if device != "cpu":
        found["transfer"] = lambda batch: session.put(batch.prepared)
    return found


def _of_the_device(call: Callable[[Any], object]) -> Callable[[Ready], object]:
    return lambda batch: call(batch.on_device)


def _timed(
    session: Session, calls: Calls, batches: list[Ready], size: int, *, clock: Clock
) -> tuple[dict[str, list[float]], float, float]:
    """Seconds of each part, turn by turn; processor time and page faults of a step."""
    for call in calls.values():  # compiles, for every shape
        for batch in batches:
            call(batch)
        session.wait()
    streams = {name: cycle(batches) for name in calls}
    parts: dict[str, list[float]] = {name: [] for name in calls}
    used = np.zeros(2)
    rng = random.Random(0)
    for _ in range(TURNS):
        for name in rng.sample(sorted(calls), len(calls)):
            before, start = _usage(), clock()
            for batch in islice(streams[name], size):
                calls[name](batch)
            session.wait()
            parts[name].append((clock() - start) / size)
            if name == "step":
                used += _usage() - before
    cpu_s, page_faults = used / (size * TURNS)
    return parts, float(cpu_s), float(page_faults)


def _usage() -> Any:
    """Processor time of all threads, and minor page faults."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([now.ru_utime + now.ru_stime, now.ru_minflt])


def _state(session: Session) -> tuple[int, int] | None:
    """How many figures the optimizer's state has, and how many are denormal: not 0, and too small for a normal number."""
    state: Callable[[], Iterator[Any]] | None = getattr(session, "optimizer_state", None)
    if state is None:
        return None
    arrays = [array for array in state() if array.dtype.kind == "f"]
    denormals = (np.count_nonzero((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)) for array in arrays)
    return sum(array.size for array in arrays), int(sum(denormals))


def _profiled(watch: Profiler, steps: _Steps, count: int, folder: Path, *, clock: Clock) -> Profile:
    took_s = 0.0

    def run() -> None:
        nonlocal took_s
        start = clock()
        steps.run(count)
        took_s = clock() - start

    folder.mkdir(parents=True, exist_ok=True)
    operations = watch(run, folder)
    if not operations:
        raise RuntimeError("the profiler saw no operation")
    times = timeline.shared(
        timeline.Span(one.thread, one.start_s, one.end_s, (one.name, one.kind)) for one in operations
    )
    kinds: dict[str, float] = defaultdict(float)
    for (_, kind), seconds in times.items():
        kinds[kind] += seconds / count
    ordered = sorted(times.items(), key=lambda item: -item[1])[:LARGEST]
    largest = [OperationTime(name, kind, seconds / count) for (name, kind), seconds in ordered]
    return Profile(count, took_s / count, dict(kinds), len(operations) / count, largest)
