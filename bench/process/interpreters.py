"""Other Python interpreters for some of the arms.

Frameworks that cannot share an environment, and two releases of one framework, are still compared in one interleaved run:
`--arm LABEL=BACKEND:python=PATH` or `--python BACKEND=PATH` names the interpreter of an arm's processes, `--python tox` takes
the environments `bench-<backend>` that `tox` made. Each is asked once, before anything runs, what it has; no framework is
imported for that.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import backends
from bench.process import environment
from bench.records import files, source
from bench.records.files import RecordError
from bench.records.record import Arm, Strict
from bench.records.text import one_line, printable

DISTRIBUTIONS = ("numpy", "autograd")  # what the reference of parity computes with

TOX = "tox"
OLDEST = (3, 11)
PATIENCE_S = 120.0  # a first start may write many .pyc files

ROOT = Path(__file__).parents[2]

PROBE = """
import json, sys
asked = json.loads(sys.argv[1])
sys.path[:] = [folder for folder in sys.path if folder]  # as with -P, which a worker gets and an old Python does not know
told = {"python": "%d.%d.%d" % sys.version_info[:3], "missing": [], "versions": {}}
if sys.version_info[:2] >= tuple(asked["oldest"]):
    from importlib import import_module, metadata, util

    def find(name):
        try:
            return util.find_spec(name)
        except ModuleNotFoundError:
            return None

    def version(name):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "absent"

    told["missing"] = [name for name in asked["needs"] if find(name) is None]
    told["versions"] = {name: version(name) for name in asked["distributions"]}
    try:
        for name in asked["harness"]:
            import_module(name)
        told["source"] = import_module("bench.records.source").harness_hash()
    except ModuleNotFoundError as error:
        told["missing"].append(error.name)
    else:
        found = find(asked["module"])
        told["origin"] = found and found.origin
        told["missing"] += [] if found else [asked["module"]]
print(json.dumps(told))
"""


class InterpreterError(ValueError):
    """An interpreter cannot be used as asked; one line that names it and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class _Told(Strict, frozen=True):
    """What an interpreter said about itself."""

    python: str
    missing: list[str]
    versions: dict[str, str]
    origin: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs a backend's processes."""

    path: str
    python: str  # its version
    versions: Mapping[str, str] = field(default_factory=dict)  # of the distributions that decide what is computed
    origin: Path | None = None  # of the backend's module


def paths(named: Sequence[str], backend_names: Sequence[str]) -> dict[str, str]:
    """Backend -> what was typed as its interpreter, from the values of `--python`; InterpreterError for a malformed one."""
    found: dict[str, str] = {}
    for value in named:
        if value == TOX:
            continue
        name, equals, path = value.partition("=")
        if not equals or not path:
            raise InterpreterError(f"--python {value!r}: expected BACKEND=PATH, or the word {TOX}")
        if name in found:
            raise InterpreterError(f"--python {value!r}: {name} has an interpreter already, {found[name]!r}")
        if name not in backend_names:
            raise InterpreterError(
                f"--python {value!r}: {name!r} is not in the comparison (there are: {', '.join(backend_names)})"
            )
        found[name] = path
    if TOX in named:
        made = {name: str(made_by_tox) for name in backend_names if (made_by_tox := _of_tox(name)).exists()}
        if not made:
            wanted = ",".join(f"bench-{name}" for name in backend_names)
            raise InterpreterError(
                f"--python {TOX}: tox has made none of {wanted}; do so with: tox run -e {wanted} --notest"
            )
        found = made | found
    return found


def ask(backend: str, typed: str, *, said: str, patience_s: float = PATIENCE_S) -> Interpreter:
    """What the interpreter at a path is and has; InterpreterError, beginning with `said`, if this backend cannot run in it."""
    path = _located(typed)
    if path is None:
        raise InterpreterError(f"{said}: there is no such program")
    entry = backends.find(backend)
    asked = {
        "oldest": OLDEST, "needs": entry.needs, "module": backends.package(backend),
        "harness": ["bench.worker.answer", "bench.worker.parity"],
        "distributions": [*DISTRIBUTIONS, *entry.distributions],
    }  # fmt: skip
    env = environment.for_child(entry, Arm(name=backend, backend=backend))
    try:
        done = subprocess.run(
            [path, "-c", PROBE, json.dumps(asked)], env=env, timeout=patience_s, stdin=subprocess.DEVNULL,
            capture_output=True, check=False,
        )  # fmt: skip
        told: _Told = files.decode(done.stdout, _Told)
    except subprocess.TimeoutExpired:
        raise InterpreterError(f"{said}: no answer within {patience_s:g} s") from None
    except OSError as error:
        raise InterpreterError(f"{said}: cannot be run: {error.strerror}") from None
    except RecordError:
        raise InterpreterError(f"{said}: not a Python interpreter that works{_last_words(done.stderr)}") from None
    if tuple(map(int, told.python.split(".")[:2])) < OLDEST:
        raise InterpreterError(f"{said}: Python {told.python}; framework-bench needs {OLDEST[0]}.{OLDEST[1]} or newer")
    if told.missing:
        command = f"; add it with: {shlex.quote(typed)} -m {entry.install_command}" if entry.extra else ""
        raise InterpreterError(f"{said}: {', '.join(told.missing)} not installed there{command}")
    if told.source != source.harness_hash():
        raise InterpreterError(f"{said}: another version of framework-bench is installed there; install this one")
    return Interpreter(path, told.python, told.versions, Path(told.origin) if told.origin else None)


def _located(typed: str) -> str | None:
    """The program's path, with a virtual environment's links left as they are: they are what makes it one."""
    path = Path(typed).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    found = shutil.which(path)
    return os.path.abspath(found) if found else None


def _of_tox(backend: str) -> Path:
    work = os.environ.get("TOX_WORK_DIR") or ROOT / ".tox"
    return Path(work, f"bench-{backend}", "bin", "python")


def _last_words(output: bytes) -> str:
    lines = output[-4096:].decode(errors="replace").split("\n")
    words = [line for line in lines if line.strip()]
    return f": {one_line(words[-1])}" if words else ""
