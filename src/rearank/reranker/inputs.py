"""What callers hand over -> the vocabulary of ``rearank.types``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from rearank.types import Candidates, Passage, Query, well_formed

QueryLike: TypeAlias = str | Query
PassageLike: TypeAlias = str | Mapping[str, Any] | Passage


def as_query(query: QueryLike, number: int = 0) -> Query:
    """A string becomes a query with its number as its id; raises ``ValueError`` for one without words."""
    if not isinstance(query, (str, Query)):
        raise TypeError(f"a query is a string or a rearank.types.Query, not {type(query).__name__}")
    found = Query(str(number), query) if isinstance(query, str) else query
    if not found.text.strip():
        raise ValueError("the query is empty: there is nothing to rank the passages by")
    return replace(found, text=well_formed(found.text))


def as_candidates(query: QueryLike, passages: Iterable[PassageLike], number: int = 0) -> Candidates:
    """A query with its list; raises ``ValueError`` where two passages have one id."""
    if isinstance(passages, (str, bytes, Mapping)):
        raise TypeError("passages is a list: write [passage] for a single one")
    return Candidates(as_query(query, number), tuple(as_passage(item, i) for i, item in enumerate(passages)))


def as_passage(passage: PassageLike, index: int) -> Passage:
    """A string, or a mapping without an id, has its position in the list as its id.

    Raises:
        TypeError: naming the position, for what is no passage.
        ValueError: for a mapping without ``text``.
    """
    if isinstance(passage, Passage):
        return Passage(passage.id, well_formed(passage.text), well_formed(passage.title))
    if isinstance(passage, str):
        return Passage(str(index), well_formed(passage))
    if not isinstance(passage, Mapping):
        raise TypeError(f"passage {index}: a string, a mapping with 'text' or a Passage, not {type(passage).__name__}")
    if not isinstance(passage.get("text"), str):
        raise ValueError(f"passage {index}: its 'text' is missing or no string; it has {', '.join(map(str, passage))}")
    title = passage.get("title") or ""
    return Passage(str(passage.get("id", index)), well_formed(passage["text"]), well_formed(str(title)))
