"""`python -m tests.children.gru_in_one_framework BACKEND`, one framework per process: JSON for test_gru_parity.py."""

import json
import sys
from dataclasses import replace
from itertools import islice
from typing import Any

import backends
import tasks
from backends.api import Options
from bench.worker import loop
from bench.worker.sampling import sample_greedy
from tasks.gru_lm import GruLm

PROMPT = "The class of"
SAMPLED = 40


def small_task() -> GruLm:
    """The ladder's task, a little larger and without clipping: seconds of training give more than one word."""
    task = tasks.load("gru_lm", "smoke").task.for_parity()
    assert isinstance(task, GruLm)
    model = replace(task.model, vocabulary=150, embedding=16, hidden=32)
    return replace(task, model=model, optimizer=replace(task.optimizer, learning_rate=2e-2, clip_norm=None))


def main(name: str) -> dict[str, Any]:
    """A sampled text and the kernels of the training step."""
    backend, task = backends.load(name), small_task()
    teacher = backends.load("reference").open_session(task, task.init_params(0), Options(precision="float64"))
    for batch in islice(task.train_batches(0), 220):
        loop.step(teacher, batch)
    session = backend.open_session(task, teacher.params(), Options(precision="float64"))
    words = sample_greedy(session, task, PROMPT, SAMPLED)
    again = sample_greedy(session, task, PROMPT, SAMPLED)
    loop.step(session, next(task.train_batches(0)))
    return {"words": words, "again": again, "kernels": session.settings()["kernels"]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
