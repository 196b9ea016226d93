"""Published tables regenerate from their records, byte for byte."""

import csv
import math
from pathlib import Path

import pytest

from bench.records import files, sweep_folder
from bench.report import grouping, publish
from tests.builders import a_record, a_row, a_run, changed, write_records
from tests.test_report import FAST, SLOW

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for pattern in ("*/records", "*/*/records") for path in (ROOT / "results").glob(pattern))
"""The folders of runs, those of a sweep's points among them."""


def test_something_is_write_records():
    assert PUBLISHED


@pytest.mark.slow
def test_every_published_table_and_the_index_are_what_the_records_say():
    made = publish.tables(ROOT / "results")
    assert {folder / name for folder in PUBLISHED for name in ("table.md", "table.csv")} <= set(made)
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: python -m bench.report.publish results"


def a_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "folder",
    [folder for folder in PUBLISHED if (folder / "table.schema2.csv").exists()],
    ids=lambda folder: folder.name,
)
def test_a_table_that_was_published_with_other_columns_has_the_same_figures(folder):
    """Each was made by the program of its day; they differ by no more than the rounding of another order of operations."""
    old, new = a_table(folder / "table.schema2.csv"), a_table(folder / "table.csv")
    by_name = {line["arm"]: line for line in new}
    assert [line["backend"] for line in old] == list(by_name)
    assert set(old[0]) <= set(new[0])
    for line in old:
        for name, value in line.items():
            again = by_name[line["backend"]][name]
            try:
                same = math.isclose(float(value), float(again), rel_tol=1e-14)
            except ValueError:
                same = value == again
            assert same, (line["backend"], name, value, again)


def test_the_command_of_a_run_of_arms_makes_it_again(tmp_path):
    made = [
        *a_row("jax", FAST, threads=1),
        *a_row("jax", SLOW, name="jax:x64,precision=float64", mode="x64", precision="float64"),
        *a_row("jax", SLOW, name="old", environment={"XLA_FLAGS": "--a,--b"}, python="3.12.1"),
    ]
    write_records(tmp_path / "run", [changed(one, changes={"batch_size": "64"}) for one in made])
    index = publish.tables(tmp_path)[tmp_path / "README.md"]
    assert (
        "`framework-bench run --task mnist_mlp --preset quick --set batch_size=64 --device cpu "
        "--arm jax=jax:precision=float32,threads=1 --arm jax:x64,precision=float64 "
        "--arm 'old=jax:precision=float32,env.XLA_FLAGS=--a\\,--b,python=PATH' --rounds 5 --seeds 2`" in index
    )


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (({}, {}), "--device cpu --precision float32 --backend jax --backend pytorch --rounds 5 --seeds 2"),
        (
            ({"threads": 1}, {"threads": 1}),
            "--device cpu --precision float32 --backend jax --backend pytorch --rounds 5 --seeds 2 --threads 1",
        ),
        (
            ({"threads": 1}, {}),
            "--device cpu --precision float32 --arm jax=jax:threads=1 --arm pytorch --rounds 5 --seeds 2",
        ),
        (
            ({"precision": "float64"}, {}),
            "--device cpu --arm jax=jax:precision=float64 --arm pytorch=pytorch:precision=float32 --rounds 5 --seeds 2",
        ),
        (
            ({"environment": {"A": "1"}}, {}),
            "--device cpu --precision float32 --arm jax=jax:env.A=1 --arm pytorch --rounds 5 --seeds 2",
        ),
    ],
    ids=str,
)
def test_the_command_says_how_each_backend_is_used_even_under_its_plain_name(ways, words):
    (section,) = grouping.sections([*a_row("jax", FAST, **ways[0]), *a_row("pytorch", SLOW, **ways[1])])
    assert publish.command(section) == f"framework-bench run --task mnist_mlp --preset quick {words}"


