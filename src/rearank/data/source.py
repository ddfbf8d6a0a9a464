"""Where judged candidates come from: one collection with its first stage, or several joined.

`Source` and `Joined` are what the nodes of ``conf/dataset`` build to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from rearank.data.base import DataError
from rearank.types import Candidates


@dataclass(frozen=True, slots=True)
class JudgedCandidates:
    """A query's first-stage list and all its judgements."""

    candidates: Candidates
    grades: dict[str, int]


class JudgedSource(Protocol):
    """What training and evaluation ask of a dataset node."""

    @property
    def name(self) -> str:
        """A short name."""
        ...

    def judged(self, depth: int) -> list[JudgedCandidates]:
        """Every judged query with its best ``depth`` candidates, in the order of the topics."""
        ...


@dataclass(frozen=True)
class Source:
    """A collection and a first stage over it. Only judged queries are retrieved for.

    ``on_empty`` says what happens to a query for which the first stage finds nothing: an ``error``, ``skip`` it, or
    ``keep`` it with an empty list (evaluation counts it as zero).
    """

    name: str
    collection: Any
    retriever: Any
    on_empty: Literal["error", "skip", "keep"] = "error"

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: it keeps the query ids of joined sources apart")
        if self.on_empty not in ("error", "skip", "keep"):
            raise ValueError(f"on_empty must be error, skip or keep, not {self.on_empty!r}")

    def judged(self, depth: int) -> list[JudgedCandidates]:
        qrels = self.collection.qrels()
        queries = {qid: query for qid, query in self.collection.queries().items() if qrels.get(qid)}
        if not queries:
            raise DataError(
                f"{self.name}: no query has a judgement; check that topics and qrels belong together ("
                f"{len(qrels)} queries are judged, none of them is among the topics)"
            )
        lists = self.retriever.retrieve(self.collection, queries, depth)
        empty = [qid for qid in queries if not lists[qid].passages]
        if empty and self.on_empty == "error":
            raise DataError(
                f"{self.name}: {len(empty)} of {len(queries)} judged queries have no candidate, the first is "
                f"{empty[0]!r}; give a run that covers them, or set on_empty=skip or on_empty=keep"
            )
        kept = [qid for qid in queries if lists[qid].passages or self.on_empty == "keep"]
        return [JudgedCandidates(lists[qid], dict(qrels[qid])) for qid in kept]


@dataclass(frozen=True)
class Joined:
    """Several sources as one. Query ids become ``<source>/<id>``, so that equal ids of two sources stay apart."""

    name: str
    members: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("members must list at least one source")
        _refuse_repeated(member.name for member in self.members)

    def judged(self, depth: int) -> list[JudgedCandidates]:
        return [_prefixed(item, member.name) for member in self.members for item in member.judged(depth)]


def _refuse_repeated(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two members are named {name!r}; give each its own name")
        seen.add(name)


def _prefixed(item: JudgedCandidates, name: str) -> JudgedCandidates:
    query = replace(item.candidates.query, id=f"{name}/{item.candidates.query.id}")
    return JudgedCandidates(replace(item.candidates, query=query), item.grades)
