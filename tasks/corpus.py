"""Texts for language models: where they lie, how they are cut into tokens, and which tokens the vocabulary has.

    pydoc            English of CPython's language reference, as every CPython carries it in `pydoc_data.topics`: nothing
                     to download, but another text in another version of Python (the hash of the data says so).
    wikitext-2       WikiText-2 (Merity et al., 2016, https://arxiv.org/abs/1609.07843; CC BY-SA), its word-level files.
                     Cut as PyTorch's word-language-model example does it: words are what white space separates, and each
                     line, an empty one too, ends in <eos>
                     (https://github.com/pytorch/examples/blob/main/word_language_model/data.py).
    tinyshakespeare  1,115,394 characters of Shakespeare's plays (Karpathy, https://github.com/karpathy/char-rnn; public
                     domain). Every character is a token; the first nine tenths train, as in nanoGPT.

A text is called by its published name only where the content of its files has the published sha256; another one is the user's
own, and the held-out lines of MIN_LINE or more characters that also appear in its training text are counted. (Shorter ones are
headings and names, which any text repeats. Of the published texts, WikiText-2 has 1 such line of 1,785, the heading
"Taxonomy , phylogeny , and naming", and tiny Shakespeare none.)

The vocabulary has the most frequent tokens of the training split, in descending order of their count, equal counts in the
order of their code points; <unk> stands for all others and always has a place, at the end where the text does not use it.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.sources import DATA_VARIABLE, DataError, RemoteFile, locate
from tasks.spec import Array, DataDir, SpecError, hash_arrays

MIN_LINE = 40  # characters

UNKNOWN = "<unk>"
END_OF_LINE = "<eos>"

_EXAMPLES = (
    "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
    "/word_language_model/data/wikitext-2/"
)
WIKITEXT_TRAIN = RemoteFile(
    "train.txt",
    sha256="9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
    urls=(_EXAMPLES + "train.txt",),
    max_bytes=16 << 20,
)
WIKITEXT_VALID = RemoteFile(
    "valid.txt",
    sha256="f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    urls=(_EXAMPLES + "valid.txt",),
    max_bytes=2 << 20,
)
SHAKESPEARE = RemoteFile(
    "input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    urls=(
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
        "/data/tinyshakespeare/input.txt",
    ),
    max_bytes=2 << 20,
)

OWN = "own text"

Tokens = Callable[[], Iterator[str]]
"""A split of a text: each call yields its tokens anew, one by one, so that two million of them are never all in memory."""


class Text(NamedTuple):
    """A text in its two splits, and how to cut a text like it into tokens and to put it together again."""

    name: str  # one of TEXTS, or "own text"
    description: str  # for the reader of a table
    train: Tokens
    held_out: Tokens
    start: str  # the token that the first one is predicted from
    tokenize: Callable[[str], list[str]]
    separator: str  # between the tokens of a printed text

    @property
    def is_own(self) -> bool:
        """Whether it is a text of the user's, and none that has been published under a name."""
        return self.name == OWN


class Corpus(NamedTuple):
    """A text as numbers."""

    train: Array  # int32[N], ids of tokens
    held_out: Array  # int32[M]
    vocabulary: tuple[str, ...]  # the token of each id
    start: int  # id of the token that a split's first one is predicted from

    @property
    def sha256(self) -> str:
        """Of the ids of both splits and of the tokens that they stand for."""
        words = np.frombuffer("\0".join(self.vocabulary).encode(), np.uint8)
        return hash_arrays(self.train, self.held_out, words, np.array([self.start]))

    def ids(self, tokens: list[str]) -> Array:
        """int32[len(tokens)]; a token that is not in the vocabulary is <unk>."""
        known = {token: number for number, token in enumerate(self.vocabulary)}
        return np.array([known.get(token, known[UNKNOWN]) for token in tokens], np.int32)


def read(source: str, data_dir: DataDir) -> Text:
    """A text by its name, one of TEXTS. Raises SpecError, at once or while its tokens are drawn."""
    return TEXTS[source](data_dir)


