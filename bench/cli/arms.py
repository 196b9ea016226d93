r"""Arms as they are typed: `--arm [LABEL=]BACKEND[==RELEASE][:ITEM[,ITEM...]]`, an ITEM being a mode or key=value.

    --arm pytorch --arm pytorch:compile
    --arm jax --arm jax:precision=bfloat16 --arm jax:rbg+flat
    --arm jax==0.10.1 --arm jax==0.10.2
    --arm pytorch:threads=1 --arm pytorch:threads=1,processes=2
    --arm pytorch --arm pytorch:processes=2,nodes=2
    --arm old=pytorch:python=../torch-2.12/bin/python --arm pytorch
    --arm jax:env.XLA_FLAGS=--xla_cpu_use_onednn=true

A comma inside a value is written as `\,`. Everything that can be known to be wrong is said before anything runs.
"""

import ast
import importlib.util
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec

import backends
from backends.api import DEFAULT_MODE, mode_of
from bench.cli.options import UserError, nearest
from bench.machine import cores, describe, hosts
from bench.process import environment, interpreters, releases
from bench.process.interpreters import Interpreter
from bench.records.record import MOST_RANKS, Arm, Label
from bench.records.text import printable

KEYS = ("mode", "device", "precision", "threads", "processes", "nodes", "python", "env.NAME")
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Typed:
    """An arm as it was typed."""

    said: str  # the option and its value, for messages
    backend: str
    label: str | None = None
    items: Mapping[str, str] = field(default_factory=dict)  # key -> value, in the order in which they were typed
    release: str | None = None  # of the framework, in an environment of its own

    @property
    def name(self) -> str:
        """The label, or else what was typed but for the interpreter, whose path belongs to this machine."""
        shown = [value if key == "mode" else f"{key}={value}" for key, value in self.items.items() if key != "python"]
        backend = f"{self.backend}=={self.release}" if self.release else self.backend
        return self.label or ":".join(filter(None, [backend, ",".join(shown)]))


@dataclass(frozen=True)
class Defaults:
    """What holds for an arm that does not say otherwise: the options beside `--arm`."""

    device: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    pythons: Mapping[str, str] = field(default_factory=dict)  # backend -> path of an interpreter


@dataclass
class Resolved:
    """Arms that can run, those that cannot with the reason, and the interpreters of arms that have one of their own."""

    arms: list[Arm] = field(default_factory=list)
    absent: list[tuple[Arm, str]] = field(default_factory=list)
    interpreters: dict[str, Interpreter] = field(default_factory=dict)


def parse(text: str) -> Typed:
    """What was typed after `--arm`; UserError for what has another form."""
    said = printable(f"--arm {text}")
    head, colon, rest = text.partition(":")
    named, twice, release = head.rpartition("==")
    label, equals, backend = (named if twice else head).rpartition("=")
    if equals and not _is_label(label):
        raise UserError(
            f"{said}: {printable(label[:80])!r} is no label: letters, digits and .:=,+@/_- after a first letter"
        )
    _check_backend(said, backend)
    if twice and not releases.RELEASE.fullmatch(release):
        raise UserError(f"{said}: {printable(release[:80])!r} is not a release; expected one as in {backend}==1.2.3")
    items: dict[str, str] = {}
    for item in re.split(r"(?<!\\),", rest) if colon else []:
        key, value = _item(said, item.replace("\\,", ","))
        if key in items:
            raise UserError(f"{said}: {key} is given twice")
        items[key] = value
    if twice and "python" in items:
        raise UserError(f"{said}: a release comes with its own interpreter; leave out python={items['python']}")
    return Typed(said, backend, label or None, items, release if twice else None)


