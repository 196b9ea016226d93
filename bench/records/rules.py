"""Every rule of what counts: what makes a record valid, and what the records of a comparison must have in common.

The worker applies `invalid` to what it measured; the parent, resume and every reader apply it to what a file claims, through
bench/records/files.py, and `judged` to what lies together in a folder. Nothing that follows from other fields is believed:
whether a rung was passed, whether the target was reached, the hash of a spec and the throughput are computed (record.py).
Whether an arm may be ranked is decided on what is left, in bench/report/grouping.py.

A record that breaks a rule takes part in nothing, and is named with the rule. A rule about what older versions of the
measurement did not record holds only for records that have it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import msgspec

from bench.records import disturbed
from bench.records.metrics import METRICS
from bench.records.record import (
    MEASUREMENT,
    RUNGS,
    Arm,
    Cell,
    Disturbance,
    Inference,
    Ladder,
    Loading,
    Outcome,
    Quality,
    Record,
    Timings,
)

MOST_UNFINISHED = 0.5  # of a step, undone after a barrier: less is noise, and a forward pass alone is a third of a step
MOST_APART = 0.01  # of a block, undone after it, where its steps take microseconds
ROUNDING = 1e-4  # of a sum of the times that it is a sum of
HICCUP_S = 0.01  # between two readings of a clock the kernel may give the core to somebody else
MOST_CPU = 1.1  # of the cores that a process may use; the clocks are not the same one
FEW_CALLS = 20  # of which a percentile says little
FEW_ITEMS = 0.005  # more or fewer in a step, as a share
PADDED_BATCHES = 2  # more of them may lie in one window than in another
EACH_LOSS = 50  # the loss of every update up to this one is kept: proof of work (proof.py)
LOSS_EVERY, LAST_LOSS = 10, 500  # and then of every tenth up to this one
SHARES = ("others_share", "siblings_share", "stolen_share", "withheld_share")
TIMES = ("cpu_s", "unfinished_s", "barrier_s")
LEAST_COUNTED_S = 0.5  # of a window whose processor times are known
SLACK_BYTES = 8 * 2**20  # the kernel's counters of resident memory lag behind one another
START_S = 1.0  # by which the parts of a process may last longer than the whole, on two clocks
SETTINGS = ("device", "precision", "mode")
"""What a session reads back, and must be what the arm declares."""

PROBE_BOUNDS: Mapping[str, tuple[float, float]] = {
    # The relative error of a product of normal matrices, by what it was computed in: from, to.
    "float64": (0.0, 1e-12),
    "float32": (1e-12, 5e-6),
    "tf32": (5e-6, 1e-3),
    "bfloat16": (1e-3, 3e-2),
}

LOOSEST: Mapping[str, float] = {"float64": 1e-5, "float32": 1e-2, "tf32": 0.1, "bfloat16": 0.5}
"""Precision -> no tolerance of a relative norm on the ladder (bench/worker/parity.py) is larger."""


# One record.


def invalid(record: Record) -> list[str]:
    """Why a record contradicts itself, or what it was asked, in words; empty if it does not."""
    outcome = record.outcome
    if outcome.status != "ok":
        return [] if outcome.reason else [f"status {outcome.status} without a reason"]
    figures = {
        "parity": outcome.ladders, "speed": outcome.timings, "pilot": outcome.timings, "memory": outcome.memory,
        "quality": outcome.quality, "explain": outcome.explanation, "inference": outcome.inference,
        "loading": outcome.loading,
    }  # fmt: skip
    if not figures[record.cell.kind]:
        return [f"status ok without figures of {record.cell.kind}"]
    if record.run.measurement > MEASUREMENT or (record.run.source and record.run.measurement == 1):
        return [f"there is no measurement version {record.run.measurement} that it could belong to"]
    looks = (_asked, _settings, _ranks, _parity, _speed, _memory, _quality, _explanation, _inference, _loading)
    return [why for look in looks for why in look(record)]


def timing_faults(timings: Timings) -> Iterator[str]:
    """Why timings do not measure a steady state."""
    step_s, block_s = timings.step_s, timings.window_s / len(timings.blocks_s)
    if timings.compilations:
        yield f"{timings.compilations} compilations inside the timed window: a batch of another shape?"
    most_s = max(MOST_UNFINISHED * step_s, MOST_APART * block_s)
    if timings.unfinished_s is not None and timings.unfinished_s > most_s:
        yield f"the barrier does not wait: {100 * (timings.unfinished_s / step_s):.0f} % of a step was still undone after it"
    if abs(sum(timings.blocks_s) - timings.window_s) > ROUNDING * timings.window_s:
        yield f"the window of {timings.window_s:g} s is not its blocks of {sum(timings.blocks_s):g} s together"


def probe_fault(precision: str, error: float) -> str | None:
    """Why a matrix product's error is not that of a precision."""
    low, high = PROBE_BOUNDS.get(precision, (0.0, math.inf))
    return None if low <= error <= high else f"{precision} was requested, but a matrix product was off by {error:.1e}"


