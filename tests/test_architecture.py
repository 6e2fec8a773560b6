"""What docs/design.md and CONTRIBUTING promise about the tree: borders, names and words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "sap_model")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
RAY_MODULES = re.compile(r"pipeline/farm/|sap_model/evaluate/")
AVOIDED = re.compile(
    r"\b(mend(s|ed|ing)?|whole numbers?|be it|gave up|giv(e|en|es|ing) up|for ever|likewise|alike"
    r"|anew|once more|from nothing|what there is|what is there|come to nothing|by itself|of its own"
    r"|(is|are|was|were) told|a second time|it goes on|its like"
    r"|stands? in (its|every|our|each|one))\b",
    re.IGNORECASE,
)
"""Turns of phrase that readers stumbled over; plain words take their place."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imports(path: Path, everywhere: bool = False) -> Iterator[str]:
    """Names of modules that a file imports when it is loaded, or at any time."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else _at_load(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def _at_load(tree: ast.Module) -> Iterator[ast.stmt]:
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        for block in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                pending += [one for one in getattr(node, block, []) if isinstance(one, ast.stmt)]


@pytest.mark.parametrize(
    "module",
    ["pipeline.cli", "pipeline.farm.driver", "pipeline.shards.writer", "sap_model.commands"],
)
def test_only_blender_processes_load_blender(module):
    code = f"import sys, {module}; sys.exit('bpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_tests_have_not_loaded_blender():
    assert "bpy" not in sys.modules, "what it changes in a process, Ray and drivers would inherit"


def test_imports_have_no_circle():
    graph = {name: MODULES.keys() & set(imports(path)) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"imports in a circle: {' → '.join((*above, name))}"
        if name not in done:
            for one in graph[name] - {name}:
                visit(one, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_borders_between_packages_hold():
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        for name in imports(path, everywhere=True):
            top = name.partition(".")[0]
            if place.startswith("pipeline/"):
                assert top != "sap_model", f"{place} imports {name}"
            if top in ("bpy", "mathutils", "infinigen", "infinigen2", "infinigen_examples"):
                assert place.startswith("pipeline/blender/"), f"{place} imports {name}"
            if top == "ray":
                assert RAY_MODULES.match(place), f"{place} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_sibling_folders_share_no_file_name(package):
    places = defaultdict(list)
    for path in (ROOT / package).rglob("*.py"):
        if not path.name.startswith("__"):
            places[path.name, len(path.parts)].append(path.relative_to(ROOT).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_classes_share_no_name(package):
    places = defaultdict(list)
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_prose_is_plain():
    files = [*SOURCES, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/*.md")]
    files += [*(ROOT / "tests").rglob("*.py"), *ROOT.rglob("pipeline/**/*.md"), ROOT / "Makefile"]
    files += [*(ROOT / "dataset_card").glob("*.jinja"), *(ROOT / "infinigen_configs").iterdir()]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        if path != Path(__file__) and path.is_file()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (match := AVOIDED.search(line))
    ]
    assert not found, "\n".join(found)
