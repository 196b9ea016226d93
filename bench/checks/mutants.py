"""Changes the backends in many small ways and lets the ladder judge each: `python -m bench.checks.mutants`.

A benchmark, not a test: it takes an hour or two. A mutant is a backend with one change: an operator of Cosmic Ray
(https://cosmic-ray.readthedocs.io), an argument left out, a call left out, a statement left out. It climbs the ladder of the
tasks that its file belongs to, as `verify` does, until it falls. One that reaches every top is a survivor: it computes the
same, or the ladder is blind to it. Mutants are drawn by place, so that a line of many operators does not stand for the others.
"""

import ast
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import Keyword

import backends
from bench.campaign import plan
from bench.campaign.plan import Choice, TaskPlan
from bench.checks import planted
from bench.records.record import Arm
from bench.records.source import ROOT

TASKS_OF = {"mlp.py": ["mnist_mlp"], "gru.py": ["gru_lm"], "bert.py": ["bert_sentiment"]}
"""File of a backend -> the tasks that it computes; every other file belongs to all of them."""

Folder = click.Path(exists=True, file_okay=False, path_type=Path)

ALL_TASKS = ["mnist_mlp", "gru_lm", "bert_sentiment"]

TELLING = {
    "settings", "versions", "compilations", "device_memory", "matmul", "wait", "cache", "open_session",
    "_is_compiled", "_kernels", "_nodes", "_precision", "_name",
}  # fmt: skip
"""Functions that say what is in force, or wait, or probe: they compute no figure of a model, and other checks look at them."""

MODULES = {"F", "backends", "jax", "jnp", "keras", "nn", "nnx", "np", "optax", "tf", "torch", "transformers"}
"""Names of modules in the backends: what is called on one is a function, and not an object's method."""

UNTOUCHED = ("__init__.py", "compiled.py")  # what a backend says of itself, and a mode that is not tried here


class LeftOut(Operator):  # type: ignore[misc]  # it has no types
    """What the three operators of this module have in common."""

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class ArgumentLeftOut(LeftOut):
    """A keyword argument of a call is left out."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        for argument in self._named(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        left_out = self._named(node)[index]
        at = node.children.index(left_out)
        first = max(0, at - 1)  # with the comma before it, or after it where it comes first
        del node.children[first : first + 2]
        return node

    @staticmethod
    def _named(node: Any) -> list[Any]:
        if node.type != "arglist":
            return []
        return [one for one in node.children if one.type == "argument" and one.children[1] == "="]


class CallLeftOut(LeftOut):
    """`x.method(...)` becomes `x`; `f(x, ...)` and `module.f(x, ...)` become `x`."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if self._left(node) is not None:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        left, prefix = self._left(node), node.get_first_leaf().prefix
        node.children = [left] if not isinstance(left, list) else left
        node.get_first_leaf().prefix = prefix
        return node

    @staticmethod
    def _left(node: Any) -> Any:
        """What is left of a call; None for what is no call, or has nothing to leave."""
        if node.type not in ("atom_expr", "power") or node.children[-1].type != "trailer":
            return None
        *called, call = node.children
        if call.children[0] != "(":
            return None
        if len(called) > 1 and called[-1].children[0] == "." and getattr(called[0], "value", "") not in MODULES:
            return called[:-1]
        inside = call.children[1] if len(call.children) == 3 else None
        first = inside.children[0] if inside is not None and inside.type == "arglist" else inside
        return None if first is None or first.type == "argument" else first


class StatementLeftOut(LeftOut):
    """`pass` stands in a statement's place."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "simple_stmt" and node.children[0].type in ("expr_stmt", "atom_expr", "power", "del_stmt"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        first = node.children[0]
        node.children[0] = Keyword("pass", first.start_pos, first.get_first_leaf().prefix)
        return node


OWN = (ArgumentLeftOut, CallLeftOut, StatementLeftOut)


class Mutant(msgspec.Struct, frozen=True):
    """A file of a backend with one change."""

    backend: str
    file: str
    line: int
    operator: str
    before: str  # the lines that were changed
    after: str
    source: str = ""

    @property
    def name(self) -> str:
        """The same for the same change, wherever in the file it stands by now."""
        told = "\n".join((self.backend, self.file, self.before, self.after))
        return hashlib.sha256(told.encode()).hexdigest()[:12]


class Tried(msgspec.Struct, frozen=True):
    """What became of a mutant."""

    name: str
    mutant: Mutant
    caught: str | None  # by what; None: it reached the top of every ladder


def places(source: str) -> list[list[tuple[str, Operator, int]]]:
    """The mutations of a source, each an operator and the number of its occurrence, by the place that they change."""
    found: dict[tuple[int, int], list[tuple[str, Operator, int]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    for name, operator in _operators():
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            found[start].append((name, operator, occurrence))
    return [found[start] for start in sorted(found)]


def mutant(backend: str, file: str, mutation: tuple[str, Operator, int]) -> Mutant | None:
    """The mutant; None where it is no Python, or the change is to nothing that computes."""
    source = (ROOT / "backends" / backend / file).read_text(encoding="utf-8")
    name, operator, occurrence = mutation
    changed = mutate_code(source, operator, occurrence)
    if changed is None or _computing(changed) in (None, _computing(source)):
        return None
    line, before, after = _difference(source.splitlines(), changed.splitlines())
    return Mutant(backend, file, line, name, before, after, changed)


def _operators() -> Iterator[tuple[str, Operator]]:
    for operator in OWN:
        yield operator.__name__, operator()
    for name in operator_names():
        operator = get_operator(name)
        if not operator.arguments():  # else it would have to be told what for
            yield name.removeprefix("core/"), operator()


class _Computing(ast.NodeTransformer):
    """Leaves out annotations, docstrings and what tells instead of computing."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        if node.name in TELLING:
            return None
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
            argument.annotation = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _computing(source: str) -> str | None:
    """What computes in a source, as a text to compare; None if it is no Python."""
    try:
        return ast.dump(_Computing().visit(ast.parse(source)))
    except SyntaxError:
        return None


