"""The child process: one request in, one record out.

    python -m bench.worker request.json record.json

It loads one backend by name and does one thing: climb the ladder of parity, time the steady state, measure memory, or train
to the task's budget and evaluate. The clock is `time.perf_counter`, which is monotonic.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

import backends
import tasks
from backends import BackendMissing
from backends.api import Backend, Options, Session, Unsupported
from bench import cores, disturbance, energy, loop, machine, matrix, memory, phases, planted, record, sampling
from bench.metrics import METRICS
from bench.record import Kind, Ladder, Memory, Model, Quality, Record, Status, Timings
from tasks.spec import Params, Preset, SpecError, Target

HARNESS_ONLY = ("matplotlib", "pandas", "scipy", "sklearn")
"""Installed for the tables, the data and the reference, and imported by Keras wherever it finds them."""

SAMPLE_TOKENS = 40  # of a language model, for the reader of a report

MOST_CPU = 1.1  # of the cores that a process may use; the clocks are not the same one

MEMORY_STEPS = 50  # beyond the warm-up; allocators reach their peak in the first few


class Request(Model, frozen=True):
    """A record with everything known beforehand filled in, and where the data lies."""

    record: Record
    data_dir: str | None = None
    slow_down: float = 0.0  # planted by a self-test: this share of the timed steps is done twice and counted once


def main(arguments: list[str]) -> int:
    """Exit code 0 if a record was written, whatever its status; EX_IOERR if it could not be."""
    phases.attach()
    request_path, record_path = map(Path, arguments)
    request: Request = record.decode(request_path.read_bytes(), Request)
    answered = answer(request)
    try:
        record.write(record_path, answered)
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return os.EX_IOERR
    return 0


def answer(request: Request) -> Record:
    """The request's record with its status and what was measured."""
    asked = request.record
    hide_what_is_not_measured(asked.backend, but=backends.REFERENCE.needs if asked.kind == "parity" else ())
    try:
        phases.enter("data")
        preset = tasks.load(asked.task, asked.preset, data_dir=Path(request.data_dir) if request.data_dir else None)
        speed = partial(_speed, slow_down=request.slow_down)
        kinds: dict[Kind, Callable[[Record, Preset], Record]] = {
            "parity": _parity, "speed": speed, "pilot": speed, "memory": _memory, "quality": _quality,
        }  # fmt: skip
        return kinds[asked.kind](asked, preset)
    except Exception as error:  # whatever a framework raises becomes a record
        status, reason = _classify(error)
        return msgspec.structs.replace(asked, status=status, reason=reason)


def hide_what_is_not_measured(backend: str, *, but: Collection[str] = ()) -> None:
    """Makes the other backends' frameworks, and what only the harness needs, look as if they were not installed.

    TensorFlow imports JAX, and Keras pandas and scikit-learn, if they are there: with all frameworks in one environment, their
    time and memory would be counted as TensorFlow's. A backend of the user's own, by a dotted name, sees everything.
    """
    if backend in backends.BACKENDS:
        others = {module for name, entry in backends.BACKENDS.items() if name != backend for module in entry.needs}
        entry = backends.BACKENDS[backend]
        hidden = {*others, *HARNESS_ONLY} - {*entry.needs, *entry.brings, *but}
        sys.meta_path[:] = [_Hiding(hidden) if finder is PathFinder else finder for finder in sys.meta_path]


class _Hiding:
    """The import system's finder of installed modules, blind to some names."""

    def __init__(self, hidden: set[str]) -> None:
        self.hidden = hidden

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return None if name in self.hidden else PathFinder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathFinder, name)  # `find_distributions` and `invalidate_caches`


