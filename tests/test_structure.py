"""The rules that keep the structure: who may import whom, and what the documents say about the code."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

import backends
import tasks

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"torch", "transformers", "tensorflow", "keras", "jax", "flax", "optax"}
OWN = {
    "pytorch": {"torch", "transformers"},
    "tensorflow": {"tensorflow", "keras"},
    "jax": {"jax", "flax", "optax"},
    "reference": set(),
}
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.py")), ids=lambda path: path.name)
def test_tasks_import_no_framework_and_no_other_layer(path):
    assert not tops(imports(path)) & (FRAMEWORKS | {"backends", "bench"})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "backends").rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_a_backend_imports_its_own_framework_tasks_and_no_other_backend(path):
    found = imports(path)
    assert "bench" not in tops(found)
    folder = path.parent.name
    assert tops(found) & FRAMEWORKS <= OWN.get(folder, set())
    others = {name for name in found if name.startswith("backends.") and name.split(".")[1] in OWN}
    assert {name.split(".")[1] for name in others} <= {folder}


@pytest.mark.parametrize("path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: path.name)
def test_the_harness_imports_no_framework(path):
    # A bare loop is what a framework's user would write: it may import its own framework, and where that has no BERT, the
    # backend's model; nothing else in bench may.
    own = {**OWN, "keras": {"keras"}}  # on whatever it runs
    allowed = own.get(path.stem.rpartition("_")[2], set()) if path.parent.name == "handwritten" else set()
    assert tops(imports(path)) & FRAMEWORKS <= allowed


def test_no_layer_imports_in_a_circle():
    graph = {}
    for path in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "backends").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = set()
        for node in tree.body:  # a lazy import inside a function is no circle
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[module] = found
    graph = {module: {name for name in found if name in graph and name != module} for module, found in graph.items()}
    while free := [module for module, found in graph.items() if not found]:
        for module in free:
            del graph[module]
        for found in graph.values():
            found.difference_update(free)
    # A package's own __init__ re-exports its parts: that pair is the only one that may remain.
    rest = {module: {name for name in found if not module.startswith(f"{name}.")} for module, found in graph.items()}
    assert not {
        module: found for module, found in rest.items() if found & set(rest) and not is_package_of(module, found)
    }


def is_package_of(module: str, found: set[str]) -> bool:
    return all(name.startswith(f"{module}.") for name in found)


# Rooms of bench/.

BENCH = ROOT / "bench"
BELOW_CLI = {"checks", "report", "campaign", "process", "worker", "machine", "records", "stats"}
ROOMS: Mapping[str, set[str]] = {
    "cli": BELOW_CLI,
    "checks": {"campaign", "report", "process", "worker.comparison", "stats", "records"},
    "report": {"stats", "records"},
    "campaign": {"process", "stats", "machine", "records"},
    "process": {"machine", "records"},
    "worker": {"process.request", "process.phases", "machine", "records"},
    "machine": {"records"},
    "records": set(),
    "stats": {"records.limits"},
}
"""Room -> the rooms, or single modules of them, that its files may import, inside of functions too."""

OUTSIDE: Mapping[str, str] = {
    "__main__.py": "Python looks for it there; it calls the command line",
    "conftest.py": "pytest looks for it there; it is a door of its own beside the command line, and asks as that does",
    "test_training.py": "pytest looks for it there",
    "checks/handwritten": "programs of their own: bare loops beside the worker's, with a command line that starts both",
}
"""Files of bench/ that are in no room, or stand outside of the rules, and why."""


def arrows(path: Path, within: Path = BENCH) -> set[str]:
    """The rooms that a file imports from, other than its own: `room.module`."""
    own = path.relative_to(within).parts[0]
    found = {name.removeprefix("bench.") for name in imports(path) if name.startswith("bench.")}
    return {".".join(name.split(".")[:2]) for name in found if name.partition(".")[0] != own}


def forbidden(path: Path, within: Path = BENCH) -> set[tuple[str, str]]:
    allowed = ROOMS[path.relative_to(within).parts[0]]
    return {
        (path.relative_to(within).as_posix(), name.partition(".")[0])
        for name in arrows(path, within)
        if name not in allowed and name.partition(".")[0] not in allowed
    }


def room_files() -> list[Path]:
    files = (path for path in sorted(BENCH.rglob("*.py")) if path.parent != BENCH)
    return [path for path in files if not path.is_relative_to(BENCH / "checks" / "handwritten")]


@pytest.mark.parametrize("path", room_files(), ids=lambda path: path.relative_to(BENCH).as_posix())
def test_a_room_imports_only_the_rooms_that_it_may(path):
    assert forbidden(path) == set()


def test_an_import_inside_of_a_function_is_an_arrow_too(tmp_path):
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / "late.py"
    path.write_text("def f():\n    from bench.report import markdown\n    import bench.cli.commands\n")
    assert forbidden(path, tmp_path) == {("records/late.py", "report"), ("records/late.py", "cli")}


def test_no_arrow_between_rooms_can_be_turned_round():
    """The table itself has no circle: read from below to above, each room imports only rooms that came before."""
    left = {room: {name.partition(".")[0] for name in allowed} for room, allowed in ROOMS.items()}
    while free := [room for room, allowed in left.items() if not allowed & set(left)]:
        for room in free:
            del left[room]
    assert left == {}


def test_bench_is_its_rooms_and_what_python_and_pytest_look_for():
    entries = {path.name for path in BENCH.iterdir() if path.name != "__pycache__"}
    assert entries == {*ROOMS, "__init__.py", *(name for name in OUTSIDE if "/" not in name)}
    assert len(entries) <= 14
    assert all((BENCH / name).exists() and why for name, why in OUTSIDE.items())


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_in_a_sentence_what_it_is_for_and_nothing_else(room):
    (sentence,) = ast.parse((BENCH / room / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(sentence, ast.Expr)
    told = ast.literal_eval(sentence.value)
    assert re.fullmatch(r"[A-Z][^\n]+[.]", told), told
    assert len({(BENCH / other / "__init__.py").read_text() for other in ROOMS}) == len(ROOMS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("bench.campaign.plan", {"scipy", "pandas", "matplotlib", "sklearn"}),  # planning
        ("bench.worker.answer", {"scipy", "pandas", "matplotlib", "rich", "click"}),  # a child, before it is asked
        ("bench.cli.commands", {"scipy", "pandas", "matplotlib"}),  # what a typed command waits for
    ],
)
def test_what_is_not_needed_is_not_imported(module, absent):
    absent = absent | FRAMEWORKS
    program = f"import sys\nimport {module}\nprint(*sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


# What the documents say.


def test_every_task_has_every_preset():
    for name in tasks.TASKS:
        for preset in ("smoke", "quick"):  # these need no data to be downloaded
            chosen = tasks.load(name, preset)
            assert chosen.blocks >= 10
            assert chosen.task.name == name
            assert chosen.task.step_flops > 0
            assert chosen.target.margin


def test_extras_install_what_the_backends_need():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for name, entry in backends.BACKENDS.items():
        required = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in extras[entry.extra]}
        assert set(entry.needs) <= required, name


def test_constraints_pin_every_direct_dependency():
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    project = PYPROJECT["project"]
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    wanted = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in requirements} - {"framework-bench"}
    assert wanted <= pinned, wanted - pinned


def test_there_is_one_way_to_write_a_percentage():
    """A number, a space and the sign: Python's own format leaves the space out."""
    sources = [path for folder in ("bench", "tasks", "backends") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in sources if re.search(r":[+,]?\.\d%\}", path.read_text(encoding="utf-8"))] == []


