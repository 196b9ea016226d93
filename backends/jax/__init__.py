"""The JAX backend: Flax nnx modules and optax in one jitted step with donated buffers.

Needs: jax, flax, optax. What is here is read without any of them.
"""

from collections.abc import Mapping

from backends.api import Entry

ENTRY = Entry(
    module="backends.jax.session",
    needs=("jax", "flax", "optax"),
    extra="jax",
    brings=("scipy",),
    distributions=("jax", "jaxlib", "flax", "optax"),
    env_cpu={"JAX_PLATFORMS": "cpu"},
    env_memory={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
)

MODES: Mapping[str, str] = {
    "default": "jax.jit, with dropout masks from threefry (https://docs.jax.dev/en/latest/jax.random.html)",
    "rbg": (
        "jax.jit, with dropout masks from XLA's own random bit generator, which is cheaper: jax_default_prng_impl=rbg "
        "(https://docs.jax.dev/en/latest/jax.random.html#advanced-rng-configuration)"
    ),
    "flat": (
        "Adam's moments of all parameters in one vector, and one update of it: optax.flatten "
        "(https://optax.readthedocs.io/en/latest/api/transformations.html#optax.flatten)"
    ),
    "multi-step": (
        "eight training steps in one jitted call, one after the other, so that eight share the time that a call takes "
        "(https://docs.jax.dev/en/latest/jit-compilation.html)"
    ),
    "grain": (
        "for `--measure loading`: Grain's MapDataset, row by row in threads, instead of NumPy's rows; needs the extra grain "
        "(https://google-grain.readthedocs.io/en/latest/tutorials/dataset_basic_tutorial.html)"
    ),
}

TRAINING_ONLY = ("rbg", "flat", "multi-step")
"""Modes of dropout, the optimizer and the training step: `predict` is the same without them."""

OF_SEVERAL_PROCESSES = ("rbg", "flat")
"""Modes that were shown to compute the same in several processes, beside those of every backend; no other goes with them."""

TUNED: Mapping[str, Mapping[str, str]] = {
    "cpu": {"bert_sentiment": "trim+huge-pages", "gru_lm": "huge-pages", "mnist_mlp": "multi-step"},
    "gpu": {"mnist_mlp": "multi-step"},
}
