"""Processes in which nothing is timed, some side by side: climbs of the ladder, and those that measure memory.

Most of such a process keeps one core busy.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import psutil

from bench.machine import cores, nvml
from bench.process.execute import DEADLINES, started
from bench.process.interpreters import Interpreter
from bench.process.launch import Deadlines
from bench.records.record import Cell, Kind, Record, Run

MOST = 4
ROOM_BYTES = 6 * 2**30  # of free memory for each, on the host and on a card: a bound, not a measurement


def execute_side_by_side(
    run: Run,
    cells: Sequence[Cell],
    folder: Path,
    *,
    data_dir: Path | None,
    interpreters: Mapping[str, Interpreter],
    starting: Callable[[Cell], object] = lambda cell: None,
    ended: Callable[[Record], object] = lambda record: None,
    deadlines: Mapping[Kind, Deadlines] = DEADLINES,
    at_once: int | None = None,
) -> list[Record]:
    """The records of cells of one kind, in the order in which they end; `starting` and `ended` are told of each.

    OSError where the disk does not take the files of one, which ends the others.
    """
    if not cells:
        return []
    width, alone = at_once or width_for(cells), deadlines[cells[0].kind]
    longer = replace(
        alone,
        whole_s=width * alone.whole_s,
        phases_s={name: width * limit_s for name, limit_s in alone.phases_s.items()},
    )
    records: list[Record] = []
    waiting, running = deque(cells), dict[Future[Record], contextlib.ExitStack]()
    # On the way out the processes end first: the threads wait for them.
    with ThreadPoolExecutor(width) as pool, contextlib.ExitStack() as every:
        while waiting or running:
            while waiting and len(running) < width:
                cell = waiting.popleft()
                starting(cell)
                own = every.enter_context(contextlib.ExitStack())
                process = own.enter_context(
                    started(
                        run, cell, folder, data_dir=data_dir, interpreter=interpreters.get(cell.arm.name),
                        deadlines=longer, passive=width > 1,
                    )
                )  # fmt: skip
                running[pool.submit(process.record)] = own
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                with running.pop(future):
                    records.append(future.result())
                ended(records[-1])
    return records


def width_for(cells: Sequence[Cell]) -> int:
    """How many run side by side: as many as there are cores and memory for, a card's too.

    One, on a card whose memory is unknown or is what they measure: the driver tells of all processes together.
    """
    together = max(cell.arm.processes for cell in cells)
    room = [psutil.virtual_memory().available // ROOM_BYTES // together, cores.granted() // together, len(cells), MOST]
    if any(cell.arm.device != "cpu" for cell in cells):
        if cells[0].kind == "memory":
            return 1
        memory = nvml.ask(nvml.card(), "nvmlDeviceGetMemoryInfo")
        room.append(1 if memory is None else memory.free // ROOM_BYTES)
    return max(1, min(room))