def _parity(asked: Record, preset: Preset) -> Record:
    from bench import parity  # with the reference: the other processes have no use for them

    backend = _load(asked)
    phases.enter("parity")
    # The proof in double precision on the CPU, then the same in what is being timed.
    climbs = [Options(device="cpu", precision="float64"), Options(device=asked.device, precision=asked.precision)]
    ladders: list[Ladder] = []
    for options in climbs if climbs[0] != climbs[1] else climbs[:1]:
        ladders.append(parity.climb(backend, preset.task, options, timed=options == climbs[1]))
        if not ladders[-1].passed:
            break
    fallen = not ladders[-1].passed
    return msgspec.structs.replace(
        asked,
        status="failed" if fallen else "ok",
        reason=describe_fall(ladders) if fallen else None,
        parity=ladders,
        versions=dict(backend.versions()),
    )


def describe_fall(ladders: list[Ladder]) -> str:
    """Where a backend fell off the ladder, in words."""
    ladder = ladders[-1]
    rung = ladder.rungs[-1]
    found = (
        f"difference {rung.difference:.1e}, tolerance {rung.tolerance:.0e}" if rung.difference is not None else "failed"
    )
    return record.one_line(
        f"parity: fell at rung {rung.number} ({rung.name}) in {ladder.precision}: {rung.where}: {found}"
    )


def _speed(asked: Record, preset: Preset, *, slow_down: float) -> Record:
    start = time.perf_counter()
    backend = _load(asked)
    imported = time.perf_counter()
    params = preset.task.init_params(asked.seed)
    before_build = time.perf_counter()
    session = _open(backend, preset, asked, params)
    session.wait()
    built = time.perf_counter()
    if slow_down:
        session = planted.slowed(session, slow_down)
    watch = disturbance.Watch(gpu=asked.device == "gpu")
    phases.enter("first step")
    meter = energy.Meter(device=asked.device) if asked.energy is not None else None
    window = loop.measure(session, preset, clock=time.perf_counter, **around(watch, meter))
    phases.enter("checks")
    batches = preset.task.train_batches(seed=0)
    barrier_s, unfinished_s = loop.check_barrier(session, batches, clock=time.perf_counter)
    timings = Timings(
        import_s=imported - start,
        build_s=built - before_build,
        block_steps=preset.block_steps,
        barrier_s=barrier_s,
        unfinished_s=unfinished_s,
        cpu_s=watch.cpu_s,
        **vars(window),
    )
    faults = loop.faults(timings)
    probe = matrix.probe(session, device=asked.device, clock=time.perf_counter)
    if not matrix.agrees(asked.precision, probe.error):
        faults.append(f"{asked.precision} was asked for, but a matrix product was off by {probe.error:.1e}")
    allowed = machine.usable_cores()
    if watch.cpu_s > MOST_CPU * allowed * window.window_s:
        faults.append(f"{watch.cpu_s / window.window_s:.1f} cores were busy for this process, which may use {allowed}")
    unsteady = loop.unsteady(window.blocks_s)
    return _finished(
        asked, backend, session, faults=faults, timings=timings, probe=probe, disturbance=watch.disturbance,
        remarks=[unsteady] if unsteady else [], energy=meter.energy if meter else None,
    )  # fmt: skip


def around(watch: disturbance.Watch, meter: energy.Meter | None) -> dict[str, Any]:
    """What `loop.measure` is told: who watches the window, and that it has to be long where an energy counter is read."""
    if meter is None or meter.missing:
        return {"around": watch}

    @contextmanager
    def both() -> Iterator[None]:
        with watch, meter:
            yield

    return {"around": both(), "min_window_s": energy.MIN_WINDOW_S}


