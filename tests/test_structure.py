"""The rules that keep the structure: who may import whom, and what the documents say about the code."""

import ast
import re
import sys
import tomllib
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
    allowed = OWN.get(path.stem.rpartition("_")[2], set()) if path.parent.name == "handwritten" else set()
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


def test_every_task_has_every_preset():
    for name in tasks.TASKS:
        for preset in ("smoke", "quick"):  # these need no data to be downloaded
            chosen = tasks.load(name, preset)
            assert chosen.blocks >= 10
            assert chosen.block_steps * chosen.blocks >= 30
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


def test_ci_calls_the_command_that_the_readme_gives():
    command = re.search(r"^FRAMEWORK_BENCH_TEST_BACKENDS=.*pytest.*$", README, re.MULTILINE)
    assert command is not None
    assert command[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_readme_names_only_options_that_exist():
    import click

    from bench.cli.commands import cli

    commands = {name: {o for p in command.params for o in p.opts} for name, command in cli.commands.items()}
    for line in re.findall(r"framework-bench (\w[^\n`]*)", README):
        name, *words = line.split()
        if name in commands:
            options = {word for word in words if word.startswith("--")} - {"--help"}
            assert options <= commands[name], line
    assert isinstance(cli, click.Group)


def test_readme_lists_every_top_level_folder_and_file_that_it_links_to():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


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
