"""What a newcomer sees at the end of a run: verdicts first, a table that fits, and everything else one option away."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.records import files
from bench.records.record import Record
from bench.report import grouping, terminal
from tests.builders import a_quality, a_record, a_run

TWO = {"fast": [200.0, 204.0, 198.0], "slow": [100.0, 101.0, 99.5]}


def shown(records: list[Record], *, width: int, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=width, no_color=not colour, color_system="standard" if colour else None
    )
    terminal.show_on(console, records)
    return stream.getvalue()


def test_verdicts_stand_before_the_table() -> None:
    text = shown(a_run(TWO), width=120)
    assert text.index("fast trains mnist_mlp") < text.index("relative to the fastest")


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_in_every_terminal_nothing_is_cut_and_what_has_no_room_is_named(width: int) -> None:
    records, _ = files.read_folder(Path(__file__).parent.parent / "results" / "2026-11-28-mnist_mlp-standard-cpu")
    text = shown(records, width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    whole = " ".join(text.split())
    assert ("a wider terminal has room for:" in whole) == (width < 120)
    for told in ("accuracy", "busy", "first", "memory"):
        assert told in whole


def test_no_speed_stands_without_its_parity_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Path(__file__).parent.parent / "results"
    records, _ = files.read_folder(results / "2026-11-27-gru_lm-standard-cpu-inference")
    kept: list[list[str]] = []
    monkeypatch.setattr(terminal, "fitting", lambda titles, rows, *, width, keep: kept.append(list(keep)) or [0])
    shown(records, width=60)
    assert kept
    assert all("parity" in keep for keep in kept)


@pytest.mark.parametrize("width", [30, 120])
def test_an_explanation_says_what_its_arms_have_climbed(width: int) -> None:
    results = Path(__file__).parent.parent / "results"
    records, _ = files.read_folder(results / "2026-11-28-gru_lm-standard-cpu-explained")
    told = "parity: float64 10/10, float32 10/10, n=3 in every row"
    assert told in " ".join(shown(records, width=width).split())


def test_columns_go_from_the_last_one_on_but_for_those_that_must_stay() -> None:
    titles, rows = ["arm", "speed", "cores busy", "memory", "quality"], [["jax", "100 (99-101)", "2", "1 MiB", "98.7"]]
    keep = ["arm", "speed", "quality"]
    assert terminal.fitting(titles, rows, width=100, keep=keep) == [0, 1, 2, 3, 4]
    assert terminal.fitting(titles, rows, width=44, keep=keep) == [0, 1, 2, 4]
    assert terminal.fitting(titles, rows, width=35, keep=keep) == [0, 1, 4]
    assert terminal.fitting(titles, rows, width=5, keep=keep) == [0, 1, 4]


def test_what_is_the_same_in_every_row_is_a_line() -> None:
    (section,) = grouping.sections(a_run(TWO))
    titles, rows, below = terminal.narrow(section)
    assert "parity" not in titles
    assert "parity: float64 10/10, float32 10/10 in every row" in below
    assert "device memory peak: not measured in every row" in below
    assert len({len(titles), *map(len, rows)}) == 1


def test_a_table_of_one_row_keeps_its_columns() -> None:
    (section,) = grouping.sections(a_run({"alone": [100.0, 101.0]}))
    titles, _, below = terminal.narrow(section)
    assert "parity" in titles
    assert below == []


def test_a_long_reason_is_a_note_and_told_once() -> None:
    why = "the process was ended by SIGKILL (possibly out of memory, or killed manually)"
    bad = [
        a_record(backend=name, round=number, status="killed", reason=why) for name in ("b", "c") for number in (1, 2)
    ]
    good = [one for one in a_run({"a": [100.0, 101.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}) if one.cell.kind != "speed"]
    good += [one for one in a_run({"a": [100.0, 101.0]}) if one.cell.kind == "speed"]
    (section,) = grouping.sections([*good, *bad])
    _, rows, below = terminal.narrow(section)
    assert all(len(cell) <= terminal.LONGEST + 4 for row in rows for cell in row)
    notes = [line for line in below if line.startswith("[")]
    assert any(why in note for note in notes)
    assert len(notes) == len(set(notes))
    assert sum(f"killed [{number}]" in row for row in rows for number in (1, 2)) == 2


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    missed = a_run(TWO, accuracies=(0.5, 0.5))
    for records in (a_run(TWO), missed):
        assert all(len(line) <= width for line in shown(records, width=width).splitlines())


def test_a_table_of_three_rows_needs_no_more_than_120_columns() -> None:
    text = shown(
        a_run({"pytorch": [3170.0, 3200.0], "jax": [2587.0, 2600.0], "tensorflow": [2540.0, 2500.0]}), width=120
    )
    (line,) = [line for line in text.splitlines() if "pytorch" in line and "│" in line]
    assert "3,18" in line


def test_colours_are_for_terminals_that_have_them() -> None:
    def coloured(**more: Any) -> str:
        return shown(a_run(TWO), width=120, **more)

    assert "\x1b[32m" in coloured(colour=True)
    assert "\x1b[3" not in coloured()


def test_a_hostile_text_stays_text() -> None:
    records = a_run({"[red]evil[/red]": [100.0, 101.0], "b\x1b[2J": [50.0, 51.0]})
    records.append(a_record(kind="quality", backend="[red]evil[/red]", seed=7, quality=a_quality(0.9)))
    text = shown(records, width=120)
    assert "[red]" in text
    assert "\x1b[2J" not in text
