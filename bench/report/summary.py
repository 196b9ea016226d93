"""What a table says beside its cells, from records alone: verdicts in words, classes, rungs, failures, titles."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from bench.records.metrics import METRICS
from bench.records.record import Cell, Rung
from bench.report import grouping, scaling, words
from bench.report.formats import with_interval
from bench.report.grouping import Row, Section
from bench.stats import equivalence, verdict

STEP = (
    "A step is: copy a prepared batch to the device, forward pass, loss, backward pass, optimizer update. Throughput is the "
    "number of {unit} (padding left out) over the wall time of a window of such steps, after a declared warm-up, with a "
    "barrier at both ends of every block of steps; reading and shuffling data, import, build and the first step (trace and "
    "compile) are not in it. Every figure of speed is one fresh process; "
)
INTERVALS = (
    "Intervals are t intervals over processes, on the log scale for throughput and ratios, which are paired by round: of 95 % "
    "for a throughput, and for a ratio at the level at which its verdict was decided (Holm's procedure over the table's pairs)."
)
BOUNDARY = {
    1: STEP
    + "rounds hold every backend once, in shuffled order. Intervals are 95 % t intervals over processes, on the log "
    "scale for throughput and ratios, which are paired by round.",
    2: STEP
    + "in a round the processes of all arms take turns, block by block, in an order shuffled for every turn. "
    + INTERVALS,
    3: STEP
    + "in a round the processes of all arms take turns, block by block, in an order shuffled for every turn, and the first "
    "step of a turn, which finds in the processor's caches what the others left there, is not timed. " + INTERVALS,
}
"""Version of the measurement -> what a figure of speed is."""


def boundary(section: Section) -> str:
    """What a figure of speed is, for the reader of a table."""
    return BOUNDARY[min(section.run.measurement, max(BOUNDARY))].format(unit=section.first.unit)


def sentences(section: Section) -> list[str]:
    """The verdicts in words, each with its evidence."""
    first = section.first
    ranked = section.ranked
    texts = []
    for position, row in enumerate(ranked):
        for other in ranked[position + 1 :]:
            found = section.verdicts.get((row.name, other.name))
            if found is not None:
                texts.append(sentence(first, row.name, other.name, found) + _failed_selftests(row, other))
    if len(ranked) < 2:
        texts.append("Nothing is compared: fewer than two rows passed parity and reached the target.")
    texts = [*_disturbed(section), *failed_control(section), *texts, *once_more(section), *_order(section)]
    return [*texts, *scaling.sentences(section), *_equivalences(section)]


def once_more(section: Section) -> list[str]:
    """The tuned rows that are the program of a default row once more, for want of a faster mode or of what that needs."""
    return [
        f"{row.name} is {other.name} once more, for its tuned mode is the default here: what lies between them is noise."
        for row in section.rows
        for other in section.rows
        if row.settings.get("tuned") == "default" and other.arm.way == {**row.arm.way, "mode": "default"}
    ]


def _order(section: Section) -> list[str]:
    """Whether the order of the frameworks is another one when each is tuned; nothing unless two have both rows."""
    ranked = {row.name for row in section.ranked}
    default, tuned = (
        {
            backend: name
            for backend, name in grouping.track([row.arm for row in section.rows], mode).items()
            if name in ranked
        }
        for mode in ("default", "tuned")
    )
    both = [backend for backend in default if backend in tuned]
    if len(both) < 2:
        return []
    turned, decisions = [], []
    for one, other in combinations(both, 2):
        before, after = (section.verdicts[names[one], names[other]].decision for names in (default, tuned))
        decisions.append((before, after))
        if (before, after) in (("faster", "slower"), ("slower", "faster")):
            ahead, behind = (one, other) if before == "faster" else (other, one)
            turned.append(f"{ahead} is ahead of {behind} by default, and behind it where both are tuned")
    if turned:
        return [f"Tuning changes the order: {'; '.join(turned)}."]
    if all(before == after != "not decided" for before, after in decisions):
        return ["Tuning does not change the order of the frameworks."]
    return ["It is not decided whether tuning changes the order of the frameworks."]


def conclusion(section: Section) -> str:
    """One sentence: how the fastest arm compares with each of the others, and whether they learned the same."""
    task, ranked = section.first.task, section.ranked
    if len(ranked) < 2:
        return f"{task}: nothing is compared, for fewer than two rows passed parity and reached the target."
    fastest = ranked[0].name
    speed = _speeds(fastest, {row.name: section.verdicts.get((fastest, row.name)) for row in ranked[1:]})
    title = METRICS[section.metric].title if section.metric in METRICS else section.metric
    decisions = {found.decision for found in section.equivalences.values()}
    same = "equivalent" if decisions == {"equivalent"} else "not decided to be equivalent"
    learned = f"{title} {'different' if 'different' in decisions else same if decisions else 'not compared'}"
    return f"{task}: {speed}; {learned}.{_failed_selftests(*ranked)}"


def so_far(section: Section) -> str:
    """Who is ahead by the rounds that are done, before quality is known; empty where nothing can be compared yet."""
    timed = [row for row in section.rows if len(row.comparable) > 1]
    if len(timed) < 2:
        return ""
    fastest, *others = (row.name for row in timed)
    found = verdict.compare_all(
        {row.name: row.comparable for row in timed},
        family=grouping.family(timed),
        shares={row.name: row.share for row in timed},
    )
    rounds = max(len(row.comparable) for row in timed)
    speed = _speeds(fastest, {name: found.get((fastest, name)) for name in others})
    return f"{section.first.task} after {rounds} rounds: {speed}"


def _speeds(fastest: str, found: Mapping[str, verdict.Verdict | None]) -> str:
    """How the fastest arm compares with each of the others."""
    faster = [f"{with_interval(one.ratio)} times as fast as {name}" for name, one in found.items()
              if one is not None and one.decision == "faster"]  # fmt: skip
    *before, last = faster or [""]
    told = [f"{fastest} trains {', '.join(before)}{' and ' if before else ''}{last}"] if faster else []
    for name, one in found.items():
        if one is None or one.decision != "faster":
            word = "a tie" if one is not None and one.decision == "tie" else "not decided"
            told.append(f"{fastest} and {name}: {word}" + (f" (ratio {with_interval(one.ratio)})" if one else ""))
    return "; ".join(told)


def _failed_selftests(*rows: Row) -> str:
    """What a reader of a verdict must know of the self-tests of its arms; nothing where they passed or there was none."""
    told = [f"of {row.name}, {'; '.join(faults)}" for row in rows
            if row.selftest is not None and (faults := words.selftest_faults(row.selftest))]  # fmt: skip
    return f" (In the self-test {'; '.join(told)}.)" if told else ""


def _disturbed(section: Section) -> list[str]:
    """What to do where disturbed rounds left something open; tables of the first measurement stay as they are."""
    rounds = {one.cell.round for row in section.rows for one in row.of("speed")}
    lost = {number for row in section.rows for number in row.disturbed}
    decided = len(section.ranked) > 1 and all(found.decision != "not decided" for found in section.verdicts.values())
    if not lost or decided or section.run.measurement < 2:
        return []
    return [
        f"Disturbed, and in no figure of speed: {len(lost)} of {len(rounds)} rounds. When the machine is quiet, a run into "
        "a new folder may decide what is open here."
    ]


def failed_control(section: Section) -> list[str]:
    """What must stand before every verdict of a table whose control failed."""
    found, same = section.control_verdict, section.controlled
    if found is None or same is None or found.decision not in ("faster", "slower"):
        return []
    return [
        f"The control failed: {same.name} was called {found.decision} than itself ({with_interval(found.ratio)} times, "
        f"{found.ratio.n} rounds). No verdict of this table can be trusted."
    ]


def _equivalences(section: Section) -> list[str]:
    """A line for each pair of rows whose quality is compared, and one for all of them where there is a single seed."""
    found = section.equivalences
    if found and all(one.difference.n == 1 for one in found.values()):
        known = METRICS.get(section.metric)
        return [f"{known.title if known else section.metric}: not compared, for one seed tells nothing of chance."]
    return [_equivalence(section.metric, first, second, one) for (first, second), one in found.items()]


def _equivalence(metric: str, name: str, other: str, found: equivalence.Equivalence) -> str:
    known = METRICS.get(metric)
    scale, unit = (100, " points") if known and known.percent else (1, "")
    margin = f"{scale * found.margin:g}{unit if scale * found.margin != 1 else unit.removesuffix('s')}"
    seeds = f"{found.difference.n} seeds"
    subject = f"{known.title if known else metric} of {name} and {other}"
    if not found.difference.known and not found.difference.estimate:
        return f"{subject}: equal with each of {seeds}, which tells nothing of chance: no interval, not decided."
    told = {"equivalent": f"equivalent within {margin}", "different": f"different by more than {margin}"}
    return (
        f"{subject}: {told.get(found.decision, f'not decided whether within {margin}')} "
        f"(difference {with_interval(found.difference, scale)}{unit}, {seeds})."
    )


def sentence(first: Cell, name: str, other: str, found: verdict.Verdict) -> str:
    """The verdict of one arm against another, with its evidence."""
    return words.verdict_in_words(f"trains {first.task}", name, other, found)


def classes(section: Section) -> list[list[str]]:
    """Titles, then a line per arm and class: precision, recall and F1 as means over seeds, and summed counts.

    A task that has them names its metrics precision_<class>, recall_<class>, f1_<class>, and confusion_<ij> for the number of
    examples of class i that were taken for class j, classes in the order of their names' first appearance.
    """
    lines: list[list[str]] = []
    for row in section.rows:
        figures = list(row.metrics().values())
        names = [
            name.removeprefix("precision_") for name in (figures[0] if figures else {}) if name.startswith("precision_")
        ]
        for i, name in enumerate(names):
            scores = [_total(figures, f"{kind}_{name}", mean=True) for kind in ("precision", "recall", "f1")]
            counts = [_total(figures, f"confusion_{i}{j}") for j in range(len(names))]
            lines.append([row.name, name, *scores, *counts])
            titles = [
                section.noun,
                "class",
                "precision",
                "recall",
                "F1",
                *(f"taken for {other}" for other in names),
            ]
    return [titles, *lines] if lines else []


def _total(figures: Sequence[Mapping[str, float]], name: str, *, mean: bool = False) -> str:
    """A metric summed over seeds, or its mean as a percentage; a seed that lacks it leaves no figure."""
    if not all(name in metrics for metrics in figures):
        return "not measured"
    total = sum(metrics[name] for metrics in figures)
    return f"{100 * total / len(figures):.1f} %" if mean else f"{total:,.0f}"


def rungs(section: Section) -> list[list[str]]:
    """Titles, then a line per precision and rung: every arm's largest difference beside its tolerance."""
    climbed = {
        (ladder.precision, rung.number, rung.name, row.name): rung
        for row in section.rows
        for ladder in row.ladders
        for rung in ladder.rungs
    }
    names = sorted({name for *_, name in climbed})
    lines = [["precision", "rung", *names]]
    for precision, number, name in sorted({key[:3] for key in climbed}, key=lambda k: (k[0] != "float64", k)):
        found = [climbed.get((precision, number, name, arm)) for arm in names]
        lines.append([precision, f"{number} {name}", *map(_rung, found)])
    return lines if climbed else []


