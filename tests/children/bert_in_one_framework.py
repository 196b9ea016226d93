"""`python -m tests.children.bert_in_one_framework BACKEND WHAT`, one framework per process: JSON for test_bert_parity.py."""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

import backends
import tasks
from backends.api import Options
from bench.worker import loop
from tasks import checkpoint, sentiment_data
from tasks.bert_sentiment import BertSentiment
from tasks.spec import Batch

SENTENCES = (
    "it 's a charming and often affecting journey .",
    "unflinchingly bleak and desperate",
    "allows us to hope that nolan is poised to embark on a major career as a commercial yet inventive filmmaker .",
    "dull .",
)


def dropout(name: str) -> dict[str, Any]:
    """Losses of one batch in training, with and without a change of seed, and in evaluation."""
    backend, task = backends.load(name), tasks.load("bert_sentiment", "smoke").task
    assert isinstance(task, BertSentiment)
    model = replace(task.model, hidden_dropout=0.5, attention_dropout=0.5, classifier_dropout=0.5)
    task = replace(task, model=model, optimizer=replace(task.optimizer, learning_rate=1e-12))
    batch, params = next(task.train_batches(0)), task.init_params(0)
    losses = {}
    for seed in (0, 1):
        session = backend.open_session(task, params, Options(seed=seed))
        losses[f"training, seed {seed}"] = [float(session.fetch(loop.step(session, batch))) for _ in range(3)]
        losses[f"evaluation, seed {seed}"] = [
            float(np.mean(session.fetch(session.eval_step(loop.put(session, batch))[0]))) for _ in range(2)
        ]
    return losses


def real_checkpoint(name: str) -> dict[str, Any]:
    """Logits of real sentences, padded, from MiniLM with a classifier of seed 0."""
    found, config = checkpoint.locate(checkpoint.MINILM)
    task = BertSentiment(
        model=config,
        optimizer=tasks.load("bert_sentiment", "smoke").task.optimizer,
        max_length=32,
        batch_size=len(SENTENCES),
        train_steps=1,
        checkpoint=found,
    )
    tokens, mask = sentiment_data.tokenize(
        SENTENCES,
        found.vocabulary_path,
        max_length=task.max_length,
        lower_case=found.lower_case,
        strip_accents=found.strip_accents,
        split_chinese=found.split_chinese,
    )
    count = len(SENTENCES)
    batch = Batch({"tokens": tokens, "mask": mask}, np.zeros(count, np.int32), np.ones(count, np.float32))
    params, result = task.init_params(seed=0), {}
    for precision in ("float64", "float32") if name != "reference" else ("float64",):
        session = backends.load(name).open_session(task, params, Options(precision=precision))
        result[precision] = session.predict(batch.inputs).tolist()
    return {"logits": result, "lengths": mask.sum(axis=1).tolist()}


if __name__ == "__main__":
    print(json.dumps({"dropout": dropout, "checkpoint": real_checkpoint}[sys.argv[2]](sys.argv[1])))
