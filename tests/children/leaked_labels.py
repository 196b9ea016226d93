"""The sentiment task with each sentence's label written over its first word: a control that must be flagged as too good."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks.bert_sentiment import BertSentiment
from tasks.spec import Batch, Preset
from tests.children.shuffled_labels import small

FIRST_OF_TWO = 10  # ids of two words of the vocabulary


def leaked(batch: Batch) -> Batch:
    tokens = np.array(batch.inputs["tokens"])
    tokens[:, 1] = FIRST_OF_TWO + batch.labels
    return batch._replace(inputs={**batch.inputs, "tokens": tokens})


class LeakedLabels(BertSentiment):
    def train_batches(self, seed: int) -> Iterator[Batch]:
        return map(leaked, super().train_batches(seed))

    def eval_batches(self) -> Iterator[Batch]:
        return map(leaked, super().eval_batches())


def preset(name: str, data_dir: Path | None = None) -> Preset:
    return small(LeakedLabels)
