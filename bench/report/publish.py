"""Published tables, made from their records: `python -m bench.report.publish README.md docs/tables.md results`.

No published figure is typed. In a page, what stands between `<!-- table: FOLDER -->` and `<!-- end of table -->` becomes the
brief report of the records below FOLDER, which is relative to the page; between `<!-- sentences: FOLDER TEXT -->` and
`<!-- end of sentences -->`, its sentences that have the text in them (of a sweep, with `within 500 MiB: ` before the text,
those about what fits into that); between `<!-- output: FILE -->` and `<!-- end of output -->`, the file, which is what a
program printed; between `<!-- overview: PICTURE FOLDER... -->` and `<!-- end of overview -->`, a sentence for each of several
folders, a picture, which is drawn anew, and a small table. In a folder of results, each run gets its table.md and table.csv,
each sweep the same for every point, and its sweep.md and plots. README.md lists them all: the newest first, superseded ones
too, and at the end corrections.md, which is kept by hand.
"""

import math
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import backends
from bench.records import digest, disturbed, files, rules, sweep_folder
from bench.records.record import Arm, Record
from bench.records.text import printable
from bench.report import (
    apart,
    explanations,
    facts,
    figures,
    grouping,
    history,
    markdown,
    plots,
    summary,
    sweep,
    sweep_plot,
    table_csv,
    totals,
)  # fmt: skip
from bench.report.grouping import Section
from bench.report.sweep import Sweep

