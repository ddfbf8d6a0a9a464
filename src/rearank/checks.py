"""Ranges of a dataclass's fields, stated where the field is: ``depth: Annotated[int, Ge(2)] = 100``.

The words are those of the package annotated-types. ``Literal`` fields are held to their values, too, and a
``float`` that has a range must be finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

KEPT = "; Hydra keeps command lines in the run's folder (.hydra): take it out there too"
"""Of a key where none belongs."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_NAME = re.compile(r"(?!(?:\D*\d){4})[A-Z0-9]{1,16}(?:_+[A-Z0-9]{1,16})*_*")


def check_variable(field: str, name: str | None) -> None:
    """Raises ``ValueError`` for what is no environment variable's name, without a word of it: it may be a key."""
    if name is not None and not (isinstance(name, str) and _VARIABLE.fullmatch(name)):
        raise ValueError(f"{field} must be the name of an environment variable, not a key{KEPT}")


def shown_variable(name: str) -> str:
    """An environment variable's name for a message; one that looks like a key in the wrong place is not repeated."""
    return name if _PLAIN_NAME.fullmatch(name) else "(not shown: it may be a key)"


def missing_packages(extra: str, *packages: str) -> list[str]:
    """A line for each of ``packages`` that isn't installed; rearank's ``extra`` brings them."""
    return [
        f"the package {name} is missing; install rearank's extra {extra}: pip install 'rearank[{extra}]'"
        for name in packages
        if find_spec(name.replace("-", "_")) is None
    ]


def check_fields(one: object) -> None:
    """Raise ``ValueError`` naming the first field of a dataclass that is out of its range; ``None`` is in any.

    Meant for ``__post_init__``. Of a tuple each item is held to the range of the items' type.
    """
    for name, hint in _constrained(type(one)):  # type: ignore[arg-type]  # a class is hashable
        _check(name, getattr(one, name), hint)


@cache
def _constrained(cls: Hashable) -> tuple[tuple[str, Any], ...]:
    """(field, type) of those that a range or a set of values is stated for."""
    hints, names = get_type_hints(cls, include_extras=True), {field.name for field in fields(cast(Any, cls))}
    return tuple((name, hint) for name, hint in hints.items() if name in names and _says(hint))


def _says(hint: Any) -> bool:
    return get_origin(hint) in (Annotated, Literal) or any(map(_says, get_args(hint)))


def _check(name: str, value: Any, hint: Any) -> None:
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}")
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        bounds = [bound for one in metadata for bound in (one if isinstance(one, Interval) else (one,))]
        if not all(_within(value, bound) for bound in bounds):
            raise ValueError(f"{name} must {_words(bounds)}, not {value}")
        _check(name, value, inner)
    elif get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} must be {' or '.join(map(repr, get_args(hint)))}, not {value!r}")
    elif isinstance(value, tuple):
        for item in value:
            _check(name, item, get_args(hint)[0])
    elif choices := [one for one in get_args(hint) if _fits(value, one)]:
        _check(name, value, choices[0])


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of this member of a union; a number or text is held to the member that says most."""
    if get_origin(hint) is Annotated:
        return _fits(value, get_args(hint)[0])
    if get_origin(hint) is Literal:
        return any(type(value) is type(one) for one in get_args(hint))
    return (hint is float and isinstance(value, int)) or (isinstance(hint, type) and isinstance(value, hint))


def _within(value: Any, bound: object) -> bool:
    match bound:
        case Ge(limit):
            return bool(value >= limit)
        case Gt(limit):
            return bool(value > limit)
        case Le(limit):
            return bool(value <= limit)
        case Lt(limit):
            return bool(value < limit)
    return True


def _words(bounds: list[object]) -> str:
    """``be above 0 and at most 1``; of a lower bound of 0 alone, ``not be negative``."""
    return "not be negative" if bounds == [Ge(0)] else f"be {' and '.join(map(_word, bounds))}"


def _word(bound: object) -> str:
    match bound:
        case Ge(limit):
            return f"at least {limit}"
        case Gt(limit):
            return f"above {limit}"
        case Le(limit):
            return f"at most {limit}"
        case Lt(limit):
            return f"below {limit}"
    return str(bound)
