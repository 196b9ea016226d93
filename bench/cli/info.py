"""What is here and what would make the rest available. Imports no framework and downloads nothing."""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

import backends
import tasks
from bench.machine import describe
from tasks.sources import DATA_VARIABLE

BUNDLED, GIVEN, CACHED, REMOTE = "bundled", "in the data folder", "in the cache", "downloaded when first used"


def gather() -> dict[str, Any]:
    """Plain values, without a path: they may be pasted into a bug report."""
    return {
        "framework_bench": _version("framework-bench"),
        "machine": msgspec.to_builtins(describe.describe()),
        "backends": {name: _backend(name, entry) for name, entry in backends.BACKENDS.items()},
        "tasks": {
            task: {preset: _where(tasks.DATA_SETS.get((task, preset))) for preset in tasks.PRESETS}
            for task in tasks.TASKS
        },
    }


def folders() -> Mapping[str, str]:
    """Where data and caches lie, for the eyes of whoever sits at the terminal."""
    given = _data_dir()
    return {
        "data": str(given) if given else f"none; {DATA_VARIABLE} names one",
        "cache": str(platformdirs.user_cache_path("framework-bench")),
    }


def text() -> str:
    """Both, in lines."""
    found = gather()
    here = found["machine"]
    gpu = f"{here['gpu']} (driver {here['gpu_driver']})" if here["gpu"] else "no NVIDIA GPU with a driver"
    memory = f"{here['memory_bytes'] / 2**30:.0f} GiB"
    lines = [
        f"framework-bench {found['framework_bench']}, Python {here['python']}, {here['os']}",
        f"{here['cpu']}, {here['cores']} cores to use, {memory}, {gpu}",
        "",
        "Backends",
    ]
    for name, backend in found["backends"].items():
        installed = ", ".join(f"{distribution} {number}" for distribution, number in backend["versions"].items())
        missing = f"{', '.join(backend['missing'])} not installed; add it with: {backend['install']}"
        lines.append(f"  {name:<16}{missing if backend['missing'] else installed}")
    lines += ["", "Modes, as in --arm pytorch:compile"]
    modes = {f"{name}:{mode}": what for name, one in found["backends"].items() for mode, what in one["modes"].items()}
    width = max(map(len, modes)) + 2
    lines += [f"  {arm:<{width}}{what}" for arm, what in modes.items()]
    lines += ["", "Tasks, and the data of each preset"]
    for task, presets in found["tasks"].items():
        places = dict.fromkeys(presets.values())
        each = (f"{', '.join(preset for preset in presets if presets[preset] == place)}: {place}" for place in places)
        lines.append(f"  {task:<16}{'; '.join(each)}")
    lines += ["", "Folders", *(f"  {name:<16}{path}" for name, path in folders().items())]
    return "\n".join(lines)


def _backend(name: str, entry: backends.Entry) -> dict[str, Any]:
    missing = entry.missing()
    versions = {name: _version(name) for name in entry.distributions}
    return {
        "versions": {name: number for name, number in versions.items() if number},
        "missing": missing,
        "modes": dict(backends.modes(name)),
        "install": entry.install_command if missing else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _where(data_set: str | None) -> str:
    """As tasks.sources.locate looks: the user's folder, and where there is none, the cache."""
    if data_set is None:
        return BUNDLED
    given = _data_dir()
    if given is not None:
        return GIVEN if _holds(given / data_set) else f"not {GIVEN}"
    return CACHED if _holds(platformdirs.user_cache_path("framework-bench") / data_set) else REMOTE


def _data_dir() -> Path | None:
    given = os.environ.get(DATA_VARIABLE)
    return Path(given).expanduser() if given else None


def _holds(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
