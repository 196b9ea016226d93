"""A round of speed: the processes of all its arms are alive at once, and take turns block by block.

They are started and warmed up one after the other. Then each runs one block when the parent says so, in an order shuffled anew
for every turn, while the others sleep on a pipe: whatever the machine does meanwhile hits every arm alike. Where the blocks of
one scatter so much that their mean is not exact, all are given more turns. If the speed of one changed from the first half of
its window to the second, and not as that of the others did, all begin their windows anew, once. Where the next process would
not fit beside the others into the memory of the host or the device, it and those after it take turns without them.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean, median
from typing import Protocol

import psutil

from bench.machine import nvml
from bench.process import phases
from bench.process.execute import DEADLINES, Process, started
from bench.process.interpreters import Interpreter
from bench.process.launch import Child, Deadlines
from bench.records.record import Cell, Kind, Record, Run
from bench.records.steadiness import changed, standard_error

REST_S = 0.01  # between two turns: threads that wait for work by spinning go to sleep
ROOM = 1.25  # the next process may need so much more than the largest so far
COMPANY_CYCLES, COMPANY_BLOCKS = 3, 2
EXACT = 0.015  # the standard error of a mean of blocks, as a share of it, up to which no more turns are asked for
MOST_S = 30.0  # seconds of an arm's blocks; more turns never make a window longer than that


def execute_round(
    run: Run,
    cells: Sequence[Cell],
    folder: Path,
    *,
    turns: int,
    most: int | None = None,
    data_dir: Path | None,
    interpreters: Mapping[str, Interpreter],
    ended: Callable[[Record], object] = lambda record: None,
    deadlines: Mapping[Kind, Deadlines] = DEADLINES,
    company: Callable[[int, float], object] | None = None,
) -> list[Record]:
    """The records of a round's cells, whatever became of each; `ended` is told of each as its process ends.

    There are so many turns, and up to `most` where blocks scatter.

    `company` is told the round's number and how many times as long a step takes among the others as alone, which is then
    measured before the window.
    """
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
            words = [phases.GO, phases.AGAIN]
            if company is not None and len(group) > 1:
                if (ratio := in_company(group, rng=rng)) is not None:
                    company(cells[0].round, ratio)
                words = [phases.AGAIN, phases.AGAIN]  # what was run so far is no part of the window
            take_turns(group, turns=turns, most=most, rng=rng, words=words)
            for process in group:
                process.child.say(phases.END, phase="checks")
                records.append(process.record(beside=len(group) - 1))
                ended(records[-1])
    return records


class Turner(Protocol):
    """A process that takes turns."""

    @property
    def child(self) -> Child: ...


def take_turns(
    group: Sequence[Turner],
    *,
    turns: int,
    most: int | None = None,
    rng: random.Random,
    words: Sequence[bytes] = (phases.GO, phases.AGAIN),
) -> None:
    """Gives every process its turns; one that ends meanwhile is left out of the rest. `words` begin one attempt each.

    How much the blocks of the first `turns` scatter says how many more there are, up to `most` in all.
    """
    for word in words:
        blocks_s: dict[int, list[float]] = {at: [] for at in range(len(group))}
        for turn in range(turns):
            _turn(group, blocks_s, word if turn == 0 else phases.GO, rng=rng)
        if any(changed(list(blocks_s.values()))):
            continue
        for _ in range(more_turns(list(blocks_s.values()), most=most or turns)):
            _turn(group, blocks_s, phases.GO, rng=rng)
        if not any(changed(list(blocks_s.values()))):
            break


def _turn(group: Sequence[Turner], blocks_s: dict[int, list[float]], word: bytes, *, rng: random.Random) -> None:
    for at in rng.sample(sorted(blocks_s), len(blocks_s)):
        if (took_s := _block(group[at], word)) is None:
            del blocks_s[at]
        else:
            blocks_s[at].append(took_s)


def more_turns(windows: Sequence[Sequence[float]], *, most: int) -> int:
    """How many more blocks the windows of a round are given, so that the mean of each is exact.

    Two stages, as Stein's (1945, https://doi.org/10.1214/aoms/1177731088): what the first blocks scatter by says how many there
    are in all. What is seen later changes nothing, so that no window ends because an arm happened to be fast just then.
    """
    if not windows or not (longest_s := max(map(fmean, windows))):
        return 0
    turns = len(windows[0])
    asked = max(turns * (standard_error(blocks_s) / EXACT) ** 2 for blocks_s in windows)
    return max(0, math.ceil(min(asked, most, MOST_S / longest_s)) - turns)


def in_company(group: Sequence[Turner], *, rng: random.Random) -> float | None:
    """How many times as long a block takes in turn with the others' as after one of its own process, mean over the processes.

    Both kinds alternate within the same processes, so that nothing but the others is between them: neither the layout of a
    process's memory nor the machine's drift. None if a process ends meanwhile.
    """
    among: list[list[float]] = [[] for _ in group]
    alone: list[list[float]] = [[] for _ in group]
    for _ in range(COMPANY_CYCLES):
        for _ in range(COMPANY_BLOCKS):
            for at in rng.sample(range(len(group)), len(group)):
                if (took_s := _block(group[at], phases.GO)) is None:
                    return None
                among[at].append(took_s)
        for at in rng.sample(range(len(group)), len(group)):
            for number in range(1 + COMPANY_BLOCKS):
                if (took_s := _block(group[at], phases.GO)) is None:
                    return None
                if number:  # the first comes after another's
                    alone[at].append(took_s)
    if not all(median(blocks) > 0 for blocks in (*among, *alone)):
        return None
    return geometric_mean([median(one) / median(other) for one, other in zip(among, alone, strict=True)])


def _block(process: Turner, word: bytes) -> float | None:
    """Lets a process run a block, and returns its seconds; None if it ended."""
    time.sleep(REST_S)
    process.child.say(word, phase="turn")
    told = process.child.until(phases.WAITING)
    return None if told is None else _seconds(told)


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
            first = psutil.Process(process.child.pid)
            largest = max(largest, sum(one.memory_info().rss for one in (first, *first.children(recursive=True))))
    if psutil.virtual_memory().available < ROOM * largest:
        return False
    if all(process.cell.arm.device == "cpu" for process in group):
        return True
    card = nvml.card()
    memory = nvml.ask(card, "nvmlDeviceGetMemoryInfo") if card is not None else None
    used = [size for size in (nvml.processes(card) or {}).values() if size] if card is not None else []
    return memory is None or not used or memory.free >= ROOM * max(used)
