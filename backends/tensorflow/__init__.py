"""The TensorFlow backend: Keras layers and optimizer in a `tf.function` training step.

Needs: tensorflow, keras (with KERAS_BACKEND=tensorflow, which the harness sets).
"""

from backends.tensorflow.session import open_session, versions

__all__ = ["open_session", "versions"]
