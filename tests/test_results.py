"""Published tables regenerate from their records, byte for byte."""

from pathlib import Path

import msgspec
import pytest

from bench.records import record
from bench.report import publish
from tests.builders import a_run
from tests.test_report import FAST, SLOW

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("*/records"))


def test_something_is_published():
    assert PUBLISHED


def test_every_published_table_and_the_index_are_what_the_records_say():
    files = publish.tables(ROOT / "results")
    assert {folder / name for folder in PUBLISHED for name in ("table.md", "table.csv")} <= set(files)
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: python -m bench.publish results"


def test_the_index_lists_every_run_and_what_supersedes_it(tmp_path):
    for name, order_seed, made in (
        ("2026-01-01-old", 1, a_run({"jax": FAST, "pytorch": SLOW})),
        ("2026-02-01-new", 2, a_run({"jax": FAST}, threads=2)),
        ("2026-03-01-other", 3, a_run({"jax": FAST}, precision="float64", task="mine.of`own`", versions={"<b>": "1"})),
    ):
        (tmp_path / name / "records").mkdir(parents=True)
        for number, one in enumerate(made):
            one = msgspec.structs.replace(one, order_seed=order_seed)
            files.write(tmp_path / name / "records" / f"{number:02}.json", one)
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
    assert "--backend jax --rounds 5 --seeds 2 --threads 2`" in index[new:old]
    assert "--task 'mine.of own '" in index
    assert "<b>" not in index
    assert index[old:].index("## Corrections\n\nThe old one was wrong.\n") > 0
    (tmp_path / "2026-01-01-old" / "records" / "half.json").write_text("{")
    with pytest.raises(files.RecordError, match=r"half\.json"):
        publish.tables(tmp_path)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_records_are_complete_and_hold_nothing_private(folder):
    records, _ = files.read_folder(folder)
    assert {entry.status for entry in records} == {"ok"}
    for path in sorted((folder / "records").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/root" not in text
        assert str(ROOT) not in text


def test_the_readme_shows_the_table_of_its_records():
    assert publish.filled(ROOT / "README.md") == (ROOT / "README.md").read_text(encoding="utf-8")
