"""BRIGHT as the paper's authors and Rank-R1's ship it: one archive, unpacked to one folder.

Per split (``biology``, ``earth_science``...): ``pyserini_corpus/<split>/<split>.jsonl`` with ``id`` and ``contents``,
``pyserini_queries/<split>.tsv``, ``pyserini_qrels/<split>.tsv`` in TREC's four columns, and the BM25 lists
``runs_bm25/bm25.<split>.filtered.trec``, from which excluded passages were removed already. The first three may also
lie in a folder ``data`` of their own, as the archive's makers keep them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rearank.data.base import Collection, DataError
from rearank.data.files import require_file
from rearank.data.trec import RunFile, TrecFiles
from rearank.runs import CONTENT
from rearank.types import Candidates, Passage, Query

_HOW = (
    "unpack the archive named in conf/benchmark/bright_archive.yaml and give its folder (paths.data or collection.path)"
)


def _find(folder: str, *parts: str) -> str:
    """A file of the archive, in its folder or in ``data`` below it; one that isn't there is named by the first."""
    places = [Path(folder, *parts), Path(folder, "data", *parts)]
    return str(next((place for place in places if place.is_file()), places[0]))


@dataclass(frozen=True)
class BrightArchive:
    """One split of the archive as a collection."""

    path: str = field(metadata=CONTENT)
    split: str

    @property
    def name(self) -> str:
        return f"bright_{self.split}"

    @cached_property
    def _files(self) -> TrecFiles:
        docs = _find(self.path, "pyserini_corpus", self.split, f"{self.split}.jsonl")
        try:
            require_file(docs, "corpus of the BRIGHT archive")
        except DataError as error:
            raise DataError(f"{error}; {_HOW}") from None
        topics, qrels = (_find(self.path, f"pyserini_{what}", f"{self.split}.tsv") for what in ("queries", "qrels"))
        return TrecFiles(docs, topics, qrels, name=self.name, check_qrels=False)

    def queries(self) -> dict[str, Query]:
        return self._files.queries()

    def qrels(self) -> dict[str, dict[str, int]]:
        return self._files.qrels()

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return self._files.passages(ids)

    def lacks(self, ids: Iterable[str]) -> set[str]:
        return self._files.lacks(ids)

    def iter_passages(self) -> Iterator[Passage]:
        return self._files.iter_passages()

    def fingerprint(self) -> str:
        return self._files.fingerprint()


@dataclass(frozen=True)
class BrightArchiveRun:
    """First stage: the archive's own BM25 lists, which are the paper's. For `BrightArchive` alone."""

    shown: ClassVar[str] = "the archive's BM25"

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        if not isinstance(collection, BrightArchive):
            raise DataError(f"{collection.name} is no split of the BRIGHT archive; choose retriever=bm25 or run_file")
        run = _find(collection.path, "runs_bm25", f"bm25.{collection.split}.filtered.trec")
        return RunFile(run).retrieve(collection, queries, depth)
