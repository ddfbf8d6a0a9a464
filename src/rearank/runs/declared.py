"""What a class declares of its fields: which of them a result depends on.

A field matters unless it says otherwise, where it stands: ``threads: int = field(default=1, metadata=INCIDENTAL)``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from rearank.moved import current

TARGET = "_target_"
INCIDENTAL: Mapping[str, str] = MappingProxyType({"result": "incidental"})
"""Metadata of a field that changes no result: how fast, how patient, where a cache lies, what a table shows."""
SELECTS: Mapping[str, str] = MappingProxyType({"result": "selects"})
"""Metadata of a field that says which results there are, and changes none of them."""


def mattering(node: Any, *, selects: bool = True) -> Any:
    """A plain config without the fields that change no result, and with the names of today's classes.

    Args:
        node: mappings, lists and plain values; a mapping with ``_target_`` is of that class.
        selects: keep the fields that say which results there are.
    """
    if isinstance(node, Mapping):
        left_out = _left_out(str(node.get(TARGET, "")), selects)
        kept = {str(key): mattering(value, selects=selects) for key, value in node.items() if key not in left_out}
        return kept | {TARGET: current(str(node[TARGET]))} if TARGET in node else kept
    return [mattering(item, selects=selects) for item in node] if isinstance(node, list | tuple) else node


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """``key: old -> new`` of every place where two configs differ in what matters.

    A field that a class has gained since, with its default, is no difference.
    """
    return _differences(mattering(old), mattering(new), key)


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = (name for name in dict.fromkeys((*old, *new)) if name in old or not is_default(new, str(name)))
        return [
            line
            for name in names
            for line in _differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if old == new else [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]


def is_default(node: Mapping[str, Any], name: str) -> bool:
    """Whether a node's field has the value that its class gives it by itself."""
    field = _fields(str(node.get(TARGET, ""))).get(name)
    if field is None:
        return False
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return made is not dataclasses.MISSING and plain(made) == node.get(name)


def plain(value: Any) -> Any:
    """A built object as the node that builds it; mappings and lists likewise."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {TARGET: f"{cls.__module__}.{cls.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _left_out(target: str, selects: bool) -> set[str]:
    kinds = {"incidental"} if selects else {"incidental", "selects"}
    return {name for name, field in _fields(target).items() if field.metadata.get("result") in kinds}


_trusted = {"rearank"}


def trust(target: str) -> None:
    """The running config names a class of this package: its code may be run for what folders have stored, too."""
    _trusted.add(target.partition(".")[0])


def is_trusted(target: str) -> bool:
    """Whether the class is rearank's, or of a package that the running config names.

    Folders are passed on: to import whatever they name would let them choose code to run.
    """
    return target.partition(".")[0] in _trusted


def _fields(target: str) -> Mapping[str, dataclasses.Field[Any]]:
    """Of the class of this name; none where there is no such dataclass any more, or none that may be imported."""
    name = current(target)
    return _fields_of(name) if is_trusted(name) or name.rpartition(".")[0] in sys.modules else {}


@cache
def _fields_of(target: str) -> Mapping[str, dataclasses.Field[Any]]:
    place, _, name = target.rpartition(".")
    try:
        cls = getattr(import_module(place), name)
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}
    return {field.name: field for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
