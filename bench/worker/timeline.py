"""Who had the time: operations on several threads, of which some lie within others, shared out over the wall clock."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

Label = tuple[str, str]


class Span(NamedTuple):
    """Something that ran on a thread, under a label."""

    thread: str
    start_s: float
    end_s: float
    label: Label


def shared(spans: Iterable[Span]) -> dict[Label, float]:
    """Label -> seconds of wall time; their sum is the time in which anything ran.

    Of spans within one another the innermost has the time, and those that run on several threads at once share it.
    """
    edges: list[tuple[float, int, Label]] = []
    ordered = sorted(spans, key=lambda span: (span.thread, span.start_s, -span.end_s))
    for _, own in groupby(ordered, key=lambda span: span.thread):
        for start_s, end_s, label in _innermost(own):
            edges += [(start_s, 1, label), (end_s, -1, label)]
    found: dict[Label, float] = defaultdict(float)
    running: Counter[Label] = Counter()
    before_s = 0.0
    for at_s, change, label in sorted(edges, key=lambda edge: edge[:2]):
        for one, count in running.items():
            found[one] += (at_s - before_s) * count / running.total()
        running[label] += change
        if not running[label]:
            del running[label]
        before_s = at_s
    return dict(found)


def _innermost(spans: Iterable[Span]) -> Iterator[tuple[float, float, Label]]:
    """Parts of the time of one thread, each with the innermost span that it belongs to."""
    pending: list[Span] = []  # those that the last one lies within
    at_s = 0.0
    for span in spans:
        while pending and pending[-1].end_s <= span.start_s:
            yield from _part(at_s, pending[-1])
            at_s = max(at_s, pending.pop().end_s)
        if pending:
            yield from _part(at_s, pending[-1]._replace(end_s=span.start_s))
            span = span._replace(end_s=min(span.end_s, pending[-1].end_s))  # a profiler's clock ticks
        pending.append(span)
        at_s = span.start_s
    while pending:
        yield from _part(at_s, pending[-1])
        at_s = max(at_s, pending.pop().end_s)


def _part(start_s: float, span: Span) -> Iterator[tuple[float, float, Label]]:
    if span.end_s > start_s:
        yield start_s, span.end_s, span.label
