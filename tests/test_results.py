"""Published tables regenerate from their records, byte for byte."""

from pathlib import Path

import pytest

from bench import publish, record
from bench.report import markdown, table_csv

ROOT = Path(__file__).parent.parent
PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("*/records"))


def test_something_is_published():
    assert PUBLISHED


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_published_table_is_what_its_records_say(folder):
    records, problems = record.read_folder(folder)
    assert not problems
    assert (folder / "table.md").read_text(encoding="utf-8") == markdown.render(records)
    assert (folder / "table.csv").read_text(encoding="utf-8") == table_csv.render(records)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_records_are_complete_and_hold_nothing_private(folder):
    records, _ = record.read_folder(folder)
    assert {entry.status for entry in records} == {"ok"}
    for path in sorted((folder / "records").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/root" not in text
        assert str(ROOT) not in text


def test_the_readme_shows_the_table_of_its_records():
    assert publish.filled(ROOT / "README.md") == (ROOT / "README.md").read_text(encoding="utf-8")
