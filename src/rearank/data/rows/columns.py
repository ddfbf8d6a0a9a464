"""Values out of a row by the names that a column map gives, each fault naming the column and its key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rearank.data.base import DataError
from rearank.data.files import read_id, shown
from rearank.types import MAX_GRADE, well_formed

DATASET = "dataset.columns"
"""Where the column map of a dataset is in the config."""


class TextNames(Protocol):
    """What a passage's text and title are called; both may be called as any other field is."""

    @property
    def text(self) -> str: ...

    @property
    def title(self) -> str: ...


def names(row: Mapping[str, Any]) -> str:
    """Of a row's fields, for a message."""
    return repr(", ".join(map(str, row))[:200])[1:-1] or "nothing"  # a name may hold what can't be printed


def value_of(row: Mapping[str, Any], column: str, where: str, key: str) -> Any:
    """What stands under ``column``; a name with dots leads into objects, unless a field is called so.

    Raises `DataError` that lists the columns there are, and names ``dataset.columns.<key>``.
    """
    if column in row:
        return row[column]
    found: Any = row
    for part in column.split("."):
        if not isinstance(found, Mapping) or part not in found:
            there = names(found if isinstance(found, Mapping) else row)
            raise DataError(f"{where}: no column {column!r}; there is {there}: set {DATASET}.{key}=...")
        found = found[part]
    return found


def list_of(row: Mapping[str, Any], column: str, where: str, key: str) -> list[Any]:
    """As ``value_of``, of a list; an object of lists, as the package datasets may give it, is a list of objects."""
    value = value_of(row, column, where, key)
    if isinstance(value, Mapping) and value and all(isinstance(one, list) for one in value.values()):
        if len({len(one) for one in value.values()}) > 1:
            raise DataError(f"{where}: the lists under {column!r} differ in length")
        return [dict(zip(value, one, strict=True)) for one in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise DataError(f"{where}: column {column!r} is {shown(value)}, and a list is expected")
    return value


def text_of(row: Mapping[str, Any], column: str, where: str, key: str) -> str:
    """As ``value_of``, of a text that isn't blank."""
    value = value_of(row, column, where, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: column {column!r} is {shown(value)}, and a text is expected")
    return well_formed(value)


def id_of(row: Mapping[str, Any], column: str, where: str, key: str) -> str:
    """As ``value_of``, of the query's id."""
    return plain(value_of(row, column, where, key), where, "query")


def plain(given: Any, where: str, what: str) -> str:
    """An id as run files can carry it."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f"{where}: the {what} id is {shown(given)}; write a text or a whole number")
    return read_id(str(given), where, what)


def grade_of(given: Any, where: str, column: str) -> int:
    """A whole number; true and false are 1 and 0."""
    grade = int(given) if isinstance(given, bool | int) or (isinstance(given, float) and given.is_integer()) else None
    if grade is None or not -MAX_GRADE <= grade <= MAX_GRADE:
        raise DataError(f"{where}: a grade under {column!r} is {shown(given)}; write a whole number to {MAX_GRADE}")
    return grade


def text_and_title(item: Mapping[str, Any], columns: TextNames, what: str, key: str = DATASET) -> tuple[str, str]:
    """Of a passage; raises `DataError` naming ``<key>.text`` where there is no text."""
    text, title = item.get(columns.text), item.get(columns.title)
    if not isinstance(text, str):
        raise DataError(f"{what}: no text under {columns.text!r}; it has {names(item)}: set {key}.text=...")
    if title is not None and not isinstance(title, str):
        raise DataError(f"{what}: the title is {shown(title)}; write a text, or null where there is none")
    return well_formed(text), well_formed(title or "")


def made_id(*parts: str) -> str:
    """An id for what has none: equal texts have equal ids, here and in every other file."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def check_named(columns: object, alternatives: Sequence[Sequence[str]]) -> None:
    """Raise ``ValueError`` unless of each of ``alternatives`` exactly one column is given a name."""
    for some in alternatives:
        given = [name for name in some if getattr(columns, name) is not None]
        if len(given) != 1:
            which = f"{' and '.join(given)} are" if given else "none is"
            raise ValueError(f"columns: give one of {', '.join(some)} a name; {which} given one")
