"""What is measured beside training and stands in tables of its own: each kind a module of the same functions."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bench.records.record import Record
from bench.report import inference, loading, rounds

MODULES = {"inference": inference, "loading": loading}
"""Kind -> its `groups`, and of a group its `table`, `sentences`, `about`, `pairs`, and a row's `values` and `context`."""


class Apart(NamedTuple):
    """A table of a kind that is no training."""

    kind: str
    group: Any  # a `Group` of its module

    @property
    def module(self) -> Any:
        return MODULES[self.kind]

    @property
    def title(self) -> str:
        return str(self.group.title)

    @property
    def failures(self) -> list[str]:
        return list(self.group.failures)

    @property
    def caption(self) -> str:
        return str(self.module.CAPTION)

    @property
    def meaning(self) -> str:
        return str(self.module.MEANING)

    @property
    def table(self) -> list[list[str]]:
        made: list[list[str]] = self.module.table(self.group)
        return made

    @property
    def sentences(self) -> list[str]:
        told: list[str] = self.module.sentences(self.group)
        return told

    @property
    def about(self) -> list[tuple[str, str]]:
        told: list[tuple[str, str]] = self.module.about(self.group)
        return told


def groups(records: Iterable[Record]) -> list[Apart]:
    """Every table that is no training's, kind by kind, in a fixed order."""
    made: Sequence[Record] = list(records) if not isinstance(records, Sequence) else records
    return [Apart(kind, group) for kind, module in MODULES.items() for group in module.groups(made)]


def unshown(records: Sequence[Record]) -> list[str]:
    """A line for each run of a kind of which no arm can be shown, with the reasons."""
    told = []
    for kind in MODULES:
        for part in rounds.by_run(records, kind):  # type: ignore[arg-type]  # of its own Kind
            found = rounds.counted(part, lambda one, kind=kind: getattr(one.outcome, kind))  # type: ignore[misc]
            if not found.arms:
                told.append(f"{part[0].cell.task}: there is no table of {kind}: {'; '.join(found.failures)}")
    return told
