"""Other sizes for a task: fields of its dataclasses by dotted name, as text, checked against their types.

    apply(preset, {"batch_size": "64", "model.widths": "784,256,10", "optimizer.clip_norm": "none"})

A field is one of the task's own or of a dataclass inside it (`model`, `optimizer`, ...). Not to be set are those that are no
part of the spec, those marked metadata={"set": False} (which data, which checkpoint) and those in FIXED. A value is written as

    int              32                  digits, with a sign where it is negative
    float            1e-3                finite
    bool             true, false
    str              any text
    tuple            784,256,10          its items, separated by commas
    X | None         as X, or none

What the sizes must fulfil among themselves, the dataclasses check (`__post_init__`). What only the data can tell (a batch
larger than the training set, a vocabulary larger than the text has), the task says when it is asked for its `data`.
"""

import difflib
import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tasks.spec import AdamW, Preset, SpecError, Task, shown

FIXED = ("name", "unit")  # what a task is called, and what it counts
LONGEST = 200  # characters of a value

INTEGER = re.compile(r"[+-]?[0-9]+")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class _Field:
    """A field of the task or of a dataclass inside it."""

    value: Any
    type: Any
    settable: bool


def apply(preset: Preset, changes: Mapping[str, str]) -> Preset:
    """The preset with a changed task; SpecError, in one line, for what cannot be set or makes the task invalid.

    A learning rate schedule that ends with the training goes on doing so: where only the number of steps is changed, its
    `decay_steps` and `warmup_steps` follow in proportion.
    """
    if not changes:
        return preset
    task = preset.task
    known = dict(_fields(task))
    tree: dict[str, Any] = {}
    for name, text in changes.items():
        *groups, leaf = name.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = _value(name, text, known)
    typed = " ".join(map(_typed, changes, changes.values()))
    try:
        changed = _rebuilt(task, _with_schedule(task, tree))
        _check_warm_up(changed, changes)
    except SpecError as error:
        raise SpecError(f"{typed}: {error}") from error
    except Exception as error:  # of a task that is not of this project
        said = f"{error}".strip().partition("\n")[0]
        raise SpecError(f"{typed}: {type(error).__name__}: {said}") from error
    return replace(preset, task=changed)


def describe_fields(preset: Preset) -> dict[str, str]:
    """The fields that can be set, by dotted name, with their values as they would be written."""
    return {name: _text(field.value) for name, field in _fields(preset.task) if field.settable}


def _fields(owner: Any, prefix: str = "", settable: bool = True) -> Iterator[tuple[str, _Field]]:
    """All fields that are not dataclasses themselves, by dotted name."""
    if not is_dataclass(owner):
        return
    try:
        hints = get_type_hints(type(owner))
    except NameError:  # a name that is imported for type checkers only
        hints = {}
    for each in fields(owner):
        name, value = f"{prefix}{each.name}", getattr(owner, each.name)
        ours = settable and each.init and each.metadata.get("spec", True) and each.metadata.get("set", True)
        ours = ours and name not in FIXED
        if is_dataclass(value):
            yield from _fields(value, f"{name}.", ours)
        else:
            yield name, _Field(value, hints.get(each.name, each.type), ours)


def _value(name: str, text: str, known: Mapping[str, _Field]) -> Any:
    """The value that `text` stands for; SpecError if it is none of the field's, or there is no such field to set."""
    typed = _typed(name, text)
    if name not in known:
        raise SpecError(f"{typed}: {_unknown(name, known)}")
    field = known[name]
    if not field.settable:
        raise SpecError(f"{typed}: {name} is fixed by the task and its preset; {_there_are('', known)}")
    try:
        if len(text) > LONGEST:
            raise ValueError  # before a number of a million digits is parsed
        return _parsed(text, field.type)
    except ValueError as error:
        raise SpecError(
            f"{typed}: expected {_expected(field.type)}; its current value is {_text(field.value)}"
        ) from error


