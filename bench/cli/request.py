"""What the command line asks for, checked before anything runs."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import backends
import tasks
from backends.api import DEFAULT_MODE
from bench.campaign.plan import KINDS, MEASURES, Choice
from bench.cli import arms
from bench.cli.options import UserError
from bench.process import interpreters
from bench.records.limits import MARGIN
from bench.records.record import CONTROL
from tasks.spec import SpecError

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options as click read them."""

    task_names: tuple[str, ...] = ()
    arm_texts: tuple[str, ...] = ()
    backend_names: tuple[str, ...] = ()
    track: str = DEFAULT_MODE
    preset: str = "quick"
    changes: tuple[str, ...] = ()
    device: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    pythons: tuple[str, ...] = ()
    data_dir: Path | None = None
    rounds: Any = None  # a number, "auto", or None for the preset's
    seeds: int | None = None
    cool_down_s: int = 0
    energy: bool = False
    control: bool = False
    effect: float | None = None
    measure: tuple[str, ...] = ("training",)


def parse(**options: Any) -> Choice:
    """The comparison that is asked for; UserError for everything that can be known to be wrong."""
    asked = Asked(**options)
    effect, changes = _effect(asked), _changes(asked.changes)
    if asked.energy and (others := [name for name in asked.measure if name != "training"]):
        raise UserError(
            f"--energy reads the counters of a training's window; measure {' and '.join(others)} in a run of its own"
        )
    resolved = _resolved(asked)
    if not resolved.arms:
        commands = "; ".join(entry.install_command for entry in backends.BACKENDS.values())
        raise UserError(f"no framework is installed; add at least one with: {commands}")
    if asked.control:
        _add_control(resolved)
    return Choice(
        tasks=list(dict.fromkeys(asked.task_names or tasks.TASKS)),
        arms=resolved.arms,
        absent=resolved.absent,
        interpreters=resolved.interpreters,
        preset=asked.preset,
        changes=changes,
        rounds=None if asked.rounds == "auto" else asked.rounds,
        effect=effect,
        kinds=[kind for kind in KINDS if any(kind in MEASURES[name] for name in asked.measure)],
        seeds=asked.seeds,
        data_dir=asked.data_dir,
        run_id=secrets.token_hex(8),
        cool_down_s=asked.cool_down_s,
        energy=asked.energy,
    )


def _resolved(asked: Asked) -> arms.Resolved:
    typed = [arms.parse(text) for text in asked.arm_texts]
    if typed and not asked.backend_names and asked.track != DEFAULT_MODE:
        raise UserError(
            f"--track {asked.track} applies to --backend only; for an arm, name the mode: --arm {typed[0].backend}:tuned"
        )
    typed += [one for name in dict.fromkeys(asked.backend_names) for one in arms.named(name, asked.track)]
    chosen = typed or [one for name in backends.BACKENDS for one in arms.named(name, asked.track)]
    try:
        pythons = interpreters.paths(asked.pythons, list(dict.fromkeys(one.backend for one in chosen)))
    except interpreters.InterpreterError as error:
        raise UserError(str(error)) from error
    threads = None if asked.threads is None else arms.checked_threads("--threads", asked.threads)
    defaults = arms.Defaults(asked.device, asked.precision, threads, pythons)
    return arms.resolve(chosen, defaults, required=bool(typed))


def _add_control(resolved: arms.Resolved) -> None:
    first = resolved.arms[0]
    if any(arm.name == CONTROL for arm in resolved.arms):
        raise UserError(
            f"--control adds an arm called {CONTROL}, and there is one of that name: give that another label"
        )
    resolved.arms.append(msgspec.structs.replace(first, name=CONTROL))
    if first.name in resolved.interpreters:
        resolved.interpreters[CONTROL] = resolved.interpreters[first.name]


def _changes(texts: tuple[str, ...]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text}: expected FIELD=VALUE, as in --set batch_size=64")
        if name in changes:
            raise UserError(f"--set {text}: {name} is already set to {changes[name]}")
        changes[name] = value
    return changes


def _effect(asked: Asked) -> float | None:
    if asked.rounds != "auto":
        if asked.effect is not None:
            raise UserError("--effect needs --rounds auto: a fixed number of rounds leaves nothing to plan")
        return None
    if "training" not in asked.measure:
        raise UserError(
            f"--rounds auto plans from a pilot of training; for --measure {','.join(asked.measure)} alone, give a number"
        )
    effect = 0.05 if asked.effect is None else asked.effect
    if not effect > MARGIN:  # NaN is not
        raise UserError(f"--effect {effect:g} must be above {MARGIN:g}: a difference within this margin is a tie")
    return effect


def planned(make: Callable[[], Made]) -> Made:
    """What `make` gives, or why the task or its data cannot be had."""
    try:
        return make()
    except SpecError as error:
        raise UserError(str(error)) from error
    except ModuleNotFoundError as error:
        raise UserError(f"--task: no module named {error.name!r}") from error
