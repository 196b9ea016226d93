"""A sweep's folder: the folder of a run for each of its points, and a file with the values that were asked for."""

from pathlib import Path

from bench.records import files

NAME = "sweep.json"
"""By which a folder is known to be a sweep's: its fields, and the values of each."""


def is_one(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / NAME).is_file()


def values(folder: Path) -> dict[str, list[str]]:
    """Field -> its values, as they were asked for; RecordError where the file says something else."""
    path = folder / NAME
    with path.open("rb") as file:
        content = file.read(files.MAX_BYTES + 1)
    try:
        found: dict[str, list[str]] = files.decode(content, dict[str, list[str]])
    except files.RecordError as error:
        raise files.RecordError(f"{path}: {error}") from None
    return found


def points(folder: Path) -> list[Path]:
    """The folders of the points that have a record, in the order of their names."""
    return sorted({path.parent.parent for path in folder.glob("*/records/*.json")})


def runs(folder: Path) -> list[Path]:
    """The folders of runs that a folder stands for: those of a sweep's points, or the folder itself."""
    return points(folder) if is_one(folder) else [folder]
