"""BEIR's folder layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rearank.data.base import DataError, lookup
from rearank.data.files import content_hash, require_file
from rearank.data.topics import read_topics
from rearank.data.trec import documents_by_id, read_qrels
from rearank.runs import CONTENT, INCIDENTAL
from rearank.types import Passage, Query

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BeirFolder:
    """A collection in BEIR's layout; files may be gzipped (``corpus.jsonl.gz``).

    ``obtain`` is part of the error where a file is missing: who gives the collection out.
    """

    path: str = field(metadata=CONTENT)
    split: str = "test"
    name: str = "beir"
    obtain: str = field(default="", metadata=INCIDENTAL)

    def _file(self, *parts: str) -> Path:
        plain = Path(self.path, *parts)
        packed = plain.with_name(plain.name + ".gz")
        if packed.is_file():
            return packed
        try:
            return require_file(plain, "file of a BEIR folder")
        except DataError as error:
            raise DataError(f"{error}; {self.name}: {self.obtain}" if self.obtain else str(error)) from None

    @cached_property
    def _corpus(self) -> dict[str, Passage]:
        return documents_by_id(self._file("corpus.jsonl"))

    def queries(self) -> dict[str, Query]:
        return read_topics(self._file("queries.jsonl"))

    def qrels(self) -> dict[str, dict[str, int]]:
        try:
            file = self._file("qrels", f"{self.split}.tsv")
        except DataError as error:
            splits = sorted({path.name.partition(".tsv")[0] for path in Path(self.path, "qrels").glob("*.tsv*")})
            if not splits:
                raise
            raise DataError(f"{error}; the folder's splits are {', '.join(splits)}: set collection.split") from None
        _log.info("%s: judgements of the split %r", self.name, self.split)
        return read_qrels(file)

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return lookup(self._corpus, ids, self._file("corpus.jsonl"))

    def lacks(self, ids: Iterable[str]) -> set[str]:
        return set(ids) - self._corpus.keys()

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self._corpus.values())

    def fingerprint(self) -> str:
        return content_hash(self._file("corpus.jsonl"))
