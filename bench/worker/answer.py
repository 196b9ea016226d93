"""The child process: one request in, one outcome out.

It loads one backend by name and does one thing: climb the ladder of parity, time the steady state, measure memory, or train
to the task's budget and evaluate. The clock is `time.perf_counter`, which is monotonic.
"""

import errno
import math
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import msgspec

import backends
import tasks
from backends import BackendMissing
from backends.api import DEFAULT_MODE, Backend, Options, Session, Unsupported
from bench.machine import cores
from bench.process import phases
from bench.process.request import Request
from bench.records import files, rules
from bench.records.metrics import METRICS
from bench.records.record import (
    Bytes,
    Cell,
    Inference,
    Kind,
    Ladder,
    Loading,
    Memory,
    Outcome,
    Quality,
    Status,
    Timings,
)
from bench.records.text import one_line
from bench.worker import disturbance, energy, loop, memory, precision_probe, sampling, slowdown
from bench.worker.pages import Paging
from bench.worker.ranks import GiveUp, Ranks, replicas_apart
from bench.worker.several import Grouping
from bench.worker.trimmed import Trimming
from tasks import batching
from tasks.spec import Params, Preset, SpecError, Target

SAMPLE_TOKENS = 40  # of a language model, for the reader of a report


ENERGY_BLOCK_S = 1.2 * energy.MIN_WINDOW_S

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""Errors of writing that say nothing about a backend; to have used up its file descriptors does."""

MEMORY_STEPS = 50  # beyond the warm-up; allocators reach their peak in the first few


def main(arguments: list[str]) -> int:
    """Exit code 0 if an outcome was written, whatever its status; EX_IOERR if the disk did not take it, else 1."""
    phases.attach()
    request_path, answer_path = map(Path, arguments)
    request: Request = files.decode(request_path.read_bytes(), Request)

    def give_up(outcome: Outcome) -> NoReturn:
        os._exit(_written(answer_path, outcome))

    answered = answer(request, give_up=give_up)
    code = _written(answer_path, answered)
    if request.cell.arm.processes > 1:
        sys.stdout.flush()
        os._exit(code)  # a framework that is taken down may wait for the other ranks, which are gone
    return code


def _written(path: Path, outcome: Outcome) -> int:
    """The exit code, once an outcome is in its file or cannot be."""
    try:
        files.write(path, outcome)
    except OSError as error:
        print(f"the record could not be written: {error.strerror}", file=sys.stderr, flush=True)
        return os.EX_IOERR if error.errno in OF_THE_DISK else 1
    return 0


def answer(request: Request, *, give_up: GiveUp | None = None) -> Outcome:
    """What became of the request's cell, and what was measured.

    `give_up` ends the process with an outcome, where another rank of the arm failed while this one waits for it.
    """
    asked = request.cell
    hide(request.hidden)
    ranks = Ranks(
        asked.arm.processes, asked.arm.backend, request.hidden, request.cores or (), request.hosts, request.remote
    )  # fmt: skip
    if give_up is not None:
        ranks.give_up = give_up
    try:
        phases.enter("data")
        data_dir = Path(request.data_dir) if request.data_dir else None
        preset = tasks.load(asked.task, asked.preset, data_dir=data_dir, changes=asked.changes)
        speed = partial(_speed, request=request)
        kinds: Mapping[Kind, Callable[[Cell, Preset, Ranks], Outcome]] = {
            "parity": _parity, "speed": speed, "pilot": speed, "memory": _memory, "quality": _quality,
            "inference": partial(_inference, request=request), "loading": partial(_loading, request=request),
            "explain": partial(_explain, request=request),
        }  # fmt: skip
        return kinds[asked.kind](asked, preset, ranks)
    except Exception as error:  # whatever a framework raises becomes an outcome
        status, reason = classify(error)
        return Outcome(status=status, reason=reason)
    finally:
        ranks.end()


def hide(names: Collection[str]) -> None:
    """Makes modules look as if they were not installed."""
    sys.meta_path[:] = [_Hiding(set(names)) if finder is PathFinder else finder for finder in sys.meta_path]


class _Hiding:
    """The import system's finder of installed modules, blind to some names."""

    def __init__(self, hidden: set[str]) -> None:
        self.hidden = hidden

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return None if name in self.hidden else PathFinder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathFinder, name)  # `find_distributions` and `invalidate_caches`


