"""Other releases of a framework for some of the arms: `--arm jax==0.10.1 --arm jax==0.10.2`.

Each has an environment of its own in the user's cache, which pip makes once: this program from its clone, the framework in that
release, and everything else as constraints.txt pins it. Where that cannot be had together, what the framework brings with it
(jax: flax and optax) comes in whatever release pip finds; every record has the versions. An arm's processes then run in the
environment's interpreter, beside those of the other arms in the same rounds.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import platformdirs

import backends
from backends import Entry
from bench.machine import locks
from bench.process.interpreters import ROOT, InterpreterError
from bench.records import files
from bench.records.text import one_line

RELEASE = re.compile(r"[0-9][\w.+!]*")
PATIENCE_S = 3600.0  # of one installation: a framework may be gigabytes
MADE = "framework-bench-environment.txt"
"""A file that an environment has once it is whole."""

Tell = Callable[[str], object]


def python_of(backend: str, release: str, *, said: str, tell: Tell) -> Path:
    """The interpreter of an environment with the framework of a backend in a release, which is made if there is none.

    InterpreterError, beginning with `said`, where it cannot be made. `tell` is given a line before anything is installed.
    """
    entry = backends.find(backend)
    if not entry.extra:
        raise InterpreterError(
            f"{said}: {backend} is no framework of which releases are known; use {backend}:python=PATH"
        )
    if not (ROOT / "pyproject.toml").is_file():
        raise InterpreterError(
            f"{said}: releases are installed from a clone of framework-bench; here, use {backend}:python=PATH"
        )
    requirement = f"{entry.distributions[0]}=={release}"
    place = platformdirs.user_cache_path("framework-bench") / "environments" / _name(entry, requirement)
    try:
        with locks.place(place, purpose=f"installing {requirement}", tell=tell):
            if not (place / MADE).is_file():
                tell(f"installing {requirement} once, into {place}")
                try:
                    _install(entry, requirement, place, said=said, tell=tell)
                except InterpreterError:
                    shutil.rmtree(place, ignore_errors=True)
                    raise
                files.write_bytes(place / MADE, f"{requirement}\n".encode())
    except OSError as error:
        raise InterpreterError(f"{said}: {place}: {error.strerror}") from error
    return place / "bin" / "python"


def _name(entry: Entry, requirement: str) -> str:
    """Of the environment's folder: another one wherever something would be installed otherwise."""
    parts = [
        sys.version,
        sys.prefix,
        str(ROOT),
        requirement,
        _constraints(entry, ()),
        (ROOT / "pyproject.toml").read_text(),
    ]
    return f"{requirement.replace('==', '-')}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _constraints(entry: Entry, loosened: Collection[str]) -> str:
    """constraints.txt without the framework (and its parts, whose names begin with its own) and without what is loosened."""
    path = ROOT / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    framework = entry.distributions[0]
    kept = [
        line
        for line in lines
        if not (name := line.partition("==")[0].strip().lower()).startswith(framework) and name not in loosened
    ]
    return "".join(f"{line}\n" for line in kept)


def _install(entry: Entry, requirement: str, place: Path, *, said: str, tell: Tell) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(place)], said=said)  # what an interruption left goes
    constraints = place / "constraints.txt"
    brought = entry.distributions[1:]
    for loosened in ((), brought):
        constraints.write_text(_constraints(entry, loosened), encoding="utf-8")
        command = [
            str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
            "-c", str(constraints), "-e", f"{ROOT}[{entry.extra}]", requirement,
        ]  # fmt: skip
        try:
            _run(command, said=f"{said}: pip cannot install {requirement}")
            return
        except InterpreterError:
            if loosened or not brought:
                raise
            tell(
                f"{requirement} does not go with constraints.txt; once more, with {', '.join(brought)} as pip finds them"
            )


def _run(command: list[str], *, said: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "PYTHONPATH")}
    try:
        done = subprocess.run(
            command, env=env, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InterpreterError(f"{said}: not done within {PATIENCE_S:g} s") from None
    if done.returncode:
        raise InterpreterError(f"{said}: {_reason(done.stderr or done.stdout)}")


def _reason(output: str) -> str:
    """What pip says is wrong: the first line that it calls an error, which the lines after it explain, else its last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") and not line.startswith("ERROR: Ignored ")]
    return one_line((errors or lines[-1:] or ["it does not say why"])[0])