def number(text: Text, *, vocabulary: int, limit: tuple[int, int] | None = None) -> Corpus:
    """Both splits as ids below `vocabulary`; `limit` takes only the first tokens of each split.

    Raises SpecError for an empty split and for a vocabulary larger than the training split has types.
    """
    keep_train, keep_held_out = limit or (None, None)
    counts = Counter(islice(text.train(), keep_train))
    if not counts:
        raise SpecError("the training text is empty: expected at least one token; give a file with text in it")
    types = len(counts | Counter([UNKNOWN]))
    if vocabulary > types:
        raise SpecError(
            f"a vocabulary of {vocabulary:,} is larger than the training text, which has {types:,} types, {UNKNOWN} "
            f"included; set the vocabulary to {types:,} or less, or give a longer text"
        )
    words = most_frequent(counts, vocabulary)
    known = {word: number for number, word in enumerate(words)}
    unknown = known[UNKNOWN]
    train = np.fromiter((known.get(token, unknown) for token in islice(text.train(), keep_train)), np.int32)
    held_out = np.fromiter((known.get(token, unknown) for token in islice(text.held_out(), keep_held_out)), np.int32)
    if not len(held_out):
        raise SpecError("the held-out text is empty: expected at least one token; give a file with text in it")
    return Corpus(train, held_out, words, start=known.get(text.start, unknown))


def repeated_lines(text: Text, *, limit: tuple[int, int] | None = None) -> tuple[int, int]:
    """(held-out lines that also appear in the training text, held-out lines); lines of MIN_LINE or more characters."""
    keep_train, keep_held_out = limit or (None, None)
    seen = set(_long_lines(text, islice(text.train(), keep_train)))
    found = [line in seen for line in _long_lines(text, islice(text.held_out(), keep_held_out))]
    return sum(found), len(found)


def _long_lines(text: Text, tokens: Iterator[str]) -> Iterator[str]:
    """The lines of MIN_LINE or more characters; a text starts as each of its lines does, after the token that ends one."""
    line: list[str] = []
    for token in chain(tokens, [text.start]):
        if token != text.start:
            line.append(token)
            continue
        if len(whole := text.separator.join(line)) >= MIN_LINE:
            yield whole
        line.clear()


def most_frequent(counts: Mapping[str, int], size: int) -> tuple[str, ...]:
    """The vocabulary of the module docstring: `size` tokens, <unk> among them."""
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    chosen = ranked[:size]
    return tuple(chosen) if UNKNOWN in chosen else (*ranked[: size - 1], UNKNOWN)


def check_ids(ids: Array, vocabulary: int) -> None:
    """Raises SpecError if an id is not the number of a token: frameworks differ in what they do with one."""
    wrong = np.flatnonzero((ids < 0) | (ids >= vocabulary))
    if wrong.size:
        raise SpecError(
            f"token id {ids[wrong[0]]} at position {wrong[0]:,}: expected ids in 0..{vocabulary - 1}; "
            f"encode the text with the vocabulary of the model"
        )


def check_length(ids: Array, *, split: str, batch_size: int, window: int) -> None:
    """Raises SpecError if the streams would have less than one window each."""
    if len(ids) < batch_size * window:
        raise SpecError(
            f"the {split} text has {len(ids):,} tokens: expected at least {batch_size * window:,}, one window of "
            f"{window} for each of {batch_size} streams; give a longer text or reduce the batch size or the window"
        )


def lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, compressed with gzip or not; a line ends at "\n" or "\r\n" alone. Raises DataError."""
    number = 0
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, start=1):  # noqa: B007  # `number` is for the message below
                yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(
            f"{path}: line {number:,} is not UTF-8 (byte 0x{byte:02x}): expected UTF-8 text; convert the file or "
            f"replace it with an intact copy"
        ) from error


def content_sha256(path: Path) -> str:
    """Of what is in a file, compressed with gzip or not. Raises DataError."""
    digest = hashlib.sha256()
    with _opened(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file's content; what goes wrong while it is read is a DataError."""
    try:
        with path.open("rb") as raw:
            compressed = raw.peek(2)[:2] == b"\x1f\x8b"  # the content decides, not the name
            yield gzip.GzipFile(fileobj=raw) if compressed else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a complete gzip file, found a damaged one; replace it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check the file") from error


