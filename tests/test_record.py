"""Records: what is written comes back, and what is not a record is refused with a line that says why."""

import contextlib
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from bench.records import digest, files, history
from bench.records.files import MAX_BYTES, RecordError
from bench.records.record import SCHEMA, Arm, Bytes, Memory, Quality, Record, Rung, Status, Target, Timings
from tasks.spec import hash_json
from tests.builders import NO_ALLOCATOR, a_cell, a_ladder, a_memory, a_quality, a_record, a_row, changed, write_records

GOLDEN = Path(__file__).parent / "golden"
"""A record of every schema, as its program wrote it: never edited, only added to."""

FIRST = (GOLDEN / "record-schema-1.json").read_text()
SECOND = (GOLDEN / "record-schema-2.json").read_text()
NEWEST = (GOLDEN / f"record-schema-{SCHEMA}.json").read_text()


FREE = (
    "cell.spec",
    "cell.changes",
    "cell.arm.environment",
    "outcome.explanation.parts",
    "outcome.explanation.profile.kinds",
    "outcome.settings",
    "outcome.versions",
    "outcome.quality.metrics",
    "outcome.disturbance.gpu.throttled_shares",
)
"""Parts of a record whose fields are not the program's."""


def plain(path: str | None = None, value: Any = None) -> dict[str, Any]:
    """A valid record as JSON values, with one field, named by its path, set to something else."""
    made: dict[str, Any] = json.loads(NEWEST)
    if path is not None:
        part, name = at(made, path)
        part[name] = value
    return made


