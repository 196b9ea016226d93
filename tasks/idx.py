"""MNIST's files, in the IDX format of http://yann.lecun.com/exdb/mnist/.

    bytes 0..3    0x00000803 for images, 0x00000801 for labels (00 00, type 08 = uint8, number of dimensions)
    then          each dimension as a big-endian uint32: N, and for images the rows and columns, 28 and 28
    then          the values, uint8, row by row

Files may be compressed with gzip or not, whatever their names say. Any N > 0 is accepted: a subset is a data set too.
"""

import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.sources import DataError, RemoteFile, locate
from tasks.spec import Array, DataDir

IMAGE_SHAPE = (28, 28)
CLASSES = 10
MAX_EXAMPLES = 1_000_000  # bounds the memory; the largest set in this format, EMNIST, has 814,255
CHUNK_BYTES = 1 << 20

IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")


def _remote(name: str, *, sha256: str, max_bytes: int) -> RemoteFile:
    return RemoteFile(name, sha256=sha256, urls=tuple(mirror + name for mirror in _MIRRORS), max_bytes=max_bytes)


TRAIN_IMAGES = _remote(
    "train-images-idx3-ubyte.gz",
    sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    max_bytes=16 << 20,
)
TRAIN_LABELS = _remote(
    "train-labels-idx1-ubyte.gz",
    sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    max_bytes=1 << 20,
)
TEST_IMAGES = _remote(
    "t10k-images-idx3-ubyte.gz",
    sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    max_bytes=16 << 20,
)
TEST_LABELS = _remote(
    "t10k-labels-idx1-ubyte.gz",
    sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    max_bytes=1 << 20,
)

PUBLISHED = (  # sha256 of the four files' content, uncompressed, in the order of the fields of Mnist
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)


class Mnist(NamedTuple):
    """60,000 training and 10,000 test examples, or as many as the files of a data folder hold."""

    train_images: Array  # uint8[N, 28, 28], 0 is the background
    train_labels: Array  # uint8[N], 0..9
    test_images: Array  # uint8[M, 28, 28]
    test_labels: Array  # uint8[M], 0..9

    @property
    def is_published(self) -> bool:
        """Whether these are MNIST's own four files, byte for byte, and not others of the same form."""
        return tuple(map(_content_sha256, self)) == PUBLISHED


def read_mnist(data_dir: DataDir) -> Mnist:
    """The four files from `data_dir`, the cache or a mirror (tasks.sources.locate). Raises DataError."""
    train_images, train_labels = _read_pair(TRAIN_IMAGES, TRAIN_LABELS, data_dir=data_dir)
    test_images, test_labels = _read_pair(TEST_IMAGES, TEST_LABELS, data_dir=data_dir)
    return Mnist(train_images, train_labels, test_images, test_labels)


def read_images(path: Path) -> Array:
    """uint8[N, 28, 28] from an IDX file of images. Raises DataError."""
    return _read(path, magic=IMAGES_MAGIC, item_shape=IMAGE_SHAPE)


def read_labels(path: Path) -> Array:
    """uint8[N], each in 0..9, from an IDX file of labels. Raises DataError."""
    labels = _read(path, magic=LABELS_MAGIC, item_shape=())
    wrong = np.flatnonzero(labels >= CLASSES)
    if wrong.size:
        raise _error(path, expected="labels in 0..9", found=f"{labels[wrong[0]]} at position {wrong[0]:,}")
    return labels


def _read_pair(images_file: RemoteFile, labels_file: RemoteFile, *, data_dir: DataDir) -> tuple[Array, Array]:
    images_path = locate("mnist", images_file, data_dir=data_dir)
    labels_path = locate("mnist", labels_file, data_dir=data_dir)
    images, labels = read_images(images_path), read_labels(labels_path)
    if len(images) != len(labels):
        expected = f"one label for each of the {len(images):,} images in {images_path}"
        raise _error(labels_path, expected=expected, found=f"{len(labels):,} labels")
    return images, labels


def _read(path: Path, *, magic: int, item_shape: tuple[int, ...]) -> Array:
    """uint8[N, *item_shape]; the file's size, its dimensions and gzip's own checksum are all checked."""
    try:
        with path.open("rb") as raw:
            # Browsers unpack some downloads and keep the name, so the content decides; no IDX file begins like gzip.
            compressed = raw.peek(2)[:2] == b"\x1f\x8b"
            stream = gzip.GzipFile(fileobj=raw) if compressed else raw
            return _parse(path, stream, magic=magic, item_shape=item_shape)
    except EOFError as error:
        raise _error(path, expected="a complete gzip file", found="a truncated one") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _error(path, expected="a gzip file", found=f"a damaged one ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check the file") from error


def _parse(path: Path, stream: io.BufferedIOBase, *, magic: int, item_shape: tuple[int, ...]) -> Array:
    header_size = 4 * (2 + len(item_shape))  # magic, count, and the item's dimensions
    header = stream.read(header_size)
    if len(header) < header_size:
        raise _error(path, expected=f"an IDX header of {header_size} bytes", found=f"{len(header)} bytes")
    found_magic, count, *shape = struct.unpack(f">{header_size // 4}I", header)
    if found_magic != magic:
        raise _error(path, expected=f"an IDX file of magic 0x{magic:08x}", found=f"0x{found_magic:08x}")
    if tuple(shape) != item_shape:
        by = " x ".join
        raise _error(path, expected=f"images of {by(map(str, item_shape))} pixels", found=by(map(str, shape)))
    if not 0 < count <= MAX_EXAMPLES:
        raise _error(path, expected=f"1 to {MAX_EXAMPLES:,} examples", found=f"a header that promises {count:,}")
    size = count * math.prod(item_shape)
    values = bytearray()
    # In chunks: memory follows what the file holds, not what its header promises.
    while chunk := stream.read(min(CHUNK_BYTES, size - len(values))):
        values += chunk
    if len(values) < size:
        raise _error(path, expected=f"{size:,} bytes after the header", found=f"{len(values):,}")
    if stream.read(1):  # this also takes gzip to its end, where the checksum is
        raise _error(path, expected=f"{size:,} bytes after the header", found="more")
    return np.frombuffer(values, np.uint8).reshape(count, *item_shape)


def _content_sha256(values: Array) -> str:
    """Of the IDX file of this content: nothing is in one but its magic number, its dimensions and its values."""
    magic = LABELS_MAGIC if values.ndim == 1 else IMAGES_MAGIC
    header = struct.pack(f">{1 + values.ndim}I", magic, *values.shape)
    return hashlib.sha256(header + values.tobytes()).hexdigest()


def _error(path: Path, *, expected: str, found: str) -> DataError:
    return DataError(f"{path}: expected {expected}, found {found}; replace the file with an intact copy")
