"""The types and the common options of the command line."""

import difflib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

import backends
import tasks

MEASURES = ("training", "inference", "loading")
"""What can be compared, as bench/campaign/plan.py has them; that takes NumPy, which help can do without."""


class UserError(click.ClickException):
    """What was asked for cannot be done; nothing ran."""

    exit_code = 2


class FilePath(click.Path):
    """A path of a file or folder; an empty one, which an unset variable of a shell leaves, and a device are refused."""

    def __init__(self, **rules: bool) -> None:
        super().__init__(path_type=Path, **rules)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("the path is empty", param, ctx)
        path = super().convert(value, param, ctx)
        if not self.file_okay and os.path.lexists(path) and not os.path.isdir(path):
            self.fail(f"{str(path)!r} is not a folder", param, ctx)
        return path


class OneOf(click.ParamType[str]):
    """One of a few words, with the nearest one named if it is none of them."""

    name = "word"

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        self.kind, self.known = kind, tuple(known)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.known:
            self.fail(f"there is no {self.kind} {value!r}{nearest(value, self.known)}", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.known)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return completions(self.known, incomplete)


class NameOrModule(OneOf):
    """One of the known names, or a dotted module that implements one."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        dotted = "." in value and all(part.isidentifier() for part in value.split("."))
        return value if dotted else super().convert(value, param, ctx)


def completions(known: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """What a shell offers after the first letters of a word."""
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


class Duration(click.ParamType[float]):
    """Seconds, written as 90s, 20m or 1.5h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh])", value, re.ASCII)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is not a duration; write it as 90s, 20m or 1.5h", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


class Price(click.FloatRange):
    """A number in a range, which NaN is not, although no comparison says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is no number", param, ctx)
        return found


class Size(click.ParamType[int]):
    """Bytes, written as 512MiB, 16GB or 1.5TiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([KMGT])(i?)B", value, re.ASCII)
        size = float(found[1]) * (1024 if found[3] else 1000) ** (1 + "KMGT".index(found[2])) if found else 0.0
        if size < 1:
            self.fail(f"{value!r} is not a size; write it as 512MiB, 16GB or 1.5TiB", param, ctx)
        return int(size)


class Measures(click.ParamType[tuple[str, ...]]):
    """One or more of a few words, with commas between them."""

    name = "words"

    def __init__(self, known: Iterable[str]) -> None:
        self.known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",")]
        for word in words:
            if word not in self.known:
                self.fail(f"there is no {word!r} to measure{nearest(word, self.known)}", param, ctx)
        return tuple(dict.fromkeys(words))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.known)}][,...]"


class Rounds(click.IntRange):
    """A number of rounds, or `auto`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[INTEGER|auto]"


measure_option = click.option(
    "--measure", type=Measures(MEASURES), default="training", show_default=True,
    help="What to compare: training, inference (single examples and batches), loading (the frameworks' own loaders, alone and "
         "with training), or several, separated by commas.",
)  # fmt: skip


def nearest(value: str, known: Any) -> str:
    """`; did you mean 'x'?` and the list of what there is."""
    close = difflib.get_close_matches(value, list(known), n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{meant} (there are: {', '.join(known)})"


def common_options(command: Any) -> Any:
    """What `run`, `verify`, `selftest` and `pytest bench` share."""
    for option in reversed([
        click.option("--task", "task_names", multiple=True, type=NameOrModule("task", tasks.TASKS),
                     help="A task; repeatable. Default: all."),
        click.option("--arm", "arm_texts", multiple=True, metavar="[LABEL=]BACKEND[:ITEM,...]",
                     help="A row of the table: one backend, used in one way; repeatable. An ITEM is a mode (see `info`; join "
                          "several with +) or a setting: device=, precision=, threads=, processes=, nodes=, python= or "
                          "env.NAME=."),
        click.option("--backend", "backend_names", multiple=True, type=NameOrModule("backend", backends.BACKENDS),
                     help="Short for --arm BACKEND; repeatable. Default: every installed backend."),
        click.option("--track", default="default", show_default=True, type=OneOf("track", ("default", "tuned", "both")),
                     help="How --backend uses a framework: as its tutorials do, in the fastest way that was measured "
                          "(tuned, see `info`), or both, side by side."),
        click.option("--preset", default="quick", show_default=True, type=OneOf("preset", tasks.PRESETS),
                     help="Size of the data and of the training."),
        click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE",
                     help="Change a field of the task, as in batch_size=64 or model.hidden=256; repeatable."),
        click.option("--device", default="auto", show_default=True, type=OneOf("device", ("auto", "cpu", "gpu")),
                     help="Device of arms that do not name one; auto uses a GPU if there is one."),
        click.option("--precision", default="float32", show_default=True, type=OneOf("precision", tuple(backends.PRECISIONS)),
                     help="Precision of arms that do not name one: float32 is IEEE single precision, tf32 needs a GPU, "
                          "bfloat16 is mixed."),
        click.option("--threads", type=click.IntRange(min=1),
                     help="Cores of arms that do not say how many, by CPU affinity. Default: all that are available."),
        click.option("--python", "pythons", multiple=True, metavar="BACKEND=PATH",
                     help="Run a backend in another interpreter; repeatable. `tox` takes the environments that tox created."),
        click.option("--data-dir", type=FilePath(file_okay=False, exists=True),
                     envvar="FRAMEWORK_BENCH_DATA", help="Folder with the data sets; without it, they are downloaded."),
    ]):  # fmt: skip
        command = option(command)
    return command
