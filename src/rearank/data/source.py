"""Where judged candidates come from: one collection with its first stage, or several joined.

`Source` and `Joined` are what most nodes of ``conf/dataset`` build to; one that holds training rows already is a
`HoldsRows`. Passages that a query must not be answered with are taken out here, once, for training and evaluation
alike: see `split_judgements`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from rearank.checks import check_fields
from rearank.data.base import DataError
from rearank.types import Candidates, JudgedWindow, Message, Qrels

EXCLUDED = -100
"""The grade by which BRIGHT marks a passage as excluded for a query (the query was made from it)."""


@dataclass(frozen=True, slots=True)
class Judgements:
    """What is judged, and what a query's candidates must not hold: both query id -> passage ids.

    ``grades`` has no query without a grade, and no excluded passage.
    """

    grades: dict[str, dict[str, int]]
    excluded: dict[str, frozenset[str]]

    def allowed(self, query_id: str, ranked: Iterable[str]) -> list[str]:
        """``ranked`` without what is excluded for the query."""
        excluded = self.excluded.get(query_id, frozenset())
        return [passage for passage in ranked if passage not in excluded]


def split_judgements(qrels: Qrels, own_passage: Literal["keep", "exclude"] = "keep") -> Judgements:
    """Grades apart from exclusions.

    Excluded is what carries the grade `EXCLUDED` (or one below), and with ``own_passage="exclude"`` the passage whose
    id is the query's own: in ArguAna, Quora and SCIDOCS the query is itself in the collection.
    """
    own = own_passage == "exclude"
    excluded = {
        qid: frozenset(p for p, grade in judged.items() if grade <= EXCLUDED)
        | (frozenset({qid}) if own else frozenset())
        for qid, judged in qrels.items()
    }
    grades = {qid: {p: g for p, g in judged.items() if p not in excluded[qid]} for qid, judged in qrels.items()}
    return Judgements(
        {qid: judged for qid, judged in grades.items() if judged},
        {qid: passages for qid, passages in excluded.items() if passages},
    )


@dataclass(frozen=True, slots=True)
class JudgedCandidates:
    """A query's first-stage list and all its judgements; excluded passages are in neither."""

    candidates: Candidates
    grades: dict[str, int]


@runtime_checkable
class JudgedSource(Protocol):
    """What training and evaluation ask of a dataset node."""

    @property
    def name(self) -> str:
        """A short name."""
        ...

    def judged(self, depth: int) -> list[JudgedCandidates]:
        """Every judged query with its best ``depth`` candidates, in the order of the topics."""
        ...


@dataclass(frozen=True, slots=True)
class PromptedWindow(JudgedWindow):
    """A judged window that is shown by these messages and by no others; its passages may carry ids only."""

    prompt: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldRows:
    """The rows of a dataset, in its order, and how many were left out for which reason."""

    windows: tuple[PromptedWindow, ...]
    left_out: Mapping[str, int]


@runtime_checkable
class HoldsRows(Protocol):
    """A dataset node whose windows and prompts are made already: neither augmentation nor a prompt node applies."""

    @property
    def name(self) -> str:
        """A short name."""
        ...

    @property
    def prompt(self) -> str | None:
        """The node of ``conf/prompt`` whose wording the rows show, ``None`` where there is none."""
        ...

    def rows(self) -> HeldRows:
        """Every row; raises `DataError` naming the file and the row that can't be used."""
        ...


@dataclass(frozen=True)
class Source:
    """A collection and a first stage over it. Only judged queries are retrieved for.

    Args:
        name: keeps the query ids of joined sources apart.
        collection: a ``rearank.data.Collection``.
        retriever: a ``rearank.data.Retriever``.
        on_empty: what happens to a query without a candidate: an ``error``, ``skip`` it, or ``keep`` it with an empty
            list (evaluation counts it as zero).
        own_passage: ``exclude`` takes out the passage with the query's own id, as BEIR's evaluation does.

    Excluded passages are taken out of the first ``depth`` candidates and nothing moves up from below: the paper's
    BRIGHT runs were made so.
    """

    name: str
    collection: Any
    retriever: Any
    on_empty: Literal["error", "skip", "keep"] = "error"
    own_passage: Literal["keep", "exclude"] = "keep"

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: it keeps the query ids of joined sources apart")
        check_fields(self)

    def judged(self, depth: int) -> list[JudgedCandidates]:
        judgements = split_judgements(self.collection.qrels(), self.own_passage)
        qrels = judgements.grades
        queries = {qid: query for qid, query in self.collection.queries().items() if qid in qrels}
        if not queries:
            raise DataError(
                f"{self.name}: no query has a judgement; check that topics and qrels belong together ("
                f"{len(qrels)} queries are judged, none of them is among the topics)"
            )
        found = self.retriever.retrieve(self.collection, queries, depth)
        lists = {qid: _without(listed, judgements.excluded.get(qid)) for qid, listed in found.items()}
        empty = [qid for qid in queries if not lists[qid].passages]
        if empty and self.on_empty == "error":
            raise DataError(
                f"{self.name}: {len(empty)} of {len(queries)} judged queries have no candidate, the first is "
                f"{empty[0]!r}; give a run that covers them, or set on_empty=skip or on_empty=keep"
            )
        kept = [qid for qid in queries if lists[qid].passages or self.on_empty == "keep"]
        return [JudgedCandidates(lists[qid], dict(qrels[qid])) for qid in kept]


def _without(listed: Candidates, excluded: frozenset[str] | None) -> Candidates:
    """``listed`` less the excluded passages."""
    kept = [n for n, passage in enumerate(listed.passages) if not excluded or passage.id not in excluded]
    if len(kept) == len(listed.passages):
        return listed
    scores = tuple(listed.scores[n] for n in kept) if listed.scores else ()
    return Candidates(listed.query, tuple(listed.passages[n] for n in kept), scores)


@dataclass(frozen=True)
class Joined:
    """Several sources as one. Query ids become ``<source>/<id>``, so that equal ids of two sources stay apart.

    ``members`` are sources by a name of their own, which the config alone uses (``dataset.members.dl21...``).
    """

    name: str
    members: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.members, Mapping) or not self.members:
            raise ValueError("members must map names to sources, at least one")
        names = [member.name for member in self.members.values()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two members are named {twice[0]!r}; give each its own name")

    def judged(self, depth: int) -> list[JudgedCandidates]:
        return [_prefixed(item, member.name) for member in self.members.values() for item in member.judged(depth)]


def _prefixed(item: JudgedCandidates, name: str) -> JudgedCandidates:
    query = replace(item.candidates.query, id=f"{name}/{item.candidates.query.id}")
    return JudgedCandidates(replace(item.candidates, query=query), item.grades)
