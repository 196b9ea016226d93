"""Records to make tables of, from flat facts: `a_record(backend="alpha", round=2)`, `changed(record, status="failed")`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.records import files
from bench.records.record import (
    RUNGS,
    Arm,
    Bytes,
    Cell,
    Data,
    Disturbance,
    Ladder,
    Machine,
    Memory,
    Outcome,
    Probe,
    Quality,
    Record,
    Run,
    Rung,
    Target,
    Timings,
)  # fmt: skip

IMPORTED, PEAK = Bytes(100 * 2**20), Bytes(300 * 2**20)
NO_ALLOCATOR = Bytes(None, "the framework keeps no allocator figures on a CPU")
MACHINE = Machine("A CPU", 2, 8 * 2**30, None, None, "Linux 6.1 x86_64", "3.11.7")

PARTS: Mapping[str, tuple[str, ...]] = {
    "run": Run.__struct_fields__, "arm": tuple(set(Arm.__struct_fields__) - {"name"}),
    "cell": tuple(set(Cell.__struct_fields__) - {"arm"}), "outcome": Outcome.__struct_fields__,
}  # fmt: skip
"""Part of a record -> the fields that a flat fact of that name belongs to. "name" is the arm's."""


def a_ladder(*, passed: int = len(RUNGS), precision: str = "float32", device: str = "cpu") -> Ladder:
    """The rungs up to the first one that was not passed."""
    rungs = [
        Rung(
            number=number,
            name=name,
            difference=1e-9 if number <= passed else 1.0,
            tolerance=1e-6,
            where="dense_0/kernel",
        )
        for number, name in enumerate(RUNGS, start=1)
    ]
    return Ladder(precision, device, rungs[: passed + 1], height=len(RUNGS))


