"""`python -m tests.children.tf32_in_one_framework BACKEND` prints, as JSON, what precision a session of one framework reads
back after each was declared for a GPU, and after a flag was changed behind its back.

There is no GPU: the session is opened on the CPU, after the backend has set its flags for a GPU that it was made to see.
"""

import json
import sys
from types import SimpleNamespace
from unittest.mock import patch

import backends
import tasks
from backends.api import Options

TASK = tasks.load("mnist_mlp", "smoke").task
PARAMS = TASK.init_params(0)


def pytorch() -> dict[str, str]:
    import torch

    from backends.pytorch import session as own

    read, opened = {}, own.open_session(TASK, PARAMS, Options())
    with patch.object(torch.cuda, "is_available", lambda: True), patch.object(own, "TorchSession", lambda *_: opened):
        for precision in ("tf32", "float32"):
            own.open_session(TASK, PARAMS, Options("gpu", precision))
            read[precision] = str(opened.settings()["precision"])
    torch.backends.cudnn.allow_tf32 = True
    return {**read, "changed": str(opened.settings()["precision"])}


def tensorflow() -> dict[str, str]:
    import tensorflow as tf

    from backends.tensorflow import session as own

    read, opened = {}, own.open_session(TASK, PARAMS, Options())
    opened._device = "/GPU:0"
    with (
        patch.object(tf.config, "list_physical_devices", lambda _: [object()]),
        patch.object(own, "TensorFlowSession", lambda *_: opened),
    ):
        for precision in ("tf32", "float32"):
            own.open_session(TASK, PARAMS, Options("gpu", precision))
            read[precision] = opened._precision()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    return {**read, "changed": opened._precision()}


def jax() -> dict[str, str]:
    import jax as framework

    from backends.jax import session as own

    read, opened = {}, own.open_session(TASK, PARAMS, Options())
    cpu = framework.devices("cpu")
    opened._device = SimpleNamespace(platform="gpu")
    with patch.object(framework, "devices", lambda _: cpu), patch.object(own, "JaxSession", lambda *_: opened):
        for precision in ("tf32", "float32"):
            own.open_session(TASK, PARAMS, Options("gpu", precision))
            read[precision] = opened._precision()
    framework.config.update("jax_default_matmul_precision", None)
    return {**read, "changed": opened._precision()}


if __name__ == "__main__":
    name = sys.argv[1]
    backends.load(name)
    print(json.dumps({"pytorch": pytorch, "tensorflow": tensorflow, "jax": jax}[name]()))
