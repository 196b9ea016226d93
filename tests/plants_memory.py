"""One framework per process: `python -m tests.plants_memory BACKEND MIB` measures memory as a worker does, with so many MiB
planted by the framework itself in the middle of training, and prints the figures as JSON for test_memory.py.
"""

import sys
from types import SimpleNamespace
from typing import Any

import msgspec

import backends
import tasks
from bench.machine import describe
from bench.records import record
from bench.records.record import Data, Record
from bench.worker import answer as worker
from tasks.spec import describe_task, hash_json

STEP = 30  # of 71


def plant(backend: str, floats: int) -> Any:
    """A tensor of ones in the framework's own memory, written to and finished."""
    if backend == "pytorch":
        import torch

        return torch.ones(floats)
    if backend == "tensorflow":
        import tensorflow as tf

        planted = tf.ones(floats)
        tf.test.experimental.sync_devices()
        return planted
    import jax.numpy as jnp

    return jnp.ones(floats).block_until_ready()


def main(name: str, mebibytes: int) -> Record:
    """The record of a memory process."""
    load, kept, steps = backends.load, [], 0

    def loading(name: str) -> Any:
        backend = load(name)

        def open_session(*arguments: Any) -> Any:
            session = backend.open_session(*arguments)
            train_step = session.train_step

            def planting(batch: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == STEP and mebibytes:
                    kept.append(plant(name, mebibytes * 2**18))
                return train_step(batch)

            session.train_step = planting
            return session

        return SimpleNamespace(open_session=open_session, versions=backend.versions)

    backends.load = loading
    task = tasks.load("mnist_mlp", "smoke").task
    spec = describe_task(task)
    asked = Record(
        kind="memory", status="interrupted", reason="asked", task="mnist_mlp", preset="smoke", unit=task.unit, backend=name,
        device="cpu", precision="float32", round=1, position=1, seed=0, order_seed=0, spec=spec, spec_hash=hash_json(spec),
        data=Data(task.data.name, task.data.description, task.data.sha256), target="any", machine=describe.describe(),
        started_utc="",
    )  # fmt: skip
    return worker.answer(worker.Request(asked))


if __name__ == "__main__":
    done = main(sys.argv[1], int(sys.argv[2]))
    print(
        record.encode(
            {"status": done.status, "reason": done.reason, "memory": msgspec.to_builtins(done.memory)}
        ).decode()
    )
