"""What a result depends on besides its settings: the code that decides it.

A reward that was edited makes another result, whether the class lies here or in a user's own package, and so does a
helper module that it imports. Comments, docstrings and formatting don't.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

DECIDES_NOTHING = frozenset({"rearank.moved", "rearank.progress", "rearank.runs", "rearank.tracking"})
"""Modules, and all below them, that show and keep what was computed: they count for no result."""
NO_SOURCE = "no source"


def code_of(*used: object) -> dict[str, str]:
    """Digests of the code behind objects: of the modules that define their classes, and of what these import.

    An import counts wherever it stands, in a function too, but only within the module's own top-level package (other
    packages have versions). A name that a package passes on counts as the module that defines it, so that a class
    doesn't depend on its neighbours. What is imported for type checking alone doesn't count.

    Args:
        used: objects, classes or modules; of a dataclass, a list or a mapping all that is in it counts, too.

    Returns:
        Module name -> 16 hexadecimal digits, sorted by name; ``NO_SOURCE`` for a module without a file.
    """
    found: dict[str, str] = {}
    waiting = sorted({name for one in used for name in _modules(one)})
    while waiting:
        name = waiting.pop()
        if name in found or decides_nothing(name):
            continue
        source = _source(name)
        found[name] = NO_SOURCE if source is None else source.digest
        if source is not None:
            waiting += source.imports
    return dict(sorted(found.items()))


def modules_alone(*names: str) -> dict[str, str]:
    """Digests of these modules without what they import, as ``code_of`` gives them."""
    sources = {name: _source(name) for name in names}
    return {name: NO_SOURCE if source is None else source.digest for name, source in sources.items()}


def _modules(one: object) -> Iterator[str]:
    """Of the classes that an object and its parts belong to; of plain values none."""
    if isinstance(one, Mapping):
        one = list(one.values())
    if isinstance(one, list | tuple | set | frozenset):
        for part in one:
            yield from _modules(part)
        return
    name = getattr(one, "__name__", "") if isinstance(one, ModuleType) else getattr(one, "__module__", "")
    if isinstance(name, str) and name and name != "builtins":
        yield name
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        for field in dataclasses.fields(one):
            yield from _modules(getattr(one, field.name))


def decides_nothing(name: str) -> bool:
    """Whether a module, by its name, counts for no result."""
    return any(name == module or name.startswith(f"{module}.") for module in DECIDES_NOTHING)


class _Source:
    """A module's parsed file."""

    def __init__(self, name: str, path: Path) -> None:
        self.tree = ast.parse(path.read_bytes())
        self._package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self._top = name.partition(".")[0]
        self.digest = hashlib.sha256(json.dumps(_plain(self.tree)).encode()).hexdigest()[:16]

    @cached_property
    def imports(self) -> list[str]:
        """Modules of its own top-level package; found when asked for, as two modules may import each other."""
        return sorted(set(self._own_imports()))

    def _own_imports(self) -> Iterator[str]:
        for node in _running(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if self._is_own(alias.name))
            elif isinstance(node, ast.ImportFrom) and self._is_own(module := self.origin(node)):
                yield from (_definer(module, alias.name) for alias in node.names)

    def _is_own(self, module: str) -> bool:
        return module.partition(".")[0] == self._top

    def origin(self, node: ast.ImportFrom) -> str:
        """The module that an import takes from, relative ones resolved."""
        above = self._package.split(".")[: len(self._package.split(".")) - node.level + 1] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from _running(other)
            continue
        yield node
        yield from _running(node)


def _definer(module: str, name: str, depth: int = 0) -> str:
    """The module that defines what ``from module import name`` gives."""
    if _file(submodule := f"{module}.{name}") is not None:
        return submodule
    source = _source(module)
    if source is None or depth > 20:
        return module
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and _source(source.origin(node)) is not None:
                    return _definer(source.origin(node), alias.name, depth + 1)
    return module


def _source(name: str) -> _Source | None:
    path = _file(name)
    if path is None:
        return None
    state = path.stat()
    try:
        return _parsed(name, path, state.st_mtime_ns, state.st_size)
    except (SyntaxError, UnicodeDecodeError):
        return None


@lru_cache(maxsize=1024)
def _parsed(name: str, path: Path, changed: int, size: int) -> _Source:
    return _Source(name, path)


def _file(name: str) -> Path | None:
    """The module's file, found on disk: nothing is imported, for what a module does when it is imported is its own."""
    there = getattr(sys.modules.get(name), "__file__", None)
    if there is not None:
        return path if (path := Path(there)).suffix == ".py" and path.is_file() else None
    top, *inside = name.split(".")
    for place in _top(top):
        path = place.joinpath(*inside)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _top(name: str) -> list[Path]:
    """Where a top-level package or module lies; a module's own place has no parts."""
    if (loaded := getattr(sys.modules.get(name), "__path__", None)) is not None:
        return [Path(place) for place in loaded]
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix("")] if spec.has_location and spec.origin else []


def _plain(node: Any) -> Any:
    """A syntax tree as lists, the same in every version of Python: empty fields and docstrings are left out."""
    if isinstance(node, ast.AST):
        fields = ((name, _plain(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, *([name, value] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_text_alone(item)]
    return node if isinstance(node, str | int | None) and not isinstance(node, bool) else repr(node)


def _is_text_alone(node: Any) -> bool:
    """A docstring, of an attribute too: an expression that is nothing but a text."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