def _item(said: str, item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not item:
        raise UserError(f"{said}: an item is empty; expected a mode or one of {', '.join(KEYS)}")
    if not equals:
        return "mode", item
    if key not in KEYS[:-1] and not key.startswith("env."):
        raise UserError(f"{said}: an arm has no {printable(key)!r}{nearest(key, KEYS)}")
    if not value and not key.startswith("env."):
        raise UserError(f"{said}: {key} has no value")
    return key, value


def named(backend: str, track: str = DEFAULT_MODE) -> list[Typed]:
    """A backend as `--backend` names it, the short form of an arm: in the mode `default`, in `tuned`, or in `both`."""
    _check_backend(f"--backend {backend}", backend)
    said = f"--backend {backend}"
    plain, tuned = Typed(said, backend), Typed(f"{said} --track {track}", backend, items={"mode": backends.TUNED})
    return {DEFAULT_MODE: [plain], backends.TUNED: [tuned], "both": [plain, tuned]}[track]


def resolve(typed: Sequence[Typed], defaults: Defaults, *, required: bool) -> Resolved:
    """The arms of a comparison, checked. Without `required`, an arm whose framework is missing is absent, else a UserError."""
    found = Resolved()
    seen: dict[str, Typed] = {}
    for one in typed:
        arm, path = _arm(one, defaults)
        _check_name(one, arm, seen)
        seen[arm.name] = one
        entry = backends.find(one.backend)
        if one.release is not None or path is not None:
            option = one.said if one.release or "python" in one.items else f"--python {one.backend}={path}"
            try:
                if one.release is not None:
                    path = str(releases.python_of(one.backend, one.release, said=option, tell=_tell))
                interpreter = interpreters.ask(one.backend, str(path), said=option)
            except interpreters.InterpreterError as error:
                raise UserError(str(error)) from error
            found.interpreters[arm.name] = interpreter
            arm = msgspec.structs.replace(arm, python=interpreter.python)
        elif missing := entry.missing():
            why = f"{', '.join(missing)} not installed" + (
                f"; add it with: {entry.install_command}" if entry.extra else ""
            )
            if required:
                raise UserError(f"{one.said}: {why}")
            found.absent.append((arm, why))
            continue
        found.arms.append(arm)
    return found


def _tell(line: str) -> None:
    click.echo(printable(line), err=True)


def _arm(typed: Typed, defaults: Defaults) -> tuple[Arm, str | None]:
    """The arm, and the path of its interpreter where it has one."""
    said, items = typed.said, typed.items
    mode = _mode(typed)
    variables = {key.removeprefix("env."): value for key, value in items.items() if key.startswith("env.")}
    for name, value in variables.items():
        why = environment.unusable(name, value, backends.find(typed.backend))
        if why:
            raise UserError(f"{said}: {printable(name)!r} {why}")
    arm = Arm(
        name=typed.name if _is_label(typed.name) else typed.backend,
        backend=typed.backend,
        mode=mode,
        device=_device(said, items.get("device", defaults.device)),
        precision=items.get("precision", defaults.precision),
        threads=_threads(said, items["threads"]) if "threads" in items else defaults.threads,
        environment=variables,
        processes=_processes(said, "processes", items.get("processes", "1")),
        nodes=_processes(said, "nodes", items.get("nodes", "1")),
    )
    _check_precision(said, arm)
    _check_processes(said, arm)
    return arm, items.get("python", defaults.pythons.get(typed.backend))


def _mode(typed: Typed) -> str:
    """The mode, its parts in the order of the backend's own list."""
    known = backends.modes(typed.backend)
    names = typed.items.get("mode", DEFAULT_MODE).split("+")
    for name in names:
        if name not in known:
            others = [other for other in backends.BACKENDS if name in backends.modes(other)]
            hint = f"; it is a mode of {', '.join(others)}" if others else ""
            raise UserError(
                f"{typed.said}: {typed.backend} has no mode {printable(name)!r}{hint or nearest(name, known)}"
            )
        if len(names) > 1 and (name in (DEFAULT_MODE, backends.TUNED) or names.count(name) > 1):
            raise UserError(f"{typed.said}: {name} cannot be joined with {'+'.join(names)}")
    return names[0] if len(names) == 1 else mode_of(names, known)


def _check_name(typed: Typed, arm: Arm, seen: Mapping[str, Typed]) -> None:
    example = f"LABEL={typed.backend}:..."
    if arm.name != typed.name:
        raise UserError(f"{typed.said}: too long for the name of a row, or with characters that it cannot have: "
                        f"give it a label, {example}")  # fmt: skip
    other = seen.get(arm.name)
    if other is None:
        return
    if (other.backend, other.release, other.items) == (typed.backend, typed.release, typed.items):
        raise UserError(f"{typed.said} is given twice: to compare it with itself, give it two labels: "
                        f"--arm a={typed.backend} --arm b={typed.backend}")  # fmt: skip
    raise UserError(
        f"{other.said} and {typed.said} have the same name {arm.name!r}: give one of them a label, {example}"
    )


def _is_label(text: str) -> bool:
    try:
        msgspec.convert(text, type=Label)
    except msgspec.ValidationError:
        return False
    return True


def _device(said: str, device: str) -> str:
    if device not in DEVICES:
        raise UserError(f"{said}: there is no device {printable(device)!r}{nearest(device, DEVICES)}")
    gpu = describe.gpu_and_driver()[0] if device != "cpu" else None
    if device == "gpu" and gpu is None:
        raise UserError(f"{said}: device gpu: there is no NVIDIA GPU with a driver here; use device cpu")
    return device if device != "auto" else ("gpu" if gpu else "cpu")


def _check_precision(said: str, arm: Arm) -> None:
    known = tuple(backends.PRECISIONS)
    if arm.precision not in known:
        raise UserError(f"{said}: there is no precision {printable(arm.precision)!r}{nearest(arm.precision, known)}")
    if arm.precision == "tf32" and arm.device == "cpu":
        raise UserError(f"{said}: tf32 is a mode of a GPU's tensor cores, which a CPU does not have; use float32")


def _processes(said: str, what: str, text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text) or int(text) > MOST_RANKS:
        raise UserError(f"{said}: {what} {printable(text)!r} is not a number of {what} from 1 to {MOST_RANKS}")
    return int(text)


def _check_processes(said: str, arm: Arm) -> None:
    """Whether an arm's processes find room: machines that are known, and on a CPU the cores that each asks for."""
    if arm.processes % arm.nodes:
        raise UserError(
            f"{said}: {arm.processes} processes cannot be spread over {arm.nodes} machines, as many on each"
        )
    try:
        hosts.of_ranks(arm.processes, arm.nodes)
    except hosts.HostsError as error:
        raise UserError(printable(f"{said}: {error}")) from error
    if arm.processes == 1:
        return
    if arm.device == "gpu":
        raise UserError(f"{said}: several processes on GPUs are not started yet; use device=cpu")
    if arm.threads is not None:
        each = arm.processes // arm.nodes
        where = " on each machine" if arm.nodes > 1 else ""
        checked_threads(f"{said}: {each} processes of {arm.threads} threads each{where}", each * arm.threads)


def _threads(said: str, text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise UserError(f"{said}: threads {printable(text)!r} is not a number of cores")
    return checked_threads(said, int(text))


def checked_threads(said: str, threads: int) -> int:
    """A number of cores that a process can be bound to."""
    usable = cores.usable()
    if not usable:
        raise UserError(f"{said}: {platform.system()} has no CPU affinity, and nothing else binds every framework")
    if threads > len(usable):
        raise UserError(
            f"{said}: {threads} threads, but this process may use {len(usable)} cores; ask for no more than that"
        )
    return threads


def _check_backend(said: str, name: str) -> None:
    if name in backends.BACKENDS:
        return
    dotted = "." in name and all(part.isidentifier() for part in name.split("."))
    if not dotted:
        raise UserError(f"{said}: there is no backend {printable(name)!r}{nearest(name, backends.BACKENDS)}")
    _parsed(said, name)
    try:
        entry = backends.find(name)
        backends.modes(name)
    except (ValueError, TypeError) as error:  # of an ENTRY or MODES that is none
        raise UserError(printable(f"{said}: {error}")) from error
    missing = _missing_functions(_parsed(said, entry.module))
    if missing:
        raise UserError(f"{said}: not a backend: the module has no {' and no '.join(missing)}")


def _parsed(said: str, module: str) -> ast.Module:
    """The source of a module of the user's; importing it would import its framework."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):
        spec = None
    except Exception as error:  # a module's package is imported, with whatever its author wrote there
        package = module.rpartition(".")[0]
        raise UserError(printable(f"{said}: {package} cannot be imported: {type(error).__name__}: {error}")) from error
    if spec is None:
        raise UserError(f"{said}: there is no such module")
    if spec.origin is None or not spec.origin.endswith(".py") or not Path(spec.origin).is_file():
        raise UserError(f"{said}: not a backend: a backend is a Python file with versions() and open_session(...)")
    path = Path(spec.origin)
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(printable(f"{said}: {path.name} cannot be read: {error}")) from error


def _missing_functions(tree: ast.Module) -> list[str]:
    """Of the two functions of a backend, those that a module does not bind."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                bound |= {alias.asname or alias.name for alias in names}
    return [f"{name}()" for name in ("versions", "open_session") if name not in bound and "*" not in bound]
