"""What many records cost: copies a run until there are thousands, and asks each command for its time and memory.

    python -m bench.checks.many results/2026-11-26-gru_lm-standard-cpu --records 10000

A benchmark, not a test. Every copy is a run of its own, under another id, so that the commands see as many tables as runs.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from bench.records import files
from bench.records.record import Record
from bench.report.formats import mebibytes

FORMATS = ("csv", "json", "markdown", "html")


class Cost(NamedTuple):
    """Of one process."""

    cpu_s: float
    peak_bytes: int


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--records", default=10_000, show_default=True, type=click.IntRange(min=1))
def main(run: Path, records: int) -> None:
    """Prints CPU seconds and peak memory of `report` in each format, of `check`, and of the site."""
    found, problems = files.read_folder(run)
    if problems or not found:
        raise click.ClickException(f"{run}: {'; '.join(problems) or 'no records'}")
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as name:
        results = Path(name, "results")
        folders = [str(copied(found, results, number)) for number in range(-(-records // len(found)))]
        click.echo(f"{len(folders) * len(found):,} records in {len(folders):,} runs")
        for form in FORMATS:
            told(f"report --format {form}", ["-m", "bench", "report", *folders, "--format", form])
        told("check", ["-m", "bench", "check", *folders])
        told("site", ["-m", "bench.report.site", str(results), str(Path(name, "site"))])


def copied(found: Sequence[Record], results: Path, number: int) -> Path:
    """A run of the same records under another id."""
    folder = results / f"2026-01-01-run-{number:05d}"
    (folder / "records").mkdir(parents=True)
    for one in found:
        run = msgspec.structs.replace(one.run, id=f"{number:016x}")
        files.write_bytes(folder / "records" / one.cell.file_name, files.encode(msgspec.structs.replace(one, run=run)))
    files.write_digest(folder)
    return folder


def told(name: str, arguments: Sequence[str]) -> None:
    """Prints what a command cost."""
    cost = measured(arguments)
    click.echo(f"{name}: {cost.cpu_s:.1f} s of CPU, {mebibytes(cost.peak_bytes)}")


def measured(arguments: Sequence[str]) -> Cost:
    """Runs a command of this program to its end."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    usage = os.wait4(process.pid, 0)[2]
    return Cost(usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss)


if __name__ == "__main__":
    main()
