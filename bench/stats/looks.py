"""Looks: verdicts that are asked for again after more rounds, because they were still open.

Who adds rounds until a verdict falls decides too often: each look at the same comparison is another chance to be wrong. So the
looks are fixed before the first round is measured: each has twice the rounds of the one before, and may spend half of the error
that those before have left. Half, a quarter, an eighth and so on of 5 % are 5 % in all: whatever makes somebody add rounds at
one point and not at another, the chance of a wrong verdict at any look is no larger (a union bound; alpha spending after Lan
and DeMets, 1983, https://doi.org/10.1093/biomet/70.3.659).
"""


def rounds(first: int, look: int | None) -> int:
    """How many there are at a look, where the first has `first`; None where rounds are planned once."""
    return first if look is None else first * 2 ** (look - 1)


def of_round(number: int, first: int) -> int:
    """The look at which a round is first there."""
    look = 1
    while rounds(first, look) < number:
        look += 1
    return look


def share(look: int | None) -> float:
    """Of the error, what the verdicts of a look may spend: 1 where rounds are planned once."""
    return 1.0 if look is None else 0.5**look
