"""The installed libraries that bring kernels: what a framework computes, and how fast, changes with them as with itself.

A framework's wheel only asks for a range of them, so that the same version of it computes with another cuDNN tomorrow. What a
wheel has inside itself (cuDNN in some, oneDNN and Eigen in all) goes with its own version, and a library of the system's is
known to the framework alone: a backend's `versions` says what that loaded.
"""

import re
from importlib.metadata import distributions

FOR_GPU = re.compile(
    r"nvidia-(cublas|cuda-runtime|cuda-nvrtc|cuda-nvcc|cudnn|cufft|curand|cusolver|cusparse|cusparselt|nvjitlink)(-cu\d+)?"
    r"|jax-cuda\d+-(plugin|pjrt)|triton"
)
FOR_CPU = re.compile(r"mkl|intel-openmp|onednn|tbb")


def kernels(device: str) -> dict[str, str]:
    """Distribution -> version, in the order of their names; of the libraries for a GPU only where `device` is "gpu"."""
    wanted = [FOR_CPU, *([FOR_GPU] if device == "gpu" else [])]
    found: dict[str, str] = {}
    for installed in distributions():
        name = re.sub(r"[-_.]+", "-", installed.metadata["Name"] or "").lower()  # as PEP 503 spells it
        if any(pattern.fullmatch(name) for pattern in wanted):
            found.setdefault(name, installed.version)  # the first one on the path is what is imported
    return dict(sorted(found.items()))
