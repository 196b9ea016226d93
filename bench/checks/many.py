"""What many records cost: copies a run until there are thousands, and asks each command for its time and memory.

    python -m bench.checks.many results/2026-11-26-gru_lm-standard-cpu --records 10000 --each 10 > docs/many.md

A benchmark, not a test. Every copy is a run of its own, under another id, so that the commands see as many tables as runs; with
`--each`, it has the first arms of the run, up to so many records, and a machine of its own. What it prints is the page of the
docs.
"""

import json
import math
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
from bench.records.record import CONTROL, Record
from bench.report import markdown
from bench.report.formats import mebibytes, significant

FORMATS = ("csv", "json", "markdown", "html")
SITE, AGAIN = "the site", "the site, once more"
PAGE = """# Many machines, many records

What {runs:,} machines mean that each leave a run of {each} records a day: {stored} of files, of which git keeps every byte, and
a site of {site}. On {cpu}, {cores} cores, each command needs for one such day

{table}

Made by `python -m bench.checks.many RUN --records {records} --each {each}`, from copies of a published run under other ids and
machines.

## Where it stops

Everything here grows with the number of records: a record is read, checked against the rules and shown by itself, and runs are
compared within themselves only.

- `report`, `check` and `submit --gather` need the times above for {records:,} records. A year of such days is {year} of files:
  then results belong in folders of their own, a month each, say, and no command needs more than the folders that it is given.
- The site stops first. It takes {a_run} of processor time for each new run, because every run has a page with its plots and an
  archive of its records. New ones are held in memory until the last one is done, so that nobody ever sees half of a site. What
  is there already, of the same files and by the same version, stays: once more, it takes {again} for each run. Where a site is
  always made in an empty folder, it takes longer than an hour after {days} such days. Then make a site of the latest results:
  it is made of the folder that is named.
"""


class Cost(NamedTuple):
    """Of one process."""

    cpu_s: float
    peak_bytes: int


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--records", default=10_000, show_default=True, type=click.IntRange(min=1))
@click.option("--each", type=click.IntRange(min=1), help="At most so many records in a run, of a machine of its own.")
def main(run: Path, records: int, each: int | None) -> None:
    """Prints CPU seconds and peak memory of `report` in each format, of `check`, of `submit --gather`, and of the site."""
    found, problems = files.read_folder(run)
    if problems or not found:
        raise click.ClickException(f"{run}: {'; '.join(problems) or 'no records'}")
    found = first_arms(found, each) if each else found
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as name:
        results, site = Path(name, "results"), Path(name, "site")
        folders = [copied(found, results, at, own_machine=bool(each)) for at in range(-(-records // len(found)))]
        as_submitted(results, folders)
        paths = [str(folder) for folder in folders]
        asked = {f"report --format {form}": ["-m", "bench", "report", *paths, "--format", form] for form in FORMATS}
        asked["check"] = ["-m", "bench", "check", *paths]
        asked["submit --gather"] = ["-m", "bench", "submit", "--gather", "--output", str(results)]
        asked[SITE] = asked[AGAIN] = ["-m", "bench.report.site", str(results), str(site)]
        costs = {what: measured(arguments) for what, arguments in asked.items()}
        machine = json.loads(subprocess.check_output([sys.executable, "-m", "bench", "info", "--json"]))["machine"]
        lines = [[what, f"{significant(cost.cpu_s)} s", mebibytes(cost.peak_bytes)] for what, cost in costs.items()]
        a_run, again = (f"{significant(costs[what].cpu_s / len(folders), 2)} s" for what in (SITE, AGAIN))
        told = PAGE.format(
            runs=len(folders), each=len(found), records=len(folders) * len(found), cpu=machine["cpu"], cores=machine["cores"],
            table=markdown.table(["command", "CPU", "memory"], lines), stored=mebibytes(stored(results)),
            year=mebibytes(365 * stored(results)), site=mebibytes(stored(site)), a_run=a_run, again=again,
            days=math.floor(3600 / costs[SITE].cpu_s) + 1,
        )  # fmt: skip
        click.echo(told, nl=False)


def first_arms(found: Sequence[Record], most: int) -> list[Record]:
    """The records of a run's first arms: as many arms as have at most so many records, but one at least."""
    arms = sorted({one.cell.arm.name for one in found} - {CONTROL})
    chosen: list[Record] = []
    for arm in arms:
        of = [one for one in found if one.cell.arm.name == arm]
        if chosen and len(chosen) + len(of) > most:
            break
        chosen += of
    return chosen


def copied(found: Sequence[Record], results: Path, number: int, *, own_machine: bool) -> Path:
    """A run of the same records under another id."""
    folder = results / f"2026-01-01-run-{number:05d}"
    (folder / "records").mkdir(parents=True)
    for one in found:
        cpu = f"{one.run.machine.cpu} number {number}" if own_machine else one.run.machine.cpu
        machine = msgspec.structs.replace(one.run.machine, cpu=cpu)
        run = msgspec.structs.replace(one.run, id=f"{number:016x}", machine=machine)
        files.write_bytes(folder / "records" / one.cell.file_name, files.encode(msgspec.structs.replace(one, run=run)))
    files.write_digest(folder)
    return folder


def as_submitted(results: Path, folders: Sequence[Path]) -> None:
    """Leaves what `submit` leaves of jobs that have ended (bench/cli/submitting.py)."""
    jobs = results / "jobs"
    jobs.mkdir()
    known = {folder.name: {"job": "0", "executor": "local"} for folder in folders}
    (jobs / "submitted.json").write_text(json.dumps(known), encoding="ascii")
    for folder in folders:
        (jobs / f"{folder.name}.exit").write_text("0\n", encoding="ascii")


def stored(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(arguments: Sequence[str]) -> Cost:
    """Runs a command of this program to its end; ClickException with its words where it fails."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        words.seek(0)
        said = words.read(2_000).decode(errors="replace")
        if process.returncode and said:  # `check` prints what it finds, and copies are no whole runs
            raise click.ClickException(f"{' '.join(arguments[:4])} ended with {process.returncode}: {said}")
    return Cost(usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss)


if __name__ == "__main__":
    main()
