"""Text from anywhere, made harmless for one line."""

import re

MAX_CHARACTERS = 500


def printable(text: str, substitute: str = "?") -> str:
    """On one line, and nothing in it that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else substitute for character in text)


def one_line(text: str) -> str:
    """The text on one line of at most MAX_CHARACTERS, and without the folders of this machine."""
    text = re.sub(r"(?:/[^\s/:'\"]+){2,}", lambda match: "…/" + match[0].rpartition("/")[2], " ".join(text.split()))
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