def cores_fault(timings: Timings, allowed: int) -> str | None:
    """Why a process cannot have been as busy as it says."""
    cpu_s = timings.cpu_s
    if cpu_s is None or cpu_s <= MOST_CPU * allowed * timings.window_s + HICCUP_S:
        return None
    return f"{cpu_s / timings.window_s:.1f} cores were busy in a process that may use only {allowed}"


def settings_faults(arm: Arm, settings: Mapping[str, object], names: Iterable[str] = SETTINGS) -> Iterator[str]:
    """What was in force and was not asked for; `names` are those that must have been read back."""
    wanted: dict[str, object] = {name: getattr(arm, name) for name in names}
    if arm.threads is not None:
        wanted["cores"] = arm.threads
    if arm.processes > 1:
        wanted["processes"] = arm.processes
    for name, value in wanted.items():
        if settings.get(name) != value:
            yield f"{name} {value} was requested, but {settings.get(name)} was in force"


def parity_fault(arm: Arm, ladders: Sequence[Ladder]) -> str | None:
    """Why ladders do not prove an arm; None if they do."""
    if not ladders:
        return "parity was not checked"
    if not all(ladder.passed for ladder in ladders):
        return "parity failed"
    climbed = {(ladder.precision, ladder.device) for ladder in ladders}
    for precision, device in (("float64", "cpu"), (arm.precision, arm.device)):
        if (precision, device) not in climbed:
            return f"parity was not checked in {precision} on the {device}"
    return None


def _ranks(record: Record) -> Iterator[str]:
    """Whether there are figures of each process of an arm of several, and whether those of the arm are theirs together."""
    ranks, processes = record.outcome.ranks, record.cell.arm.processes
    wanted = processes if processes > 1 and record.cell.kind != "parity" else 0
    if len(ranks) != wanted:
        yield f"figures of {len(ranks)} ranks, expected {wanted}"
    timings = record.outcome.timings
    if ranks and timings is not None and timings.cpu_s is not None:
        used_s = sum(one.cpu_s or 0.0 for one in ranks)
        if abs(used_s - timings.cpu_s) > ROUNDING * timings.cpu_s + HICCUP_S:
            yield f"its ranks had {used_s:.4g} s of processor time, and it says {timings.cpu_s:.4g} s"


def _asked(record: Record) -> Iterator[str]:
    """Whether what was asked for is possible; records without a source are older than some of it."""
    run, cell = record.run, record.cell
    if run.source is None:
        return
    if cell.arm.precision not in PROBE_BOUNDS:
        yield f"there is no precision {cell.arm.precision!r}"
    data = cell.spec.get("data")
    if isinstance(data, dict) and any(
        data.get(name) != value for name, value in msgspec.to_builtins(cell.data).items()
    ):
        yield "its data set is not the one in its spec"