def _memory(asked: Record, preset: Preset) -> Record:
    card = memory.CardWatch(device=asked.device)
    backend = _load(asked)
    imported = memory.host_now()  # before the data, which is the same for every backend
    phases.enter("data")
    batches = list(islice(preset.task.train_batches(seed=0), 1 + preset.warmup_steps + MEMORY_STEPS))
    params = preset.task.init_params(asked.seed)
    session = _open(backend, preset, asked, params)
    phases.enter("memory")
    for batch in batches[:1]:
        loop.step(session, batch)
    session.wait()
    card.look()
    peak_of_setup = memory.host_peak()
    reset = memory.reset_host_peak()
    for batch in batches[1:]:
        loop.step(session, batch)
    session.wait()
    card.look()
    training = memory.host_peak() if reset else record.Bytes(None, memory.ONLY_LINUX)
    peaks = [peak.bytes for peak in (peak_of_setup, training) if peak.bytes is not None]
    allocated, reserved = memory.device_peaks(session)
    measured = Memory(
        host_import=imported,
        host_peak=record.Bytes(max(peaks)) if peaks else peak_of_setup,
        host_peak_training=training,
        device_peak_allocated=allocated,
        device_peak_reserved=reserved,
        device_peak_process=card.peak(),
    )
    return _finished(asked, backend, session, memory=measured)


def _quality(asked: Record, preset: Preset) -> Record:
    backend = _load(asked)
    task = preset.task
    session = _open(backend, preset, asked, task.init_params(asked.seed))
    phases.enter("training")
    batches = task.train_batches(asked.seed)
    train_s, curve = loop.train(session, batches, steps=task.train_steps, clock=time.perf_counter)
    phases.enter("evaluation")
    start = time.perf_counter()
    metrics = task.metrics(loop.evaluate(session, task.eval_batches()))
    evaluate_s = time.perf_counter() - start
    sample = sampling.sample(session, task, length=SAMPLE_TOKENS) if isinstance(task, sampling.LanguageTask) else None
    quality = Quality(task.train_steps, train_s, evaluate_s, metrics, curve, sample)
    value = metrics[preset.target.metric]
    remarks = [too_good(preset.target, value)] if too_good(preset.target, value) else []
    return _finished(
        asked, backend, session, quality=quality, target_reached=preset.target.reached(value), remarks=remarks
    )


def too_good(target: Target, value: float) -> str:
    """What to say about a quality that is better than the target's far bound; empty where it is not."""
    known = METRICS.get(target.metric)
    if known is None or known.higher_is_better:
        better = target.at_most is not None and value > target.at_most
    else:
        better = target.at_least is not None and value < target.at_least
    return f"{target.metric} {value:g} is too good, {target}: were the answers in the inputs?" if better else ""


def _load(asked: Record) -> Backend:
    phases.enter("import")
    return backends.load(asked.backend)


def _open(backend: Backend, preset: Preset, asked: Record, params: Params) -> Session:
    phases.enter("build")
    options = Options(device=asked.device, precision=asked.precision, seed=asked.seed)
    return backend.open_session(preset.task, params, options)


def _finished(
    asked: Record, backend: Backend, session: Session, *, faults: Sequence[str] = (), **measured: object
) -> Record:
    """The record of a process that came to its end; a fault, or a setting that was not in force, makes it invalid."""
    settings = {**session.settings(), "cores": cores.in_force()}
    found = list(faults)
    declared = {"device": asked.device, "precision": asked.precision, "cores": asked.threads or settings["cores"]}
    for name, wanted in declared.items():
        if settings.get(name) != wanted:
            found.append(f"{name} {wanted} was asked for, {settings.get(name)} was in force")
    status: Status = "invalid" if found else "ok"
    reason = record.one_line("; ".join(found)) or None
    return msgspec.structs.replace(
        asked, status=status, reason=reason, settings=settings, versions=dict(backend.versions()), **measured
    )


def _classify(error: Exception) -> tuple[Status, str]:
    message = record.one_line(str(error)) or type(error).__name__
    if isinstance(error, BackendMissing):
        return "skipped", message
    if isinstance(error, Unsupported):
        return "unsupported", message
    if isinstance(error, MemoryError) or re.search("out of memory|RESOURCE_EXHAUSTED", str(error)):
        return "oom", f"out of memory: {message}"
    if isinstance(error, SpecError | loop.Diverged):
        return "failed", message
    return "failed", f"{type(error).__name__}: {message}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
