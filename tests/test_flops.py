"""The floating-point operations of a step, counted a second time: from the parameters' shapes and by hand."""

import pytest

import tasks
from tasks.bert_sentiment import BertSentiment
from tasks.gru_lm import GruLm
from tasks.mnist_mlp import MnistMlp


def test_the_perceptron_by_hand() -> None:
    task = MnistMlp(source="digits", batch_size=32, epochs=1)
    first, second = 784 * 128, 128 * 10
    forward, weights, activations = first + second, first + second, second  # nobody asks for the images' gradient
    assert task.step_flops == 2 * 32 * (forward + weights + activations)


@pytest.mark.parametrize("preset", ["smoke", "quick"])
def test_the_language_model_from_its_kernels(preset: str) -> None:
    task = tasks.load("gru_lm", preset).task
    assert isinstance(task, GruLm)
    kernels = sum(value.size for name, value in task.init_params(0).items() if name.endswith("/kernel"))
    assert task.step_flops == 6 * kernels * task.batch_size * task.window


def test_the_published_language_model_by_hand() -> None:
    # 47.2 million per token: two cells of 256 + 512 and 512 + 512 inputs with three gates of 512, and 512 x 10,000.
    task = GruLm(source="wikitext-2", batch_size=20, window=35, steps=1)
    assert task.step_flops == 6 * 700 * ((256 + 512) * 1536 + (512 + 512) * 1536 + 512 * 10_000)


@pytest.mark.parametrize("preset", ["smoke", "quick"])
def test_the_sentiment_model_from_its_kernels(preset: str) -> None:
    task = tasks.load("bert_sentiment", preset).task
    assert isinstance(task, BertSentiment)
    kernels = {name: value.size for name, value in task.init_params(0).items() if name.endswith("/kernel")}
    once = kernels.pop("pooler/kernel") + kernels.pop("classifier/kernel")  # per sentence
    length = task.max_length
    attention = task.model.layers * 2 * length * length * task.model.hidden  # scores, and the weighted values
    assert task.step_flops == 6 * task.batch_size * (length * sum(kernels.values()) + attention + once)
