"""Sentences with a sentiment of 0 or 1: the reader of `train.tsv` and `dev.tsv`, where they come from, and their tokens.

Data: SST-2 of the GLUE benchmark (Socher et al., 2013, https://aclanthology.org/D13-1170; Wang et al., 2019,
https://arxiv.org/abs/1804.07461), 67,349 phrases to train on and 872 labelled held-out sentences. Own data: a folder with
`train.tsv` and `dev.tsv` of the same form, as they are or compressed to `.gz`: UTF-8, a header `sentence<TAB>label`, then one
sentence and its label 0 or 1 a line.

Needs: tokenizers, for WordPiece.
"""

import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.checkpoint import read_vocabulary
from tasks.sources import DATA_VARIABLE, DataError, RemoteFile, locate
from tasks.spec import Array, DataDir, SpecError

HEADER = "sentence\tlabel"
MAX_BYTES = 256 << 20  # of one file, uncompressed

GLUE_SHA256 = {  # of the uncompressed content
    "train": "48eac26399f8456935f81dd9e3a745c1430adb6c62e233ccfe22db4a0d15d1d1",
    "dev": "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0",
}
ARCHIVE = RemoteFile(
    name="SST-2.zip",
    sha256="d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
    urls=("https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", "https://bj.bcebos.com/dataset/glue/SST.zip"),
    max_bytes=7_439_277,
)


class Sentences(NamedTuple):
    """Sentences and their labels, and whether the file is GLUE's own, byte for byte."""

    sentences: list[str]
    labels: Array  # int32[N]
    is_glue: bool


class Tokens(NamedTuple):
    """Token numbers, [CLS] first and [SEP] last, padded at the end; the mask is 0 at padding."""

    tokens: Array  # int32[N, T]
    mask: Array  # int32[N, T]


def read_split(split: str, data_dir: DataDir) -> Sentences:
    """`split` is "train" or "dev". From a folder if one is named, else from the archive in the cache or its mirrors.

    Raises DataError.
    """
    if data_dir is not None or os.environ.get(DATA_VARIABLE):
        file = RemoteFile(name=f"{split}.tsv.gz", sha256=GLUE_SHA256[split], urls=(), max_bytes=MAX_BYTES)
        path = locate("sst2", file, data_dir=data_dir)
        content, origin = _read_file(path), str(path)
    else:
        path = locate("sst2", ARCHIVE, data_dir=None)
        content, origin = _read_member(path, f"SST-2/{split}.tsv"), f"{path}, SST-2/{split}.tsv"
    sentences, labels = parse(content, origin=origin)
    return Sentences(sentences, labels, hashlib.sha256(content).hexdigest() == GLUE_SHA256[split])


def parse(content: bytes, *, origin: str) -> tuple[list[str], Array]:
    """Sentences, stripped, and labels int32[N]; DataError names the line that is not `sentence<TAB>label`."""
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    lines = [line.removesuffix("\r") for line in lines]
    if lines[-1] == "":
        lines.pop()  # the end of the last line is no line
    if not lines or lines[0] != HEADER:
        found = lines[0][:60] if lines else ""
        raise DataError(f"{origin}: the first line is {found!r}, expected the header {HEADER!r}; add it")
    if len(lines) == 1:
        raise DataError(f"{origin}: no sentence after the header; give at least one")
    sentences = []
    labels = np.empty(len(lines) - 1, np.int32)
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 2:
            raise DataError(
                f"{origin}: line {number} has {len(cells)} columns, expected sentence and label with one tab between; fix it"
            )
        sentence, label = cells[0].strip(), cells[1].strip()
        if not sentence:
            raise DataError(f"{origin}: line {number} has an empty sentence; remove the line or give it one")
        if label not in ("0", "1"):
            raise DataError(
                f"{origin}: line {number} has the label {label[:40]!r}, expected 0 (negative) or 1 (positive); fix it"
            )
        sentences.append(sentence)
        labels[number - 2] = int(label)
    return sentences, labels


def tokenize(
    sentences: Sequence[str],
    vocabulary: Path | Sequence[str],
    *,
    max_length: int,
    lower_case: bool,
    strip_accents: bool,
    split_chinese: bool,
) -> Tokens:
    """WordPiece tokens as BERT's: [CLS] pieces [SEP], cut to `max_length` with [SEP] kept, padded to it.

    `vocabulary` is a file with one piece a line, or the pieces in order. Long sentences are cut, never refused. Raises
    SpecError for a vocabulary without BERT's special tokens.
    """
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        raise SpecError("WordPiece needs the package tokenizers; add it with: pip install tokenizers") from error
    pieces = read_vocabulary(vocabulary) if isinstance(vocabulary, Path) else vocabulary
    numbers = {piece: number for number, piece in enumerate(pieces)}
    if absent := [special for special in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if special not in numbers]:
        raise SpecError(f"{vocabulary}: the vocabulary has no {', '.join(absent)}; use the one of a BERT checkpoint")
    tokenizer = BertWordPieceTokenizer(
        numbers, lowercase=lower_case, strip_accents=strip_accents, handle_chinese_chars=split_chinese
    )
    tokenizer.enable_truncation(max_length)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    tokens = np.full((len(rows), max_length), numbers["[PAD]"], np.int32)
    mask = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return Tokens(tokens, mask)


def _read_file(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy or compress it again") from error
    return _checked_size(content, str(path))


def _read_member(path: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {member} cannot be read ({error}); remove the file to download it again") from error
    return _checked_size(content, f"{path}, {member}")


def _checked_size(content: bytes, origin: str) -> bytes:
    if len(content) > MAX_BYTES:
        raise DataError(f"{origin}: more than {MAX_BYTES:,} bytes uncompressed; give a smaller set")
    return content