OVERVIEW = re.compile(
    r"(<!-- overview: (?P<picture>[\w./-]+) (?P<folders>[\w./ -]+) -->\n).*?(<!-- end of overview -->)", re.DOTALL
)
SENTENCES = re.compile(
    r"(<!-- sentences: (?P<folder>[\w./-]+) (?:within (?P<mib>\d+) MiB: )?(?P<text>[^\n]+?) -->\n)"
    r".*?(?P<end><!-- end of sentences -->)",
    re.DOTALL,
)
BLOCK = re.compile(r"(<!-- table: (?P<folder>[\w./-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

OUTPUT = re.compile(r"(<!-- output: (?P<file>[\w./-]+) -->\n).*?(<!-- end of output -->)", re.DOTALL)

HEAD = """\
# Published results

Each folder is one run: `records` has a JSON file per process, `table.md` and `table.csv` are made from them alone and come out
the same, byte for byte, with `framework-bench report FOLDER`; `--format html` makes a page with plots of them.
`table.schema2.csv`, where there is one, is the table as it was published first, when it had fewer columns.
A data set that a task needs is downloaded, or taken from `--data-dir` as its publisher ships it.
This index is generated: `python -m bench.report.publish results`.
"""


def filled(page: Path) -> str:
    """The page's text with every table made anew from its records; RecordError if a folder has none or a bad one."""

    def table(block: re.Match[str]) -> str:
        folder = page.parent / block["folder"]
        form = sweep if sweep_folder.is_one(folder) else markdown
        return f"{block[1]}\n{form.brief(_records(folder))}\n{block[3]}"

    def told(block: re.Match[str]) -> str:
        limit = int(block["mib"]) * 2**20 if block["mib"] else None
        found = [one for one in _told(page.parent / block["folder"], limit) if block["text"] in one]
        if not found:
            raise files.RecordError(f"{page}: no sentence of {block['folder']} has {block['text']!r} in it")
        return "\n".join([block[1], "", *(f"- {markdown.escape(one)}" for one in found), "", block["end"]])

    def overview(block: re.Match[str]) -> str:
        return f"{block[1]}\n{_overview(_sections(page, block), block['picture'])}\n{block[4]}"

    def output(block: re.Match[str]) -> str:
        printed = (page.parent / block["file"]).read_text(encoding="utf-8").strip()
        return f"{block[1]}\n```text\n{printed}\n```\n\n{block[3]}"

    text = page.read_text(encoding="utf-8")
    for pattern, made in ((BLOCK, table), (OVERVIEW, overview), (OUTPUT, output), (SENTENCES, told)):
        text = pattern.sub(made, text)
    return text


def sentences(records: Sequence[Record]) -> list[str]:
    """Everything that a run's records say in words: verdicts, break-even steps, predictions, what makes up a step."""
    found = [
        one
        for section in grouping.sections(records)
        for one in (*summary.sentences(section), *totals.sentences(section))
    ]
    found += [text for one in apart.groups(records) for text in one.sentences]
    found += history.told(records)
    return found + [one for group in explanations.groups(records) for one in explanations.sentences(group)]


def _told(folder: Path, memory_limit: int | None = None) -> list[str]:
    """The sentences of a run's folder; of a sweep's, what fits into so many bytes, or without a limit its verdicts."""
    records = _records(folder)
    if not sweep_folder.is_one(folder):
        return sentences(records)
    found = sweep.sweeps(records)
    if memory_limit is not None:
        return [text for one in found for text in sweep.fitting(one, memory_limit)]
    return [text for one in found for text in sweep.verdicts(one)]


def pictures(page: Path) -> dict[Path, str]:
    """The pictures of a page's overviews."""
    blocks = OVERVIEW.finditer(page.read_text(encoding="utf-8"))
    return {page.parent / block["picture"]: plots.svg(plots.overview(_sections(page, block))) for block in blocks}


def _sections(page: Path, block: re.Match[str]) -> list[Section]:
    folders = [page.parent / name for name in block["folders"].split()]
    return [section for folder in folders for section in grouping.sections(_records(folder))]


def _overview(sections: Sequence[Section], picture: str) -> str:
    told = []
    for section in sections:
        told += [*summary.failed_control(section), summary.conclusion(section)]
        told += [f"{section.first.task}: {text}" for text in summary.once_more(section)]
    lines = [f"- {markdown.escape(text)}" for text in told]
    titles = ["task", "backend", "speed", "relative to the fastest", "quality", "parity"]
    rows = [
        [
            section.first.task, row.name, f"{figures.speed(row)}, {section.first.unit}/s", figures.ratio(section, row),
            f"{section.metric} {figures.quality(section, row)}", figures.parity(row),
        ]
        for section in sections
        for row in section.rows
    ]  # fmt: skip
    lines += [
        "",
        f"![Speed of each framework relative to the fastest of its task]({picture})",
        "",
        markdown.table(titles, rows),
        "",
    ]
    seen: dict[str, list[str]] = defaultdict(list)  # where and when -> the tasks that were measured so
    for section in sections:
        versions = {part: version for row in section.rows for part, version in sorted(row.versions.items())}
        main = ", ".join(f"{name} {versions[name]}" for name in ("torch", "tensorflow", "jax") if name in versions)
        way = f"{section.common('precision') or 'several precisions'} on the {section.common('device') or 'devices named'}"
        where = f"measured {section.day} in {way}, with {main}, on {dict(facts.machine(section))['Machine']}."
        seen[where].append(section.first.task)
    lines += ["- " + markdown.escape(f"{', '.join(tasks)}: {where}") for where, tasks in seen.items()]
    return "\n".join([*lines, ""])


def tables(folder: Path) -> dict[Path, str]:
    """Every generated file of a folder of results, with its content; RecordError for a bad record."""
    found, swept = runs(folder), sweeps(folder)
    made: dict[Path, str] = {}
    for name, records in found.items():
        made |= _tables_of_run(folder / name, records)
    for name, records in swept.items():
        for point in sweep_folder.points(folder / name):
            made |= _tables_of_run(point, _records(point))
        made[folder / name / "sweep.md"] = sweep.render(records)
        made |= {folder / name / picture: plots.svg(plot) for picture, plot in sweep_plot.pictures(records).items()}
    made[folder / "README.md"] = _index(folder, found, swept)
    return made


def _tables_of_run(run: Path, records: Sequence[Record]) -> dict[Path, str]:
    made = {run / "table.md": markdown.render(records), run / "table.csv": table_csv.render(records)}
    if not (run / digest.NAME).exists():  # or it would be made anew for what was edited
        made[run / digest.NAME] = digest.text(run)
    return made


def runs(folder: Path) -> dict[str, list[Record]]:
    """Name of a run in a folder of results -> its records, the newest first; RecordError for a bad record."""
    return {path.parent.name: _records(path.parent) for path in sorted(folder.glob("*/records"), reverse=True)}


def sweeps(folder: Path) -> dict[str, list[Record]]:
    """Name of a sweep in a folder of results -> the records of all its points, the newest first; RecordError as above."""
    found = sorted(folder.glob(f"*/{sweep_folder.NAME}"), reverse=True)
    return {path.parent.name: _records(path.parent) for path in found}


class Newest:
    """Which run supersedes a table: the latest one that measured each of its arms anew, in the same place.

    A run of fewer arms supersedes nothing of what it leaves out, and an arm that could not be measured is left out.
    """

    def __init__(self, found: Mapping[str, Sequence[Record]]) -> None:
        """`found` has the runs by name, the newest first."""
        self._measured: dict[tuple[object, ...], list[tuple[str, frozenset[str]]]] = defaultdict(list)
        for name, records in found.items():
            tables: list[Table] = [*grouping.sections(records), *beside_training(records)]
            for table in tables:
                place, ways = _measured(table)
                self._measured[place].append((name, ways))

    def of(self, table: "Table") -> str:
        """The name of the run; that of the table itself where no later one supersedes it."""
        place, wanted = _measured(table)
        return next(name for name, ways in self._measured[place] if wanted <= ways)


BesideTraining = apart.Apart | explanations.Group
Table = Section | BesideTraining


def beside_training(records: Sequence[Record]) -> list[BesideTraining]:
    """The tables of a run that are not of training."""
    return [*apart.groups(records), *explanations.groups(records)]


def _measured(table: Table) -> tuple[tuple[object, ...], frozenset[str]]:
    """What was measured where; and the arms, whatever versions they were of: without labels, with a release that was named."""
    if isinstance(table, Section):
        kind, cell, machine = "training", table.first, table.run.machine
        arms = [row.arm for row in table.rows if row.throughputs]
    else:
        kind, group = (table.kind, table.group) if isinstance(table, apart.Apart) else ("explain", table)
        cell, machine, arms = group.first.cell, group.first.run.machine, [row.arm for row in group.rows]
    ways = frozenset(repr({**arm.way, "python": None, "release": _release(arm)}) for arm in arms)
    return (kind, cell.task, cell.preset, tuple(cell.changes.items()), machine.cpu, machine.cores, machine.gpu), ways


def _release(arm: Arm) -> str:
    """The release that an arm asked for by its name, `jax==0.10.1`."""
    return arm.name.partition(":")[0].partition("==")[2]


def _records(folder: Path) -> list[Record]:
    """Of a run's folder, or of all points of a sweep's."""
    read = [files.read_folder(run) for run in sweep_folder.runs(folder)]
    records, problems = [one for found, _ in read for one in found], [text for _, told in read for text in told]
    if problems or not records:
        raise files.RecordError("; ".join(problems) or f"{folder}: no records")
    return rules.judged(records)[0]


def _index(folder: Path, found: Mapping[str, Sequence[Record]], swept: Mapping[str, Sequence[Record]]) -> str:
    parts, newest, newest_sweep = [HEAD], Newest(found), Newest(swept)
    for name in sorted((*found, *swept), reverse=True):
        if name in swept:
            parts += [_entry_of_sweep(name, swept[name], newest_sweep)]
            continue
        records = found[name]
        for title, section in summary.titled(grouping.sections(records)):
            newer = newest.of(section)
            parts += [f"## {name}\n", "\n".join(_entry(name, title, section=section, newer=newer)) + "\n"]
        for one in apart.groups(records):
            told = [*_head(name, one.title, newest.of(one)), *map(markdown.escape, one.sentences)]
            told += [f"{about}: {markdown.escape(text)}" for about, text in one.about]
            told += [f"Again: `{command(one.group.section)}`"]
            parts += [f"## {name}\n", "\n".join(f"- {line}" for line in told) + "\n"]
        for group in explanations.groups(records):
            told = [*_head(name, group.title, newest.of(group)), *map(markdown.escape, explanations.sentences(group))]
            told += [f"{about}: {markdown.escape(text)}" for about, text in explanations.machine(group)]
            parts += [f"## {name}\n", "\n".join(f"- {line}" for line in told) + "\n"]
    corrections = folder / "corrections.md"
    if corrections.exists():
        parts += ["## Corrections\n", corrections.read_text(encoding="utf-8")]
    return "\n".join(parts)


def _entry_of_sweep(name: str, records: Sequence[Record], newest: Newest) -> str:
    lines = []
    by = {newest.of(section) for section in grouping.sections(records)}
    for one in sweep.sweeps(records):
        lines += [f"[{markdown.escape(one.title)}]({name}/sweep.md), [a run for each point]({name})"]
        lines += [f"Superseded by [{other}](#{other})" for other in by if len(by) == 1 and other != name]
        lines += [markdown.escape(sentence) for sentence in sweep.verdicts(one)]
        lines += [f"{about}: {markdown.escape(text)}" for about, text in sweep.about(one)]
        lines += [f"Again: `{command_of_sweep(one)}`"]
    drawn = [f"![{markdown.escape(plot.title)}]({name}/{file})" for file, plot in sweep_plot.pictures(records).items()]
    return "\n".join([f"## {name}\n", *(f"- {line}" for line in lines), "", *drawn, ""])


def _entry(name: str, title: str, *, section: Section, newer: str) -> list[str]:
    first = section.first
    versions = "; ".join(
        f"{row.name}: " + ", ".join(f"{part} {version}" for part, version in sorted(row.versions.items()))
        for row in section.rows
    )
    lines = [*_head(name, title, newer), *map(markdown.escape, summary.sentences(section))]
    lines.append(f"Measured: {markdown.escape(section.day)}")
    told = [*facts.machine(section), *facts.selftests(section), ("Versions", versions)]
    lines += [f"{about}: {markdown.escape(text)}" for about, text in told]
    lines += [f"Spec: {markdown.escape(first.spec_hash[:12])}, measurement version {section.run.measurement}"]
    lines += [f"Again: `{command(section)}`"]
    return [f"- {line}" for line in lines]


def _head(name: str, title: str, newer: str) -> list[str]:
    """Where a table and its records are, and what supersedes it."""
    told = [f"[{markdown.escape(title)}]({name}/table.md), [records]({name}/records)"]
    return told + ([f"Superseded by [{newer}](#{newer})"] if newer != name else [])


def command(section: Section) -> str:
    """The command that makes such a run."""
    first, arms = section.first, [row.arm for row in sorted(section.rows, key=lambda row: row.name)]
    records = [one for row in section.rows for one in row.records]
    timed = [one for one in records if one.cell.kind in ("speed", *apart.MODULES)]
    last = max((one.cell.round for one in timed), default=0)
    rounds = disturbed.planned_rounds(last, len(disturbed.disturbed_rounds(timed)))
    seeds = len({one.cell.seed for one in records if one.cell.kind == "quality"})
    words = ["framework-bench", "run", "--task", first.task, "--preset", first.preset]
    words += [word for name, value in first.changes.items() for word in ("--set", f"{name}={value}")]
    common = {name: getattr(arms[0], name) for name in ("device", "precision", "threads") if section.common(name)}
    words += [word for name in ("device", "precision") if name in common for word in (f"--{name}", common[name])]
    typed = [arm.typed(common) for arm in arms]
    names = [arm.backend for arm in arms]
    if typed != names:
        words += [word for arm in typed for word in ("--arm", arm)]
    elif names != sorted(backends.BACKENDS):
        words += [word for name in names for word in ("--backend", name)]
    kinds = {one.cell.kind for one in records}
    words += [word for kind in apart.MODULES if kinds == {kind} for word in ("--measure", kind)]
    words += ["--control"] if section.control else []
    for option, value in (("--rounds", rounds), ("--seeds", seeds), ("--threads", common.get("threads"))):
        words += [option, str(value)] if value else []
    return printable(shlex.join(words), " ").replace("`", " ")


def command_of_sweep(found: Sweep) -> str:
    """The command that makes such a sweep."""
    spots = [one for spots in found.points.values() for one in spots.values()]
    first = spots[0].section.first
    points = {spot.section.run.id: [one for row in spot.section.rows for one in row.of("speed")] for spot in spots}
    rounds = max(map(_first_rounds, points.values()))
    words = ["framework-bench", "sweep", "--task", first.task, "--preset", first.preset]
    fixed = {name: value for name, value in first.changes.items() if name not in found.fields}
    words += [word for name, value in fixed.items() for word in ("--set", f"{name}={value}")]
    for place, field in enumerate(found.fields):
        values = dict.fromkeys(point[place].replace(",", "\\,") for point in found.points)
        words += ["--vary", f"{field}={','.join(values)}"] if field != sweep.RUN else []
    arms = [_unvaried(spot.row.arm, found) for spot in spots]
    common = {name: getattr(arms[0], name) for name in ("device", "precision", "threads")
              if len({getattr(arm, name) for arm in arms}) == 1}  # fmt: skip
    words += [word for name in ("device", "precision") if name in common for word in (f"--{name}", common[name])]
    typed = sorted({arm.typed(common) for arm in arms})
    words += [word for arm in typed for word in ("--arm", arm)] if typed != sorted(backends.BACKENDS) else []
    words += ["--control"] if any(spot.section.control for spot in spots) else []
    for option, value in (("--rounds", rounds), ("--threads", common.get("threads"))):
        words += [option, str(value)] if value else []
    if any(spot.row.look for spot in spots):
        took_s = sum(one.outcome.wall_s / (1 + one.outcome.beside) for spot in spots for one in spot.row.records)
        words += ["--budget", f"{math.ceil(took_s / 60)}m"]
    return printable(shlex.join(words), " ").replace("`", " ")


def _first_rounds(timed: Sequence[Record]) -> int:
    """How many rounds were planned at a point, before some were added because a verdict was open."""
    first = [one for one in timed if one.cell.look in (None, 1)]
    last = max((one.cell.round for one in first), default=0)
    return disturbed.planned_rounds(last, len(disturbed.disturbed_rounds(first)))


def _unvaried(arm: Arm, found: Sweep) -> Arm:
    """The arm without the values of the fields that vary, by which it was named."""
    fields = found.fields[len(found.fields) - found.of_arms :]
    usual = Arm(name=arm.name, backend=arm.backend)
    names = {"python" if field == sweep.RELEASE else field for field in fields}
    changes = {name: getattr(usual, name) for name in names}
    return msgspec.structs.replace(arm, **changes, name=f"{arm.backend}:" if fields else arm.name)


if __name__ == "__main__":
    for target in map(Path, sys.argv[1:]):
        made = tables(target) if target.is_dir() else {target: filled(target), **pictures(target)}
        for path, text in made.items():
            files.write_bytes(path, text.encode())
