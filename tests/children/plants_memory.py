"""`python -m tests.children.plants_memory BACKEND MIB` measures one framework's memory as a worker does, with so many MiB
planted by the framework itself in the middle of training, and prints the figures as JSON for test_memory.py.
"""

import sys
from types import SimpleNamespace
from typing import Any

import msgspec

import backends
from bench.campaign import plan
from bench.campaign.plan import Choice
from bench.process.request import Request
from bench.records import files
from bench.records.record import Arm, Outcome
from bench.worker import answer as worker

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


def main(name: str, mebibytes: int) -> Outcome:
    """The outcome of a memory process."""
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
    arm = Arm(name=name, backend=name)
    (made,) = plan.make(Choice(tasks=["mnist_mlp"], arms=[arm], preset="smoke"))
    return worker.answer(Request(made.cell(arm, kind="memory"), None, takes_turns=False, hidden=[]))


if __name__ == "__main__":
    done = main(sys.argv[1], int(sys.argv[2]))
    told = {"status": done.status, "reason": done.reason, "memory": msgspec.to_builtins(done.memory)}
    print(files.encode(told).decode())
