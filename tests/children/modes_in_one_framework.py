"""`python -m tests.children.modes_in_one_framework BACKEND MODE TASK`, one framework per process: JSON for test_modes.py."""

import json
import sys
from itertools import islice
from typing import Any

import backends
import tasks
from backends.api import Options
from bench.worker import loop, parity
from bench.worker.pages import Paging
from bench.worker.several import Grouping, steps_per_call
from bench.worker.trimmed import Trimming

STEPS = 12


def main(name: str, mode: str, task_name: str) -> dict[str, Any]:
    """What a mode reads back and counts over some steps, and how far it climbs."""
    backend, task = Grouping(Paging(Trimming(backends.load(name)))), tasks.load(task_name, "smoke").task
    session = backend.open_session(task, task.init_params(0), Options(mode=mode))
    found: dict[str, Any] = {"before": session.settings()["mode"], "counted": [], "losses": []}
    batches = list(islice(task.train_batches(0), STEPS))
    if (
        backends.TRIM in mode.split("+") or steps_per_call(session) > 1
    ):  # a program for each length, or for a whole call
        for batch in batches:
            loop.step(session, batch)
    for batch in batches:
        found["losses"].append(float(session.fetch(loop.step(session, batch))))
        found["counted"].append(session.compilations())
    found["settings"] = session.settings()
    ladders = [parity.climb(backend, task, Options(precision=each, mode=mode)) for each in ("float64", "float32")]
    found["fell"] = [str(ladder.rungs[-1]) for ladder in ladders if not ladder.passed]
    found["rungs"] = [len(ladder.rungs) for ladder in ladders]
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
