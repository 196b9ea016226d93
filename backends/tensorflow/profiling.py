"""What TensorFlow's own profiler sees (https://www.tensorflow.org/guide/profiler)."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from backends.operations import Operation, kind_of, kind_of_instruction, sources

KERNEL = re.compile(r"(?P<scope>[^:]+):(?P<type>[A-Z]\w*)")
"""What TensorFlow's executor calls a kernel that runs: where it stands in the graph, and its type."""


def profiled(run: Callable[[], None], folder: Path, *, program: str) -> list[Operation]:
    """The operations of a run; `program` is the text of what XLA has compiled, if anything.

    The trace is left in the folder, for TensorBoard or XProf.
    """
    with tf.profiler.experimental.Profile(str(folder)):
        run()
    (path,) = folder.rglob("*.xplane.pb")
    space, known = xplane_pb2.XSpace.FromString(path.read_bytes()), sources(program)
    return [operation for plane in space.planes for operation in _operations(plane, known)]


def _operations(plane: xplane_pb2.XPlane, known: Mapping[str, str]) -> Iterator[Operation]:
    for line in plane.lines:
        for event in line.events:
            instruction = next((_text(plane, stat) for stat in event.stats if _name(plane, stat) == "hlo_op"), None)
            kernel = KERNEL.fullmatch(plane.event_metadata[event.metadata_id].name)
            if instruction is not None:
                name, kind = instruction, kind_of_instruction(instruction, known)
            elif kernel is not None:
                name, kind = kernel["type"], kind_of(kernel["type"], kernel["scope"])
            else:
                continue
            start_s = line.timestamp_ns / 1e9 + event.offset_ps / 1e12
            yield Operation(name, kind, start_s, start_s + event.duration_ps / 1e12, f"{plane.name} {line.id}")


def _name(plane: xplane_pb2.XPlane, stat: xplane_pb2.XStat) -> str:
    return str(plane.stat_metadata[stat.metadata_id].name)


def _text(plane: xplane_pb2.XPlane, stat: xplane_pb2.XStat) -> str:
    return str(stat.str_value or plane.stat_metadata[stat.ref_value].name)
