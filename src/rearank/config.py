"""A strict node -> a typed object.

A node is ``_target_`` plus the fields of a frozen dataclass. ``build`` checks the node against the dataclass's
structured schema before it constructs anything: Hydra's own ``instantiate`` would take a wrong type in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rearank.moved import current
from rearank.runs.declared import TARGET, is_trusted, plain, trust

_VALUE = "value"
_SIMPLE = {bool, int, float, str, NoneType}


class ConfigError(ValueError):
    """A config that can't be built; the message names the key and what to write instead."""


def build(node: Any, key: str = "", *, stored: bool = False) -> Any:
    """The object that ``node`` describes, nested nodes first.

    The class is looked at once its module is imported, and importing runs the module's code: what the running config
    names is trusted like any other code that one starts, and what a folder has stored is not (``stored``).

    Args:
        node: a mapping (or ``DictConfig``) with ``_target_: package.module.Class``, interpolations resolvable.
        key: the node's place in the config, ``reward`` say, for error messages.
        stored: the node is what some folder holds, which may be anyone's: only rearank's own classes are imported, and
            those of packages that were built from before, as the running config named them.

    Raises:
        ConfigError: for an unknown target, key or type, a missing field, or a value out of range.
    """
    given = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if not isinstance(given, Mapping) or TARGET not in given:
        raise ConfigError(f"{key or 'the node'}: no {TARGET} here, so nothing says which class to build")
    cls = _resolve(str(given[TARGET]), key, stored)
    values = {str(name): value for name, value in given.items() if name != TARGET}
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    _check_names(values, fields, key)
    built = {name: _build_nested(value, _join(key, name), stored) for name, value in values.items()}
    # What was built from a nested node is checked already; plain values go through the structured schema.
    simple = {name: value for name, value in values.items() if built[name] is value}
    checked = _check_types(cls, simple, key)
    try:
        return cls(**{name: checked.get(name, value) for name, value in built.items()})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key or cls.__name__}: {error}") from error


def node_of(built: Any) -> dict[str, Any]:
    """The node that ``build`` turns into an equal object: how one travels to another process.

    Raises ``ConfigError`` for what is no dataclass.
    """
    if not dataclasses.is_dataclass(built) or isinstance(built, type):
        raise ConfigError(f"{type(built).__name__} is not a dataclass, so no node describes it")
    node: dict[str, Any] = plain(built)
    return node


def _resolve(target: str, key: str, stored: bool) -> type[Any]:
    """The class; a stored name is refused before any of its code runs."""
    module_name, _, name = current(target).rpartition(".")
    if not stored:
        trust(module_name)
    elif not is_trusted(module_name):
        package = module_name.partition(".")[0] or target
        raise ConfigError(
            f"{_join(key, TARGET)}: this folder names {target!r}, which is not rearank's, so it isn't imported; where "
            f"you trust {package}, choose one of its classes in this command"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{_join(key, TARGET)}: can't import {target!r} ({error})") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"{_join(key, TARGET)}: {target!r} is not a dataclass, so its fields can't be checked")
    return found


def _check_names(values: Mapping[str, Any], fields: Mapping[str, dataclasses.Field[Any]], key: str) -> None:
    for name in values:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=3, cutoff=0.5) or sorted(fields)
            raise ConfigError(f"{_join(key, name)}: no such key; did you mean {' or '.join(close)}?")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if (required and name not in values) or values.get(name) == "???":
            raise ConfigError(f"{_join(key, name)}: a value is missing; set {_join(key, name)}=...")


def _build_nested(value: Any, key: str, stored: bool) -> Any:
    if _is_node(value):
        return build(value, key, stored=stored)
    if isinstance(value, list) and any(_is_node(item) for item in value):
        return tuple(build(item, f"{key}[{i}]", stored=stored) for i, item in enumerate(value))
    # One node makes it a mapping of nodes: what isn't one there is an error, not a value passed on in silence.
    if isinstance(value, Mapping) and any(_is_node(item) for item in value.values()):
        return {str(name): build(item, _join(key, str(name)), stored=stored) for name, item in value.items()}
    return value


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and TARGET in value


def _check_types(cls: type[Any], values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """``values`` converted by a structured schema made of the dataclass's field types."""
    hints = get_type_hints(cls)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        choices = get_args(hint) if get_origin(hint) is Literal else None
        if choices is not None:
            if value not in choices:
                close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
                hint_text = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(f"{_join(key, name)}: {value!r} is none of {', '.join(map(str, choices))}{hint_text}")
            checked[name] = value
            continue
        if type(value) in _SIMPLE & set(_alternatives(hint)):
            checked[name] = value  # of the very type: nothing to convert
            continue
        schema = _schema(hint)
        if schema is None:
            checked[name] = value  # a type outside OmegaConf's (a Protocol, a Mapping of objects): the class checks it
            continue
        try:
            merged = OmegaConf.merge(schema, {_VALUE: value})
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{_join(key, name)}: {reason} (expected {_type_name(hint)})") from error
        converted = OmegaConf.to_container(merged)[_VALUE]  # type: ignore[call-overload,index]
        checked[name] = tuple(converted) if get_origin(hint) is tuple else converted
    return checked


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


@cache
def _schema(hint: Any) -> Any:
    """A structured config with one field of this type; ``None`` where OmegaConf has no such type."""
    try:
        return OmegaConf.structured(dataclasses.make_dataclass("Field", [(_VALUE, hint)]))
    except OmegaConfBaseException:
        return None


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