def _wikitext(data_dir: DataDir) -> Text:
    train = _find("wikitext-2", WIKITEXT_TRAIN, also="wiki.train.tokens", data_dir=data_dir)
    valid = _find("wikitext-2", WIKITEXT_VALID, also="wiki.valid.tokens", data_dir=data_dir)
    published = (content_sha256(train), content_sha256(valid)) == (WIKITEXT_TRAIN.sha256, WIKITEXT_VALID.sha256)
    return Text(
        name="wikitext-2" if published else OWN,
        description="WikiText-2, its words as published" if published else "the words of your own text, NOT WikiText-2",
        train=partial(_words, train),
        held_out=partial(_words, valid),
        start=END_OF_LINE,
        tokenize=str.split,
        separator=" ",
    )


def _words(path: Path) -> Iterator[str]:
    for line in lines(path):
        yield from line.split()
        yield END_OF_LINE


def _shakespeare(data_dir: DataDir) -> Text:
    path = _find("tinyshakespeare", SHAKESPEARE, data_dir=data_dir)
    published = content_sha256(path) == SHAKESPEARE.sha256
    text = "".join(line + "\n" for line in lines(path))
    cut = len(text) * 9 // 10
    plays = "Shakespeare's plays, character by character, from tiny Shakespeare"
    return Text(
        name="tinyshakespeare" if published else OWN,
        description=plays if published else "your own text, character by character, NOT tiny Shakespeare",
        train=lambda: iter(text[:cut]),
        held_out=lambda: iter(text[cut:]),
        start="\n",
        tokenize=list,
        separator="",
    )


def _pydoc(_: DataDir) -> Text:
    if importlib.util.find_spec("pydoc_data") is None:
        raise SpecError(
            "this Python has no module pydoc_data, whose text was expected; install Python's documentation data, use "
            "Python from python.org or conda, or choose the preset standard"
        )
    from pydoc_data.topics import topics

    # Topics quote each other: a paragraph seen before is left out, or the held-out text would partly be trained on.
    paragraphs = dict.fromkeys(
        tuple(_words_and_marks(paragraph))
        for topic in sorted(topics)
        for paragraph in re.split(r"\n\s*\n", topics[topic])
    )
    kept = [(*words, END_OF_LINE) for words in paragraphs if words]
    # Every tenth paragraph is held out: the last tenth would be other topics than those trained on.
    train = [words for number, words in enumerate(kept) if number % 10 != 9]
    return Text(
        name="pydoc",
        description="real English, CPython's language reference from pydoc_data, NOT WikiText-2",
        train=lambda: chain.from_iterable(train),
        held_out=lambda: chain.from_iterable(kept[9::10]),
        start=END_OF_LINE,
        tokenize=_words_and_marks,
        separator=" ",
    )


def _words_and_marks(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text)


def _find(dataset: str, file: RemoteFile, *, data_dir: DataDir, also: str | None = None) -> Path:
    """tasks.sources.locate; in a folder of the user's, name.gz and the name `also` are accepted too."""
    if data_dir is None and not os.environ.get(DATA_VARIABLE):
        return locate(dataset, file, data_dir=None)
    if also is not None:
        try:
            return locate(dataset, replace(file, name=also), data_dir=data_dir)
        except DataError:
            pass  # the message of the usual name is the one to show
    return locate(dataset, replace(file, name=file.name + ".gz"), data_dir=data_dir)


TEXTS: Mapping[str, Callable[[DataDir], Text]] = {
    "pydoc": _pydoc,
    "wikitext-2": _wikitext,
    "tinyshakespeare": _shakespeare,
}
"""The texts that a task can name as its source."""