def _settings(record: Record) -> Iterator[str]:
    if record.cell.kind == "parity":
        return
    arm, settings = record.cell.arm, record.outcome.settings
    if record.run.measurement > 1:
        yield from settings_faults(arm, settings)
    else:  # whose sessions did not yet say everything
        arm = arm if "cores" in settings else msgspec.structs.replace(arm, threads=None)
        yield from settings_faults(arm, settings, [name for name in SETTINGS if name in settings])


def _parity(record: Record) -> Iterator[str]:
    if record.cell.kind != "parity":
        return
    if why := parity_fault(record.cell.arm, record.outcome.ladders):
        yield why
    for ladder in record.outcome.ladders if record.run.source is not None else ():
        if ladder.height != len(RUNGS) or any(
            rung.name != RUNGS[rung.number - 1] for rung in ladder.rungs[: len(RUNGS)]
        ):
            yield f"its ladder in {ladder.precision} does not have the {len(RUNGS)} rungs of the ladder"
        for rung in ladder.rungs:
            if rung.name != "dropout" and rung.tolerance > (most := LOOSEST.get(ladder.precision, 0.0)):
                yield f"a tolerance of {rung.tolerance:g} on rung {rung.number} in {ladder.precision}, never above {most:g}"


def _speed(record: Record) -> Iterator[str]:
    timings = record.outcome.timings
    if timings is not None:
        yield from timing_faults(timings)
        parts = ("import_s", "build_s", "first_step_s", "warmup_s", "window_s")
        yield from _too_long(record, sum(getattr(timings, part) for part in parts))
        yield from _work(record.cell, timings)
        yield from _way(record, timings)


def _explanation(record: Record) -> Iterator[str]:
    found = record.outcome.explanation
    if found is None:
        return
    if "step" not in found.parts or any(len(turns) != len(found.parts["step"]) for turns in found.parts.values()):
        yield f"the parts of a step were not timed in the same number of turns as the step: {', '.join(sorted(found.parts))}"
    if found.profile is not None and sum(found.profile.kinds.values()) > (1 + ROUNDING) * found.profile.step_s:
        yield "the operations of a profile took longer than the steps that it watched"


def _inference(record: Record) -> Iterator[str]:
    found, cell = record.outcome.inference, record.cell
    if found is None:
        return
    yield from inference_faults(found)
    yield from _too_long(record, found.import_s + found.build_s + found.warmup_s + sum(found.blocks_s))
    if len({calls.batch_size for calls in found.calls}) < len(found.calls):
        yield "a batch size appears twice"
    length = cell.spec.get("window", 1)
    for calls in found.calls:
        most = calls.batch_size * length if isinstance(length, int) else None
        if most is not None and calls.items > most * calls.count:
            yield f"{calls.items:,} {cell.unit} in {calls.count:,} calls of at most {most:,}"
    yield from _watched(record, "predictions")


def _watched(record: Record, what: str) -> Iterator[str]:
    """Whether figures that are no training's have what a speed must have beside it."""
    if record.outcome.probe is None:
        yield f"{what} without a probe of their precision"
    elif why := probe_fault(record.cell.arm.precision, record.outcome.probe.error):
        yield why
    if record.outcome.disturbance is None:
        yield f"{what} without a record of disturbances"


def inference_faults(found: Inference) -> Iterator[str]:
    """Why timed calls are not those of a steady state."""
    if found.compilations:
        yield f"{found.compilations} compilations inside the timed window: a batch of another shape?"
    if len({len(calls.blocks_s) for calls in found.calls}) > 1:
        yield "the batch sizes do not all have the same number of blocks"
    for calls in found.calls:
        if not calls.p50_s <= calls.p90_s <= calls.p99_s:
            yield f"the percentiles of batch size {calls.batch_size} are out of order"
        least_s = calls.count * (
            0.4 * calls.p50_s + 0.09 * calls.p90_s
        )  # those above, less one call each that is between
        if calls.count > FEW_CALLS and least_s > (1 + ROUNDING) * calls.window_s:
            yield f"{calls.count:,} calls of {calls.p50_s:g} s and more in {calls.window_s:g} s"


