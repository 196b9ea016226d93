"""The older schemas of a record, each with the step that makes the next one of it.

A record is read as strictly as on the day when it was written: a field that its schema did not have is refused. Nothing that
was not measured is invented; a new field stays empty.

1   the first
2   parity in every record; tokens, barrier, compilations and processor time of the window; the probe of the precision and of
    the matrix rate; what disturbed the window; energy; the driver's view of a GPU's memory; the key of a record; pilots, how
    the number of rounds was found, and the self-test
"""

from collections.abc import Mapping
from typing import Any

ADDED_IN_2: Mapping[str, tuple[str, ...]] = {
    "": (
        "equivalence_margin", "step_flops", "threads", "key", "probe", "disturbance", "energy", "remarks",
        "selftest", "rounds_plan",
    ),
    "timings": ("tokens", "barrier_s", "unfinished_s", "compilations", "cpu_s"),
    "memory": ("device_peak_process",),
}  # fmt: skip
"""Part of a record ("" is the record itself) -> its new fields, each of which has a default."""


def upgraded(plain: dict[str, Any], schema: int) -> dict[str, Any]:
    """A record's JSON values in the newest schema; ValueError for a field that `schema` did not have."""
    if schema == 1:
        for part, names in ADDED_IN_2.items():
            values = plain.get(part) if part else plain
            for name in names:
                if isinstance(values, dict) and name in values:
                    raise ValueError(f"schema 1 has no field {name!r}")
        if plain.get("kind") == "pilot":
            raise ValueError("schema 1 has no kind 'pilot'")
        plain = {**plain, "schema": 2}
    return plain
