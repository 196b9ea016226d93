"""Records: what is written comes back, and what is not a record is refused with a line that says why."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from bench.records import history, record
from bench.records.record import MAX_BYTES, SCHEMA, Bytes, Memory, Quality, Record, RecordError, Rung, Timings
from tests.conftest import NO_ALLOCATOR, a_ladder, a_memory, a_quality, a_record, a_row

GOLDEN = Path(__file__).parent / "golden"
"""A record of every schema, as its program wrote it: never edited, only added to."""

FIRST = (GOLDEN / "record-schema-1.json").read_text()
NEWEST = (GOLDEN / f"record-schema-{SCHEMA}.json").read_text()


def plain(**changes: Any) -> dict[str, Any]:
    """A valid record as JSON values, with some fields set to something else."""
    return {**json.loads(NEWEST), **changes}


def refusal(content: bytes) -> str:
    """Why this content is no record; the reason is one line that a terminal can show."""
    with pytest.raises(RecordError) as caught:
        record.decode(content)
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
    read: Record = record.decode(FIRST.encode())
    assert (read.backend, read.round, read.position, read.spec["batch_size"]) == ("pytorch", 2, 3, 32)
    assert read.timings == Timings(1.5, 0.5, 0.25, 0.125, 50, [0.5, 0.5], 1.0, 3200)
    assert read.memory is not None
    assert read.memory.host_peak == Bytes(2000)
    assert read.memory.host_peak_training == Bytes(None, "only Linux keeps this counter")
    assert read.quality == Quality(900, 3.5, 0.25, {"accuracy": 0.9625}, [(1, 0.5, 2.25), (900, 3.5, 0.125)])
    assert read.parity[0].rungs[1] == Rung(2, "forward", None, 1e-10, "logits", passed=False)
    assert not read.parity[0].passed
    assert read.settings == {"device": "cpu", "threads": 2, "fused": True, "x": 0.5, "y": None}
    # Written again it has every field that it had; only fields that came later are added.
    assert contains(json.loads(record.encode(read)), {**json.loads(FIRST), "schema": SCHEMA})
    assert (read.probe, read.disturbance, read.energy, read.remarks, read.timings.cpu_s) == (None, None, None, [], None)


def test_a_record_of_this_schema_comes_back_as_it_is() -> None:
    assert json.loads(record.encode(record.decode(NEWEST.encode()))) == json.loads(NEWEST)


def test_every_schema_has_a_golden_record() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"record-schema-{n}.json" for n in range(1, SCHEMA + 1)}


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_a_golden_record_of_every_schema_reads_and_has_every_field_of_its_own(path: Path) -> None:
    old = json.loads(path.read_text())
    read = json.loads(record.encode(record.decode(path.read_bytes())))
    assert contains(read, {**old, "schema": SCHEMA})


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in history.ADDED_IN_2.items() for name in names]
)
def test_a_field_of_a_later_schema_is_refused_in_an_older_one(part: str, name: str) -> None:
    new, old = json.loads(NEWEST), json.loads(FIRST)
    (old[part] if part else old)[name] = (new[part] if part else new)[name]
    assert f"schema 1 has no field '{name}'" in refusal(json.dumps(old).encode())


@pytest.mark.parametrize("made", a_row("alpha", [10, 20]), ids=lambda made: f"{made.kind}-{made.round}-{made.seed}")
def test_every_kind_of_record_comes_back_as_it_was(tmp_path: Path, made: Record) -> None:
    record.write(tmp_path / "record.json", made)
    assert record.read(tmp_path / "record.json") == made


# The values that may be in a record; of characters only those that JSON, Unicode or a terminal treat in their own way.
numbers = st.integers(1, 2**53)
finite = st.floats(allow_nan=False, allow_infinity=False)
seconds = st.floats(1e-6, 1e9)
texts = st.text(
    st.sampled_from('aZ09 "\\/{}[]:,\n\r\t\0\x1b\x7f\x85é中😀\u2028\u202e\ufeff\uffff'), min_size=1, max_size=9
)
sizes = st.builds(Bytes, numbers) | st.builds(Bytes, st.none(), texts)


@given(
    texts=st.tuples(texts, texts, texts, texts),
    timings=st.builds(
        Timings, seconds, seconds, seconds, seconds, numbers, st.lists(seconds, min_size=1), seconds, numbers
    ),
    memory=st.builds(Memory, sizes, sizes, sizes, sizes, sizes),
    settings=st.dictionaries(texts, texts | numbers | finite | st.booleans() | st.none(), max_size=4),
    metrics=st.dictionaries(texts, st.floats(-1e150, 1e150), max_size=4),
    spec=st.dictionaries(texts, st.recursive(finite | texts | st.none(), lambda inner: st.lists(inner, max_size=3))),
)
def test_any_record_comes_back_bit_for_bit(
    texts: tuple[str, ...], timings: Timings, memory: Memory, settings: Any, metrics: Any, spec: Any
) -> None:
    backend, target, unit, reason = texts
    made = a_record(
        backend=backend, target=f"accuracy {target}", unit=unit, status="failed", reason=reason, timings=timings,
        memory=memory, settings=settings, quality=Quality(1, 0.0, 0.0, metrics, []), spec=spec,
    )  # fmt: skip
    content = record.encode(made)
    read = record.decode(content)
    assert read == made
    assert record.encode(read) == content


def test_a_file_is_strict_json_with_a_final_newline() -> None:
    content = record.encode(a_record(reason="naïve 数"))
    assert content.endswith(b"}\n")
    assert "naïve 数".encode() in content
    assert set(json.loads(content)) == set(Record.__struct_fields__)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_never_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(ValueError, match="Out of range float"):
        record.write(path, a_record(quality=a_quality(value)))
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
    refusal(FIRST.replace('"round": 2', '"round": 1' + "0" * 5000).encode())


def test_a_key_that_stands_twice_is_refused_at_any_depth() -> None:
    assert "'task' stands twice" in refusal(FIRST.replace('"task"', '"task": "other", "task"', 1).encode())
    assert "'cores' stands twice" in refusal(FIRST.replace('"cores"', '"cores": 4, "cores"').encode())
    assert "'widths' stands twice" in refusal(FIRST.replace('"widths"', '"widths": 1, "widths"').encode())


@pytest.mark.parametrize(
    "content",
    [
        FIRST.replace('"task"', '"host_name": "mine", "task"', 1),
        FIRST.replace('"cores"', '"user": "me", "cores"'),
        FIRST.replace('"import_s"', '"x": 1, "import_s"'),
    ],
)
def test_an_unknown_field_is_refused_and_named(content: str) -> None:
    assert "unknown field" in refusal(content.encode())


def test_a_hostile_key_does_not_reach_the_terminal() -> None:
    refusal(json.dumps(plain() | {"\x1b[2J\nok": 1}).encode())
    refusal(json.dumps(plain() | {"\ud800": 1}).encode())
    refusal(FIRST.replace('"task"', '"\\u001b[2J": 1, "\\u001b[2J": 1, "task"', 1).encode())


@pytest.mark.parametrize(
    "field",
    ["kind", "status", "task", "preset", "unit", "backend", "device", "precision", "round", "position", "seed", "order_seed",
     "spec", "spec_hash", "data", "target", "machine", "started_utc"],
)  # fmt: skip
def test_a_missing_field_is_refused_and_named(field: str) -> None:
    content = plain()
    del content[field]
    assert f"missing required field `{field}`" in refusal(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "race"), ("status", "fine"), ("status", None), ("round", "2"), ("round", 2.5), ("round", True),
        ("round", None), ("wall_s", "5.5"), ("wall_s", True), ("task", 3), ("spec", []), ("parity", {}), ("timings", []),
        ("data", None), ("settings", {"a": [1]}), ("versions", {"torch": 2}), ("schema", "1"), ("schema", None),
        ("schema", True), ("target_reached", 1), ("quality", {"steps": 1}), ("machine", {"cpu": "x"}),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused(field: str, value: object) -> None:
    refusal(json.dumps(plain(**{field: value})).encode())


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_a_newer_schema_is_named_with_what_to_do_even_if_its_fields_are_unknown(schema: int) -> None:
    message = refusal(json.dumps({"schema": schema, "something": "new"}).encode())
    assert f"schema {schema} is newer than this program's {SCHEMA}" in message
    assert "update framework-bench" in message


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_was_is_refused(schema: int) -> None:
    refusal(json.dumps(plain(schema=schema)).encode())


@pytest.mark.parametrize("reason", [None, ""])
def test_a_status_without_a_reason_is_refused(reason: str | None) -> None:
    for status in set(record.Status.__args__) - {"ok"}:
        assert f"status {status} without a reason" in refusal(json.dumps(plain(status=status, reason=reason)).encode())


def test_figures_that_cannot_be_are_refused() -> None:
    """They would end a report in a division by zero or the logarithm of a negative number."""
    for bad in (
        '"window_s": 0', '"window_s": -1.0', '"window_s": 5e-324', '"items": 0', '"items": -3200', '"block_steps": 0',
        '"blocks_s": []', '"target": ""', '"target": " "', '"cores": 0', '"bytes": -2000',
    ):  # fmt: skip
        name = bad.partition(":")[0]
        known = {
            "window_s": '"window_s": 1.0', "items": '"items": 3200', "block_steps": '"block_steps": 50',
            "blocks_s": '"blocks_s": [0.5, 0.5]', "target": '"target": "accuracy >= 0.93"', "cores": '"cores": 2',
            "bytes": '"bytes": 2000',
        }[name.strip('"')]  # fmt: skip
        assert known in FIRST
        refusal(FIRST.replace(known, bad).encode())


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: nobody could read it
    with pytest.raises(RecordError, match=f"larger than {MAX_BYTES:,} bytes"):
        record.read(path)


def test_content_is_measured_before_it_is_parsed() -> None:
    assert "larger than" in refusal(b" " * MAX_BYTES + FIRST.encode())
    assert record.decode(FIRST.encode() + b" " * (MAX_BYTES - len(FIRST.encode())))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_without_end_is_refused(opening: str) -> None:
    assert "nested too deeply" in refusal(opening.encode() * 100_000)


def test_nesting_inside_of_the_free_field_is_refused_or_can_be_written_again() -> None:
    for depth in (10, 100, 500, 900, 960, 980, 990, 1000, 2000):
        content = FIRST.replace('"batch_size": 32', f'"batch_size": {"[" * depth}{"]" * depth}').encode()
        try:
            read = record.decode(content)
        except RecordError:
            continue
        assert record.decode(record.encode(read)) == read


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
        assert record.encode(record.decode(FIRST.replace("real digits", "\\ud800").encode()))


@given(st.binary(max_size=60) | texts.map(str.encode))
def test_any_bytes_are_refused(content: bytes) -> None:
    refusal(content)


@given(at=st.integers(0, len(FIRST) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_ends_in_a_record_or_a_refusal_and_nothing_else(at: int, byte: int) -> None:
    content = bytearray(FIRST.encode())
    content[at] = byte
    with contextlib.suppress(RecordError):
        assert isinstance(record.decode(bytes(content)), Record)


# Files.


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(b"{")
    with pytest.raises(RecordError, match=f"^{path}: not a record: Expecting"):
        record.read(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: None, lambda path: path.symlink_to(path)])
def test_what_cannot_be_opened_is_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "record.json")
    with pytest.raises(RecordError, match=f"^{tmp_path / 'record.json'}: not a record: "):
        record.read(tmp_path / "record.json")


def test_a_folder_gives_its_records_in_order_and_a_line_for_each_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    for name, round_number in (("b", 2), ("a", 1), ("c", 3)):
        record.write(folder / f"{name}.json", a_record(round=round_number))
    (folder / "aa.json").write_text("{}")
    (folder / "d.json").mkdir()
    (folder / "note.txt").write_text("not looked at")
    (folder / ".a.json.xyz").write_text("left by a crash")
    records, problems = record.read_folder(tmp_path)
    assert [read.round for read in records] == [1, 2, 3]
    assert len(problems) == 2
    assert "aa.json: not a record" in problems[0]
    assert "d.json: not a record" in problems[1]


def test_a_line_about_a_file_shows_no_control_characters_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "\x1b[2J\n.json").write_text("{}")
    _, problems = record.read_folder(tmp_path)
    assert len(problems) == 1
    assert problems[0].isprintable()


def test_a_folder_without_records_is_empty(tmp_path: Path) -> None:
    assert record.read_folder(tmp_path) == ([], [])


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    record.write_bytes(path, b"old")
    record.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_is_on_the_disk_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (calls.append("fsync"), fsync(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    record.write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "record.json"
    record.write(path, a_record(round=1))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        record.write(path, a_record(round=2))
    monkeypatch.undo()
    assert record.read(path).round == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_temporary_file_is_no_record_for_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / "record.json"
    seen: list[Any] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *a: (seen.append(record.read_folder(tmp_path)), replace(*a)))
    record.write(path, a_record())
    assert seen == [([], [])]


def test_names_of_files_tell_all_processes_of_a_comparison_apart() -> None:
    made = [
        a_record(backend=backend, kind=kind, round=round_number, seed=seed, status="failed", reason="?")
        for backend in ("alpha", "package.beta")
        for kind, rounds, seeds in (("parity", 1, 1), ("speed", 12, 1), ("memory", 1, 1), ("quality", 1, 12))
        for round_number in range(1, rounds + 1)
        for seed in range(seeds)
    ]
    names = [record.file_name(cell) for cell in made]
    assert len(set(names)) == len(made)
    speed = [name for name in names if "-speed-" in name and "alpha" in name]
    assert speed == sorted(speed)


def test_parts_of_a_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        a_record().status = "failed"


def test_a_ladder_is_passed_only_with_every_rung() -> None:
    assert a_ladder().passed
    assert not a_ladder(passed=6).passed
    assert not a_ladder(passed=0).passed
    assert not msgspec.structs.replace(a_ladder(), rungs=[]).passed
    assert not msgspec.structs.replace(a_ladder(), rungs=a_ladder().rungs[:3]).passed  # it stopped before the top


@pytest.mark.parametrize("made", a_row("alpha", [10]), ids=lambda made: made.kind)
def test_ok_without_the_figures_of_its_kind_is_refused(made: Record) -> None:
    bare = msgspec.structs.replace(made, parity=[], timings=None, memory=None, quality=None)
    assert made.kind in refusal(record.encode(bare))
    assert record.decode(record.encode(msgspec.structs.replace(bare, status="failed", reason="it broke")))


def test_what_was_not_measured_has_a_reason() -> None:
    assert a_memory().device_peak_allocated == NO_ALLOCATOR
    content = FIRST.replace('{"bytes": null, "reason": "no"}', '{"bytes": null, "reason": null}')
    assert "reason" in refusal(content.encode())
