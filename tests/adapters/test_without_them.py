"""Where a library is missing: importing its adapter says which extra brings it, and importing rearank needs none."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("adapter", "package", "extra"),
    [
        ("mcp", "mcp", "mcp"),
        ("langchain", "langchain_core", "langchain"),
        ("llamaindex", "llama_index.core", "llamaindex"),
        ("rerankers", "rerankers", "rerankers"),
        ("haystack", "haystack", "haystack"),
        ("verifiers", "verifiers", "verifiers"),
    ],
)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, adapter: str, package: str, extra: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"rearank.adapters.{adapter}", raising=False)
    with pytest.raises(ImportError, match=rf"install rearank's extra {extra} \(pip install -e '\.\[{extra}\]'\)"):
        importlib.import_module(f"rearank.adapters.{adapter}")


def test_the_library_alone_imports_none_of_them() -> None:
    code = (
        "import sys, rearank.adapters\nfrom rearank import Reranker\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules}"
        " & {'mcp', 'langchain_core', 'llama_index', 'rerankers', 'haystack', 'verifiers', 'sentence_transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