def _rung(rung: Rung | None) -> str:
    if rung is None:
        return "not climbed"
    difference = "no figure" if rung.difference is None else f"{rung.difference:.1e}"
    text = f"{difference} of {rung.tolerance:.0e}" if rung.tolerance else f"{difference}, must be 0"
    return text if rung.passed else f"FAILED: {text}: {rung.where}"


def samples(section: Section) -> list[tuple[str, str]]:
    """(arm, text) of each row whose model writes text, after the training with the first seed."""
    first = [(row.name, one.outcome.quality) for row in section.rows for one in row.of("quality")[:1]]
    return [(name, quality.sample) for name, quality in first if quality and quality.sample]


def failures(section: Section) -> list[str]:
    """One line per process that is not ok."""
    rows = [*section.rows, *filter(None, [section.control])]
    return [
        f"{row.name}, {one.cell.kind}, round {one.cell.round}, seed {one.cell.seed}: {one.outcome.status}: {one.outcome.reason}"
        for row in rows
        for one in row.not_ok
    ]


def title(section: Section) -> str:
    """What a section compares, in a few words: what is common to its arms, and what was changed in the task."""
    precision, device = section.common("precision"), section.common("device")
    way = f"{precision or 'several precisions'} on {f'the {device}' if device else 'several devices'}"
    changes = [f"{name}={value}" for name, value in section.first.changes.items()]
    return f"{section.first.task}: {', '.join([f'preset {section.first.preset}', *changes, way])}"


def titled(sections: Sequence[Section]) -> list[tuple[str, Section]]:
    """Each section with its title, and with its machine and run where another one compares the same."""
    short = [title(section) for section in sections]
    return [
        (name if short.count(name) == 1 else f"{name} ({s.run.machine.cpu}, run {s.run.id})", s)
        for name, s in zip(short, sections, strict=True)
    ]
