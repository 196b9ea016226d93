"""The sentiment task with its training labels shuffled: there is nothing to learn. A control that must not be ranked."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from tasks import bert_sentiment
from tasks.bert_sentiment import SUSPICIOUS, BertSentiment
from tasks.spec import Batch, Preset, Target

STEPS = 150


class ShuffledLabels(BertSentiment):
    def train_batches(self, seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        for batch in super().train_batches(seed):
            yield batch._replace(labels=rng.permutation(batch.labels))


def preset(name: str, data_dir: Path | None = None) -> Preset:
    return small(ShuffledLabels)


def small(kind: type[BertSentiment]) -> Preset:
    """The small BERT of `quick` with a short budget and the target of `standard`."""
    task = bert_sentiment.preset("quick").task
    assert isinstance(task, BertSentiment)
    values = {f.name: getattr(task, f.name) for f in fields(task)}
    changed = kind(**{**values, "train_steps": STEPS})
    target = Target("accuracy", at_least=0.84, at_most=SUSPICIOUS, margin=0.02)
    return Preset(task=changed, warmup_steps=1, blocks=10, rounds=1, seeds=1, target=target)