def _parity(asked: Cell, preset: Preset, ranks: Ranks) -> Outcome:
    from bench.worker import parity  # with the reference: the other processes have no use for them

    backend = _load(asked, ranks)
    phases.enter("parity")
    # The proof in double precision on the CPU, then the same in what is being timed.
    arm = asked.arm
    mode = _mode(asked)
    climbs = [
        Options(
            device="cpu", precision="float64", mode=backends.mode_on_cpu(arm.backend, mode), processes=arm.processes
        ),
        Options(device=arm.device, precision=arm.precision, mode=mode, processes=arm.processes),
    ]
    ladders: list[Ladder] = []
    walk = parity.Walk(preset.task)
    for options in climbs if climbs[0] != climbs[1] else climbs[:1]:
        ladders.append(parity.climb(backend, preset.task, options, timed=options == climbs[1], walk=walk))
        if not ladders[-1].passed:
            break
    fallen = not ladders[-1].passed
    return Outcome(
        status="failed" if fallen else "ok",
        reason=describe_fall(ladders) if fallen else None,
        ladders=ladders,
        versions=dict(backend.versions()),
    )


def describe_fall(ladders: list[Ladder]) -> str:
    """Where a backend fell off the ladder, in words."""
    ladder = ladders[-1]
    rung = ladder.rungs[-1]
    found = (
        f"difference {rung.difference:.1e}, tolerance {rung.tolerance:.0e}" if rung.difference is not None else "failed"
    )
    return one_line(f"parity: fell at rung {rung.number} ({rung.name}) in {ladder.precision}: {rung.where}: {found}")


def _speed(asked: Cell, preset: Preset, ranks: Ranks, *, request: Request) -> Outcome:
    on_gpu = asked.arm.device == "gpu"
    watch = disturbance.Watch(
        gpu=on_gpu,
        before=request.gpu_before,
        arms=request.gpu_arms,
        of_cores=ranks.cores,
        cpu_s=ranks.cpu_s,
        elsewhere=ranks.taken_elsewhere,
    )
    start = time.perf_counter()
    backend = _load(asked, ranks)
    imported = time.perf_counter()
    params = preset.task.init_params(asked.seed)
    before_build = time.perf_counter()
    session = _open(backend, preset, asked, params)
    session.wait()
    built = time.perf_counter()
    if asked.arm.slow_down:
        session = slowdown.slowed(session, asked.arm.slow_down)
    phases.enter("first step")
    meter = energy.Meter(device=asked.arm.device) if asked.energy else None
    turns = _turns(preset, watch, meter, takes_turns=request.takes_turns)
    window = loop.measure(session, preset, clock=time.perf_counter, turns=turns, block_steps=asked.block_steps)
    phases.enter("checks")
    batches = batching.endless(preset.task, 0)
    barrier_s, unfinished_s = loop.check_barrier(
        session, batches, clock=time.perf_counter, block_steps=window.block_steps
    )
    timings = Timings(
        import_s=imported - start,
        build_s=built - before_build,
        barrier_s=barrier_s,
        unfinished_s=unfinished_s,
        cpu_s=watch.cpu_s,
        window_s=window.window_s,
        **vars(window),
    )
    probe = precision_probe.probe(session, device=asked.arm.device, clock=time.perf_counter)
    found = (rules.probe_fault(asked.arm.precision, probe.error), rules.cores_fault(timings, ranks.granted))
    return _finished(
        asked, backend, session, ranks, faults=[*rules.timing_faults(timings), *filter(None, found)], timings=timings,
        probe=probe, disturbance=watch.disturbance, energy=meter.energy if meter else None, rank_cpu_s=watch.rank_cpu_s,
    )  # fmt: skip