def _loading(record: Record) -> Iterator[str]:
    found, cell = record.outcome.loading, record.cell
    if found is None:
        return
    yield from loading_faults(found)
    blocks_s, cores = sum(found.blocks_s), record.outcome.settings.get("cores")
    yield from _too_long(record, found.import_s + found.build_s + found.first_s + found.warmup_s + blocks_s)
    if found.turns_s is not None and found.turns_s + HICCUP_S < blocks_s:
        yield f"turns of {found.turns_s:.4g} s with blocks of {blocks_s:.4g} s"
    if found.turns_s and isinstance(cores, int) and (found.cpu_s or 0.0) > MOST_CPU * cores * found.turns_s + HICCUP_S:
        yield f"{(found.cpu_s or 0.0) / found.turns_s:.1f} cores were busy in the turns of a process that may use only {cores}"
    if (most := most_items(cell)) is not None:
        for name, feed in found.feeds.items():
            if feed.items > (at_most := most * feed.block_batches * len(feed.blocks_s)):
                yield f"{feed.items:,} {cell.unit} in blocks of at most {at_most:,} ({name})"
        if found.pass_items > most * found.pass_batches:
            yield f"{found.pass_items:,} {cell.unit} in a pass of at most {most * found.pass_batches:,}"
    yield from _watched(record, "batches")


def loading_faults(found: Loading) -> Iterator[str]:
    """Why timed batches are not those of a steady state."""
    if found.compilations:
        yield f"{found.compilations} compilations inside the timed window: a batch of another shape?"
    if len({len(feed.blocks_s) for feed in found.feeds.values()}) > 1:
        yield "the parts do not all have the same number of blocks"


def _too_long(record: Record, parts_s: float) -> Iterator[str]:
    """Whether the parts of a process last longer than the process, as its parent saw it."""
    whole_s = record.outcome.wall_s
    if whole_s and record.run.source is not None and parts_s > whole_s + START_S:
        yield f"what it did took {parts_s:.4g} s, in a process of {whole_s:.4g} s"


def _work(cell: Cell, timings: Timings) -> Iterator[str]:
    """Whether a window can hold what it says that it does."""
    if cell.block_steps is not None and timings.block_steps != cell.block_steps:
        yield f"blocks of {timings.block_steps:,} steps, but {cell.block_steps:,} were requested"
    steps = timings.block_steps * len(timings.blocks_s)
    if (most := most_items(cell)) is not None and timings.items > most * steps:
        yield f"{timings.items:,} {cell.unit} in {steps:,} steps of at most {most:,}"
    if timings.flops is not None and timings.flops > (cell.step_flops or 0) * steps:
        yield f"{timings.flops:,} operations in {steps:,} steps of at most {cell.step_flops or 0:,}"
    length = cell.spec.get("max_length")
    if timings.tokens is not None and isinstance(length, int) and timings.tokens > length * timings.items:
        yield f"{timings.tokens:,} tokens in {timings.items:,} {cell.unit} of at most {length}"
    updates = [update for update, _ in timings.losses]
    if updates != sorted(set(updates)):
        yield "the losses of the window are not in order of their updates"
    if updates and updates[-1] + LOSS_EVERY <= min(LAST_LOSS, steps):
        yield f"losses up to update {updates[-1]}, and {steps:,} steps in the window alone"


def _way(record: Record, timings: Timings) -> Iterator[str]:
    """Whether it was measured in the way that was asked for, on a machine that was watched."""
    outcome, arm, recorded = record.outcome, record.cell.arm, record.run.measurement > 1
    there_are = arm.nodes * record.run.machine.cores
    cores = min((arm.threads or there_are) * arm.processes, there_are)
    if why := cores_fault(timings, cores):
        yield why
    if outcome.probe is not None and (why := probe_fault(arm.precision, outcome.probe.error)):
        yield why
    if outcome.probe is None and recorded:
        yield "a speed without a probe of its precision"
    if outcome.disturbance is None and recorded:
        yield "a speed without a record of disturbances"
    counts = record.run.source is not None and arm.device == "cpu" and timings.window_s > LEAST_COUNTED_S
    if counts and timings.cpu_s == 0:
        yield f"no processor time in a window of {timings.window_s:.4g} s"
    if outcome.disturbance is not None:
        own_share = (timings.cpu_s or 0.0) / (cores * timings.window_s)
        yield from _disturbance(outcome.disturbance, own_share) if recorded else _disturbed_once(outcome.disturbance)


