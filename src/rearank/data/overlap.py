"""Which training queries are also measured on: found by their text, or by their id and what is judged for them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rearank.types import Query

_SAME_JUDGEMENTS = 0.5
_NUMBERED = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query and the ids of the passages that are relevant to it."""

    query: Query
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training query, and the query of the other set that it equals."""

    training: Query
    other: Query


def overlaps(training: Iterable[JudgedQuery], others: Sequence[JudgedQuery]) -> list[Overlap]:
    """Every query of ``training`` that is also among ``others``.

    Two queries are one where their texts are the same but for case, punctuation and spaces, or where their ids are the
    same and at least half of the relevant passages of one are the other's: equal ids alone are common (``1``, ``2``...)
    and say nothing across collections.
    """
    by_text = {normalised(one.query.text): one for one in reversed(others)}
    by_id: dict[str, list[JudgedQuery]] = defaultdict(list)
    for one in others:
        by_id[unnumbered(one.query.id)].append(one)
    found = []
    for one in training:
        same = by_text.get(normalised(one.query.text))
        if same is None:
            same = next((other for other in by_id[unnumbered(one.query.id)] if _judged_alike(one, other)), None)
        if same is not None:
            found.append(Overlap(one.query, same.query))
    return found


def normalised(text: str) -> str:
    """Lower case and compatibility form, without punctuation (``C#`` and ``C++`` stay what they are)."""
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf")  # without soft hyphens and joiners
    folded = unicodedata.normalize("NFKC", seen).casefold()
    kept = "".join(" " if unicodedata.category(c)[0] in "PZC" and c != "#" else c for c in folded)
    return " ".join(kept.split()) or " ".join(folded.split())


def unnumbered(query_id: str) -> str:
    """``q#1`` and ``q#2`` are windows of the query ``q``."""
    return _NUMBERED.sub("", query_id)


def families(texts: Mapping[str, str]) -> dict[str, str]:
    """Query id -> the first id, by the alphabet, of those that are one query: of one text, or ``q#1`` and ``q#2``.

    ``texts``: query id -> its text.
    """
    names: dict[str, str] = {}
    found = {}
    for query in sorted(texts):
        text, base = f"text {normalised(texts[query])}", f"id {unnumbered(query)}"
        found[query] = first = names.get(text) or names.get(base) or query
        names.setdefault(text, first)
        names.setdefault(base, first)
    return found


def _judged_alike(one: JudgedQuery, other: JudgedQuery) -> bool:
    smaller = min(len(one.relevant), len(other.relevant))
    return bool(smaller) and len(one.relevant & other.relevant) >= _SAME_JUDGEMENTS * smaller
