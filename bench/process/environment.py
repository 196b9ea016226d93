"""The environment of a child: declared, not inherited.

A child gets the few variables of ALLOWED that are set here, what its backend's Entry asks for, and what its arm asks for
(`--arm jax:env.XLA_FLAGS=...`). Whatever else is set in the user's shell does not reach it: a variable that one framework obeys
and the others ignore would change a verdict without a word.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from backends import Entry, huge_pages
from backends.api import DEFAULT_MODE
from bench.machine import hosts, nvml
from bench.process import phases
from bench.records.record import Arm

ALLOWED = re.compile(
    r"PATH|HOME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|PYTHONPATH|XDG_CACHE_HOME"
    r"|https?_proxy|no_proxy|all_proxy|HTTPS?_PROXY|NO_PROXY|ALL_PROXY"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|CUDA_VISIBLE_DEVICES|NVIDIA_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES"
    r"|HF_HOME|HF_HUB_CACHE|HF_ENDPOINT|HF_TOKEN|FRAMEWORK_BENCH_(?:BERT|OFFLINE)"
)
"""Where programs, libraries, data and devices are found; nothing in it says how anything is computed."""

KNOWN = re.compile(
    r"(?!(?:PYTHON|CUDA)_(?:\w+_)?VERSION|PYTHON_(?:SHA256|\w*PIP\w*)|NVIDIA_REQUIRE_\w+"  # an image about itself
    r"|TF_(?:CLI|VAR|TOKEN|PLUGIN)_\w+|TF_(?:LOG|LOG_PATH|DATA_DIR|WORKSPACE|INPUT|IN_AUTOMATION))"  # Terraform's
    r"(?:(?:OMP|KMP|GOMP|MKL|BLIS|OPENBLAS|GOTO|VECLIB|NUMEXPR|TF|XLA|JAX|KERAS|ONEDNN|DNNL|CUDA|CUDNN|CUBLAS|NCCL|MALLOC|COV"
    r"|COVERAGE|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|TENSORFLOW|NVIDIA|ROCR|HIP)_\w+"
    r"|NPROC|LD_PRELOAD|GLIBC_TUNABLES|PYTHON\w+)"
)
"""Of what is left out, the variables that a framework, a numerical library or Python obeys."""

RESERVED = re.compile(r"PATH|HOME|TMPDIR|LD_LIBRARY_PATH|PYTHON\w*|FRAMEWORK_BENCH_\w+|(?:CUDA|NVIDIA)_VISIBLE_DEVICES")
"""Without these a child does not find its programs, or would run on another device than its arm says."""

ROOT = Path(__file__).parents[2]


PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""OpenMP's threads sleep while they wait, where nothing is timed: those that spin would hold up the process beside them."""


def for_child(
    entry: Entry, arm: Arm, *, mode: str = DEFAULT_MODE, temporary: Path | None = None, shares_device: bool = False,
    passive: bool = False,
) -> dict[str, str]:  # fmt: skip
    """The whole environment of a process in a mode (that which `tuned` stands for), with a temporary folder of its own.

    One that shares its device with other processes, or may do so because nothing in it is timed, is to take no more of its
    memory than it uses. One that is `passive` shares the cores.
    """
    env = {name: value for name, value in os.environ.items() if ALLOWED.fullmatch(name)}
    env |= {
        **entry.env,
        **(entry.env_cpu if arm.device == "cpu" else {}),
        **(entry.env_memory if shares_device else {}),
        **(PASSIVE if passive else {}),
    }
    if arm.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = "-1"
    elif chosen := nvml.uuid():  # the card that is described and watched, and no other
        env["CUDA_VISIBLE_DEVICES"] = chosen
    if arm.nodes > 1:
        env |= hosts.ways()
    if temporary is not None:
        env["TMPDIR"] = str(temporary)
    if (ROOT / "pyproject.toml").exists():  # a clone, which need not be installed
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return env | arm.environment | huge_pages.environment(mode, arm.environment.get(huge_pages.VARIABLE, ""))


def left_out() -> list[str]:
    """The variables set here that a child would obey and does not get, each as NAME=VALUE."""
    named = sorted(name for name in os.environ if KNOWN.fullmatch(name) and not ALLOWED.fullmatch(name))
    return [f"{name}={os.environ[name]}" for name in named]


def unusable(name: str, value: str, entry: Entry) -> str | None:
    """Why an arm may not ask for a variable; None if it may."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        return "is no name of a variable"
    if not value.isprintable():  # it stands in records and tables
        return "has a value with characters that cannot be shown"
    if RESERVED.fullmatch(name) or name == phases.VARIABLE:
        return "is set by framework-bench itself"
    declared: Mapping[str, str] = {**entry.env, **entry.env_cpu, **entry.env_memory}
    return "is set by the backend itself" if name in declared else None
