"""Puts published tables into a page: `python -m bench.publish README.md`.

Between `<!-- table: FOLDER -->` and `<!-- end of table -->` the page gets the brief report of the records below FOLDER, which
is relative to the page. No published figure is typed.
"""

import re
import sys
from pathlib import Path

from bench import record
from bench.report import markdown

BLOCK = re.compile(r"(<!-- table: (?P<folder>[\w./-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def filled(page: Path) -> str:
    """The page's text with every table made anew from its records; RecordError if a folder has none or a bad one."""

    def table(block: re.Match[str]) -> str:
        folder = page.parent / block["folder"]
        records, problems = record.read_folder(folder)
        if problems or not records:
            raise record.RecordError("; ".join(problems) or f"{folder}: no records")
        return f"{block[1]}\n{markdown.brief(records)}\n{block[3]}"

    return BLOCK.sub(table, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record.write_bytes(Path(name), filled(Path(name)).encode())