def _disturbance(found: Disturbance, own_share: float) -> Iterator[str]:
    """Whether a window is called disturbed exactly where its own figures say so."""
    shares = {name: getattr(found, name) for name in SHARES}
    why = disturbed.judge(**shares, own_share=None, gpu=found.gpu)
    if (why is None) != (found.disturbed is None):
        yield f"its window is {'not ' if found.disturbed is None else ''}marked as disturbed, but its figures contradict that"
    if found.others_share and found.others_share + own_share > MOST_CPU:
        yield f"others had {100 * found.others_share:.0f} % of the cores' time, and the process itself {100 * own_share:.0f} %"


def _disturbed_once(found: Disturbance) -> Iterator[str]:
    """The same where the limit was another one: something must have been lost at least."""
    if found.disturbed and found.gpu is None and not any(getattr(found, name) for name in SHARES):
        yield "its window is marked as disturbed, but its figures contradict that"


def most_items(cell: Cell) -> int | None:
    """How many items a step has at most, by its spec; None where that does not say."""
    rows, length = cell.spec.get("batch_size"), cell.spec.get("window", 1)
    return rows * length if isinstance(rows, int) and isinstance(length, int) else None


def _memory(record: Record) -> Iterator[str]:
    memory = record.outcome.memory
    if memory is None:
        return
    there_is = record.cell.arm.nodes * record.run.machine.memory_bytes
    for name in ("host_import", "host_peak", "host_peak_training"):
        size = getattr(memory, name).bytes
        if size is not None and size > there_is:
            yield f"{name.replace('_', ' ')} of {size:,} bytes, more than the machine has"
    pairs = (("host_import", "host_peak"), ("host_peak_training", "host_peak"),
             ("device_peak_allocated", "device_peak_reserved"))  # fmt: skip
    for less, more in pairs:
        small, large = getattr(memory, less).bytes, getattr(memory, more).bytes
        if small is not None and large is not None and small > large + SLACK_BYTES:
            yield f"{less.replace('_', ' ')} is more than {more.replace('_', ' ')}"


def _quality(record: Record) -> Iterator[str]:
    quality, cell = record.outcome.quality, record.cell
    if quality is None:
        return
    wanted = cell.spec.get("train_steps")
    if isinstance(wanted, int) and quality.steps != wanted:
        yield f"{quality.steps:,} training steps, but the task has {wanted:,}"
    steps = [step for step, *_ in quality.curve]
    if steps != sorted(set(steps)) or (steps and steps[-1] != quality.steps) or not steps:
        yield "the curve of the training does not lead to its last step"
    points = [(step, seconds) for step, seconds, _ in quality.validation]
    if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(points)):
        yield "the evaluations of the training are out of order"
    if points and (points[-1][0] >= quality.steps or points[-1][1] > quality.train_s):
        yield "an evaluation of the training comes after its end"
    yield from _training_energy(quality)
    metric = cell.target.metric
    if metric not in quality.metrics:
        yield f"no {metric}, the metric that quality is judged by"
    for name, value in quality.metrics.items():
        known = METRICS.get(name)
        if known is not None and known.percent and not 0 <= value <= 1:
            yield f"{name} {value:g} is not a share between 0 and 1"
    if quality.train_s <= 0 or quality.evaluate_s < 0:
        yield "a training that took no time"
    yield from _too_long(record, quality.train_s + quality.evaluate_s)
    yield from _counted(quality.metrics)


