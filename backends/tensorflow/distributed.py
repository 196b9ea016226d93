"""Several processes that train one model: tf.distribute.MultiWorkerMirroredStrategy, over gRPC's rings on a CPU, NCCL on GPUs.

https://www.tensorflow.org/tutorials/distribute/multi_worker_with_ctl. Each process has variables of its own, which start equal;
the strategy's all-reduce sums the gradients, and every process makes the same update of them. (Keras's optimizer would sum them
after it has clipped each process's own.)
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tensorflow as tf

from backends.api import Options


def join(options: Options) -> tf.distribute.Strategy:
    """Meets the other processes, once in the life of this one and before its first operation."""
    cluster = {"worker": list(options.addresses)}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": options.rank}})
    return _strategy("NCCL" if options.device == "gpu" else "RING")


@cache
def _strategy(implementation: str) -> tf.distribute.Strategy:
    chosen = tf.distribute.experimental.CommunicationImplementation[implementation]
    options = tf.distribute.experimental.CommunicationOptions(implementation=chosen)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def summed(
    strategy: tf.distribute.Strategy,
    differentiate: Callable[..., tuple[tf.Tensor, list[tf.Tensor], Any]],
    arguments: Sequence[tf.Tensor],
) -> tuple[tf.Tensor, list[tf.Tensor], Any]:
    """Loss and gradients summed over the processes, and this process's state, of a function of its rows."""

    def on_replica(*arguments: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor], Any]:
        loss, gradients, state = differentiate(*arguments)
        loss, *gradients = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, [loss, *gradients]
        )
        return loss, gradients, state

    found: tuple[tf.Tensor, list[tf.Tensor], Any] = strategy.run(on_replica, args=tuple(arguments))
    return found


def settings(strategy: tf.distribute.Strategy) -> dict[str, str | int]:
    """What is in force, by TensorFlow's own account."""
    options = strategy.extended._communication_options  # which has no public name
    return {
        "processes": strategy.num_replicas_in_sync,
        "data parallel": f"{type(strategy).__name__}, {options.implementation.name}",
    }
