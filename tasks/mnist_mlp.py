"""Handwritten digits with a multi-layer perceptron of one hidden layer.

    h = relu(x W0 + b0)         x  float32[B, 784], pixels in 0..1        W0 [784, 128], b0 [128]
    z = h W1 + b1               z  [B, 10], logits                         W1 [128, 10],  b1 [10]
    L = softmax cross-entropy of z, mean over the batch (tasks/spec.py)

Kernels start from U(-s, s), s = sqrt(6 / (in + out)) (Glorot & Bengio, 2010), biases from 0. Adam with a learning rate of
1e-3, beta1 0.9, beta2 0.999, eps 1e-8. The size, the batch of 32 and the 5 epochs of the preset `full` are those of the
Keras beginners' tutorial (https://www.tensorflow.org/tutorials/quickstart/beginner), without its dropout.

Data: MNIST (LeCun, Cortes & Burges; 60,000 training and 10,000 test images; CC BY-SA 3.0) in `standard` and `full`. Files of
the same form but of other content are called the user's own, and test images that also appear in their training set are
counted; MNIST has none, and no image twice.
`smoke` and `quick` need no download: they use the 1,797 digits of the UCI "Optical Recognition of Handwritten Digits" test
set that scikit-learn carries, each of the 8x8 pixels drawn as a 3x3 square inside a border of 2, which gives 28x28.
"""

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks import batching
from tasks.idx import CLASSES, IMAGE_SHAPE, read_mnist
from tasks.spec import (
    MAX_LAYERS,
    MAX_STEPS,
    AdamW,
    Array,
    Batch,
    Data,
    DataDir,
    Evaluation,
    Examples,
    Params,
    Preset,
    SpecError,
    Target,
    check_batch,
    check_parameters,
    check_whole,
    hash_arrays,
    shown,
)

PIXELS = math.prod(IMAGE_SHAPE)
DIGITS_HELD_OUT = 360  # of 1,797, chosen by a fixed permutation: the file's order groups the writers


@dataclass(frozen=True)
class MlpConfig:
    """Widths of the layers, from the input to the logits."""

    widths: tuple[int, ...] = (PIXELS, 128, CLASSES)

    def __post_init__(self) -> None:
        if not isinstance(self.widths, tuple) or not 2 <= len(self.widths) <= MAX_LAYERS:
            raise SpecError(
                f"widths is {shown(self.widths)}: expected a tuple of 2 to {MAX_LAYERS:,} sizes, the input's and each layer's"
            )
        for width in self.widths:
            check_whole("a width", width)
        check_parameters(sum((rows + 1) * columns for rows, columns in pairwise(self.widths)))


class _Examples(NamedTuple):
    train_images: Array  # float32[N, 784] in 0..1
    train_labels: Array  # int32[N]
    test_images: Array
    test_labels: Array


@dataclass(frozen=True)
class MnistMlp:
    """The task; `epochs` over the training set are its budget."""

    source: str = field(metadata={"set": False})  # "digits" or "mnist"
    batch_size: int
    epochs: int
    model: MlpConfig = MlpConfig()
    optimizer: AdamW = AdamW(learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)
    data_dir: DataDir = field(default=None, metadata={"spec": False})

    name = "mnist_mlp"
    unit = "images"

    def __post_init__(self) -> None:
        if self.source not in ("digits", "mnist"):
            raise SpecError(f"source is {shown(self.source)}: expected 'digits' or 'mnist'")
        check_whole("batch_size", self.batch_size)
        check_whole("epochs", self.epochs, most=MAX_STEPS)
        widths = self.model.widths
        if (widths[0], widths[-1]) != (PIXELS, CLASSES):
            raise SpecError(
                f"widths is {shown(widths)}: expected {PIXELS} pixels first and {CLASSES} digits last, such as "
                f"{PIXELS},128,{CLASSES}"
            )

    @cached_property
    def _read(self) -> tuple[_Examples, Data]:
        if self.source == "digits":
            name, kind = "digits", "real handwritten digits of 8x8 pixels scaled to 28x28, from scikit-learn, NOT MNIST"
            examples, own = _digits(), False
        else:
            examples, own = _mnist(self.data_dir)
            name, kind = ("own images", "your own IDX files") if own else ("mnist", "MNIST")
        train, test = len(examples.train_labels), len(examples.test_labels)
        check_batch(self.batch_size, train, "images")
        description = f"{kind}; {train:,} training and {test:,} test images"
        if own and (repeated := _repeated(examples)):
            description += f"; {repeated:,} of {test:,} test images also appear in the training set"
        return examples, Data(name=name, description=description, sha256=hash_arrays(*examples))

    @property
    def _examples(self) -> _Examples:
        return self._read[0]

    @property
    def data(self) -> Data:
        return self._read[1]

    @property
    def train_steps(self) -> int:
        return self.epochs * batching.steps_per_epoch(len(self._examples.train_labels), self.batch_size)

    def init_params(self, seed: int) -> Params:
        rng = np.random.default_rng(seed)
        params: dict[str, Array] = {}
        for layer, (rows, columns) in enumerate(pairwise(self.model.widths)):
            limit = np.sqrt(6 / (rows + columns))
            params[f"dense_{layer}/kernel"] = rng.uniform(-limit, limit, (rows, columns)).astype(np.float32)
            params[f"dense_{layer}/bias"] = np.zeros(columns, np.float32)
        return params

    def train_batches(self, seed: int) -> Iterator[Batch]:
        inputs, labels, batch_size, _ = self.training_examples()
        return batching.shuffled(inputs, labels, batch_size=batch_size, seed=seed)

    def training_examples(self) -> Examples:
        """Of the training set."""
        return Examples({"image": self._examples.train_images}, self._examples.train_labels, self.batch_size)

    def eval_batches(self) -> Iterator[Batch]:
        examples = self._examples
        return batching.in_order({"image": examples.test_images}, examples.test_labels, batch_size=self.batch_size)

    def metrics(self, evaluation: Evaluation) -> dict[str, float]:
        return {
            "accuracy": float(np.mean(evaluation.predictions == evaluation.labels)),
            "loss": float(np.mean(evaluation.losses)),
        }

    @property
    def step_flops(self) -> int:
        """2 per multiplication and addition, forward, and twice that backward, but no gradient of the images."""
        products = [rows * columns for rows, columns in pairwise(self.model.widths)]
        return 2 * self.batch_size * (3 * sum(products) - products[0])

    def for_parity(self) -> "MnistMlp":
        """As it is, without dropout and small enough; layers of other sizes are cut to PARITY_WIDTH."""
        inner = tuple(min(width, PARITY_WIDTH) for width in self.model.widths[1:-1])
        small = replace(
            self,
            batch_size=min(self.batch_size, PARITY_BATCH),
            model=replace(self.model, widths=(PIXELS, *inner, CLASSES)),
            # A rate at which training is chaotic would part two right backends; `lr` itself is one factor of the update.
            optimizer=replace(self.optimizer, learning_rate=min(self.optimizer.learning_rate, PARITY_LEARNING_RATE)),
        )
        return self if small == self else small  # which has read its data already


