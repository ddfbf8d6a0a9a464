"""Lists whose texts are a collection's: a TREC run's, read query by query, and a first stage's, found in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from rearank.data import DataError
from rearank.data.base import KnowsIds
from rearank.data.files import read_lines, shown
from rearank.data.trec import run_row
from rearank.sections import STANDARD
from rearank.tasks.rerank.rows import BadRow, SeenIds, name_of, standard
from rearank.types import Candidates, Passage, Query

_LOOKED_UP = 64  # queries whose texts are looked up together
_SEARCHED = 1000  # queries that are searched for together: a first stage may read its index anew each time


@dataclass(frozen=True)
class _Listed:
    """A query's lines of a run: document id -> (score, rank, line); ``first`` is the line of the first."""

    query: str
    documents: Mapping[str, tuple[float, int, int]]
    first: int

    @property
    def ranked(self) -> list[str]:
        """By falling score, equal ones by rank, as ``read_run`` does."""
        return sorted(self.documents, key=lambda one: (-self.documents[one][0], self.documents[one][1]))


@dataclass(frozen=True)
class RunLists:
    """A TREC run whose lines of one query stand together.

    Args:
        path: of the run; ``-`` for standard input.
        topics: gives the queries.
        collection: has the texts.
    """

    path: str
    topics: Callable[[], Mapping[str, Query]]
    collection: Any

    @cached_property
    def _queries(self) -> Mapping[str, Query]:
        return self.topics()

    def asked(self) -> int:
        """All topics."""
        return len(self._queries)

    def lengths(self) -> Iterator[int | BadRow]:
        """Of each list; no text is looked up, absent ones are found where the collection knows its ids."""
        for one in self._known():
            absent: set[str] = set()
            if isinstance(one, _Listed) and isinstance(self.collection, KnowsIds):
                absent = self.collection.lacks(one.documents)
            if isinstance(one, BadRow):
                yield one
            else:
                yield self._absent(one, next(d for d in one.documents if d in absent)) if absent else len(one.documents)

    def lists(self) -> Iterator[Candidates | BadRow]:
        """With texts."""
        known = self._known()
        while block := list(islice(known, 1 if self.path == STANDARD else _LOOKED_UP)):
            yield from self._with_texts(block)

    def _with_texts(self, block: Iterable[_Listed | BadRow]) -> Iterator[Candidates | BadRow]:
        block = list(block)
        wanted = [document for one in block if isinstance(one, _Listed) for document in one.documents]
        try:
            texts: Mapping[str, Passage] | None = self.collection.passages(dict.fromkeys(wanted))
        except DataError:  # some query's: found below
            texts = None
        for one in block:
            yield one if isinstance(one, BadRow) else self._candidates(one, texts)

    def _candidates(self, one: _Listed, texts: Mapping[str, Passage] | None) -> Candidates | BadRow:
        if texts is None:
            try:
                texts = self.collection.passages(one.documents)
            except DataError:
                return self._absent(one, next(filter(self._is_absent, one.documents)))
        ranked = one.ranked
        scores = tuple(one.documents[document][0] for document in ranked)
        return Candidates(self._queries[one.query], tuple(texts[document] for document in ranked), scores)

    def _is_absent(self, document: str) -> bool:
        try:
            self.collection.passages([document])
        except DataError:
            return True
        return False

    def _absent(self, one: _Listed, document: str) -> BadRow:
        where = f"{name_of(self.path)}:{one.documents[document][2]}"
        return BadRow(
            DataError(
                f"{where}: passage {shown(document)} isn't in the collection {self.collection.name!r}; give the "
                "benchmark whose collection the run is of"
            ),
            {"query": one.query, "passages": one.ranked},
        )

    def _known(self) -> Iterator[_Listed | BadRow]:
        """Lists of queries that are among the topics, each once."""
        seen = SeenIds()
        for one in self._grouped():
            if isinstance(one, BadRow):
                yield one
                continue
            where, row = f"{name_of(self.path)}:{one.first}", {"query": one.query, "passages": one.ranked}
            if one.query not in self._queries:
                first = next(iter(self._queries), None)
                text = f"it has {len(self._queries)} queries, the first is {first!r}"
                remedy = "give the topics of this run (rerank.queries=...)"
                yield BadRow(
                    DataError(f"{where}: query {shown(one.query)} isn't among the topics; {text}: {remedy}"), row
                )
            elif not seen.add(one.query):
                text = f"query {shown(one.query)} has lines further up, too"
                yield BadRow(DataError(f"{where}: {text}; put its lines together (sort -s -k1,1)"), row)
            else:
                yield one

    def _grouped(self) -> Iterator[_Listed | BadRow]:
        name, query, first = name_of(self.path), "", 0
        documents: dict[str, tuple[float, int, int]] = {}
        for number, line in read_lines(name, "run file", standard(self.path)):
            where = f"{name}:{number}"
            try:
                if (row := run_row(line, where)) is None:
                    continue
                if row[0] != query:
                    if documents:
                        yield _Listed(query, documents, first)
                    query, first, documents = row[0], number, {}
                if row[1] in documents:
                    text = f"query {shown(query)}: document {shown(row[1])} occurs twice"
                    raise DataError(f"{where}: {text}; keep one of them")
            except DataError as error:
                yield BadRow(error, line)
                continue
            documents[row[1]] = (row[3], row[2], number)
        if documents:
            yield _Listed(query, documents, first)


@dataclass(frozen=True)
class FoundLists:
    """Queries, and what a first stage finds for them.

    Args:
        topics: gives the queries.
        collection: is searched.
        retriever: searches, for ``depth`` passages a query.
        own_passage: ``exclude`` takes the passage with the query's own id out of its list.
    """

    topics: Callable[[], Mapping[str, Query]]
    collection: Any
    retriever: Any
    depth: int
    own_passage: str

    @cached_property
    def _queries(self) -> Mapping[str, Query]:
        return self.topics()

    def asked(self) -> int:
        """All topics."""
        return len(self._queries)

    def lengths(self) -> Iterator[int | BadRow]:
        """As many as are asked for: nothing is searched for."""
        return (self.depth for _ in self._queries)

    def lists(self) -> Iterator[Candidates | BadRow]:
        """With texts, in the order of the topics; empty where nothing is found."""
        waiting = iter(self._queries.items())
        while block := dict(islice(waiting, _SEARCHED)):
            found = self.retriever.retrieve(self.collection, block, self.depth)
            for identifier, query in block.items():
                listed = found.get(identifier, Candidates(query, ()))
                yield _without(listed, identifier) if self.own_passage == "exclude" else listed


def _without(listed: Candidates, passage: str) -> Candidates:
    kept = [place for place, one in enumerate(listed.passages) if one.id != passage]
    passages = tuple(listed.passages[place] for place in kept)
    return Candidates(listed.query, passages, tuple(listed.scores[place] for place in kept) if listed.scores else ())
