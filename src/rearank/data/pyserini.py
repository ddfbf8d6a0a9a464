"""BM25 by Lucene itself, through Pyserini's prebuilt indexes (extra ``pyserini``; it needs Java 21).

Our own BM25 needs neither; this one is for the exact figures of published tables, and for the analyzers of languages
other than English. Texts come from the benchmark's collection: only ids and scores are asked of the index.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Annotated, Protocol, cast

from annotated_types import Ge, Interval

from rearank.checks import check_fields
from rearank.data.base import Collection, DataError, assemble, check_depth
from rearank.data.files import plain_id
from rearank.runs import INCIDENTAL
from rearank.types import Candidates, Query

_INSTALL = "pip install 'rearank[pyserini]' and a Java 21 (JAVA_HOME set), or take retriever=bm25, which needs neither"


class Hit(Protocol):
    """One result."""

    @property
    def docid(self) -> str: ...

    @property
    def score(self) -> float: ...


class LuceneSearcher(Protocol):
    """The part of ``pyserini.search.lucene.LuceneSearcher`` that is used here."""

    def set_bm25(self, k1: float, b: float) -> None: ...

    def set_language(self, language: str) -> None: ...

    def batch_search(
        self, queries: list[str], qids: list[str], k: int, threads: int
    ) -> Mapping[str, Sequence[Hit]]: ...


@dataclass(frozen=True)
class Pyserini:
    """First stage: a prebuilt Lucene index, downloaded by Pyserini on first use.

    ``index`` and ``language`` are the benchmark's where they are left empty.
    """

    index: str = ""
    k1: Annotated[float, Ge(0)] = 0.9
    b: Annotated[float, Interval(ge=0, le=1)] = 0.4
    language: str = ""
    threads: Annotated[int, Ge(1)] = field(default=4, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)

    def preflight(self) -> list[str]:
        """What is missing: the package, or a Java."""
        if find_spec("pyserini") is None:
            return [f"retriever=pyserini: the package pyserini is missing; {_INSTALL}"]
        if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
            return [f"retriever=pyserini: no Java here (JAVA_HOME isn't set, java isn't found); {_INSTALL}"]
        return []

    def fitted(self, index: str, language: str) -> Pyserini:
        return replace(self, index=self.index or index, language=self.language or language)

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        """As `Retriever` says; raises `DataError` where the index, the package or Java is missing."""
        check_depth(depth)
        return assemble(collection, queries, self.search(self._searcher(collection.name), queries, depth))

    def search(
        self, searcher: LuceneSearcher, queries: Mapping[str, Query], depth: int
    ) -> dict[str, list[tuple[str, float]]]:
        """Query id -> (passage id, score), best first, asked of ``searcher``."""
        searcher.set_bm25(self.k1, self.b)
        if self.language not in ("", "en"):
            searcher.set_language(self.language)
        texts = [query.text for query in queries.values()]
        found = searcher.batch_search(texts, list(queries), k=depth, threads=self.threads)
        # Its own order: it breaks ties by document id, as trec_eval does not.
        return {qid: [(plain_id(hit.docid), float(hit.score)) for hit in hits] for qid, hits in found.items()}

    def _searcher(self, name: str) -> LuceneSearcher:
        if not self.index:
            raise DataError(f"{name}: no prebuilt index is known for it; name one of Pyserini's (retriever.index=...)")
        if missing := self.preflight():
            raise DataError(f"{name}: {missing[0]}")
        try:
            from pyserini.search.lucene import LuceneSearcher as Searcher  # type: ignore[import-not-found]

            searcher = Searcher.from_prebuilt_index(self.index)
        except Exception as error:  # Java's own exceptions, the network's: they have no base in common
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"{name}: Pyserini can't open {self.index!r} ({type(error).__name__}: {reason}); it needs Java 21 and, "
                f"the first time, the network: {_INSTALL}"
            ) from error
        if searcher is None:
            raise DataError(f"{name}: Pyserini has no prebuilt index {self.index!r}; see its list for the names")
        return cast(LuceneSearcher, searcher)
