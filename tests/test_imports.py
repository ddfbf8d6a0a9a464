"""How the package is cut: no import circle, no large file or folder, a class name once, few that see the whole run.

Each list of exceptions names what is still to be changed; a new entry needs a reason.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rearank.runs import identity

SRC = Path(__file__).resolve().parent.parent / "src"
MOST_LINES = 350
MOST_FILES = 20  # in a folder

KNOWN_CIRCLES: tuple[frozenset[str], ...] = ()
"""Modules that import one another, whichever way round."""
LARGE_FILES: frozenset[str] = frozenset()
LARGE_FOLDERS: frozenset[str] = frozenset()
SHARED_NAMES: Mapping[str, str] = {}
"""A class's name -> why there are several."""
MAY_TAKE_RUN = frozenset({"rearank/tasks/pipeline.py", "rearank/cli/running.py", "rearank/experiment.py"})
"""Modules whose functions see the whole run; elsewhere only a task's method ``run`` does."""
STILL_TAKE_RUN = frozenset({"rearank/tasks/preflight.py"})
"""The command's own look at the whole run, before a task begins."""


def files() -> dict[str, Path]:
    """Module name -> its file."""
    found = {}
    for path in sorted((SRC / "rearank").rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules that import one another in this order, the first again at the end; empty where there is no circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def imports() -> dict[str, set[str]]:
    """Module -> the modules that it imports anywhere, but for type checking alone.

    A name counts as imported from the module that defines it, not from a package that passes it on.
    """
    found, ours = {}, files()
    for module, path in ours.items():
        source = identity._Source(module, path)
        known = {name for name in source.imports if name in ours and name != module}
        found[module] = {name for name in known if not any({module, name} <= group for group in KNOWN_CIRCLES)}
    return found


def test_no_files_import_one_another() -> None:
    found = circle(imports())
    assert not found, " -> ".join(found)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
    ],
)
def test_a_circle_is_found(given: Mapping[str, set[str]], found: list[str]) -> None:
    assert sorted(set(circle(given))) == sorted(set(found))


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(SRC)): len(path.read_text().splitlines()) for path in SRC.rglob("*.py")}
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert long.keys() <= LARGE_FILES, long


def test_folders_hold_few_files() -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in SRC.rglob("*.py"):
        counts[str(path.parent.relative_to(SRC))] += 1
    full = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert full.keys() <= LARGE_FOLDERS, full


def test_a_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in files().items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    shared = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert shared.keys() <= SHARED_NAMES.keys(), shared


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function with the name of the class around it, ``""`` for none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner, node
        yield from functions(node, node.name if isinstance(node, ast.ClassDef) else owner)


def test_few_functions_take_the_whole_run() -> None:
    takers: dict[str, list[str]] = defaultdict(list)
    for path in files().values():
        for owner, function in functions(tree_of(path)):
            given = function.args
            arguments = (*given.posonlyargs, *given.args, *given.kwonlyargs)
            takes = any(ast.unparse(one) == "run: Run" for one in arguments)
            if takes and not (function.name == "run" and owner.endswith("Task")):
                takers[str(path.relative_to(SRC))].append(function.name)
    assert takers.keys() <= MAY_TAKE_RUN | STILL_TAKE_RUN, dict(takers)
