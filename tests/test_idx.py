"""MNIST's IDX files: what is read, and how each kind of damage is named."""

import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks import idx
from tasks.idx import read_images, read_labels, read_mnist
from tasks.mnist_mlp import MnistMlp
from tasks.sources import DATA_VARIABLE, DataError
from tasks.spec import describe_task, hash_json

IMAGES = np.arange(3 * 784, dtype=np.uint64).reshape(3, 28, 28).astype(np.uint8)  # no two rows alike: order shows
LABELS = np.array([7, 0, 9], np.uint8)


def images_bytes(images: np.ndarray = IMAGES) -> bytes:
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


def labels_bytes(labels: np.ndarray = LABELS) -> bytes:
    return struct.pack(">2I", 0x801, len(labels)) + labels.tobytes()


def refused(read: Callable[[Path], object], path: Path, content: bytes) -> str:
    """The message with which a file of this content is refused; it is one line and names the file."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def mnist_folder(folder: Path, *, test_labels: bytes | None = None) -> Path:
    for name, content in {
        "train-images-idx3-ubyte.gz": gzip.compress(images_bytes()),
        "train-labels-idx1-ubyte.gz": gzip.compress(labels_bytes()),
        "t10k-images-idx3-ubyte": images_bytes(IMAGES[:2]),
        "t10k-labels-idx1-ubyte": test_labels or labels_bytes(LABELS[:2]),
    }.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_reads_plain_and_compressed_files_whatever_their_names(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(pack(images_bytes()))
    images = read_images(path)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES)
    path.write_bytes(pack(labels_bytes()))
    labels = read_labels(path)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)


def test_a_file_of_several_chunks(tmp_path: Path) -> None:
    images = np.tile(IMAGES, (1 + 2 * idx.CHUNK_BYTES // IMAGES.size, 1, 1))
    assert images.size % idx.CHUNK_BYTES
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(images_bytes(images)))
    np.testing.assert_array_equal(read_images(path), images)


def test_images_where_labels_are_expected_and_the_reverse(tmp_path: Path) -> None:
    message = refused(read_labels, tmp_path / "labels", images_bytes())
    assert "expected an IDX file of magic 0x00000801, found 0x00000803" in message
    message = refused(read_images, tmp_path / "images", labels_bytes(np.zeros(100, np.uint8)))
    assert "expected an IDX file of magic 0x00000803, found 0x00000801" in message


@pytest.mark.parametrize("size", [0, 3, 15])
def test_a_header_cut_short(tmp_path: Path, size: int) -> None:
    message = refused(read_images, tmp_path / "images", images_bytes()[:size])
    assert f"expected an IDX header of 16 bytes, found {size} bytes" in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_payload_of_another_size(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    message = refused(read_images, tmp_path / "images", pack(images_bytes()[:-1]))
    assert "expected 2,352 bytes after the header, found 2,351" in message
    message = refused(read_images, tmp_path / "images", pack(images_bytes() + b"\0"))
    assert "expected 2,352 bytes after the header, found more" in message


@pytest.mark.parametrize("cut", [1, 8, 100], ids=["in the size", "in the checksum", "in the data"])
def test_a_truncated_gzip_file(tmp_path: Path, cut: int) -> None:
    content = gzip.compress(images_bytes())
    message = refused(read_images, tmp_path / "images.gz", content[:-cut])
    assert "expected a complete gzip file, found a truncated one" in message


@pytest.mark.parametrize(
    ("position", "why"),
    [(2, "Unknown compression method"), (10, "Error -3 while decompressing"), (-6, "CRC check failed")],
    ids=["in the header", "in the data", "in the checksum"],
)
def test_a_damaged_gzip_file(tmp_path: Path, position: int, why: str) -> None:
    content = bytearray(gzip.compress(images_bytes()))
    content[position] ^= 0xFF
    message = refused(read_images, tmp_path / "images.gz", bytes(content))
    assert f"expected a gzip file, found a damaged one ({why}" in message


def test_images_of_another_shape(tmp_path: Path) -> None:
    message = refused(read_images, tmp_path / "images", images_bytes(IMAGES.reshape(3, 14, 56)))
    assert "expected images of 28 x 28 pixels, found 14 x 56" in message


def test_labels_outside_the_classes(tmp_path: Path) -> None:
    message = refused(read_labels, tmp_path / "labels", labels_bytes(np.array([9, 0, 10, 11], np.uint8)))
    assert "expected labels in 0..9, found 10 at position 2" in message


def test_no_examples_at_all(tmp_path: Path) -> None:
    message = refused(read_labels, tmp_path / "labels", labels_bytes(LABELS[:0]))
    assert "expected 1 to 1,000,000 examples, found a header that promises 0" in message


def test_a_header_that_promises_terabytes(tmp_path: Path) -> None:
    message = refused(read_images, tmp_path / "images", struct.pack(">4I", 0x803, 2**32 - 1, 28, 28))
    assert "found a header that promises 4,294,967,295" in message


def test_memory_follows_the_file_and_not_the_header(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        message = refused(read_images, tmp_path / "images", struct.pack(">4I", 0x803, 1_000_000, 28, 28))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "expected 784,000,000 bytes after the header, found 0" in message
    assert peak < 16e6


@pytest.mark.slow
def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    content = gzip.compress(labels_bytes() + bytes(64_000_000))
    tracemalloc.start()
    try:
        message = refused(read_labels, tmp_path / "labels.gz", content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "expected 3 bytes after the header, found more" in message
    assert peak < 16e6


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["folder", "missing"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "images"
    make(path)
    with pytest.raises(DataError, match=r"images: cannot be read: .* directory"):
        read_images(path)


def test_mnist_from_a_folder(tmp_path: Path) -> None:
    mnist = read_mnist(mnist_folder(tmp_path))
    np.testing.assert_array_equal(mnist.train_images, IMAGES)
    np.testing.assert_array_equal(mnist.train_labels, LABELS)
    np.testing.assert_array_equal(mnist.test_images, IMAGES[:2])
    np.testing.assert_array_equal(mnist.test_labels, LABELS[:2])


def test_images_and_labels_of_different_numbers(tmp_path: Path) -> None:
    folder = mnist_folder(tmp_path, test_labels=labels_bytes(LABELS))
    with pytest.raises(DataError) as caught:
        read_mnist(folder)
    message = str(caught.value)
    assert f"{folder / 't10k-labels-idx1-ubyte'}: expected one label for each of the 2 images in " in message
    assert f"{folder / 't10k-images-idx3-ubyte'}, found 3 labels" in message


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_files() -> None:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip(f"set {DATA_VARIABLE} to a folder that holds mnist/ to read the real files")
    mnist = read_mnist(Path(folder))
    assert mnist.is_published
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.test_images.shape == (10_000, 28, 28)
    # Known figures: the pixel mean that tutorials subtract (0.1307), and how often each digit is among the test labels.
    assert mnist.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert np.bincount(mnist.train_labels).sum() == 60_000
    assert np.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# Data under another's name.


def own_folder(folder: Path, mnist: idx.Mnist) -> MnistMlp:
    """The task on the user's own four files."""
    (folder / "mnist").mkdir()
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name, values in zip(files, mnist, strict=True):
        content = labels_bytes(values) if values.ndim == 1 else images_bytes(values)
        (folder / "mnist" / f"{name}-ubyte").write_bytes(content)
    return MnistMlp(source="mnist", batch_size=2, epochs=1, data_dir=folder)


