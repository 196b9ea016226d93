"""The child process: one request in, one record out.

    python -m bench.worker request.json record.json

It loads one backend by name and does one thing: climb the ladder of parity, time the steady state, measure memory, or train
to the task's budget and evaluate. The clock is `time.perf_counter`, which is monotonic.
"""

import re
import sys
import time
from itertools import islice
from pathlib import Path

import msgspec

import backends
import tasks
from backends import BackendMissing
from backends.api import Backend, Options, Session, Unsupported
from bench import loop, memory, parity, record
from bench.record import Ladder, Memory, Model, Quality, Record, Status, Timings
from tasks.spec import Params, Preset, SpecError

MEMORY_STEPS = 50  # beyond the warm-up; allocators reach their peak in the first few


class Request(Model, frozen=True):
    """A record with everything known beforehand filled in, and where the data lies."""

    record: Record
    data_dir: str | None = None


def main(arguments: list[str]) -> int:
    """Exit code 0 if a record was written, whatever its status."""
    request_path, record_path = map(Path, arguments)
    request: Request = record.decode(request_path.read_bytes(), Request)
    record.write(record_path, answer(request))
    return 0


def answer(request: Request) -> Record:
    """The request's record with its status and what was measured."""
    asked = request.record
    try:
        preset = tasks.load(asked.task, asked.preset, data_dir=Path(request.data_dir) if request.data_dir else None)
        return {"parity": _parity, "speed": _speed, "memory": _memory, "quality": _quality}[asked.kind](asked, preset)
    except Exception as error:  # whatever a framework raises becomes a record
        status, reason = _classify(error)
        return msgspec.structs.replace(asked, status=status, reason=reason)


def _parity(asked: Record, preset: Preset) -> Record:
    backend = backends.load(asked.backend)
    # The proof in double precision on the CPU, then the same in what is being timed.
    climbs = [Options(device="cpu", precision="float64"), Options(device=asked.device, precision=asked.precision)]
    ladders: list[Ladder] = []
    for options in climbs if climbs[0] != climbs[1] else climbs[:1]:
        ladders.append(parity.climb(backend, preset.task, options))
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
    return _one_line(f"parity: fell at rung {rung.number} ({rung.name}) in {ladder.precision}: {rung.where}: {found}")


def _speed(asked: Record, preset: Preset) -> Record:
    start = time.perf_counter()
    backend = backends.load(asked.backend)
    imported = time.perf_counter()
    params = preset.task.init_params(asked.seed)
    before_build = time.perf_counter()
    session = _open(backend, preset, asked, params)
    session.wait()
    built = time.perf_counter()
    window = loop.measure(session, preset, clock=time.perf_counter)
    timings = Timings(
        import_s=imported - start,
        build_s=built - before_build,
        block_steps=preset.block_steps,
        **vars(window),
    )
    return _finished(asked, backend, session, timings=timings)


def _memory(asked: Record, preset: Preset) -> Record:
    batches = list(islice(preset.task.train_batches(seed=0), 1 + preset.warmup_steps + MEMORY_STEPS))
    params = preset.task.init_params(asked.seed)
    backend = backends.load(asked.backend)
    imported = memory.host_now()
    session = _open(backend, preset, asked, params)
    for batch in batches[:1]:
        loop.step(session, batch)
    session.wait()
    peak_of_setup = memory.host_peak()
    reset = memory.reset_host_peak()
    for batch in batches[1:]:
        loop.step(session, batch)
    session.wait()
    training = memory.host_peak() if reset else record.Bytes(None, memory.ONLY_LINUX)
    peaks = [peak.bytes for peak in (peak_of_setup, training) if peak.bytes is not None]
    allocated, reserved = memory.device_peaks(session)
    measured = Memory(
        host_import=imported,
        host_peak=record.Bytes(max(peaks)) if peaks else peak_of_setup,
        host_peak_training=training,
        device_peak_allocated=allocated,
        device_peak_reserved=reserved,
    )
    return _finished(asked, backend, session, memory=measured)


def _quality(asked: Record, preset: Preset) -> Record:
    backend = backends.load(asked.backend)
    task = preset.task
    session = _open(backend, preset, asked, task.init_params(asked.seed))
    batches = task.train_batches(asked.seed)
    train_s, curve = loop.train(session, batches, steps=task.train_steps, clock=time.perf_counter)
    start = time.perf_counter()
    metrics = task.metrics(loop.evaluate(session, task.eval_batches()))
    evaluate_s = time.perf_counter() - start
    quality = Quality(task.train_steps, train_s, evaluate_s, metrics, curve)
    reached = preset.target.reached(metrics[preset.target.metric])
    return _finished(asked, backend, session, quality=quality, target_reached=reached)


def _open(backend: Backend, preset: Preset, asked: Record, params: Params) -> Session:
    options = Options(device=asked.device, precision=asked.precision, seed=asked.seed)
    return backend.open_session(preset.task, params, options)


def _finished(asked: Record, backend: Backend, session: Session, **measured: object) -> Record:
    settings = dict(session.settings())
    status: Status = "ok"
    reason = None
    for name, wanted in (("device", asked.device), ("precision", asked.precision)):
        if settings.get(name) != wanted:
            status, reason = "invalid", f"{name} {wanted} was asked for, {settings.get(name)} was in force"
    return msgspec.structs.replace(
        asked, status=status, reason=reason, settings=settings, versions=dict(backend.versions()), **measured
    )


def _classify(error: Exception) -> tuple[Status, str]:
    message = _one_line(str(error)) or type(error).__name__
    if isinstance(error, BackendMissing):
        return "skipped", message
    if isinstance(error, Unsupported):
        return "unsupported", message
    if isinstance(error, MemoryError) or re.search("out of memory|RESOURCE_EXHAUSTED", str(error)):
        return "oom", f"out of memory: {message}"
    if isinstance(error, SpecError | loop.Diverged):
        return "failed", message
    return "failed", f"{type(error).__name__}: {message}"


def _one_line(text: str) -> str:
    """The text on one line of at most 500 characters, and without the folders of this machine."""
    text = re.sub(r"(?:/[^\s/:'\"]+){2,}", lambda match: "…/" + match[0].rpartition("/")[2], " ".join(text.split()))
    return text if len(text) <= 500 else text[:499] + "…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
