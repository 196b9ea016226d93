"""The TensorFlow backend: Keras layers and optimizer in a `tf.function` training step.

Needs: tensorflow, keras (with KERAS_BACKEND=tensorflow, which the harness sets). What is here is read without either.
"""

from collections.abc import Mapping

from backends.api import Entry

ENTRY = Entry(
    module="backends.tensorflow.session",
    needs=("tensorflow", "keras"),
    extra="tensorflow",
    distributions=("tensorflow", "keras"),
    env={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"},
    env_memory={"TF_FORCE_GPU_ALLOW_GROWTH": "true"},
)

MODES: Mapping[str, str] = {
    "default": (
        "tf.function, with XLA where that was measured to be faster: the perceptron everywhere, BERT on a GPU, the GRU "
        "nowhere (https://www.tensorflow.org/guide/function)"
    ),
    "xla": "tf.function(jit_compile=True) for every model; the GRU then without cuDNN (https://openxla.org/xla/tf2xla)",
    "no-xla": (
        "tf.function(jit_compile=False) for every model: TensorFlow's own kernels "
        "(https://www.tensorflow.org/api_docs/python/tf/function)"
    ),
    "fused-adam": (
        "a variable and its two moments updated by one operation instead of a dozen "
        "(https://www.tensorflow.org/api_docs/python/tf/raw_ops/ResourceApplyAdam)"
    ),
    "steps-per-execution": (
        "eight training steps in one call of a tf.function, as `compile(steps_per_execution=8)` has them "
        "(https://keras.io/api/models/model_training_apis/#compile-method)"
    ),
}

TRAINING_ONLY = ("fused-adam", "steps-per-execution")
"""Modes of the optimizer and the training step: `predict` is the same without them."""

OF_SEVERAL_PROCESSES = ("xla", "no-xla")
"""Modes that were shown to compute the same in several processes, beside those of every backend; no other goes with them."""

TUNED: Mapping[str, Mapping[str, str]] = {
    "cpu": {"bert_sentiment": "fused-adam+trim+huge-pages", "gru_lm": "fused-adam", "mnist_mlp": "steps-per-execution"}
}
