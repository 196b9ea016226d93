"""A round of speed: the processes of all its arms are alive at once, and take turns block by block.

They are started and warmed up one after the other. Then each runs one block when the parent says so, in an order shuffled anew
for every turn, while the others sleep on a pipe: whatever the machine does meanwhile hits every arm alike. If the speed of one
changed from the first half of its window to the second, all begin their windows anew, once. Where the next process would not
fit beside the others into the memory of the host or the device, it and those after it take turns without them.
"""

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from bench.machine import nvml
from bench.process import phases
from bench.process.execute import DEADLINES, Process, started
from bench.process.interpreters import Interpreter
from bench.process.launch import Deadlines
from bench.records.record import Cell, Kind, Record, Run
from bench.records.steadiness import is_steady

REST_S = 0.01  # between two turns: threads that wait for work by spinning go to sleep
ROOM = 1.25  # the next process may need so much more than the largest so far


def execute_round(
    run: Run,
    cells: Sequence[Cell],
    folder: Path,
    *,
    turns: int,
    data_dir: Path | None,
    interpreters: Mapping[str, Interpreter],
    ended: Callable[[Record], object] = lambda record: None,
    deadlines: Mapping[Kind, Deadlines] = DEADLINES,
) -> list[Record]:
    """The records of a round's cells, whatever became of each; `ended` is told of each as its process ends."""
    waiting = list(cells)
    records: list[Record] = []
    gpu_arms = sum(cell.arm.device == "gpu" for cell in cells)
    before = nvml.processes(nvml.card()) if gpu_arms else None
    while waiting:
        with contextlib.ExitStack() as stack:
            group: list[Process] = []
            while waiting and (not group or fits(group)):
                cell = waiting[0]
                process = stack.enter_context(
                    started(
                        run,
                        cell,
                        folder,
                        data_dir=data_dir,
                        interpreter=interpreters.get(cell.arm.name),
                        deadlines=deadlines[cell.kind],
                        together=len(cells),
                        gpu_before=None if before is None else list(before),
                        gpu_arms=gpu_arms,
                    )
                )
                group.append(process)
                waiting.pop(0)
                process.child.until(phases.WAITING)
            rng = random.Random(f"{run.id}/{cells[0].task}/{cells[0].kind}/{cells[0].round}")
            take_turns(group, turns=turns, rng=rng)
            for process in group:
                process.child.say(phases.END, phase="checks")
                records.append(process.record(beside=len(group) - 1))
                ended(records[-1])
    return records


def take_turns(group: Sequence[Process], *, turns: int, rng: random.Random) -> None:
    """Gives every process its turns; one that ends meanwhile is left out of the rest."""
    blocks_s: dict[int, list[float]] = {}
    for attempt in (phases.GO, phases.AGAIN):
        blocks_s = {at: [] for at in range(len(group))}
        for turn in range(turns):
            for at in rng.sample(sorted(blocks_s), len(blocks_s)):
                time.sleep(REST_S)
                group[at].child.say(attempt if turn == 0 else phases.GO, phase="turn")
                told = group[at].child.until(phases.WAITING)
                if told is None:
                    del blocks_s[at]
                else:
                    blocks_s[at].append(_seconds(told))
        if all(map(is_steady, blocks_s.values())):
            break


def _seconds(told: str) -> float:
    try:
        return float(told)
    except ValueError:  # it is no worker of ours that says so
        return 0.0


def fits(group: Sequence[Process]) -> bool:
    """Whether there is room for one more process like the largest of these, on the host and on the card that they use."""
    largest = 0
    for process in group:
        with contextlib.suppress(psutil.Error):
            largest = max(largest, psutil.Process(process.child.pid).memory_info().rss)
    if psutil.virtual_memory().available < ROOM * largest:
        return False
    if all(process.cell.arm.device == "cpu" for process in group):
        return True
    card = nvml.card()
    memory = nvml.ask(card, "nvmlDeviceGetMemoryInfo") if card is not None else None
    used = [size for size in (nvml.processes(card) or {}).values() if size] if card is not None else []
    return memory is None or not used or memory.free >= ROOM * max(used)
