"""The JAX backend: Flax nnx modules and optax in one jitted step with donated buffers.

Needs: jax, flax, optax.
"""

from backends.jax.session import open_session, versions

__all__ = ["open_session", "versions"]