def _turns(preset: Preset, watch: disturbance.Watch, meter: energy.Meter | None, *, takes_turns: bool) -> loop.Turns:
    """Who says when a block is run: the parent, where arms take turns; else the blocks follow one another.

    An energy counter needs one long block of its own.
    """
    if takes_turns:
        return InTurns(watch, preset.block_s)
    if meter is not None and not meter.missing:
        return loop.Alone(1, ENERGY_BLOCK_S, _both(watch, meter))
    return loop.Alone(preset.blocks, preset.block_s, watch)


@contextmanager
def _both(watch: disturbance.Watch, meter: energy.Meter) -> Iterator[None]:
    with watch, meter:
        yield


class InTurns:
    """Blocks as the parent says: it gives each arm of a round its turn while the others sleep."""

    def __init__(self, watch: disturbance.Watch, block_s: float) -> None:
        self.watch, self.block_s, self.lead = watch, block_s, loop.LEAD

    def next(self, window: loop.Blocks) -> bool:
        word = phases.next_word(repr(window.blocks_s[-1]) if window.blocks_s else "")
        if word == phases.AGAIN:
            window.forget()
            self.watch.forget()
        return word != phases.END

    def block(self) -> disturbance.Watch:
        return self.watch


def _memory(asked: Cell, preset: Preset, ranks: Ranks) -> Outcome:
    card = memory.CardWatch(device=asked.arm.device)
    backend = _load(asked, ranks)
    imported = ranks.every("host_now")  # before the data, which is the same for every backend
    phases.enter("data")
    batches = list(islice(batching.endless(preset.task, 0), 1 + preset.warmup_steps + MEMORY_STEPS))
    params = preset.task.init_params(asked.seed)
    session = _open(backend, preset, asked, params)
    phases.enter("memory")
    for batch in batches[:1]:
        loop.step(session, batch)
    session.wait()
    card.look()
    setups = ranks.every("host_peak")
    reset = all(ranks.every("reset_host_peak"))
    for batch in batches[1:]:
        loop.step(session, batch)
    session.wait()
    card.look()
    trainings = ranks.every("host_peak") if reset else [Bytes(None, memory.ONLY_LINUX)] * len(setups)
    peaks = [memory.larger(*pair) for pair in zip(setups, trainings, strict=True)]
    allocated, reserved = memory.device_peaks(session)
    measured = Memory(
        host_import=memory.summed(imported),
        host_peak=memory.summed(peaks),
        host_peak_training=memory.summed(trainings),
        device_peak_allocated=allocated,
        device_peak_reserved=reserved,
        device_peak_process=card.peak(),
    )
    return _finished(asked, backend, session, ranks, memory=measured, host_peaks=peaks)


def _quality(asked: Cell, preset: Preset, ranks: Ranks) -> Outcome:
    backend = _load(asked, ranks)
    task = preset.task
    session = _open(backend, preset, asked, task.init_params(asked.seed))
    phases.enter("training")
    batches = batching.endless(task, asked.seed)

    def validated() -> float:
        return task.metrics(loop.evaluate(session, task.eval_batches())).get(preset.target.metric, math.nan)

    trained = loop.train(
        session, batches, steps=task.train_steps, clock=time.perf_counter, validations=preset.validations, validate=validated,
        meter=energy.Meter(device=asked.arm.device) if asked.energy else None,
    )  # fmt: skip
    phases.enter("evaluation")
    start = time.perf_counter()
    metrics = task.metrics(loop.evaluate(session, task.eval_batches()))
    evaluate_s = time.perf_counter() - start
    sample = sampling.sample(session, task, length=SAMPLE_TOKENS) if isinstance(task, sampling.LanguageTask) else None
    validation = [
        one for one in trained.validation if math.isfinite(one[2])
    ]  # a perplexity may still be beyond a float
    quality = Quality(
        task.train_steps, trained.seconds, evaluate_s, metrics, trained.curve, sample, validation, trained.energy
    )
    value = preset.target.value_in(metrics)
    remarks = [too_good(preset.target, value)] if too_good(preset.target, value) else []
    return _finished(asked, backend, session, ranks, quality=quality, remarks=remarks)


