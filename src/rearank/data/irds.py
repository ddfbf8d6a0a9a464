"""Any collection of ``ir_datasets``, by its id.

Passages are looked up by id in the package's own store: MS MARCO v2's 138 million passages are never indexed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rearank.data.base import Collection, DataError, HasScoredDocs, assemble, check_depth, lookup
from rearank.types import Candidates, Passage, Query


def _passage(doc: Any) -> Passage:
    title = getattr(doc, "title", "") or ""
    text = getattr(doc, "text", None)
    return Passage(doc.doc_id, doc.default_text() if text is None else text, title if text is not None else "")


@dataclass(frozen=True)
class Irds:
    """``id`` as in the ir_datasets catalogue, e.g. ``msmarco-passage/trec-dl-2019/judged``.

    Files are downloaded by ir_datasets on first use, to ``IR_DATASETS_HOME``.
    """

    id: str

    @property
    def name(self) -> str:
        return self.id

    @cached_property
    def _dataset(self) -> Any:
        import ir_datasets

        try:
            return ir_datasets.load(self.id)
        except KeyError as error:
            raise DataError(f"ir_datasets has no {self.id!r}; see its catalogue for the ids it knows") from error

    def _having(self, what: str) -> Any:
        if not getattr(self._dataset, f"has_{what}")():
            raise DataError(f"ir_datasets {self.id!r} has no {what}; choose an id that has, or another retriever")
        return self._dataset

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        """A download that fails is said in a line; what ir_datasets raises is a page of attempts."""
        try:
            yield
        except RuntimeError as error:
            if "download" not in str(error).lower():
                raise
            raise DataError(
                f"ir_datasets can't fetch the files of {self.id!r}; check the network, or put them by hand where "
                "ir_datasets looks for them (IR_DATASETS_HOME)"
            ) from error

    def queries(self) -> dict[str, Query]:
        with self._fetching():
            rows = self._having("queries").queries_iter()
            return {q.query_id: Query(q.query_id, q.default_text()) for q in rows}

    def qrels(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        with self._fetching():
            for row in self._having("qrels").qrels_iter():
                found.setdefault(row.query_id, {})[row.doc_id] = int(row.relevance)
        return found

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        wanted = list(ids)
        with self._fetching():
            docs = self._having("docs").docs_store().get_many(wanted)
        return lookup({i: _passage(doc) for i, doc in docs.items()}, wanted, self.id)

    def iter_passages(self) -> Iterator[Passage]:
        with self._fetching():
            for doc in self._having("docs").docs_iter():
                yield _passage(doc)

    def scoreddocs(self) -> dict[str, list[tuple[str, float]]]:
        """The official first-stage lists, by falling score (the given order where scores are equal)."""
        found: dict[str, list[tuple[str, float]]] = {}
        with self._fetching():
            for row in self._having("scoreddocs").scoreddocs_iter():
                found.setdefault(row.query_id, []).append((row.doc_id, float(row.score)))
        return {qid: sorted(rows, key=lambda row: -row[1]) for qid, rows in found.items()}

    def fingerprint(self) -> str:
        # The catalogue pins its sources by checksum: the documents' id and number say which texts they are.
        if namespace := self._having("docs").docs_namespace():
            return f"{namespace}:{self._dataset.docs_count()}"
        # A user's own entry has no pinned source: what ir_datasets serves is hashed. (It keeps a copy of its own:
        # after an edit of the source file, delete the .pklz4 folder beside it.)
        digest = hashlib.sha256()
        for passage in self.iter_passages():
            digest.update(repr(passage).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ScoredDocs:
    """First stage: the lists that the collection itself publishes (TREC DL's official top 100 or 1000)."""

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        check_depth(depth)
        if not isinstance(collection, HasScoredDocs):
            raise DataError(f"{collection.name} publishes no scored documents; choose retriever=bm25 or run_file")
        lists = {qid: rows[:depth] for qid, rows in collection.scoreddocs().items() if qid in queries}
        return assemble(collection, queries, lists)