def changed(record: Record, **facts: Any) -> Record:
    """The record with other facts, each of which names a field of its run, its cell, its arm or its outcome.

    `ladders` are those that its process climbed, where it is one of parity, and else those climbed before.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in (*PARTS, "record")}
    kind = facts.get("kind", record.cell.kind)
    for name, value in facts.items():
        if name == "name":
            parts["arm"]["name"] = value
        elif name == "ladders":
            parts["outcome" if kind == "parity" else "cell"][name] = value
        elif name == "schema":
            parts["record"][name] = value
        elif name == "energy":
            parts["outcome" if not isinstance(value, bool) else "cell"][name] = value
        else:
            (part,) = [part for part, fields in PARTS.items() if name in fields]
            parts[part][name] = value
    if "backend" in facts and "name" not in facts:
        parts["arm"]["name"] = facts["backend"]
    cell = msgspec.structs.replace(
        record.cell, arm=msgspec.structs.replace(record.cell.arm, **parts["arm"]), **parts["cell"]
    )
    return msgspec.structs.replace(
        record,
        run=msgspec.structs.replace(record.run, **parts["run"]),
        cell=cell,
        outcome=msgspec.structs.replace(record.outcome, **parts["outcome"]),
        **parts["record"],
    )


def a_cell(**facts: Any) -> Cell:
    """The cell of `a_record`."""
    return a_record(**facts).cell


def a_record(**facts: Any) -> Record:
    """A finished speed process of the arm "alpha": 1,000 images in a window of one second."""
    cell = Cell(
        kind="speed", task="mnist_mlp", preset="quick", unit="images", arm=Arm(name="alpha", backend="alpha"),
        spec={"task": "mnist_mlp", "epochs": 5}, data=Data("digits", "real handwritten digits", "d" * 64),
        target=Target("accuracy", at_least=0.9),
    )  # fmt: skip
    outcome = Outcome(status="ok", versions={"alpha": "1.0"}, started_utc="2026-01-01T00:00:00Z", wall_s=3.0)
    made = changed(Record(run=Run(id="1234", machine=MACHINE), cell=cell, outcome=outcome), **facts)
    if made.outcome.status != "ok":
        return made
    return changed(made, **{name: value for name, value in good_figures(made.cell).items() if name not in facts})


def a_timing(throughput: float, *, block_steps: int = 5) -> Timings:
    """Ten blocks that took together what this throughput says."""
    window_s = 1000 / throughput
    return Timings(
        import_s=1.0, build_s=0.5, first_step_s=0.25, warmup_s=0.1, block_steps=block_steps, blocks_s=[window_s / 10] * 10,
        window_s=window_s, items=1000,
    )  # fmt: skip


def write_records(folder: Path, made: Sequence[Record]) -> Path:
    """Writes records below a new folder as a run does; returns it."""
    (folder / "records").mkdir(parents=True)
    for one in made:
        files.write(folder / "records" / one.cell.file_name, one)
    return folder


def a_memory(*, peak: Bytes = PEAK, device: Bytes = NO_ALLOCATOR, imported: Bytes = IMPORTED) -> Memory:
    return Memory(imported, peak, peak, device, device)


def a_quality(accuracy: float, *, sample: str | None = None, steps: int = 100) -> Quality:
    curve = [(1, 0.1, 2.3), (steps, 1.0, 0.1)]
    return Quality(steps, 1.0, 0.1, {"accuracy": accuracy, "loss": 1.05 - accuracy}, curve, sample)


def a_row(
    backend: str, throughputs: Sequence[float], *, accuracies: Sequence[float] = (0.95, 0.96), **common: Any
) -> list[Record]:
    """All the records of one arm: a climb, a speed process per round, one of memory, a training per seed."""
    common = {"backend": backend, "versions": {backend: "1.0"}} | common
    precision, device = common.get("precision", "float32"), common.get("device", "cpu")
    ladders = [a_ladder(precision="float64"), a_ladder(precision=precision, device=device)]
    return [
        a_record(kind="parity", ladders=ladders, **common),
        *(
            a_record(round=number, timings=a_timing(throughput), **common)
            for number, throughput in enumerate(throughputs, start=1)
        ),
        a_record(kind="memory", memory=a_memory(), **common),
        *(
            a_record(kind="quality", seed=seed, quality=a_quality(value), **common)
            for seed, value in enumerate(accuracies)
        ),
    ]


def a_run(speeds: Mapping[str, Sequence[float]], **common: Any) -> list[Record]:
    """A whole comparison: backend -> its throughputs, round by round."""
    return [record for backend, values in speeds.items() for record in a_row(backend, values, **common)]


PROBE_ERRORS = {"float64": 1e-16, "float32": 1e-7, "tf32": 1e-4, "bfloat16": 2e-3}
QUIET = Disturbance(0.1, 0.0, 0.0, 0, 0, None)


def good_figures(cell: Cell) -> dict[str, Any]:
    """What a good process answers beside its status."""
    arm = cell.arm
    timed = {
        "timings": a_timing(1000, block_steps=100 if "batch_size" in cell.spec else 5),
        "probe": Probe(PROBE_ERRORS.get(arm.precision, 1e-7), 1024, 5e10), "disturbance": QUIET,
    }  # fmt: skip
    figures: Mapping[str, dict[str, Any]] = {
        "parity": {"ladders": [a_ladder(precision="float64"), a_ladder(precision=arm.precision, device=arm.device)]},
        "pilot": timed,
        "speed": timed,
        "memory": {"memory": a_memory()},
        "quality": {"quality": a_quality(0.95, steps=cell.spec.get("train_steps", 100))},
        "inference": {"probe": timed["probe"], "disturbance": QUIET},
        "loading": {"probe": timed["probe"], "disturbance": QUIET},
        "explain": {"probe": timed["probe"]},
    }
    return {**figures[cell.kind], "settings": settings_of(arm) if cell.kind != "parity" else {}}


def in_no_time(figures: dict[str, Any]) -> dict[str, Any]:
    """Good figures of a process that ends at once."""
    found = dict(figures)
    if timings := found.get("timings"):
        blocks_s = [seconds / 1e3 for seconds in timings.blocks_s]
        found["timings"] = msgspec.structs.replace(
            timings,
            import_s=0.0,
            build_s=0.0,
            first_step_s=0.0,
            warmup_s=0.0,
            blocks_s=blocks_s,
            window_s=sum(blocks_s),
        )
    if quality := found.get("quality"):
        found["quality"] = msgspec.structs.replace(quality, train_s=1e-3, evaluate_s=0.0)
    return found


def settings_of(arm: Arm) -> dict[str, Any]:
    """What a session reads back that does as it was asked."""
    told = {"device": arm.device, "precision": arm.precision, "mode": arm.mode, "cores": arm.threads or MACHINE.cores}
    return told | ({"processes": arm.processes} if arm.processes > 1 else {})
