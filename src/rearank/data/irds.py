"""Any collection of ``ir_datasets``, by its id.

Passages are looked up by id in the package's own store: MS MARCO v2's 138 million passages are never indexed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from textwrap import shorten
from typing import Any, ClassVar

from rearank.data.base import Collection, DataError, HasScoredDocs, assemble, check_covers, check_depth, lookup
from rearank.data.files import plain_id
from rearank.types import Candidates, Passage, Query, well_formed

_FIRST = 100  # passages that tell whether two corpora of one id are the same
_SEARCHED_FOR_SPACES = 1_000_000  # passages: larger collections than BRIGHT's have no ids with spaces


def _passage(doc: Any) -> Passage:
    title = getattr(doc, "title", "") or ""
    text = getattr(doc, "text", None)
    body, title = (doc.default_text(), "") if text is None else (text, title)
    return Passage(plain_id(doc.doc_id), well_formed(body), well_formed(title))


def _query_text(query: Any) -> str:
    return well_formed(str(query.default_text() if hasattr(query, "default_text") else query.text))


def _reason(error: Exception) -> str:
    """Type and first line of what went wrong."""
    first_line = shorten((str(error).splitlines() or [""])[0], 160, placeholder="...")
    return f"{type(error).__name__}{': ' + first_line if first_line else ''}."


@dataclass(frozen=True)
class Irds:
    """``id`` as in the ir_datasets catalogue, e.g. ``msmarco-passage/trec-dl-2019/judged``.

    Files are downloaded by ir_datasets on first use, to ``IR_DATASETS_HOME``. Spaces in ids become ``_``: TREC files
    couldn't hold them.
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
    def _reading(self) -> Iterator[None]:
        """Whatever keeps ir_datasets from giving its data, as a `DataError` with the remedy.

        Its sources fail in many ways without a base in common: the network, a missing or damaged archive, a checksum,
        a licence to confirm, a package that isn't installed.
        """
        try:
            yield
        except (DataError, AttributeError, TypeError, NameError):  # the latter are faults of code, not of data
            raise
        except Exception as error:
            raise DataError(f"ir_datasets can't give {self.id!r}: {_reason(error)} {self._remedy(error)}") from error

    def _remedy(self, error: Exception) -> str:
        import ir_datasets.util

        page = f"https://ir-datasets.com/{self.id.split('/')[0]}.html"
        home = "IR_DATASETS_HOME (by default ~/.ir_datasets)"
        if isinstance(error, ImportError):
            return "Install that package."
        if isinstance(error, FileNotFoundError):
            return f"This file must be obtained by hand: {page} says from whom; lay it there."
        if "disk space" in str(error):
            return f"Make room, or move {home} to a larger disk."
        if isinstance(error, EOFError):
            return f"Its owner asks for a user name and password: {page} says how to get and where to note them."
        if isinstance(error, ir_datasets.util.HashVerificationError):
            return "What was fetched isn't the file that ir_datasets knows: try again; if it stays so, report it there."
        if isinstance(error, OSError) or "download" in str(error).lower():
            return f"Check the network, or lay the files by hand where ir_datasets looks for them: {home}; see {page}."
        return f"A file may be cut short, or another one: remove this collection's folder from {home} and try again."

    def queries(self) -> dict[str, Query]:
        with self._reading():
            rows = self._having("queries").queries_iter()
            return {qid: Query(qid, _query_text(q)) for q in rows if (qid := plain_id(q.query_id))}

    def qrels(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        with self._reading():
            for row in self._having("qrels").qrels_iter():
                found.setdefault(plain_id(row.query_id), {})[plain_id(row.doc_id)] = int(row.relevance)
        return found

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        wanted = list(dict.fromkeys(ids))
        with self._reading():
            store = self._having("docs").docs_store()
            found = {i: _passage(doc) for i, doc in store.get_many(wanted).items()}
            if len(found) < len(wanted) and store.count() <= _SEARCHED_FOR_SPACES:
                spaced = [self._spaced[i] for i in wanted if i not in found and i in self._spaced]
                found |= {plain_id(i): _passage(doc) for i, doc in store.get_many(spaced).items()}
        return lookup(found, wanted, self.id)

    @cached_property
    def _spaced(self) -> dict[str, str]:
        """Ids with spaces by their plain form."""
        return {plain: d.doc_id for d in self._dataset.docs_iter() if (plain := plain_id(d.doc_id)) != d.doc_id}

    def iter_passages(self) -> Iterator[Passage]:
        with self._reading():
            for doc in self._having("docs").docs_iter():
                yield _passage(doc)

    def scoreddocs(self) -> dict[str, list[tuple[str, float]]]:
        """The official first-stage lists, by falling score (the given order where scores are equal)."""
        found: dict[str, list[tuple[str, float]]] = {}
        with self._reading():
            for row in self._having("scoreddocs").scoreddocs_iter():
                found.setdefault(plain_id(row.query_id), []).append((plain_id(row.doc_id), float(row.score)))
        return {qid: sorted(rows, key=lambda row: -row[1]) for qid, rows in found.items()}

    def fingerprint(self) -> str:
        # The catalogue pins its sources by checksum, so the corpus's id says which texts they are; the first ones show
        # whether they really are, where a file was laid by hand. (Neither the namespace nor the number of documents
        # would do: all splits of BRIGHT share the one, and the other isn't known before the store is built.)
        import ir_datasets

        if self._having("docs").docs_namespace():
            first = hashlib.sha256(repr(list(islice(self.iter_passages(), _FIRST))).encode()).hexdigest()
            return f"{ir_datasets.corpus_id(self.id)}:{first}"
        # A user's own entry has no pinned source: what ir_datasets serves is hashed. (It keeps a copy of its own:
        # after an edit of the source file, delete the .pklz4 folder next to it.)
        digest = hashlib.sha256()
        for passage in self.iter_passages():
            digest.update(repr(passage).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ScoredDocs:
    """First stage: the lists that the collection itself publishes (TREC DL's official top 100 or 1000)."""

    shown: ClassVar[str] = "the collection's own lists"

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        check_depth(depth)
        if not isinstance(collection, HasScoredDocs):
            raise DataError(f"{collection.name} publishes no scored documents; choose retriever=bm25 or run_file")
        every = collection.scoreddocs()
        check_covers(every, queries, collection.name)
        lists = {qid: rows[:depth] for qid, rows in every.items() if qid in queries}
        return assemble(collection, queries, lists)
