"""Generated film reviews whose sentiment needs more than their words: for presets that must not download anything.

A review is one or two opinions about a film and, often, a remark that says nothing. Its label follows from four rules:

1. an adjective is positive or negative: "the acting is superb" is positive;
2. a negation turns it round, an intensifier does not: "the acting is not very convincing" is negative;
3. of two opinions that contrast, the main one decides: the one after "but", and the one that has no "although" before it,
   whichever comes first;
4. what others said or expected does not count: "critics called it dull".

Adjectives, negations and the order of clauses are drawn independently of the label, so that no word and no set of words says
much about it. The label itself is a function of the sentence: nothing is random about it once the sentence is there.
"""

from typing import NamedTuple

import numpy as np

POSITIVE = (
    "good", "great", "superb", "funny", "charming", "moving", "brilliant", "fresh", "clever", "touching",
    "delightful", "gripping", "honest", "inventive", "warm", "memorable",
)  # fmt: skip
NEGATIVE = (
    "bad", "poor", "awful", "dull", "boring", "clumsy", "stale", "shallow", "tedious", "bland", "lifeless", "messy",
    "predictable", "silly", "forgettable", "weak",
)  # fmt: skip
ASPECTS = (
    "film", "movie", "plot", "story", "acting", "dialogue", "music", "ending", "script", "humor", "pacing",
    "photography", "cast", "direction",
)  # fmt: skip
INTENSIFIERS = ("very", "really", "truly", "quite", "utterly", "remarkably")
NEGATIONS = ("not", "never", "hardly", "by no means")
REMARKS = (
    "it was shot in two weeks", "the director is from paris", "it runs for ninety minutes", "i saw it on a monday",
    "the theater was full", "this is the second part",
)  # fmt: skip
VOICES = ("critics called it", "my friends expected something", "the poster promised something")

# Shares of the reviews; with more of the first two, a small model needs more steps to find the rules.
NEGATED = 0.25  # of the opinions
CONTRASTED = 0.4
REMARKED = 0.4
QUOTED = 0.3  # of the remarks
INTENSIFIED = 0.4  # of the opinions

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Review(NamedTuple):
    """A sentence in lower case, words and punctuation separated by spaces, and 1 for a positive review, 0 for a negative."""

    sentence: str
    label: int


def reviews(count: int, *, seed: int) -> list[Review]:
    """`count` different reviews from PCG64(seed)."""
    rng = np.random.default_rng(seed)
    found: dict[str, int] = {}
    while len(found) < count:
        sentence, label = _review(rng)
        found.setdefault(sentence, label)
    return [Review(sentence, label) for sentence, label in found.items()]


def vocabulary() -> list[str]:
    """A WordPiece vocabulary for these sentences: special tokens, letters to spell any other word with, and the words.

    Adverbs in "-ly" are left to two pieces, such as "remarkab" and "##ly", as a trained vocabulary leaves rarer words.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words: set[str] = set()
    for text in (*POSITIVE, *NEGATIVE, *ASPECTS, *INTENSIFIERS, *NEGATIONS, *REMARKS, *VOICES, "the is but although"):
        words.update(text.split())
    pieces = {word.removesuffix("ly") for word in words}
    return [*SPECIAL, *",.", *letters, *(f"##{letter}" for letter in letters), "##ly", *sorted(pieces - set(letters))]


def _review(rng: np.random.Generator) -> Review:
    positive = bool(rng.random() < 0.5)
    main = _opinion(rng, positive)
    clauses = [main]
    if rng.random() < CONTRASTED:
        other = _opinion(rng, not positive)
        clauses = [_pick(rng, (f"{other} , but {main}", f"although {other} , {main}", f"{main} , although {other}"))]
    if rng.random() < REMARKED:
        remark = _pick(rng, REMARKS)
        if rng.random() < QUOTED:
            remark = f"{_pick(rng, VOICES)} {_pick(rng, POSITIVE if rng.random() < 0.5 else NEGATIVE)}"
        clauses.insert(int(rng.integers(2)), remark)
    return Review(" . ".join(clauses) + " .", int(positive))


def _opinion(rng: np.random.Generator, positive: bool) -> str:
    negated = bool(rng.random() < NEGATED)
    words = [f"the {_pick(rng, ASPECTS)} is"]
    if negated:
        words.append(_pick(rng, NEGATIONS))
    if rng.random() < INTENSIFIED:
        words.append(_pick(rng, INTENSIFIERS))
    words.append(_pick(rng, POSITIVE if positive != negated else NEGATIVE))
    return " ".join(words)


def _pick(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
