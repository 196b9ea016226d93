"""A site of all published results: `python -m bench.report.site results site` makes it of the records alone.

`index.html` is one table of every row that was ever published, to filter and sort; each row leads to the page of its run
(bench/report/page.py), to its records, and to the command that makes such a run. A sweep has a page of its own. No server and
no network are needed. What is superseded, and what a correction is about, is marked where it stands. The same records give the
same bytes, so that a page which is there already, of the same files and by the same program, stays as it is.
"""

import base64
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from bench.records import digest, files, source, sweep_folder
from bench.records.record import Record
from bench.report import explanations, figures, grouping, page, publish, summary, sweep
from bench.report.grouping import Row, Section

FRAMEWORKS = ("torch", "tensorflow", "jax")
FIGURES = (
    "throughput", "ratio_to_fastest", "cores_busy", "first_step_s", "host_peak_bytes", "device_peak_allocated_bytes",
    "metric_mean", "parity",
)  # fmt: skip
"""The columns of the index, by the names of their first values."""

FILTERS = ("task", "preset", "machine", "device", "precision", "mode", "release")
MADE = "framework-bench-site.txt"
"""A file by which a folder is known to be a site. It has a line for each file that was written there: its path and, after a
tab, the hashes of what it was made of and of itself."""


OWN = re.compile(r"runs/[^/]+[.](?:html|zip)")
"""What a site has beside its index: nothing else in a list that somebody may have edited is removed."""

DRAWS = ("jinja2", "markupsafe", "matplotlib", "msgspec", "numpy", "scipy")
"""Distributions on which the bytes of a page depend, beside this program and Python."""


class File(NamedTuple):
    """What a site consists of."""

    path: str  # inside the site
    made_of: str  # a hash: with the same one, `make` returns the same; empty where that is not known
    make: Callable[[], bytes]


class Line(NamedTuple):
    """A row of the index."""

    run: str
    same: str  # what the rows have in common that two runs may set side by side
    explained: str  # the run that tells where the time of this row's step goes, where there is one
    facts: dict[str, str]  # what it can be filtered by
    arm: str
    cells: list[page.Cell]
    remarks: list[str]
    command: str