PARITY_WIDTH, PARITY_BATCH, PARITY_LEARNING_RATE = 128, 128, 1e-2
"""The largest of each on the ladder, where float64 NumPy takes seconds; those of the presets are not above them."""


def preset(name: str, data_dir: Path | None = None) -> Preset:
    """The declared sizes; KeyError for a name that is not one of tasks.PRESETS.

    A margin is 1 to 2 standard errors of the accuracy on so many test images: a smaller difference says nothing about others.
    """
    digits = MnistMlp(source="digits", batch_size=32, epochs=20)
    return {
        "smoke": lambda: Preset(
            task=MnistMlp(source="digits", batch_size=32, epochs=2),
            warmup_steps=20, blocks=10, most_blocks=10, rounds=2, seeds=1, validations=1,
            # 93.9 to 95.8 % with five seeds in PyTorch.
            target=Target("accuracy", at_least=0.85, margin=0.01),
        ),
        "quick": lambda: Preset(
            task=digits,
            warmup_steps=100, blocks=20, most_blocks=30, rounds=4, seeds=1, validations=4,
            # 98.1 to 99.2 %, a standard deviation of 0.4 points (five seeds in PyTorch and in JAX).
            # The margin: 3 images of 360.
            target=Target("accuracy", at_least=0.96, margin=0.01),
        ),
        "standard": lambda: Preset(
            task=MnistMlp(source="mnist", batch_size=128, epochs=5, data_dir=data_dir),
            warmup_steps=100, blocks=20, rounds=5, seeds=3, validations=4,
            # Published: 97.40 %, single seeds 97.33 to 97.50, a standard deviation of 0.07 points
            # (results/*-mnist_mlp-standard-*). The margin: 20 images of 10,000, 1.3 standard errors; backends differed by 0.01
            # to 0.04 points, with intervals up to 0.06.
            target=Target("accuracy", at_least=0.97, margin=0.002),
        ),
        "full": lambda: Preset(
            task=MnistMlp(source="mnist", batch_size=32, epochs=5, data_dir=data_dir),
            warmup_steps=200, blocks=20, rounds=8, seeds=5, validations=4,
            # 97.54 to 97.78 % with three seeds in PyTorch.
            target=Target("accuracy", at_least=0.97, margin=0.002),
        ),
    }[name]()  # fmt: skip


def _mnist(data_dir: Path | None) -> tuple[_Examples, bool]:
    """The examples, and whether they are the user's own and not MNIST."""
    mnist = read_mnist(data_dir)
    examples = _Examples(
        _pixels(mnist.train_images),
        mnist.train_labels.astype(np.int32),
        _pixels(mnist.test_images),
        mnist.test_labels.astype(np.int32),
    )
    return examples, not mnist.is_published


def _repeated(examples: _Examples) -> int:
    """How many test images also appear in the training set, pixel by pixel."""
    seen = {image.tobytes() for image in examples.train_images}
    return sum(image.tobytes() in seen for image in examples.test_images)


def _pixels(images: Array) -> Array:
    """uint8[N, 28, 28] -> float32[N, 784] in 0..1."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _digits() -> _Examples:
    # Read without importing scikit-learn, whose 100 MB would otherwise be counted as every backend's host memory.
    spec = PathFinder.find_spec("sklearn")  # on the disk, also where a worker hides it from its framework
    if spec is None or spec.origin is None:
        raise SpecError("the bundled digits come with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)  # [1797, 65]: 64 pixels in 0..16, then the digit
    squares = np.kron(table[:, :64].reshape(-1, 8, 8) / np.float32(16), np.ones((1, 3, 3), np.float32))  # [N, 24, 24]
    images = np.pad(squares, ((0, 0), (2, 2), (2, 2))).reshape(len(table), 784)
    labels = table[:, 64].astype(np.int32)
    order = np.random.default_rng(0).permutation(len(table))
    train, test = order[:-DIGITS_HELD_OUT], order[-DIGITS_HELD_OUT:]
    return _Examples(images[train], labels[train], images[test], labels[test])