def test_ci_calls_the_command_that_the_readme_gives():
    command = re.search(r"^FRAMEWORK_BENCH_TEST_BACKENDS=.*pytest.*$", README, re.MULTILINE)
    assert command is not None
    assert command[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_names_only_commands_and_options_that_exist(page):
    import click

    from bench.cli.commands import cli

    commands = {name: {o for p in command.params for o in p.opts} for name, command in cli.commands.items()}
    commands["submit"] |= commands["run"]  # whose options follow
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"framework-bench (\w[^\n`]*)", text):
        name, *words = line.partition("#")[0].split()
        if name in commands:
            options = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
            assert options <= commands[name], line
    for name in re.findall(r"^(?:\S*/)?framework-bench (\S+)", text, re.MULTILINE):
        assert name in commands or name.startswith("-"), name
    for module in re.findall(r"python -m (bench[\w.]*)", text):
        assert find_spec(module), module
    assert isinstance(cli, click.Group)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_links_only_to_what_is_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_of_the_documentation_is_in_its_navigation_and_in_readme_or_index():
    text = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"^  - (\w+\.md)$", text, re.MULTILINE)) == {page.name for page in PAGES[1:]}


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_supported_python_is_the_one_in_the_metadata():
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)


def test_the_citation_names_this_version_and_nobody():
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required by the format, version 1.2.0
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["authors"] == [{"name": "framework-bench contributors"}]