def pages(results: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside the site, content) of every file; RecordError for a folder with a bad record."""
    return ((one.path, one.make()) for one in _files(results))


def _files(results: Path) -> Iterator[File]:
    runs, sweeps = publish.runs(results), publish.sweeps(results)
    newest = publish.Newest(runs)
    notes = corrections(results)
    lines: list[Line] = []
    explained: list[tuple[str, str]] = []
    swept: list[tuple[str, str]] = []
    told: dict[tuple[object, ...], str] = {}
    for name, records in runs.items():
        for table in publish.beside_training(records):
            newer = newest.of(table)
            explained.append((name, f"{table.title}, superseded by {newer}" if newer != name else table.title))
        for group in explanations.groups(records):
            for one in group.rows:
                told.setdefault(_same_step(one.records), name)  # the latest of them, which comes first
    for name, records in runs.items():
        for section in grouping.sections(records):
            newer = newest.of(section)
            remarks = [f"superseded by {newer}"] if newer != name else []
            remarks += ["corrected, see below"] if any(f"`{name}`" in note for note in notes) else []
            for row in section.rows:
                because = told.get(_same_step(row.records), "")
                lines.append(_line(name, section, row, remarks=remarks, explained=because))
        yield from _of_a_run(results / name, records, swept=False)
    for name, records in sweeps.items():
        swept += [(name, one.title) for one in sweep.sweeps(records)]
        yield from _of_a_run(results / name, records, swept=True)
    yield File("index.html", "", lambda: _index(lines, swept, explained, notes).encode())


def _of_a_run(folder: Path, records: Sequence[Record], *, swept: bool) -> Iterator[File]:
    made_of = digest.of((source.hash_files(_all_files(folder), root=folder) + _program()).encode())
    yield File(f"runs/{folder.name}.html", made_of, partial(_page, records, swept=swept))
    yield File(f"runs/{folder.name}.zip", made_of, partial(_zipped, folder))


def _page(records: Sequence[Record], *, swept: bool) -> bytes:
    return page.render(records, home="../index.html", swept=swept).encode()


@cache
def _program() -> str:
    """What a page is made by: this program with its templates, Python and the libraries that draw."""
    here = Path(__file__).parent
    templates = (path for path in here.iterdir() if path.is_file() and path.suffix != ".py")
    return " ".join(
        [source.harness_hash(), source.hash_files(templates, root=here), sys.version, *(map(version, DRAWS))]
    )


def _same_step(records: Sequence[Record]) -> tuple[object, ...]:
    """What an explanation and a row must have in common: the step, the preset, the arm, its versions and the machine."""
    first = records[0]
    machine, versions = first.run.machine, next((one.outcome.versions for one in records if one.outcome.versions), {})
    where = machine.cpu, machine.cores, machine.gpu, machine.gpu_driver
    return first.cell.spec_hash, first.cell.preset, first.cell.arm.hash, tuple(sorted(versions.items())), *where


def corrections(results: Path) -> list[str]:
    """What turned out to be wrong with a published table, a text each."""
    path = results / "corrections.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [" ".join(part.split()) for part in text.split("\n- ")[1:]]


def _line(run: str, section: Section, row: Row, *, remarks: Sequence[str], explained: str) -> Line:
    first, machine, arm = section.first, section.run.machine, row.arm
    release = next((f"{name} {row.versions[name]}" for name in FRAMEWORKS if name in row.versions), "other")
    facts = {
        "task": first.task,
        "preset": first.preset,
        "machine": ", ".join(filter(None, (machine.cpu, f"{machine.cores} cores", machine.gpu))),
        "device": arm.device,
        "precision": arm.precision,
        "mode": arm.mode,
        "release": release,
    }
    known = {next(iter(figure.values(section, row)), ""): figure for figure in figures.FIGURES}
    cells = [page.cell(known[name], section, row) for name in FIGURES]
    control = summary.failed_control(section)
    told = [*remarks, *(["the control failed"] if control else [])]
    same = " ".join(
        [
            first.task,
            first.preset,
            first.spec_hash[:16],
            str(section.run.measurement),
            arm.device,
            arm.precision,
            row.name,
        ]
    )
    same = "" if row.excluded else same  # no speed stands beside another without its proof
    return Line(run, same, explained, facts, arm.name, cells, told, publish.command(section))


def _zipped(run: Path) -> bytes:
    """The run's folder, the same bytes for the same files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in _all_files(run):
            entry = zipfile.ZipInfo(f"{run.name}/{path.relative_to(run).as_posix()}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())
    return stream.getvalue()


def _all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _index(
    lines: Sequence[Line], swept: Sequence[tuple[str, str]], explained: Sequence[tuple[str, str]], notes: Sequence[str]
) -> str:
    script, style = page.script_and_style()
    script += (Path(__file__).parent / "site.js").read_text(encoding="utf-8").removeprefix('"use strict";\n')
    releases: dict[str, dict[str, None]] = {}
    for line in lines:
        releases.setdefault(line.run, {line.facts["machine"]: None})[line.facts["release"]] = None
    runs = {run: f"{run}: {', '.join(of)}" for run, of in releases.items()}
    choices = {name: sorted({line.facts[name] for line in lines}) for name in FILTERS}
    return page.environment().get_template("site.html").render(
        lines=lines, runs=runs, choices=choices, titles=_titles(), swept=swept, explained=explained, corrections=notes,
        script=Markup(script), style=Markup(style),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    ) + "\n"  # fmt: skip


def _titles() -> list[str]:
    return [
        "a second (images, tokens or sentences)", "relative to the fastest", "cores busy", "first step",
        "host memory peak (after import)", "device memory peak", "quality", "parity",
    ]  # fmt: skip


def main(results: Path, site: Path) -> None:
    """Makes the site, or makes it anew: of what is in the folder, only what an earlier one wrote is replaced or removed."""
    if not any(results.glob("*/records")) and not any(results.glob(f"*/{sweep_folder.NAME}")):
        sys.exit(f"{results} holds no runs: give the folder of the published results")
    made = site / MADE
    if site.exists() and any(site.iterdir()) and not made.is_file():
        sys.exit(f"{site} holds something that is no site of framework-bench: name a new folder")
    before = _made_before(made)
    now = list(_files(results))
    if foreign := sorted(one.path for one in now if one.path not in before and (site / one.path).exists()):
        sys.exit(f"{site} holds {foreign[0]}, which no site of framework-bench wrote: name a new folder")
    changed = [one for one in now if not _stays(site, one, before)]
    contents = {one.path: one.make() for one in changed}  # all of it, before anything is written
    _write_made(made, {**before, **dict.fromkeys(contents, "")})  # a site that was interrupted is one too
    for path, content in contents.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(site / path, content)
    for path in sorted(set(before) - {one.path for one in now}):
        if OWN.fullmatch(path):
            (site / path).unlink(missing_ok=True)
    _write_made(made, {one.path: _written(site, one) for one in now})


def _stays(site: Path, one: File, before: Mapping[str, str]) -> bool:
    """Whether a file is there as it would be made."""
    return bool(one.made_of) and (site / one.path).is_file() and before.get(one.path) == _written(site, one)


def _written(site: Path, one: File) -> str:
    """What a file that is there is made of, and what it is."""
    return f"{one.made_of} {digest.of((site / one.path).read_bytes())}"


def _made_before(made: Path) -> dict[str, str]:
    """Path -> the rest of its line."""
    lines = made.read_text(encoding="utf-8").splitlines() if made.exists() else []
    return {path: rest for path, _, rest in (line.partition("\t") for line in lines)}


def _write_made(made: Path, lines: Mapping[str, str]) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(made, "".join(f"{path}\t{rest}\n" for path, rest in sorted(lines.items())).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