def _inference(asked: Cell, preset: Preset, ranks: Ranks, *, request: Request) -> Outcome:
    from bench.worker import inference

    _refuse_training_only(asked)
    _alone(asked, "a prediction")
    watch = disturbance.Watch(gpu=asked.arm.device == "gpu", before=request.gpu_before, arms=request.gpu_arms)
    start = time.perf_counter()
    backend = _load(asked, ranks)
    imported = time.perf_counter()
    session = _open(backend, preset, asked, preset.task.init_params(asked.seed))
    session.wait()
    built = time.perf_counter()
    window = inference.measure(session, preset, turns=_turns(preset, watch, None, takes_turns=request.takes_turns))
    peak, (allocated, _) = memory.host_peak(), memory.device_peaks(session)
    phases.enter("checks")
    found = Inference(
        import_s=imported - start, build_s=built - imported, warmup_s=window.warmup_s, calls=window.calls,
        outputs=window.outputs, compilations=window.compilations, cpu_s=watch.cpu_s,
        host_peak=peak, device_peak_allocated=allocated,
    )  # fmt: skip
    probe = precision_probe.probe(session, device=asked.arm.device, clock=time.perf_counter)
    wrong = rules.probe_fault(asked.arm.precision, probe.error)
    return _finished(
        asked, backend, session, ranks, faults=[*rules.inference_faults(found), *filter(None, [wrong])], inference=found,
        probe=probe, disturbance=watch.disturbance,
    )  # fmt: skip


def _refuse_training_only(asked: Cell) -> None:
    """Unsupported for a mode in which a model answers as it does in another one: its row would be that mode's."""
    arm, mode = asked.arm, _mode(asked)
    left = backends.mode_of_inference(arm.backend, mode)
    if left == mode:
        return
    parts = sorted(set(mode.split("+")) - set(left.split("+")))
    named = f"{arm.mode} is {mode} here. " if arm.mode == backends.TUNED else ""
    common = {"device": arm.device, "precision": arm.precision, "threads": arm.threads}
    same = msgspec.structs.replace(arm, mode=left).typed(common)
    raise Unsupported(
        f"{named}{' and '.join(parts)} change{'' if len(parts) > 1 else 's'} how a model is trained, not how it answers: "
        f"inference is the same in the mode {left}; ask for --arm {same}"
    )


def _loading(asked: Cell, preset: Preset, ranks: Ranks, *, request: Request) -> Outcome:
    from bench.worker import loading

    _alone(asked, "a loader")
    watch = disturbance.Watch(
        gpu=asked.arm.device == "gpu", before=request.gpu_before, arms=request.gpu_arms, cpu_s=disturbance.with_children
    )
    start = time.perf_counter()
    backend = _load(asked, ranks)
    imported = time.perf_counter()
    session = _open(backend, preset, asked, preset.task.init_params(asked.seed))
    session.wait()
    built = time.perf_counter()
    try:
        window = loading.measure(session, preset, turns=_turns(preset, watch, None, takes_turns=request.takes_turns))
    except loading.LoaderFault as fault:
        return _finished(asked, backend, session, ranks, faults=[str(fault)])
    phases.enter("checks")
    found = Loading(
        import_s=imported - start, build_s=built - imported, first_s=window.first_s, warmup_s=window.warmup_s,
        pass_batches=len(window.items), pass_items=sum(window.items),
        **{name: part.told() for name, part in window.parts.items()},
        compilations=window.compilations, cpu_s=watch.cpu_s, turns_s=watch.wall_s, host_peak=memory.host_peak(),
    )  # fmt: skip
    probe = precision_probe.probe(session, device=asked.arm.device, clock=time.perf_counter)
    wrong = rules.probe_fault(asked.arm.precision, probe.error)
    return _finished(
        asked, backend, session, ranks, faults=[*rules.loading_faults(found), *filter(None, [wrong])], loading=found,
        probe=probe, disturbance=watch.disturbance,
    )  # fmt: skip


