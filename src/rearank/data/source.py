"""Where judged candidates come from: one collection with its first stage, or several joined.

`Source` and `Joined` are what most nodes of ``conf/dataset`` build to; one that holds training rows already is a
`HoldsRows`. Passages that a query must not be answered with are taken out here, once, for training and evaluation
alike: see `split_judgements`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from rearank.checks import check_fields
from rearank.data.base import DataError
from rearank.data.coverage import Coverage, coverage_of
from rearank.types import MAX_GRADE, Candidates, JudgedWindow, Message, Passage, Qrels, Query, scorable, well_formed

EXCLUDED = -100
"""The grade by which BRIGHT marks a passage as excluded for a query (the query was made from it)."""
_log = logging.getLogger(__name__)


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
    id is the query's own: in ArguAna, Quora and SCIDOCS the query is itself in the collection. Raises `DataError` for
    a grade beyond ``MAX_GRADE``.
    """
    for qid, judged in qrels.items():
        for passage, grade in judged.items():
            if not -MAX_GRADE <= grade <= MAX_GRADE:
                raise DataError(f"query {qid!r}: grade {grade} of passage {passage!r} is beyond {MAX_GRADE}; mend it")
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


@dataclass(frozen=True, slots=True)
class Covered:
    """Judged queries with their candidates, and what was missing."""

    items: tuple[JudgedCandidates, ...]
    coverage: Coverage


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
    completion: str | None = None
    """An answer that comes with it, for fine-tuning (``sft.targets=given``)."""


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
        return list(self.covered(depth).items)

    def covered(self, depth: int) -> Covered:
        """As ``judged``, with the counts of what is missing; these are logged in one line.

        Raises:
            DataError: where nothing can be measured, or a text or an id can't be used.
        """
        judgements = split_judgements(self.collection.qrels(), self.own_passage)
        qrels, topics = judgements.grades, self.collection.queries()
        queries = {qid: _sound_query(query, self.name) for qid, query in topics.items() if qid in qrels}
        found = self.retriever.retrieve(self.collection, queries, depth) if queries else {}
        lists = {
            qid: _allowed(found.get(qid, Candidates(query, ())), judgements.excluded.get(qid, frozenset()), self.name)
            for qid, query in queries.items()
        }
        coverage = coverage_of(self.name, self.collection, topics, qrels, lists)
        empty = [qid for qid in queries if not lists[qid].passages]
        if empty and self.on_empty == "error":
            raise DataError(
                f"{self.name}: {len(empty)} of {len(queries)} judged queries have no candidate, the first is "
                f"{empty[0]!r}; give a run that covers them, or set dataset.on_empty=skip to leave them out"
            )
        if line := coverage.line(self.on_empty == "keep"):
            _log.warning("%s: %s", self.name, line)
        kept = [qid for qid in queries if lists[qid].passages or self.on_empty == "keep"]
        return Covered(tuple(JudgedCandidates(lists[qid], dict(qrels[qid])) for qid in kept), coverage)


def _allowed(listed: Candidates, excluded: frozenset[str], name: str) -> Candidates:
    """``listed`` less the excluded passages, with texts that can be read."""
    kept = [n for n, passage in enumerate(listed.passages) if passage.id not in excluded]
    passages = tuple(_sound_passage(listed.passages[n], name) for n in kept)
    return Candidates(listed.query, passages, tuple(listed.scores[n] for n in kept) if listed.scores else ())


def _sound_query(query: Query, name: str) -> Query:
    _check_id(query.id, f"{name}: the query id")
    return replace(query, text=well_formed(query.text))


def _sound_passage(passage: Passage, name: str) -> Passage:
    _check_id(passage.id, f"{name}: the passage id")
    if passage.text.isascii() and passage.title.isascii():
        return passage
    return replace(passage, text=well_formed(passage.text), title=well_formed(passage.title))


def _check_id(identifier: str, what: str) -> None:
    """What the readers of files see to; collections and first stages of a user's own may not."""
    if identifier.split() != [identifier] or not scorable(identifier):
        raise DataError(
            f"{what} {identifier!r} is empty or holds a space, a NUL or half a character (a lone surrogate), which run "
            "files and trec_eval can't carry; give it another one"
        )


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
