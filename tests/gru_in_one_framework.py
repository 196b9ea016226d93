"""One framework per process: `python -m tests.gru_in_one_framework BACKEND` prints what test_gru_parity.py asks for as JSON."""

import json
import sys
from dataclasses import replace
from itertools import islice
from typing import Any

import backends
import tasks
from backends.api import Options
from bench import loop, parity
from bench.sampling import sample_greedy
from tasks.gru_lm import GruLm

PROMPT = "The class of"
SAMPLED = 40


def small_task() -> GruLm:
    """The ladder's sizes, with a learning rate at which seconds of training give a text that is not one word."""
    task = tasks.load("gru_lm", "smoke").task.for_parity()
    assert isinstance(task, GruLm)
    return replace(task, optimizer=replace(task.optimizer, learning_rate=2e-2, clip_norm=None))


def main(name: str) -> dict[str, Any]:
    """The ladders in both precisions, a sampled text, and the kernels of the training step."""
    backend, task = backends.load(name), small_task()
    ladders = {}
    for precision in ("float64", "float32") if name != "reference" else ("float64",):
        ladder = parity.climb(backend, tasks.load("gru_lm", "smoke").task, Options(precision=precision))
        ladders[precision] = {rung.name: [rung.passed, rung.difference, rung.where] for rung in ladder.rungs}

    teacher = backends.load("reference").open_session(task, task.init_params(0), Options(precision="float64"))
    for batch in islice(task.train_batches(0), 150):
        loop.step(teacher, batch)
    session = backend.open_session(task, teacher.params(), Options(precision="float64"))
    words = sample_greedy(session, task, PROMPT, SAMPLED)
    again = sample_greedy(session, task, PROMPT, SAMPLED)
    loop.step(session, next(task.train_batches(0)))
    return {"ladders": ladders, "words": words, "again": again, "kernels": session.settings()["kernels"]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
