"""What the command line asks for, checked before anything runs."""

import importlib.util
import platform
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import backends
import tasks
from bench.campaign.plan import Choice
from bench.cli.options import UserError
from bench.machine import cores, describe
from bench.process import interpreters
from bench.stats.verdict import MARGIN
from tasks.spec import SpecError

Made = TypeVar("Made")


def choice(
    *,
    task_names: tuple[str, ...],
    backend_names: tuple[str, ...],
    preset: str,
    device: str,
    precision: str,
    pythons: tuple[str, ...],
    data_dir: Path | None,
    rounds: Any,
    seeds: int | None,
    cool_down_s: int = 0,
    threads: int | None = None,
    energy: bool = False,
    effect: float | None = None,
) -> Choice:
    """What was asked for, checked: everything that can be known to be wrong is said before anything runs."""
    if rounds == "auto":
        rounds, effect = None, _checked_effect(0.05 if effect is None else effect)
    elif effect is not None:
        raise UserError("--effect says what --rounds auto plans for; without it the number of rounds is given")
    gpu = describe.gpu_and_driver()[0]
    if device == "gpu" and gpu is None:
        raise UserError("--device gpu: there is no NVIDIA GPU with a driver here; use --device cpu")
    if precision == "tf32" and (device == "cpu" or gpu is None):
        raise UserError(
            "--precision tf32: a mode of a GPU's tensor cores, which a CPU has not; use --precision float32"
        )
    _check_threads(threads)
    absent = []
    names = list(dict.fromkeys(backend_names or backends.BACKENDS))
    try:
        elsewhere = interpreters.chosen(pythons, names)
    except interpreters.InterpreterError as error:
        raise UserError(str(error)) from error
    for name in [name for name in names if name not in elsewhere]:
        entry = backends.find(name)
        try:
            missing = entry.missing()
        except ModuleNotFoundError as error:
            missing = [str(error.name)]
        if not entry.extra:  # a module of the user's
            _check_module(name)
        if missing:
            absent.append((name, f"{', '.join(missing)} not installed; add it with: {entry.install_command}"))
    if backend_names and absent:
        raise UserError("; ".join(f"--backend {name}: {reason}" for name, reason in absent))
    chosen = [name for name in names if name not in dict(absent)]
    if not chosen:
        commands = "; ".join(entry.install_command for entry in backends.BACKENDS.values())
        raise UserError(f"no framework is installed; add at least one with: {commands}")
    return Choice(
        tasks=list(dict.fromkeys(task_names or tasks.TASKS)),
        backends=chosen,
        absent=absent,
        preset=preset,
        device=device if device != "auto" else ("gpu" if gpu else "cpu"),
        precision=precision,
        rounds=rounds,
        seeds=seeds,
        data_dir=data_dir,
        order_seed=random.SystemRandom().randrange(2**31),
        cool_down_s=cool_down_s,
        interpreters=elsewhere,
        threads=threads,
        energy=energy,
        effect=effect,
    )


def _checked_effect(effect: float) -> float:
    if effect <= MARGIN:
        raise UserError(f"--effect {effect:g} must be above {MARGIN:g}: a difference within this margin is a tie")
    return effect


def _check_threads(threads: int | None) -> None:
    usable = cores.usable()
    if threads and not usable:
        raise UserError(f"--threads: {platform.system()} has no CPU affinity, and nothing else binds every framework")
    if threads and threads > len(usable):
        raise UserError(f"--threads {threads}: this process may use {len(usable)} cores; ask for no more than that")


def _check_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(f"--backend {name}: there is no such module")


def planned(make: Callable[[], Made]) -> Made:
    """What `make` gives, or why the task or its data cannot be had."""
    try:
        return make()
    except SpecError as error:
        raise UserError(str(error)) from error
    except ModuleNotFoundError as error:
        raise UserError(f"--task: no module named {error.name!r}") from error
