"""The older schemas of a record, each with the step that makes the next one of it.

A record is read as strictly as on the day when it was written: a field that its schema did not have is refused. Nothing that
was not measured is invented; a new field stays empty.

1   the first
2   parity in every record; tokens, barrier, compilations and processor time of the window; the probe of the precision and of
    the matrix rate; what disturbed the window; energy; the driver's view of a GPU's memory; the key of a record; pilots, how
    the number of rounds was found, and the self-test
3   run, cell and outcome; the arm in place of the backend; what follows from other fields (whether a rung was passed, whether
    the target was reached, the hash of the spec) is no field any more
"""

import re
from collections.abc import Mapping
from typing import Any

from tasks.spec import hash_json

ADDED_IN_2: Mapping[str, tuple[str, ...]] = {
    "": (
        "equivalence_margin", "step_flops", "threads", "key", "probe", "disturbance", "energy", "remarks",
        "selftest", "rounds_plan",
    ),
    "timings": ("tokens", "barrier_s", "unfinished_s", "compilations", "cpu_s"),
    "memory": ("device_peak_process",),
}  # fmt: skip
"""Part of a record ("" is the record itself) -> its new fields, each of which has a default."""

ADDED_IN_3: Mapping[str, tuple[str, ...]] = {
    "machine": ("cpu_quota", "huge_pages"), "disturbance": ("siblings_share", "withheld_share"),
}  # fmt: skip
"""The same for parts that are otherwise what they were."""

CELL_2 = ("kind", "task", "preset", "unit", "round", "position", "seed", "spec", "data")
CELL_2_OPTIONAL = ("step_flops", "key", "selftest", "rounds_plan")
OUTCOME_2 = ("status", "started_utc")
OUTCOME_2_OPTIONAL = (
    "reason", "wall_s", "timings", "probe", "disturbance", "energy", "memory", "quality", "remarks", "settings", "versions",
)  # fmt: skip
ARM_2 = ("backend", "device", "precision")
ARM_2_OPTIONAL = ("threads",)
DERIVED_2 = ("spec_hash", "target", "target_reached", "equivalence_margin", "parity", "order_seed", "measurement")

BOUND = re.compile(r"(>=|<=) (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def upgraded(plain: dict[str, Any], schema: int) -> dict[str, Any]:
    """A record's JSON values in the newest schema; ValueError for a field that `schema` did not have."""
    try:
        if schema == 1:
            plain = _second(plain)
        if schema in (1, 2):
            plain = _third(plain, schema)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"a part of it does not have the form of schema {schema}") from None
    return plain


def _second(plain: dict[str, Any]) -> dict[str, Any]:
    _refuse(plain, ADDED_IN_2, 1)
    if plain.get("kind") == "pilot":
        raise ValueError("schema 1 has no kind 'pilot'")
    return {**plain, "schema": 2}


def _third(plain: dict[str, Any], schema: int) -> dict[str, Any]:
    known = {"schema", "machine", *CELL_2, *CELL_2_OPTIONAL, *OUTCOME_2, *OUTCOME_2_OPTIONAL, *ARM_2, *ARM_2_OPTIONAL,
             *DERIVED_2}  # fmt: skip
    unknown = sorted(set(plain) - known)
    _refuse(plain, ADDED_IN_3, schema)
    if unknown:
        raise ValueError(f"schema {schema} has no field {unknown[0]!r}")
    required = (*CELL_2, *OUTCOME_2, *ARM_2, "spec_hash", "target", "machine", "order_seed")
    missing = [name for name in required if name not in plain]
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing")
    if plain["spec_hash"] != hash_json(plain["spec"]):
        raise ValueError("spec_hash is not the hash of the spec")
    ladders = _ladders(plain.get("parity", []))
    arm = {"name": plain["backend"], **_taken(plain, ARM_2, ARM_2_OPTIONAL)}
    cell = {
        **_taken(plain, CELL_2, CELL_2_OPTIONAL),
        "arm": arm,
        "target": _target(plain),
        "energy": plain.get("energy") is not None,
    }
    outcome = _taken(plain, OUTCOME_2, OUTCOME_2_OPTIONAL)
    (outcome if plain["kind"] == "parity" else cell)["ladders"] = ladders
    run = {"id": str(plain["order_seed"]), "machine": plain["machine"], "measurement": plain.get("measurement", 1)}
    return {"schema": 3, "run": run, "cell": cell, "outcome": outcome}


def _refuse(plain: dict[str, Any], added: Mapping[str, tuple[str, ...]], schema: int) -> None:
    for part, names in added.items():
        values = plain.get(part) if part else plain
        for name in names:
            if isinstance(values, dict) and name in values:
                raise ValueError(f"schema {schema} has no field {name!r}")


def _taken(plain: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    return {name: plain[name] for name in (*required, *optional) if name in plain}


def _target(plain: dict[str, Any]) -> dict[str, Any]:
    """`accuracy >= 0.97 and <= 0.99`, and the margin of equivalence."""
    metric, _, bounds = str(plain["target"]).partition(" ")
    found = {"metric": metric, "margin": plain.get("equivalence_margin")}
    for bound in bounds.split(" and "):
        match = BOUND.fullmatch(bound)
        if not match:
            raise ValueError(f"{bound!r} is not a bound of a target")
        found["at_least" if match[1] == ">=" else "at_most"] = float(match[2])
    return found


def _ladders(plain: Any) -> Any:
    """Without `passed`, which follows from difference and tolerance; ValueError where it does not."""
    if not isinstance(plain, list):
        return plain
    ladders = []
    for ladder in plain:
        rungs = []
        for rung in ladder["rungs"]:
            difference, tolerance = rung["difference"], rung["tolerance"]
            if rung["passed"] != (difference is not None and difference <= tolerance):
                raise ValueError(f"rung {rung['number']} contradicts its own figures")
            rungs.append({name: value for name, value in rung.items() if name != "passed"})
        ladders.append({**ladder, "rungs": rungs})
    return ladders