def _difference(before: Sequence[str], after: Sequence[str]) -> tuple[int, str, str]:
    """The lines in which two sources differ, and the number of the first."""
    first = next(at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    ends = zip(reversed(before[first:]), reversed(after[first:]), strict=False)
    shorter = min(len(before), len(after)) - first
    same = next((at for at, (one, other) in enumerate(ends) if one != other), shorter)
    old, new = ("\n".join(line.strip() for line in lines[first : len(lines) - same]) for lines in (before, after))
    return first + 1, old, new


def drawn(backend: str, count: int, seed: int) -> list[Mutant]:
    """One mutant at each of `count` places of a backend's files, which are drawn."""
    rng = random.Random(f"{backend}/{seed}")
    folder = ROOT / "backends" / backend
    every = [
        (path.name, place)
        for path in sorted(folder.glob("*.py"))
        if path.name not in UNTOUCHED
        for place in places(path.read_text(encoding="utf-8"))
    ]
    rng.shuffle(every)
    made = (mutant(backend, file, rng.choice(place)) for file, place in every)
    return list(islice((one for one in made if one is not None), count))


def judge(mutant: Mutant, plans: Mapping[str, TaskPlan]) -> str | None:
    """By what a mutant is caught; None if it reaches the top of every ladder."""
    for task in TASKS_OF.get(mutant.file, list(plans)):
        arms = {arm.name: arm for arm in plans[task].choice.arms}
        outcome = planted.climb(plans[task], arms[mutant.backend], {mutant.file: mutant.source})
        if outcome.status != "ok":
            return f"{task}: {outcome.reason}"
    return None


@click.command()
@click.option("--backend", "names", multiple=True, type=click.Choice(list(backends.BACKENDS)), help="Default: all.")
@click.option("--count", default=60, show_default=True, help="Mutants of each backend.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option("--preset", default="quick", show_default=True)
@click.option("--data-dir", type=Folder, envvar="FRAMEWORK_BENCH_DATA")
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
def main(names: Sequence[str], count: int, seed: int, preset: str, data_dir: Path | None, output: Path) -> None:
    """Tries mutants and adds a line of JSON for each to OUTPUT; those that stand there are not tried again."""
    names = names or list(backends.BACKENDS)
    choice = Choice(
        tasks=ALL_TASKS, arms=[Arm(name=name, backend=name) for name in names], preset=preset, data_dir=data_dir,
        kinds=("parity",), run_id="mutants",
    )  # fmt: skip
    plans = {task_plan.name: task_plan for task_plan in plan.make(choice)}
    lines = output.read_bytes().splitlines() if output.exists() else []
    done = {one.name: one for one in (msgspec.json.decode(line, type=Tried) for line in lines)}
    for backend in names:
        chosen = drawn(backend, count, seed)
        for number, mutant in enumerate(chosen, start=1):
            if mutant.name not in done:
                caught = judge(mutant, plans)
                plain = msgspec.structs.replace(mutant, source="")
                done[mutant.name] = Tried(mutant.name, plain, caught)
                with output.open("ab") as file:
                    file.write(msgspec.json.encode(done[mutant.name]) + b"\n")
            told = done[mutant.name]
            click.echo(f"[{number}/{len(chosen)}] {backend}/{mutant.file}:{mutant.line} {mutant.before!r} -> "
                       f"{mutant.after!r}: {told.caught or 'SURVIVED'}"[:300])  # fmt: skip
        found = Counter(done[mutant.name].caught is not None for mutant in chosen)
        click.echo(f"{backend}: {found[True]} of {len(chosen)} caught")


if __name__ == "__main__":
    main()
