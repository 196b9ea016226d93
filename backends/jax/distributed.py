"""Several processes that train one model: `jax.distributed`, and batches whose rows lie on the devices of all processes.

https://docs.jax.dev/en/latest/multi_process.html. Each process takes the gradient of its rows' loss, and one sum over the
processes (gloo's on a CPU, NCCL's on GPUs) makes that of the batch: https://docs.jax.dev/en/latest/notebooks/shard_map.html.
Left to itself, XLA would put a sum into every iteration of a loop over time, 40 to a step of the language model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from backends.api import Options


class Places(NamedTuple):
    """Where arrays lie: a copy with every process, or each process's rows with it."""

    copies: NamedSharding
    rows: NamedSharding


def join(options: Options) -> None:
    """Meets the other processes, once in the life of this one and before JAX looks for devices."""
    if jax.distributed.is_initialized():
        return
    if options.device == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(options.addresses[0], num_processes=options.processes, process_id=options.rank)


def places(platform: str) -> Places:
    """Over the devices of all processes."""
    mesh = Mesh(np.array(jax.devices(platform)), ("rows",))
    return Places(NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("rows")))


def summed(gradient: Callable[..., Any], places: Places) -> Callable[..., Any]:
    """`value_and_grad` of a loss of (weights, rest, state, batch) that sums over a batch's rows, here those of all processes.

    The rest has the dropout keys: each process folds its rank into them, for masks of its own, and leaves them as they were.
    """
    rows, copies = places.rows.spec, places.copies.spec

    def of_own_rows(weights: Any, rest: list[jax.Array], state: Any, batch: Any) -> Any:
        is_key = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in rest]
        rank = jax.lax.axis_index("rows")
        own = [jax.random.fold_in(leaf, rank) if key else leaf for leaf, key in zip(rest, is_key, strict=True)]
        (loss, (after, state)), gradients = gradient(weights, own, state, batch)
        kept = [leaf if key else new for leaf, new, key in zip(rest, after, is_key, strict=True)]
        return jax.lax.psum(loss, "rows"), kept, state, jax.lax.psum(gradients, "rows")

    mapped = jax.shard_map(
        of_own_rows, mesh=places.rows.mesh, in_specs=(copies, copies, rows, rows), out_specs=(copies, copies, rows, copies),
        check_vma=False,
    )  # fmt: skip

    def of_batch(weights: Any, rest: Any, state: Any, batch: Any) -> Any:
        loss, rest, state, gradients = mapped(weights, rest, state, batch)
        return (loss, (rest, state)), gradients

    return of_batch


def of_rows(tree: Any, places: Places) -> Any:
    """Arrays of the whole batch from this process's rows."""
    return jax.tree.map(lambda value: jax.make_array_from_process_local_data(places.rows, value), tree)


def copied(tree: Any, places: Places) -> Any:
    """Arrays of which every process has a copy, from this process's, which must be equal in all."""

    def copy(value: Any) -> Any:
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = copy(jax.random.key_data(value))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
        return jax.make_array_from_process_local_data(places.copies, np.asarray(value))

    return jax.tree.map(copy, tree)


def own(tree: Any) -> Any:
    """This process's copy of arrays of which every process has one."""
    return jax.tree.map(lambda value: value.addressable_data(0), tree)


def settings(weight: jax.Array) -> dict[str, str | int]:
    """What is in force, by JAX's own account."""
    collectives = jax.config.jax_cpu_collectives_implementation if jax.default_backend() == "cpu" else "NCCL"
    return {
        "processes": len({device.process_index for device in weight.sharding.device_set}),
        "data parallel": f"jax.distributed, {type(weight.sharding).__name__}, {collectives}",
    }