def at(made: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The part of a record that has the field with this path, and the field's name in it."""
    *parts, name = path.split(".")
    for part in parts:
        made = made[part]
    return made, name


def paths(made: Any, prefix: str = "") -> list[str]:
    """The path of every field of JSON values, those of parts as well; lists and free mappings are not entered."""
    if not isinstance(made, dict) or prefix.removesuffix(".") in FREE:
        return []
    return [path for name, value in made.items() for path in (f"{prefix}{name}", *paths(value, f"{prefix}{name}."))]


def refusal(content: bytes) -> str:
    """Why this content is no record; the reason is one line that a terminal can show."""
    with pytest.raises(RecordError) as caught:
        files.decode(content)
    message = str(caught.value)
    assert message
    assert all(character.isprintable() for character in message)
    return message


def contains(new: Any, old: Any) -> bool:
    """Whether JSON values are the same but for keys that only the new ones have."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and contains(new[name], value) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(contains, new, old))
    return bool(new == old)


# What is written comes back.


def test_a_record_of_the_first_release_still_reads() -> None:
    read: Record = files.decode(FIRST.encode())
    run, cell, outcome = read.run, read.cell, read.outcome
    assert (run.id, run.measurement, run.harness, run.source) == ("1234", 1, None, None)
    assert (run.machine.cpu, run.machine.cores, run.machine.memory_bytes) == ("A CPU", 2, 8_000_000_000)
    assert cell.arm == Arm(name="pytorch", backend="pytorch", mode="default", device="cpu", precision="float32")
    assert (cell.kind, cell.round, cell.position, cell.seed, cell.spec["batch_size"]) == ("speed", 2, 3, 0, 32)
    assert cell.target == Target("accuracy", at_least=0.93)
    assert outcome.timings == Timings(1.5, 0.5, 0.25, 0.125, 50, [0.5, 0.5], 1.0, 3200)
    assert outcome.memory is not None
    assert outcome.memory.host_peak == Bytes(2000)
    assert outcome.memory.host_peak_training == Bytes(None, "only Linux keeps this counter")
    assert outcome.quality == Quality(900, 3.5, 0.25, {"accuracy": 0.9625}, [(1, 0.5, 2.25), (900, 3.5, 0.125)])
    assert read.ladders == cell.ladders  # it was climbed before this process started
    assert read.ladders[0].rungs[1] == Rung(2, "forward", None, 1e-10, "logits")
    assert [rung.passed for rung in read.ladders[0].rungs] == [True, False]
    assert not read.ladders[0].passed
    assert outcome.settings == {"device": "cpu", "threads": 2, "fused": True, "x": 0.5, "y": None}
    assert outcome.started_utc == "2026-01-01T00:00:00Z"
    # Nothing that was not measured is invented.
    assert (outcome.probe, outcome.disturbance, outcome.energy, outcome.remarks) == (None, None, None, [])
    assert (outcome.timings.cpu_s, cell.step_flops, cell.key, cell.energy, cell.changes) == (None, None, "", False, {})


def test_a_record_of_the_second_schema_has_all_that_it_had() -> None:
    read: Record = files.decode(SECOND.encode())
    old, new = json.loads(SECOND), json.loads(files.encode(read))
    for part, names in (
        (new["outcome"], (*history.OUTCOME_2, *history.OUTCOME_2_OPTIONAL)),
        (new["cell"], (*history.CELL_2, *history.CELL_2_OPTIONAL)),
        (new["cell"]["arm"], (*history.ARM_2, *history.ARM_2_OPTIONAL)),
        (new["run"], ("machine", "measurement")),
    ):
        assert contains(part, {name: old[name] for name in names})
    assert read.cell.arm == Arm(name="pytorch", backend="pytorch", threads=2)
    assert read.cell.target == Target("accuracy", at_least=0.93, margin=0.01)
    assert (read.run.id, read.cell.energy) == ("1234", True)
    assert [rung.passed for rung in read.ladders[0].rungs] == [rung["passed"] for rung in old["parity"][0]["rungs"]]


@pytest.mark.parametrize(
    ("told", "target"),
    [
        ("perplexity <= 120.5", Target("perplexity", at_most=120.5)),
        ("accuracy >= 0.97 and <= 0.99", Target("accuracy", at_least=0.97, at_most=0.99)),
        ("loss <= 1e-05", Target("loss", at_most=1e-5)),
    ],
)
def test_a_target_that_older_schemas_told_in_words_is_read_and_written_as_it_was(told: str, target: Target) -> None:
    told_so = json.loads(FIRST) | {"target": told, "status": "failed", "reason": "it is not about what was reached"}
    read: Record = files.decode(json.dumps(told_so).encode())
    assert read.cell.target == target
    assert str(read.cell.target) == told


def test_the_ladders_of_an_older_parity_process_are_those_that_it_climbed() -> None:
    climbed = json.loads(FIRST) | {"kind": "parity", "status": "failed", "reason": "parity: fell at rung 2"}
    read: Record = files.decode(json.dumps(climbed).encode())
    assert (len(read.outcome.ladders), read.cell.ladders) == (1, [])


def test_a_record_of_this_schema_comes_back_as_it_is() -> None:
    assert json.loads(files.encode(files.decode(NEWEST.encode()))) == json.loads(NEWEST)


def test_every_schema_has_a_golden_record() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"record-schema-{n}.json" for n in range(1, SCHEMA + 1)}


def test_the_newest_golden_record_has_a_value_in_every_field() -> None:
    """So that every field is among those that are read back, spoilt and left out below."""
    empty = {
        path for path in paths(json.loads(NEWEST)) if at(plain(), path)[0][at(plain(), path)[1]] in (None, [], {}, "")
    }
    assert [path for path in sorted(empty) if not path.endswith((".reason", ".bytes"))] == []
    assert set(paths(json.loads(NEWEST))) == set(paths(json.loads(files.encode(files.decode(NEWEST.encode())))))


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_a_golden_record_is_upgraded_once_and_then_stays_as_it_is(path: Path) -> None:
    read = files.decode(path.read_bytes())
    assert read.schema == SCHEMA
    assert files.decode(files.encode(read)) == read


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in history.ADDED_IN_2.items() for name in names]
)
def test_a_field_of_the_second_schema_is_refused_in_the_first(part: str, name: str) -> None:
    new, old = json.loads(SECOND), json.loads(FIRST)
    (old[part] if part else old)[name] = (new[part] if part else new)[name]
    assert f"schema 1 has no field '{name}'" in refusal(json.dumps(old).encode())


@pytest.mark.parametrize("schema", [FIRST, SECOND], ids=["first", "second"])
@pytest.mark.parametrize(
    "name", ["run", "cell", "outcome", "arm", "mode", "changes", "environment", "ladders", "height"]
)
def test_a_field_of_the_third_schema_is_refused_in_the_older_ones(schema: str, name: str) -> None:
    old = json.loads(schema)
    assert f"schema {old['schema']} has no field '{name}'" in refusal(json.dumps({**old, name: {}}).encode())


@pytest.mark.parametrize("schema", [FIRST, SECOND], ids=["first", "second"])
@pytest.mark.parametrize(("part", "name"), [(p, name) for p, names in history.ADDED_IN_3.items() for name in names])
def test_a_part_has_no_field_of_the_third_schema_in_the_older_ones(schema: str, part: str, name: str) -> None:
    old = json.loads(schema)
    old[part] = {**(old.get(part) or {}), name: 1.5}
    assert f"schema {old['schema']} has no field '{name}'" in refusal(json.dumps(old).encode()) or (
        old["schema"] == 1 and part == "disturbance"  # which the first did not have at all
    )


@pytest.mark.parametrize("bounds", [(None, None), (0.9, 0.8)])
def test_a_target_that_cannot_be_reached_is_refused(bounds: tuple[float | None, float | None]) -> None:
    made = plain("cell.target.at_least", bounds[0])
    made["cell"]["target"]["at_most"] = bounds[1]
    assert re.search("has no bound|cannot be reached", refusal(json.dumps(made).encode()))


@pytest.mark.parametrize("schema", [FIRST, SECOND], ids=["first", "second"])
def test_what_older_schemas_wrote_twice_must_agree(schema: str) -> None:
    """The hash of the spec, and whether a rung was passed, follow from other fields: a file that says otherwise was edited."""
    old = json.loads(schema)
    other = {**old, "spec": {**old["spec"], "batch_size": 64}}
    assert "spec_hash is not the hash of the spec" in refusal(json.dumps(other).encode())
    assert files.decode(json.dumps({**other, "spec_hash": hash_json(other["spec"])}).encode())
    assert "rung 1 contradicts its own figures" in refusal(schema.replace('"passed": true', '"passed": false').encode())
    assert "rung 2 contradicts its own figures" in refusal(schema.replace('"passed": false', '"passed": true').encode())
    beyond = schema.replace('"difference": 0.0, "tolerance": 0.0', '"difference": 2e-10, "tolerance": 1e-10')
    assert "rung 1 contradicts its own figures" in refusal(beyond.encode())


@pytest.mark.parametrize("target", ["", " ", "accuracy", "accuracy 0.9", "accuracy > 0.9", "accuracy >= x", ">= 0.9"])
def test_a_target_that_no_older_schema_wrote_is_refused(target: str) -> None:
    refusal(FIRST.replace("accuracy >= 0.93", target).encode())


@pytest.mark.parametrize("schema", [FIRST, SECOND], ids=["first", "second"])
def test_a_missing_field_of_an_older_schema_is_refused_and_named(schema: str) -> None:
    for field in (
        "kind", "status", "task", "preset", "unit", "backend", "device", "precision", "round", "position", "seed",
        "order_seed", "spec", "spec_hash", "data", "target", "machine", "started_utc",
    ):  # fmt: skip
        old = json.loads(schema)
        del old[field]
        assert f"'{field}' is missing" in refusal(json.dumps(old).encode())


@pytest.mark.parametrize(
    "made", a_row("alpha", [10, 20]), ids=lambda made: f"{made.cell.kind}-{made.cell.round}-{made.cell.seed}"
)
def test_every_kind_of_record_comes_back_as_it_was(tmp_path: Path, made: Record) -> None:
    files.write(tmp_path / "record.json", made)
    assert files.read(tmp_path / "record.json") == made


# The values that may be in a record; of characters only those that JSON, Unicode or a terminal treat in their own way.
numbers = st.integers(1, 2**53)
finite = st.floats(allow_nan=False, allow_infinity=False)
seconds = st.floats(1e-6, 1e9)
texts = st.text(
    st.sampled_from('aZ09 "\\/{}[]:,\n\r\t\0\x1b\x7f\x85é中😀\u2028\u202e\ufeff\uffff'), min_size=1, max_size=9
)
sizes = st.builds(Bytes, numbers) | st.builds(Bytes, st.none(), texts)
words = texts.filter(str.strip)
labels = st.from_regex(r"[A-Za-z0-9é中][A-Za-z0-9é中_.:=,+@/ -]{0,79}", fullmatch=True)


@pytest.mark.slow
@given(
    arm=st.builds(
        Arm, labels, texts, texts, texts, texts, numbers | st.none(), texts | st.none(),
        st.dictionaries(texts, texts, max_size=3), st.floats(0, 1),
    ),
    words=st.tuples(words, texts, texts, texts),
    timings=st.builds(
        Timings, seconds, seconds, seconds, seconds, numbers, st.lists(seconds, min_size=1), seconds, numbers
    ),
    memory=st.builds(Memory, sizes, sizes, sizes, sizes, sizes),
    settings=st.dictionaries(texts, texts | numbers | finite | st.booleans() | st.none(), max_size=4),
    metrics=st.dictionaries(texts, st.floats(-1e150, 1e150), max_size=4),
    spec=st.dictionaries(texts, st.recursive(finite | texts | st.none(), lambda inner: st.lists(inner, max_size=3))),
)  # fmt: skip
def test_any_record_comes_back_bit_for_bit(
    arm: Arm, words: tuple[str, ...], timings: Timings, memory: Memory, settings: Any, metrics: Any, spec: Any
) -> None:
    metric, unit, reason, run = words
    made = a_record(
        target=Target(metric, at_most=0.5), unit=unit, status="failed", reason=reason, timings=timings, id=run,
        memory=memory, settings=settings, quality=Quality(1, 0.0, 0.0, metrics, []), spec=spec,
    )  # fmt: skip
    made = msgspec.structs.replace(made, cell=msgspec.structs.replace(made.cell, arm=arm))
    content = files.encode(made)
    read = files.decode(content)
    assert read == made
    assert files.encode(read) == content
    assert (read.cell.arm.hash, read.cell.spec_hash, read.cell.file_name) == (
        made.cell.arm.hash, made.cell.spec_hash, made.cell.file_name,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", " ", "_a", "-a", ".a", "a\n", "a\nb", "\n", "a\x1b", "a\u202eb", "a|b", "a<b", "a`b", "a" * 81]
)
def test_an_arm_s_name_is_short_and_harmless(name: str) -> None:
    """It stands in tables, in commands and in the names of files."""
    refusal(json.dumps(plain("cell.arm.name", name)).encode())


def test_a_file_is_strict_json_with_a_final_newline() -> None:
    content = files.encode(a_record(reason="naïve 数"))
    assert content.endswith(b"}\n")
    assert "naïve 数".encode() in content
    assert set(json.loads(content)) == {"schema", "run", "cell", "outcome"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_never_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(ValueError, match="Out of range float"):
        files.write(path, a_record(quality=a_quality(value)))
    assert list(tmp_path.iterdir()) == []


# What is not a record.


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_no_number_is_refused(literal: str) -> None:
    content = FIRST.replace('"wall_s": 5.5', f'"wall_s": {literal}').encode()
    assert literal in refusal(content)


def test_a_number_of_hundreds_of_digits_is_refused() -> None:
    for field in ('"round": 2', '"items": 3200', '"bytes": 2000', '"memory_bytes": 8000000000', '"threads": 2'):
        assert field in FIRST
        refusal(FIRST.replace(field, field.partition(":")[0] + ": 1" + "0" * 400).encode())
        assert field in NEWEST
        refusal(NEWEST.replace(field, field.partition(":")[0] + ": 1" + "0" * 400).encode())
    refusal(FIRST.replace('"round": 2', '"round": 1' + "0" * 5000).encode())


def test_a_key_that_stands_twice_is_refused_at_any_depth() -> None:
    assert "'task' stands twice" in refusal(FIRST.replace('"task"', '"task": "other", "task"', 1).encode())
    assert "'cores' stands twice" in refusal(FIRST.replace('"cores"', '"cores": 4, "cores"').encode())
    assert "'widths' stands twice" in refusal(FIRST.replace('"widths"', '"widths": 1, "widths"').encode())


@pytest.mark.parametrize(
    "content",
    [FIRST.replace('"cores"', '"user": "me", "cores"'), FIRST.replace('"import_s"', '"x": 1, "import_s"')],
)
def test_an_unknown_field_in_a_part_of_an_older_record_is_refused_and_named(content: str) -> None:
    assert "unknown field" in refusal(content.encode())


def test_an_unknown_field_of_an_older_record_is_refused_and_named() -> None:
    content = FIRST.replace('"task"', '"host_name": "mine", "task"', 1)
    assert "has no field 'host_name'" in refusal(content.encode())


@pytest.mark.parametrize(
    "part", ["", *(f"{path}." for path in paths(plain()) if isinstance(at(plain(), f"{path}.x")[0], dict) and path not in FREE)]
)  # fmt: skip
def test_an_unknown_field_in_any_part_is_refused_and_named(part: str) -> None:
    assert "unknown field `host_name`" in refusal(json.dumps(plain(f"{part}host_name", "mine")).encode())


def test_a_hostile_key_does_not_reach_the_terminal() -> None:
    refusal(json.dumps(plain() | {"\x1b[2J\nok": 1}).encode())
    refusal(json.dumps(plain() | {"\ud800": 1}).encode())
    refusal(FIRST.replace('"task"', '"\\u001b[2J": 1, "\\u001b[2J": 1, "task"', 1).encode())


@pytest.mark.parametrize(
    "path",
    ["run", "run.id", "run.machine", "run.machine.cores", "cell", "cell.kind", "cell.task", "cell.preset", "cell.unit",
     "cell.arm", "cell.arm.name", "cell.arm.backend", "cell.spec", "cell.data", "cell.target", "cell.target.metric",
     "outcome", "outcome.status", "outcome.timings.window_s"],
)  # fmt: skip
def test_a_missing_field_is_refused_and_named(path: str) -> None:
    content = plain()
    part, name = at(content, path)
    del part[name]
    assert f"missing required field `{name}`" in refusal(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cell.kind", "race"), ("outcome.status", "fine"), ("outcome.status", None), ("cell.round", "2"),
        ("cell.round", 2.5), ("cell.round", True), ("cell.round", None), ("cell.round", 0), ("cell.seed", -1),
        ("outcome.wall_s", "5.5"), ("outcome.wall_s", True), ("cell.task", 3), ("cell.spec", []), ("cell.ladders", {}),
        ("outcome.ladders", None), ("outcome.timings", []), ("cell.data", None), ("outcome.settings", {"a": [1]}),
        ("outcome.versions", {"torch": 2}), ("schema", "1"), ("schema", None), ("schema", True), ("run.id", 1234),
        ("cell.target", "accuracy >= 0.9"), ("cell.target.metric", " "), ("cell.target.margin", 0),
        ("cell.arm", "pytorch"), ("cell.arm.mode", None), ("cell.arm.threads", 0), ("cell.arm.threads", "2"),
        ("cell.arm.environment", {"A": 1}), ("cell.arm.environment", []), ("cell.arm.slow_down", 1.5),
        ("cell.changes", {"batch_size": 32}), ("cell.energy", 1), ("outcome.quality", {"steps": 1}),
        ("run.machine", {"cpu": "x"}), ("outcome.remarks", [""]), ("cell.selftest.rates", [[1, 2, 3]]),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused(path: str, value: object) -> None:
    refusal(json.dumps(plain(path, value)).encode())


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_a_newer_schema_is_named_with_what_to_do_even_if_its_fields_are_unknown(schema: int) -> None:
    message = refusal(json.dumps({"schema": schema, "something": "new"}).encode())
    assert f"schema {schema} is newer than this program's {SCHEMA}" in message
    assert "update framework-bench" in message


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_was_is_refused(schema: int) -> None:
    refusal(json.dumps(plain("schema", schema)).encode())


@pytest.mark.parametrize("reason", [None, ""])
def test_a_status_without_a_reason_is_refused(reason: str | None) -> None:
    for status in set(Status.__args__) - {"ok"}:
        made = plain("outcome.status", status)
        made["outcome"]["reason"] = reason
        assert f"status {status} without a reason" in refusal(json.dumps(made).encode())


def test_figures_that_cannot_be_are_refused() -> None:
    """They would end a report in a division by zero or the logarithm of a negative number."""
    for bad in (
        '"window_s": 0', '"window_s": -1.0', '"window_s": 5e-324', '"items": 0', '"items": -3200', '"block_steps": 0',
        '"blocks_s": []', '"cores": 0', '"bytes": -2000',
    ):  # fmt: skip
        name = bad.partition(":")[0]
        known = {
            "window_s": '"window_s": 1.0', "items": '"items": 3200', "block_steps": '"block_steps": 50',
            "blocks_s": '"blocks_s": [0.5, 0.5]', "cores": '"cores": 2', "bytes": '"bytes": 2000',
        }[name.strip('"')]  # fmt: skip
        assert known in FIRST
        refusal(FIRST.replace(known, bad).encode())


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: nobody could read it
    with pytest.raises(RecordError, match=f"larger than {MAX_BYTES:,} bytes"):
        files.read(path)


def test_content_is_measured_before_it_is_parsed() -> None:
    assert "larger than" in refusal(b" " * MAX_BYTES + FIRST.encode())
    assert files.decode(FIRST.encode() + b" " * (MAX_BYTES - len(FIRST.encode())))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("[" * 16 + "]" * 16, "nested more than 16 levels deep"),
        ("[" * 980 + "]" * 980, "nested"),
        (json.dumps([0] * 10_000), "more than 10,000 values"),
        (json.dumps([[]] * 1_000_001), "more than 1,000,000 values"),
    ],
    ids=["deep", "deeper", "long", "longer"],
)
def test_a_spec_that_nobody_could_hash_or_show_is_refused(spec: str, said: str) -> None:
    whole = json.dumps(plain("cell.spec", {"x": "@"}))
    assert said in refusal(whole.replace('"@"', spec).encode())
    for good in ("[" * 15 + "]" * 15, json.dumps([0] * 9_999)):
        assert files.decode(whole.replace('"@"', good).encode())


def test_a_measurement_that_never_was_is_refused() -> None:
    refusal(json.dumps(plain("run.measurement", 0)).encode())


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_without_end_is_refused(opening: str) -> None:
    assert "nested too deeply" in refusal(opening.encode() * 100_000)


def test_nesting_inside_of_the_free_field_is_refused_or_can_be_written_again() -> None:
    for depth in (10, 100, 500, 900, 960, 980, 990, 1000, 2000):
        content = FIRST.replace('"batch_size": 32', f'"batch_size": {"[" * depth}{"]" * depth}').encode()
        try:
            read = files.decode(content)
        except RecordError:
            continue
        assert files.decode(files.encode(read)) == read


@pytest.mark.parametrize(
    "content",
    [
        b"", b" \n", b"null", b"[]", b"3", b'"record"', b"{}", b"{", b"\x00\xff\xfe", b"<html></html>",
        FIRST.encode()[:-30], FIRST.encode() * 2, FIRST.replace("A CPU", "é").encode("latin-1"), FIRST.encode("utf-16"),
        FIRST.encode("utf-32-be"), FIRST.replace('"task"', "'task'", 1).encode(),
        FIRST.replace("null", "None").encode(),
        FIRST.replace('"wall_s": 5.5', '"wall_s": 5.5,').encode(), FIRST.replace("A CPU", "A\nCPU").encode(),
    ],
)  # fmt: skip
def test_what_is_no_json_in_utf8_or_no_record_is_refused(content: bytes) -> None:
    refusal(content)


def test_half_a_character_is_refused_or_can_be_written_again() -> None:
    with contextlib.suppress(RecordError):
        assert files.encode(files.decode(FIRST.replace("real digits", "\\ud800").encode()))


@given(st.binary(max_size=60) | texts.map(str.encode))
def test_any_bytes_are_refused(content: bytes) -> None:
    refusal(content)


@given(at=st.integers(0, len(FIRST) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_ends_in_a_record_or_a_refusal_and_nothing_else(at: int, byte: int) -> None:
    content = bytearray(FIRST.encode())
    content[at] = byte
    with contextlib.suppress(RecordError):
        assert isinstance(files.decode(bytes(content)), Record)


# Files.


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(b"{")
    with pytest.raises(RecordError, match=f"^{path}: not a record: Expecting"):
        files.read(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: None, lambda path: path.symlink_to(path)])
def test_what_cannot_be_opened_is_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "record.json")
    with pytest.raises(RecordError, match=f"^{tmp_path / 'record.json'}: not a record: "):
        files.read(tmp_path / "record.json")


@pytest.mark.parametrize("spoil", [{"reason": "x" * 20_001}, {"versions": {"x" * 301: "1"}}])
def test_texts_of_any_length_are_refused(spoil: dict[str, Any]) -> None:
    plain = msgspec.to_builtins(a_record())
    plain["outcome"] |= spoil
    with pytest.raises(RecordError, match=r"a text of 20,001 characters|a text of 301 characters"):
        files.decode(json.dumps(plain).encode())


def test_a_folder_gives_its_records_in_order_and_a_line_for_each_other_file(tmp_path: Path) -> None:
    write_records(tmp_path, [a_record(round=number) for number in (2, 1, 3)])
    folder = tmp_path / "records"
    (folder / "aa.json").write_text("{}")
    (folder / "d.json").mkdir()
    (folder / "note.txt").write_text("not looked at")
    (folder / ".a.json.xyz").write_text("left by a crash")
    records, problems = files.read_folder(tmp_path)
    assert [read.cell.round for read in records] == [1, 2, 3]
    assert len(problems) == 2
    assert "aa.json: not a record" in problems[0]
    assert "d.json: not a record" in problems[1]


def test_a_line_about_a_file_shows_no_control_characters_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "\x1b[2J\n.json").write_text("{}")
    _, problems = files.read_folder(tmp_path)
    assert len(problems) == 1
    assert problems[0].isprintable()


def test_what_cannot_be_a_record_is_not_in_the_digest_and_is_named(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "run", [a_record()]) / "records"
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{}")
    (folder / "two\nlines.json").write_text("{}")
    (folder / "pipe.json").mkdir()
    with (folder / "zz.json").open("wb") as file:
        file.truncate(2**40)  # sparse
    before = files.read_folder(tmp_path / "run")[1]
    files.write_digest(tmp_path / "run")
    (line,) = (tmp_path / "run" / digest.NAME).read_text().splitlines()
    assert a_record().cell.file_name in line
    records, problems = files.read_folder(tmp_path / "run")
    assert (len(records), len(problems), len(before)) == (1, 4, 4)
    assert all(problem.isprintable() for problem in problems)


def test_a_folder_without_records_is_empty(tmp_path: Path) -> None:
    assert files.read_folder(tmp_path) == ([], [])


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_is_on_the_disk_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (calls.append("fsync"), fsync(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    files.write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "record.json"
    files.write(path, a_record(round=1))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        files.write(path, a_record(round=2))
    monkeypatch.undo()
    assert files.read(path).cell.round == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_temporary_file_is_no_record_for_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / "record.json"
    seen: list[Any] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *a: (seen.append(files.read_folder(tmp_path)), replace(*a)))
    files.write(path, a_record())
    assert seen == [([], [])]


def test_names_of_files_tell_all_processes_of_a_comparison_apart() -> None:
    alpha = {"backend": "alpha"}
    arms: list[dict[str, Any]] = [
        alpha, {"backend": "package.beta"}, alpha | {"name": "alpha:compile", "mode": "compile"},
        alpha | {"name": "alpha:precision=float64", "precision": "float64"}, alpha | {"name": "alpha again"},
        alpha | {"name": "alpha,again"}, alpha | {"name": "alpha/again"}, alpha | {"name": "é"},
    ]  # fmt: skip
    made = [
        a_cell(**arm, kind=kind, round=round_number, seed=seed)
        for arm in arms
        for kind, rounds, seeds in (("parity", 1, 1), ("speed", 12, 1), ("memory", 1, 1), ("quality", 1, 12))
        for round_number in range(1, rounds + 1)
        for seed in range(seeds)
    ]
    names = [cell.file_name for cell in made]
    assert len(set(names)) == len(made)
    assert all(Path(name).name == name for name in names)  # no path is made by an arm's name
    speed = [name for name in names if "-speed-" in name and "beta" in name]
    assert speed == sorted(speed)


def test_two_arms_of_one_name_have_files_of_their_own() -> None:
    """Otherwise a run that was resumed with another thread count would take the old figures for its own."""
    assert a_cell().file_name != a_cell(threads=2).file_name
    assert a_cell().file_name != a_cell(environment={"A": "1"}).file_name
    assert a_cell().file_name == a_cell(versions={"alpha": "2.0"}).file_name


def test_parts_of_a_record_cannot_be_changed() -> None:
    for part, name in ((a_record(), "run"), (a_record().cell, "round"), (a_record().outcome, "status")):
        with pytest.raises(AttributeError):
            setattr(part, name, getattr(part, name))


def test_a_ladder_is_passed_only_with_every_rung() -> None:
    assert a_ladder().passed
    assert not a_ladder(passed=6).passed
    assert not a_ladder(passed=0).passed
    assert not msgspec.structs.replace(a_ladder(), rungs=[]).passed
    assert not msgspec.structs.replace(a_ladder(), rungs=a_ladder().rungs[:3]).passed  # it stopped before the top
    reached = msgspec.structs.replace(a_ladder().rungs[0], difference=1e-6, tolerance=1e-6)
    assert reached.passed
    assert not msgspec.structs.replace(reached, difference=1.1e-6).passed
    assert not msgspec.structs.replace(reached, difference=None).passed


def test_a_ladder_that_was_lower_when_it_was_climbed_is_whole() -> None:
    lower = msgspec.structs.replace(a_ladder(), rungs=a_ladder().rungs[:5], height=5)
    assert lower.passed
    assert not msgspec.structs.replace(lower, rungs=lower.rungs[::-1]).passed
    assert not msgspec.structs.replace(lower, rungs=[lower.rungs[0]] * 5).passed


def test_what_follows_from_a_window_is_not_written_but_computed() -> None:
    timings = a_record().outcome.timings
    assert timings is not None
    assert (timings.throughput, timings.step_s, timings.start_s) == pytest.approx((1000, 1 / 50, 1.75))
    assert not {"throughput", "step_s", "start_s"} & set(json.loads(files.encode(timings)))


def test_two_arms_with_another_way_are_other_programs() -> None:
    arm = Arm(name="a", backend="pytorch")
    assert msgspec.structs.replace(arm, name="b").way == arm.way
    others = [
        msgspec.structs.replace(arm, **change)
        for change in (
            {"backend": "jax"}, {"mode": "compile"}, {"device": "gpu"}, {"precision": "float64"}, {"threads": 1},
            {"python": "3.12.1"}, {"environment": {"A": "1"}}, {"slow_down": 0.1}, {"processes": 2},
            {"processes": 2, "nodes": 2}, {"name": "b"},
        )
    ]  # fmt: skip
    assert len({one.hash for one in [arm, *others]}) == 1 + len(others)
    assert [one.way == arm.way for one in others] == [False] * 10 + [True]


@pytest.mark.parametrize("made", a_row("alpha", [10]), ids=lambda made: made.cell.kind)
def test_ok_without_the_figures_of_its_kind_is_refused(made: Record) -> None:
    outcome = msgspec.structs.replace(made.outcome, ladders=[], timings=None, memory=None, quality=None)
    bare = msgspec.structs.replace(made, outcome=outcome)
    assert made.cell.kind in refusal(files.encode(bare))
    assert files.decode(files.encode(changed(bare, status="failed", reason="it broke")))


def test_what_was_not_measured_has_a_reason() -> None:
    assert a_memory().device_peak_allocated == NO_ALLOCATOR
    content = FIRST.replace('{"bytes": null, "reason": "no"}', '{"bytes": null, "reason": null}')
    assert "reason" in refusal(content.encode())


# Read quickly.


def quick_and_careful(content: bytes) -> tuple[Any, Any]:
    """What the quick reader makes of a content, and the careful one alone: a record, or why it is none."""

    def careful() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "_quickly", lambda content, kind: None)
            return files.decode(content)

    quick = files._quickly(content, Record)
    try:
        return quick, careful()
    except files.RecordError as error:
        return quick, str(error)


def test_a_record_as_it_is_written_is_read_quickly_and_is_the_same() -> None:
    content = files.encode(a_record())
    quick, careful = quick_and_careful(content)
    assert quick == careful == a_record()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"status": "ok"', '"status": "ok", "status": "ok"'),
        ('"status": "ok"', '"status": "ok", "status" : "ok"'),
        ('"status": "ok"', '"status": "ok", "status"\n:"ok"'),
        ('"status": "ok"', '"status": "ok", "\\u0073tatus": "ok"'),
        ('"reason": null,', ""),  # a field less and, below, one that stands twice: as many keys as there should be
        ('"started_utc": "', '"started_utc": "\\" :'),
        ('"wall_s": 3.0', '"wall_s": 12345678901234567890'),
        ('"wall_s": 3.0', '"wall_s":\t12345678901234567890'),
        ('"wall_s": 3.0', '"wall_s":\r\n12345678901234567890'),
        ('"wall_s": 3.0', '"wall_s": 1e999'),
        ('"wall_s": 3.0', '"wall_s": NaN'),
        ('"alpha": "1.0"', f'"{"a" * 301}": "1.0"'),
        ('"schema": 3', '"schema": 2'),
    ],
)
def test_what_the_quick_reader_is_not_sure_of_the_careful_one_reads(before: str, after: str) -> None:
    text = files.encode(a_record()).decode()
    assert before in text
    changed_text = text.replace(before, after, 1)
    if not after:
        changed_text = changed_text.replace('"status": "ok"', '"status": "ok", "status": "ok"', 1)
    quick, careful = quick_and_careful(changed_text.encode())
    assert quick is None
    with pytest.raises(files.RecordError) if isinstance(careful, str) else contextlib.nullcontext():
        files.decode(changed_text.encode())


@given(st.data())
def test_the_quick_reader_never_reads_what_the_careful_one_refuses(data: st.DataObject) -> None:
    """A few bytes changed anywhere."""
    content = bytearray(files.encode(a_record()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(
            [b'"', b"{", b"}", b",", b":", b"\\", b" ", b"1", b'"status": "ok", ', b"[", b"]", b"e9", b"-", b"\xff", b"null"]
        ))  # fmt: skip
    quick, careful = quick_and_careful(bytes(content))
    if quick is not None and not isinstance(careful, str):
        assert quick == careful
    elif quick is not None:
        with pytest.raises(files.RecordError):  # it breaks a rule: that is judged afterwards
            files.check(quick)
