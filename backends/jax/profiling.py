"""What JAX's own profiler sees (https://docs.jax.dev/en/latest/profiling.html)."""

from collections.abc import Callable
from pathlib import Path

import jax
from jax.profiler import ProfileData

from backends.operations import Operation, kind_of_instruction, sources


def profiled(run: Callable[[], None], folder: Path, *, program: str) -> list[Operation]:
    """The operations of a run of a compiled program, whose text tells where in the source each of them is from.

    The trace is left in the folder, for Perfetto or XProf.
    """
    known = sources(program)
    with jax.profiler.trace(str(folder)):
        run()
    (path,) = folder.rglob("*.xplane.pb")
    found = []
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    start_s = event.start_ns / 1e9
                    kind, end_s = kind_of_instruction(str(name), known), start_s + event.duration_ns / 1e9
                    found.append(Operation(str(name), kind, start_s, end_s, f"{plane.name} {line.name}"))
    return found
