"""What a collection and a first stage are, and how bad data is reported.

A `Collection` holds texts, queries and judgements; a `Retriever` gives each query its first-stage list. Either may be
a user's own class: these are protocols, nothing needs to be inherited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from rearank.types import Candidates, Passage, Query

_LONGEST_PART = 1000  # characters at the beginning and at the end of a message


class DataError(ValueError):
    """Data that can't be used as it is: the message opens with ``file:line:`` where it can, and says the remedy."""

    def __init__(self, message: str) -> None:
        # What it repeats of a file may be of any length.
        long = len(message) > 2 * _LONGEST_PART
        super().__init__(f"{message[:_LONGEST_PART]} [...] {message[-_LONGEST_PART:]}" if long else message)


@runtime_checkable
class Collection(Protocol):
    """Passages, queries and relevance judgements under one name."""

    @property
    def name(self) -> str:
        """A short name for tables and for keeping query ids of several collections apart."""
        ...

    def queries(self) -> dict[str, Query]:
        """Every query by its id, in the source's order."""
        ...

    def qrels(self) -> dict[str, dict[str, int]]:
        """Judgements: query id -> passage id -> grade. A negative grade is kept and counts as not relevant."""
        ...

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        """The passages of these ids; raises `DataError` if the collection lacks one."""
        ...

    def iter_passages(self) -> Iterator[Passage]:
        """Every passage, in the source's order."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the passages change: cached indexes are kept under it."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """A first stage."""

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        """At most ``depth`` candidates for each of ``queries``, best first.

        Every query has an entry; one for which nothing was found has an empty list. Raises `DataError` if a candidate
        isn't in the collection.
        """
        ...


@runtime_checkable
class HasScoredDocs(Protocol):
    """A collection that publishes its own first-stage lists."""

    def scoreddocs(self) -> dict[str, list[tuple[str, float]]]:
        """Query id -> (passage id, score), best first."""
        ...


@runtime_checkable
class KnowsIds(Protocol):
    """A collection that can tell at little cost which passages it has."""

    def lacks(self, ids: Iterable[str]) -> set[str]:
        """Those of ``ids`` that it has no passage for."""
        ...


@runtime_checkable
class Fits(Protocol):
    """A first stage that works otherwise for each benchmark: by its language, or with an index made for it."""

    def fitted(self, index: str, language: str) -> Retriever:
        """The one for a benchmark.

        Args:
            index: name of Pyserini's prebuilt index, empty where there is none.
            language: ISO 639-1 code of the passages.
        """
        ...


def check_depth(depth: int) -> None:
    """Raise ``ValueError`` unless ``depth`` asks for at least one candidate."""
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")


def check_covers(lists: Mapping[str, object], queries: Mapping[str, Query], where: str | Path) -> None:
    """Raise `DataError` where a first stage has a list for none of ``queries``: every measure would be 0."""
    if queries and not any(qid in lists for qid in queries):
        held = f"its {len(lists)} queries begin with {next(iter(lists))!r}" if lists else "it is empty"
        raise DataError(
            f"{where}: no list for any of the {len(queries)} queries asked for, which begin with "
            f"{next(iter(queries))!r} ({held}); give the run of these topics"
        )


def lookup(known: Mapping[str, Passage], ids: Iterable[str], where: str | Path) -> dict[str, Passage]:
    """The passages of ``ids``, or a `DataError` that names the first absent ones."""
    wanted = list(dict.fromkeys(ids))
    absent = [i for i in wanted if i not in known]
    if absent:
        raise DataError(
            f"{where}: {len(absent)} of {len(wanted)} passages asked for aren't in the collection, the first is "
            f"{absent[0]!r}; use the run and the documents of the same collection"
        )
    return {i: known[i] for i in wanted}


def assemble(
    collection: Collection, queries: Mapping[str, Query], lists: Mapping[str, list[tuple[str, float]]]
) -> dict[str, Candidates]:
    """Candidates from ranked ids: all texts are looked up at once."""
    texts = collection.passages(dict.fromkeys(i for qid in queries for i, _ in lists.get(qid, ())))
    try:
        return {
            qid: Candidates(
                query,
                tuple(texts[i] for i, _ in lists.get(qid, ())),
                tuple(score for _, score in lists.get(qid, ())),
            )
            for qid, query in queries.items()
        }
    except ValueError as error:
        raise DataError(f"{collection.name}: {error}; the first stage's list must hold each passage once") from error
