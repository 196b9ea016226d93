"""The rows of runs' tables as a pandas DataFrame, for a notebook: `from bench.report.frame import frame`."""

from pathlib import Path

import pandas as pd

from bench.records import files
from bench.report import table_csv


def frame(*folders: str | Path) -> pd.DataFrame:
    """A line per arm and table of the folders that `framework-bench run` wrote; columns as in table.csv, with their units.

    Numbers are numbers, and what was not measured is missing. bench.records.files.RecordError for a file that is no record, or
    that was changed after its run.
    """
    records = []
    for folder in map(Path, folders):
        found, problems = files.read_folder(folder)
        if problems or not found:
            raise files.RecordError("; ".join(problems) or f"{folder}: no records")
        records += found
    return pd.DataFrame(table_csv.lines(records), dtype=object).infer_objects()
