"""What a child process is asked for."""

from collections.abc import Sequence

from bench.records.record import Cell, Strict


class Request(Strict, frozen=True):
    """One cell of a comparison, and what only its process needs to know."""

    cell: Cell
    data_dir: str | None  # absolute
    takes_turns: bool  # whether its parent gives it a turn for every block
    hidden: list[str]  # importable names that are to look as if they were not installed
    gpu_before: list[int] | None = (
        None  # processes that the GPU had before this round's; None: the process looks itself
    )
    gpu_arms: int = 1  # processes of this round that use the GPU
    traces: str | None = None  # absolute; a new folder for what a profiler writes
    cores: list[list[int]] | None = None  # of each of the arm's processes; an empty list binds none
    hosts: Sequence[str] = ()  # the machine of each of the arm's processes, where they are on several
    remote: str = ""  # the command that reaches another one