def test_the_index_lists_every_run_and_what_supersedes_it(tmp_path):
    for name, order_seed, made in (
        ("2026-01-01-old", 1, a_run({"jax": FAST, "pytorch": SLOW})),
        ("2026-02-01-new", 2, a_run({"jax": FAST, "pytorch": SLOW, "third": SLOW})),
        ("2026-03-01-other", 3, a_run({"jax": FAST}, precision="float64", task="mine.of`own`", versions={"<b>": "1"})),
    ):
        write_records(tmp_path / name, [changed(one, id=str(order_seed)) for one in made])
    (tmp_path / "corrections.md").write_text("The old one was wrong.\n")
    index = publish.tables(tmp_path)[tmp_path / "README.md"]
    other, new, old = (index.index(f"## {name}\n") for name in ("2026-03-01-other", "2026-02-01-new", "2026-01-01-old"))
    assert other < new < old
    assert "Superseded by [2026-02-01-new](#2026-02-01-new)" in index[old:]
    assert "Superseded" not in index[:old]
    assert (
        "[mnist_mlp: preset quick, float32 on the cpu](2026-01-01-old/table.md), [records](2026-01-01-old/records)"
        in index
    )
    assert (
        "`framework-bench run --task mnist_mlp --preset quick --device cpu --precision float32 --backend jax "
        "--backend pytorch --rounds 5 --seeds 2`" in index[old:]
    )
    assert "--task 'mine.of own '" in index
    assert "<b>" not in index
    assert index[old:].index("## Corrections\n\nThe old one was wrong.\n") > 0
    (tmp_path / "2026-01-01-old" / "records" / "half.json").write_text("{")
    with pytest.raises(files.RecordError, match=r"half\.json"):
        publish.tables(tmp_path)


@pytest.mark.parametrize(
    ("speeds", "facts"),
    [
        ({"jax": FAST}, {}),  # without PyTorch
        ({"jax": FAST, "pytorch": SLOW}, {"threads": 2}),
        ({"jax": FAST, "pytorch": SLOW}, {"environment": {"OMP_NUM_THREADS": "1"}}),
        ({"jax": FAST, "third": SLOW}, {}),
    ],
    ids=str,
)
def test_a_run_of_other_arms_supersedes_nothing(tmp_path, speeds, facts):
    write_records(tmp_path / "2026-01-01-old", a_run({"jax": FAST, "pytorch": SLOW}))
    write_records(tmp_path / "2026-02-01-new", a_run(speeds, id="2", **facts))
    assert "Superseded" not in publish.tables(tmp_path)[tmp_path / "README.md"]
    command = "--threads 2`" if facts.get("threads") else "--seeds 2`"
    assert command in publish.tables(tmp_path)[tmp_path / "README.md"].split("## 2026-01-01-old")[0]


def test_an_arm_that_could_not_be_measured_supersedes_nothing_and_a_later_run_may_still(tmp_path):
    whole = {"jax": FAST, "pytorch": SLOW}
    absent = a_record(backend="pytorch", status="skipped", reason="not installed", id="2")
    write_records(tmp_path / "2026-01-01-old", a_run(whole))
    write_records(tmp_path / "2026-02-01-half", [*a_run({"jax": FAST}, id="2"), absent])
    assert "Superseded" not in publish.tables(tmp_path)[tmp_path / "README.md"]
    write_records(tmp_path / "2026-03-01-whole", a_run(whole, id="3", versions={"torch": "3"}))
    write_records(tmp_path / "2026-04-01-half", a_run({"jax": FAST}, id="4"))
    index = publish.tables(tmp_path)[tmp_path / "README.md"]
    assert index.split("## 2026-01-01-old")[1].count("Superseded by [2026-03-01-whole]") == 1
    between = index.split("## 2026-02-01-half")[1].split("## 2026-01-01-old")[0]
    assert "Superseded by [2026-04-01-half]" in between


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_records_are_complete_and_hold_nothing_private(folder):
    records, _ = files.read_folder(folder)
    of_sweep = sweep_folder.is_one(folder.parent)  # where too little memory is a point
    assert {one.outcome.status for one in records} <= ({"ok", "oom", "skipped"} if of_sweep else {"ok"})
    assert any(one.outcome.status == "ok" for one in records) or of_sweep
    for path in sorted((folder / "records").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/root" not in text
        assert str(ROOT) not in text


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/tables.md", "docs/explain.md", "docs/choosing.md", "docs/modes.md", "docs/public_pairs.md"],
)
def test_a_page_shows_the_tables_and_the_picture_of_its_records(name):
    assert publish.filled(ROOT / name) == (ROOT / name).read_text(encoding="utf-8")
    drawn = publish.pictures(ROOT / name)
    assert (len(drawn) == 1) == (name == "README.md")
    for path, content in drawn.items():
        assert path.read_text(encoding="utf-8") == content


def test_a_ladder_that_was_remembered_does_not_take_the_day_of_a_table_away():
    made = [changed(one, started_utc="") if one.cell.kind == "parity" else one for one in a_row("jax", FAST)]
    (section,) = grouping.sections([*made, *a_row("pytorch", SLOW)])
    assert section.day == "2026-01-01"