def _training_energy(quality: Quality) -> Iterator[str]:
    """Whether the joules of a training are those of its own points, and grow."""
    steps = [step for step, _ in quality.energy]
    points = {step for step, *_ in quality.validation} | {quality.steps}
    if steps and (steps != sorted(set(steps)) or not points <= set(steps)):
        yield "the energy of the training was not read at its evaluations"
    joules = [energy.joules for _, energy in quality.energy if energy.joules is not None]
    if joules != sorted(joules):
        yield "a training used less energy the longer it went on"


def _counted(metrics: Mapping[str, float]) -> Iterator[str]:
    """Whether the accuracy is that of the confusion matrix, where there is one of two classes."""
    counts = {(i, j): metrics.get(f"confusion_{i}{j}") for i in (0, 1) for j in (0, 1)}
    known = [count for count in counts.values() if count is not None]
    accuracy = metrics.get("accuracy")
    if len(known) < len(counts) or accuracy is None or sum(known) <= 0:
        return
    right = (counts[0, 0] or 0.0) + (counts[1, 1] or 0.0)
    if abs(right / sum(known) - accuracy) > ROUNDING:
        yield f"an accuracy of {accuracy:.4f}, but {right:g} of {sum(known):g} were right"


# Records that lie together.


class Judged(list[Record]):
    """Records that were judged together: to judge them again would find nothing."""