def _unknown(name: str, known: Mapping[str, _Field]) -> str:
    """What to say about a name that is no field: what is nearest to it, and what there is at its level."""
    if inside := [each for each in known if each.startswith(f"{name}.")]:
        return f"{name} has fields of its own: set one of {', '.join(each for each in inside if known[each].settable)}"
    if owner := next((each for each in known if name.startswith(f"{each}.")), None):
        return f"{owner} has no fields: set {owner} itself"
    parent, _, leaf = name.rpartition(".")
    parent = f"{parent}." if any(each.startswith(f"{parent}.") for each in known) else ""
    settable = [each for each in known if known[each].settable]
    same_leaf = [each for each in settable if each.rpartition(".")[2] == leaf]
    level = [each for each in settable if each.startswith(parent)]
    leaves = {each.rpartition(".")[2]: each for each in level}
    near = [leaves[each] for each in difflib.get_close_matches(leaf, leaves, n=2)]
    near = same_leaf or near or difflib.get_close_matches(name, settable, n=2)
    hint = f", did you mean {' or '.join(near)}?" if near else ";"
    return f"no such field{hint} {_there_are(parent, known)}"


def _there_are(parent: str, known: Mapping[str, _Field]) -> str:
    names = [name for name in known if name.startswith(parent) and known[name].settable]
    return f"there {'are' if len(names) != 1 else 'is'}: {', '.join(names) or 'none, the task is not a dataclass'}"


def _parsed(text: str, kind: Any) -> Any:
    """The value of a type that `text` stands for; ValueError if there is none."""
    if kind is types.NoneType and text == "none":
        return None
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int and INTEGER.fullmatch(text):
        return int(text)
    if kind is float and REAL.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    if kind is str and text.isprintable():
        return text
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(choice) == text:
                return choice
    if get_origin(kind) in (Union, types.UnionType):
        # None first: a str could be spelled so too.
        for choice in sorted(get_args(kind), key=lambda one: one is not types.NoneType):
            try:
                return _parsed(text, choice)
            except ValueError:
                continue
    if get_origin(kind) is tuple:
        parts, items = text.split(","), get_args(kind)
        items = items[:1] * len(parts) if items[1:] == (...,) else items
        return tuple(_parsed(part.strip(), item) for part, item in zip(parts, items, strict=True))
    raise ValueError


def _expected(kind: Any) -> str:
    """A type in a reader's words."""
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "printable text"}
    if kind in words:
        return f"{words[kind]} (at most {LONGEST} characters)" if kind is str else words[kind]
    if kind is types.NoneType:
        return "none"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_expected, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if items[1:] == (...,):
            return f"values separated by commas, each {_expected(items[0])}"
        return f"{len(items)} values separated by commas: {', '.join(map(_expected, items))}"
    return f"nothing, because a {getattr(kind, '__name__', kind)} cannot be written as text"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _typed(name: str, text: str) -> str:
    """A change as it was typed, fit for one line."""
    return "--set " + shown(f"{name}={text}").strip("'\"")


def _rebuilt(owner: Any, tree: Mapping[str, Any]) -> Any:
    """A dataclass with the fields of `tree` replaced; all at once, because two may be valid together only."""
    parts = {
        name: _rebuilt(getattr(owner, name), part) if isinstance(part, dict) else part for name, part in tree.items()
    }
    return replace(owner, **parts)


def _with_schedule(task: Task, tree: dict[str, Any]) -> dict[str, Any]:
    """The changes, and those of a schedule that ended with the training and is not changed itself."""
    spec, changes = task.optimizer, tree.get("optimizer", {})
    if not isinstance(spec, AdamW) or spec.decay_steps is None or "decay_steps" in changes:
        return tree
    before = task.train_steps
    after = _rebuilt(task, {name: part for name, part in tree.items() if name != "optimizer"}).train_steps
    if before != spec.decay_steps or after == before:
        return tree
    schedule = {"decay_steps": after, "warmup_steps": spec.warmup_steps * after // before}
    return {**tree, "optimizer": {**schedule, **changes}}


def _check_warm_up(task: Task, changes: Mapping[str, str]) -> None:
    warm_up = task.optimizer.warmup_steps if "optimizer.warmup_steps" in changes else 0
    if warm_up and warm_up > task.train_steps:
        raise SpecError(
            f"warmup_steps is {warm_up:,}, but the training has {task.train_steps:,} updates: the full learning rate would "
            "never be reached; set a shorter warm-up or a longer training"
        )
