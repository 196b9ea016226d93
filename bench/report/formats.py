"""How figures are written."""

from math import floor, log10

from bench.stats.intervals import Interval

NOT_MEASURED = "not measured"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits, thousands separated: 12,300 and 0.0123."""
    if value == 0:
        return "0"
    decimals = digits - 1 - floor(log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


WIDE, SAYS_NOTHING = 100, 10_000
"""How many times the lower end of an interval the upper one is."""


def with_interval(interval: Interval, scale: float = 1.0) -> str:
    """`estimate (low-high)`, no finer than the interval's shorter side to two digits; without one, three digits."""
    if interval.low is None or interval.high is None:
        return significant(interval.estimate * scale)
    if interval.high > WIDE * interval.low > 0:  # as decimals, its lower end would be 0.0
        estimate, low, high = (
            significant(part * scale, 2) for part in (interval.estimate, interval.low, interval.high)
        )
        says_nothing = interval.high > SAYS_NOTHING * interval.low
        return (
            f"{estimate} (interval wider than 1 to {SAYS_NOTHING:,})" if says_nothing else f"{estimate} ({low}-{high})"
        )
    side = min(interval.high - interval.estimate, interval.estimate - interval.low) * scale
    decimals = 1 - floor(log10(side)) if side > 0 else 2
    shown = (round(part * scale, decimals) + 0.0 for part in (interval.estimate, interval.low, interval.high))
    estimate, low, high = (f"{part:,.{max(decimals, 0)}f}" for part in shown)
    return f"{estimate} ({low}{' to ' if interval.low < 0 else '-'}{high})"


def duration(seconds: float) -> str:
    """Seconds with a unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"


def mebibytes(count: float) -> str:
    """Bytes as MiB, without decimals from 10 on."""
    size = count / 2**20
    return f"{size:,.0f} MiB" if size >= 10 else f"{significant(size, 2)} MiB"


def many_rounds(number: int) -> str:
    """How many rounds a figure is of: "1 round", "5 rounds"."""
    return f"{number} round{'s' if number != 1 else ''}"