def judged(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The records, those that break a rule made invalid, and a line for each rule that is broken.

    Of those that are ok, each cell was run once. All records of a task in a run have the same machine, source and measurement,
    the same data, unit, target and spec; those of an arm have the same versions. Where records differ, those that are fewer
    than half take part in nothing, and where no value has more than half, none does. A ladder that a record carries is the one
    that its arm climbed. Steps hold as many items in all of them, but for what is padding in one batch or two.
    """
    if isinstance(records, Judged):
        return records, []
    made = list(records)
    problems: list[str] = []
    for rule in (_once, _of_one_comparison, _of_one_installation, _as_climbed, _as_complete, _as_high, _as_many_items):
        broken = rule(made)
        problems += [f"{made[at].cell.file_name}: {why}" for at, why in sorted(broken.items())]
        made = [_without_figures(one, broken[at]) if at in broken else one for at, one in enumerate(made)]
    return Judged(made), problems


def _without_figures(record: Record, why: str) -> Record:
    outcome = Outcome(
        status="invalid", reason=why, started_utc=record.outcome.started_utc, versions=record.outcome.versions
    )
    return msgspec.structs.replace(record, outcome=outcome, cell=msgspec.structs.replace(record.cell, ladders=[]))


def _once(records: Sequence[Record]) -> dict[int, str]:
    places = _grouped(records, lambda one: (one.run.id, one.cell.file_name))
    return {
        at: f"there are {len(group)} records of this cell"
        for group in places.values() if len(group) > 1
        for at in group
    }  # fmt: skip


def _of_one_comparison(records: Sequence[Record]) -> dict[int, str]:
    facts: Mapping[str, Callable[[Record], Any]] = {
        "version of the measurement": lambda one: one.run.measurement,
        "machine": lambda one: one.run.machine,
        "source of framework-bench": lambda one: one.run.source,
        "spec": lambda one: one.cell.spec_hash,
        "data set": lambda one: one.cell.data,
        "unit": lambda one: one.cell.unit,
        "target": lambda one: one.cell.target,
        "number of operations in a step": lambda one: one.cell.step_flops,
    }
    groups = _grouped(
        records, lambda one: (one.run.id, one.cell.task, one.cell.preset, tuple(one.cell.changes.items()))
    )
    return _minorities(records, groups, facts, "the others of its run")


def _of_one_installation(records: Sequence[Record]) -> dict[int, str]:
    groups = _grouped(records, lambda one: (one.run.id, one.cell.task, one.cell.preset, one.cell.arm.hash))
    return _minorities(records, groups, {"versions": lambda one: one.outcome.versions}, "the others of its arm")


def _as_climbed(records: Sequence[Record]) -> dict[int, str]:
    groups = _grouped(records, lambda one: (one.run.id, one.cell.task, one.cell.preset, one.cell.arm.hash))
    found: dict[int, str] = {}
    for group in groups.values():
        climbed = [records[at].ladders for at in group if records[at].cell.kind == "parity"]
        for at in group:
            carried = records[at].cell.ladders
            if climbed and carried and carried not in climbed:
                found[at] = "it has a ladder that its arm did not climb"
    return found


def _as_complete(records: Sequence[Record]) -> dict[int, str]:
    """What most processes of speed say, whatever version of the measurement they are of, and one leaves out."""
    found: dict[int, str] = {}
    for group in _grouped(records, lambda one: (one.run.id, one.cell.task, one.cell.preset, one.cell.kind)).values():
        for name in ("probe", "disturbance", "settings"):
            without = [at for at in group if records[at].outcome.timings and not getattr(records[at].outcome, name)]
            if 2 * len(without) < len(group):
                found |= dict.fromkeys(without, f"it has no {name}, but the others of its run do")
        for name in (*SHARES, *TIMES):
            told = {at: _told(records[at], name) for at in group if _is_counted(records[at])}
            without = [at for at, share in told.items() if share is None]
            if 2 * len(without) < len(told):
                found = dict.fromkeys(without, f"it has no {name}, but the others of its run do") | found
    return found


def _told(record: Record, name: str) -> float | None:
    """A share of the disturbance or a time of the window; None where it is not told."""
    part = record.outcome.disturbance if name in SHARES else record.outcome.timings
    found: float | None = getattr(part, name, None)
    return found


def _is_counted(record: Record) -> bool:
    return record.outcome.timings is not None and record.outcome.timings.window_s > LEAST_COUNTED_S


def _as_high(records: Sequence[Record]) -> dict[int, str]:
    """The ladders of a comparison are of the same rungs."""
    groups = _grouped(records, lambda one: (one.run.id, one.cell.task, one.cell.preset))
    climbs = {
        key: [
            at for at in group if records[at].cell.kind == "parity" and all(one.passed for one in records[at].ladders)
        ]
        for key, group in groups.items()
    }

    def rungs(one: Record) -> list[str]:
        return [rung.name for ladder in one.outcome.ladders[-1:] for rung in ladder.rungs]

    return _minorities(records, climbs, {"ladder": rungs}, "the other arms")


def _as_many_items(records: Sequence[Record]) -> dict[int, str]:
    groups = _grouped(records, lambda one: (one.run.id, one.cell.task, one.cell.preset, one.cell.kind))
    found: dict[int, str] = {}
    for group in groups.values():
        timed = {at: timings for at in group if (timings := records[at].outcome.timings) is not None}
        steps = {at: timings.block_steps * len(timings.blocks_s) for at, timings in timed.items()}
        usual = median(timings.items / steps[at] for at, timings in timed.items()) if timed else 0.0
        for at, timings in timed.items():
            most = usual * max(FEW_ITEMS, PADDED_BATCHES / min(steps.values()))
            if abs(timings.items / steps[at] - usual) > most:
                found[at] = (
                    f"{timings.items / steps[at]:.4g} items in a step, but the others of its run have {usual:.4g}"
                )
    return found


def _minorities(
    records: Sequence[Record],
    groups: Mapping[Any, Sequence[int]],
    facts: Mapping[str, Callable[[Record], Any]],
    whom: str,
) -> dict[int, str]:
    found: dict[int, str] = {}
    for group in groups.values():
        for name, of in facts.items():
            first = of(records[group[0]]) if group else None
            if all(of(records[at]) == first for at in group):
                continue
            values = {at: repr(of(records[at])) for at in group}
            counted = Counter(values.values())
            usual = next((value for value, times in counted.items() if 2 * times > len(group)), None)
            for at, value in values.items():
                if value != usual:
                    found.setdefault(at, f"its {name} differs from that of {whom}")
    return found


def _grouped(records: Sequence[Record], key: Callable[[Record], Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for at, one in enumerate(records):
        if one.outcome.status == "ok":
            groups[key(one)].append(at)
    return groups
