"""The libraries that adapters are for, and the examples of the adapters' docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from types import CodeType, ModuleType
from typing import Any

import pytest


def real(name: str) -> Any:
    """The module ``name``; where its package is missing the test file is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, on import
        return pytest.importorskip(name, exc_type=ImportError)


def example(module: ModuleType) -> CodeType:
    """What stands indented in a module's docstring, compiled; it may await."""
    text = inspect.getdoc(module) or ""
    _, _, rest = text.partition("::\n\n")
    lines = rest.splitlines()
    end = next((i for i, line in enumerate(lines) if line and not line.startswith("    ")), len(lines))
    source = textwrap.dedent("\n".join(lines[:end]))
    assert source.strip(), f"{module.__name__} has no example"
    return compile(source, module.__name__, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def run_example(module: ModuleType, **given: Any) -> dict[str, Any]:
    """Its names after it ran as it is written; ``given`` are those that it takes for granted."""
    names = dict(given)
    exec(example(module), names)
    return names