def test_other_files_in_mnists_form_are_the_users_own(tmp_path: Path) -> None:
    data = own_folder(tmp_path, idx.Mnist(IMAGES[:2], LABELS[:2], IMAGES[2:], LABELS[2:])).data
    assert data.name == "own images"
    assert data.description == "your own IDX files; 2 training and 1 test images"


def test_the_data_and_not_its_place_is_in_the_hash(tmp_path: Path) -> None:
    images = IMAGES.copy()
    images[-1, -1, -1] ^= 1
    hashes = []
    for name, some in (("a", IMAGES), ("b", IMAGES), ("c", images)):
        (tmp_path / name).mkdir()
        mnist = idx.Mnist(IMAGES[:2], LABELS[:2], some[2:], LABELS[2:])
        hashes.append(hash_json(describe_task(own_folder(tmp_path / name, mnist))))
    assert hashes[0] == hashes[1] != hashes[2]


def test_test_images_that_stand_in_the_training_set_are_counted_whatever_their_labels(tmp_path: Path) -> None:
    test_images = np.concatenate([IMAGES[1:], IMAGES[:1, ::-1], IMAGES[1:2]])
    data = own_folder(tmp_path, idx.Mnist(IMAGES[:2], LABELS[:2], test_images, np.array([1, 2, 3, 4], np.uint8))).data
    assert data.description.endswith("2 training and 4 test images; 2 of 4 test images also appear in the training set")
    assert str(tmp_path) not in data.description


def the_real_mnist() -> idx.Mnist:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip(f"set {DATA_VARIABLE} to a folder that holds mnist/ to read the real files")
    return read_mnist(Path(folder))


@pytest.mark.parametrize("changed", ["mirrored", "tested on the training images", "one label"])
@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_images_changed_are_not_called_mnist(tmp_path: Path, changed: str) -> None:
    mnist = the_real_mnist()
    if changed == "mirrored":
        mnist = mnist._replace(train_images=mnist.train_images[..., ::-1], test_images=mnist.test_images[..., ::-1])
    elif changed == "one label":
        mnist = mnist._replace(test_labels=np.where(np.arange(10_000) == 7, 0, mnist.test_labels).astype(np.uint8))
    else:
        mnist = mnist._replace(test_images=mnist.train_images, test_labels=mnist.train_labels)
    data = own_folder(tmp_path, mnist).data
    assert data.name == "own images"
    assert data.description.startswith("your own IDX files; 60,000 training")
    whole = "60,000 of 60,000 test images also appear in the training set"
    assert (whole in data.description) == (changed == "tested on the training images")


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_files_unpacked_are_still_mnist_and_no_test_image_is_trained_on(tmp_path: Path) -> None:
    mnist = the_real_mnist()
    data = own_folder(tmp_path, mnist).data
    assert (data.name, data.description) == ("mnist", "MNIST; 60,000 training and 10,000 test images")
    images = [image.tobytes() for image in np.concatenate([mnist.train_images, mnist.test_images])]
    assert len(set(images)) == 70_000, "what the docstring of tasks/mnist_mlp.py says"