def _explain(asked: Cell, preset: Preset, ranks: Ranks, *, request: Request) -> Outcome:
    from bench.worker import explain

    _alone(asked, "an explanation")
    backend = _load(asked, ranks)
    session = _open(backend, preset, asked, preset.task.init_params(asked.seed))
    phases.enter("first step")
    traces = Path(request.traces) if request.traces else None
    found = explain.explain(session, preset, device=asked.arm.device, traces=traces)
    phases.enter("checks")
    probe = precision_probe.probe(session, device=asked.arm.device, clock=time.perf_counter)
    return _finished(asked, backend, session, ranks, explanation=found, probe=probe)


def too_good(target: Target, value: float) -> str:
    """What to say about a quality that is better than the target's far bound; empty where it is not."""
    known = METRICS.get(target.metric)
    if known is None or known.higher_is_better:
        better = target.at_most is not None and value > target.at_most
    else:
        better = target.at_least is not None and value < target.at_least
    return f"{target.metric} {value:g} is too good, {target}: were the answers in the inputs?" if better else ""


def _load(asked: Cell, ranks: Ranks) -> Backend:
    phases.enter("import")
    ranks.start()
    return Grouping(Paging(Trimming(ranks.wrap(backends.load(asked.arm.backend)))))


def _alone(asked: Cell, what: str) -> None:
    """Unsupported for an arm of several processes, where only one is looked at."""
    if asked.arm.processes > 1:
        raise Unsupported(f"{what} is of one process; leave out processes={asked.arm.processes}")


def _mode(asked: Cell) -> str:
    """What the arm's mode is for this task."""
    arm = asked.arm
    return backends.mode_for(arm.backend, arm.mode, task=asked.task, device=arm.device, processes=arm.processes)


def _open(backend: Backend, preset: Preset, asked: Cell, params: Params) -> Session:
    phases.enter("build")
    arm = asked.arm
    options = Options(
        device=arm.device, precision=arm.precision, mode=_mode(asked), seed=asked.seed, processes=arm.processes
    )
    return backend.open_session(preset.task, params, options)


def _finished(
    asked: Cell,
    backend: Backend,
    session: Session,
    ranks: Ranks,
    *,
    faults: Sequence[str] = (),
    rank_cpu_s: Sequence[float] = (),
    host_peaks: Sequence[Bytes] = (),
    **measured: Any,
) -> Outcome:
    """The outcome of a process that came to its end; a fault, or a setting that was not in force, makes it invalid."""
    settings: dict[str, Any] = {"mode": DEFAULT_MODE, **session.settings(), "cores": cores.in_force()}
    if settings["mode"] == _mode(asked) != asked.arm.mode:  # which of them `tuned` is, or in what order they were typed
        settings |= {"mode": asked.arm.mode, asked.arm.mode: settings["mode"]}
    for name, value in settings.items():
        if not isinstance(value, str | int | float | None):
            raise SpecError(f"settings() has a {type(value).__name__} as {name!r}: expected a text, a number or None")
    apart = [f"the parameters of rank {rank} are not those of rank 0" for rank in replicas_apart(session)]
    found = [*faults, *rules.settings_faults(asked.arm, settings), *apart]
    status: Status = "invalid" if found else "ok"
    reason = one_line("; ".join(found)) or None
    return Outcome(
        status=status, reason=reason, settings=settings, versions=dict(backend.versions()),
        ranks=ranks.figures(session, cpu_s=rank_cpu_s, host_peaks=host_peaks), **measured,
    )  # fmt: skip


def classify(error: Exception) -> tuple[Status, str]:
    """The status and the reason of a process that an exception ended."""
    message = one_line(str(error)) or type(error).__name__
    if isinstance(error, BackendMissing):
        return "skipped", message
    if isinstance(error, Unsupported):
        return "unsupported", message
    if isinstance(error, MemoryError) or re.search("out of memory|RESOURCE_EXHAUSTED", str(error)):
        return "oom", f"out of memory: {message}"
    if isinstance(error, StopIteration):
        return "failed", "train_batches() yielded fewer batches than needed"
    if isinstance(error, SpecError | loop.Diverged):
        return "failed", message
    return "failed", f"{type(error).__name__}: {message}"
