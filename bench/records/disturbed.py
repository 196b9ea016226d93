"""What disturbs a window.

The rule, stated before anything is measured: a window is disturbed

- if more than MOST_TAKEN of the usable cores' time went to other processes on them, to processes on the other threads of the
  same physical cores, to the hypervisor, or was withheld by a control group's quota, all together;
- if a process used the GPU that neither was there before the run nor belongs to it, or one that was there computed;
- if heat or the hardware's own protection slowed the GPU down for more than MOST_TAKEN of the window. The power cap is a limit
  that a card always has, and only recorded.

MOST_TAKEN follows from the margin of the verdicts: the same loss may slow down one arm by all of it and another not at all, so
that a larger one could move their ratio by more than the margin. Each arm's record says what was lost and what it used itself.
A round with a disturbed window is kept and shown, and takes part in no ratio. Of an undisturbed one, each window whose speed
changed by itself takes part in none (bench/records/steadiness.py).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from bench.records import steadiness
from bench.records.limits import MARGIN
from bench.records.record import GpuState, Record


def most_taken(margin: float) -> float:
    """The share of its time that an arm may lose, so that its speed, and a ratio with it, moves by no more than the margin."""
    return margin / (1 + margin)


MOST_TAKEN = most_taken(MARGIN)
POWER_CAP, HEAT = "power cap", "heat"


def judge(
    *,
    others_share: float | None,
    siblings_share: float | None,
    stolen_share: float | None,
    withheld_share: float | None,
    own_share: float | None,
    gpu: GpuState | None,
) -> str | None:
    """Why a round is excluded, by the rule at the head of this module; None if it is not."""
    lost = {
        "other processes": others_share or 0.0,
        "processes on the same physical cores": siblings_share or 0.0,
        "the hypervisor": stolen_share or 0.0,
        "the quota": withheld_share or 0.0,
    }
    if sum(lost.values()) > MOST_TAKEN:
        told = ", ".join(f"{100 * share:.1f} % to {whom}" for whom, share in lost.items() if share >= 0.0005)
        used = f"; used by this process: {100 * own_share:.1f} %" if own_share is not None else ""
        return f"lost of the cores' time: {told} (limit {100 * MOST_TAKEN:.1f} %){used}"
    if gpu is None:
        return None
    if gpu.other_processes:
        return f"{gpu.other_processes} other process{'es' if gpu.other_processes > 1 else ''} on the GPU"
    throttles = [reason for reason in gpu.throttle_reasons or [] if reason != POWER_CAP]
    if gpu.throttled_shares is not None:
        long = {reason: gpu.throttled_shares.get(reason, 1.0) for reason in throttles}
        throttles = [
            f"{reason} for {100 * share:.1f} % of the window" for reason, share in long.items() if share > MOST_TAKEN
        ]
    return f"the GPU throttled: {', '.join(throttles)}" if throttles else None


def disturbed_rounds(records: Iterable[Record]) -> set[int]:
    """The rounds in which a window was disturbed."""
    return {one.cell.round for one in records if one.outcome.disturbance and one.outcome.disturbance.disturbed}


def unsteady(records: Iterable[Record], blocks_of: Callable[[Record], Sequence[float] | None]) -> list[Record]:
    """Those of one kind whose speed changed in the window, and not as that of the others that took turns with them did."""
    groups: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for one in records:
        groups[one.cell.round, one.outcome.beside].append(one)
    found: list[Record] = []
    for (_, beside), group in groups.items():
        windows = [(one, blocks_s) for one in group if (blocks_s := blocks_of(one))]
        whole = len(group) == 1 + beside  # or it cannot be told which of them took turns: each is judged by itself
        for part in [windows] if whole else [[window] for window in windows]:
            changed = steadiness.changed([blocks_s for _, blocks_s in part])
            found += [one for (one, _), by_itself in zip(part, changed, strict=True) if by_itself]
    return found


def spare_rounds(rounds: int) -> int:
    """How many disturbed rounds are replaced: half as many as are planned."""
    return (rounds + 1) // 2


def planned_rounds(last: int, lost: int) -> int:
    """How many rounds were planned at least, where `last` were run, and `lost` of them were disturbed."""
    return max(last - lost, next(planned for planned in count() if planned + spare_rounds(planned) >= last))
