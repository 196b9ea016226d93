"""Whether a run may pass: each of its arms against one of them, the baseline. For a comparison in continuous integration."""

from collections.abc import Collection, Iterable

from bench.records.record import Record
from bench.report import grouping, summary
from bench.report.grouping import Row, Section
from bench.stats import verdict


class NoBaseline(ValueError):
    """No table has an arm of that name."""


def objections(records: Iterable[Record], baseline: str, verdicts: Collection[str]) -> list[str]:
    """What speaks against the other arms, in words, by the verdicts that are to count: "slower" and "undecided".

    An arm that is not ranked, a baseline that is not, and a control that failed never pass: with them nothing is known. The
    pairs are decided together (bench/stats/verdict.py), whatever others their table compares. NoBaseline if no table has it.
    """
    texts: list[str] = []
    sections = grouping.sections(records)
    for section in sections:
        base = next((row for row in section.rows if row.name == baseline), None)
        if base is not None:
            what = f"{section.first.task} {section.first.preset}"
            texts += [f"{what}: {text}" for text in _of(section, base, verdicts)]
    if not sections:
        raise NoBaseline("only the speed of training is judged, of which there is no table")
    names = dict.fromkeys(row.name for section in sections for row in section.rows)
    if baseline not in names:
        raise NoBaseline(f"no table has an arm called {baseline}; there are: {', '.join(names)}")
    return texts


def _of(section: Section, base: Row, verdicts: Collection[str]) -> list[str]:
    told = summary.failed_control(section)
    told += [f"{row.name} is not ranked: {row.excluded}" for row in section.rows if row.excluded]
    others = [row for row in section.ranked if row is not base] if not base.excluded else []
    found = verdict.compare_all(
        {row.name: row.comparable for row in section.ranked},
        family=[(row.name, base.name) for row in others],
        shares={row.name: row.share for row in section.ranked},
    )
    for row in others:
        one = found.get((row.name, base.name))
        decision = one.decision if one is not None else "not decided"
        sentence = (
            summary.sentence(section.first, row.name, base.name, one) if one is not None else "no round in common"
        )
        if decision == "slower" and "slower" in verdicts:
            told.append(f"{row.name} is slower: {sentence}")
        if decision == "not decided" and "undecided" in verdicts:
            told.append(f"{row.name} is undecided: {sentence}")
    return told
