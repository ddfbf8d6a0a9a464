"""A collection of one's own for ``experiment=own``: queries to train on and queries held out, judged or by a teacher.

The same folder is the dataset and the benchmark; ``part`` says which of its queries each of them sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Interval

from rearank.checks import check_fields
from rearank.data.base import Collection, DataError, Fits
from rearank.data.beir import BeirFolder
from rearank.data.overlap import families
from rearank.data.trec import RunFile, read_run
from rearank.runs import CONTENT
from rearank.types import Candidates, Passage, Query

TEACHERS_GRADES = (3, 2, 2, 1, 1, 1, 1, 1, 1, 1)
"""By place in a teacher's order; what stands below counts 0."""


@dataclass(frozen=True)
class OwnCollection:
    """A folder in BEIR's layout, divided into training and held-out queries.

    Args:
        path: the folder.
        part: which queries are judged here, ``train`` or ``held_out``.
        split: of the judgements, ``qrels/<split>.tsv``.
        held_out_split: another one whose queries are held out; ``null``: a share of those of ``split``.
        held_out: that share. It goes by the query's id and the seed: another query moves none between the parts. Ids of
            one text go together.
        judged_by: a TREC run of a teacher's in place of judgements: grades by place in its order. Every query of it is
            divided, and no ``qrels`` are read.
        seed: of the share.
        name: in tables.
    """

    path: str | None = field(metadata=CONTENT)
    part: Literal["train", "held_out"]
    split: str = "train"
    held_out_split: str | None = None
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.3
    judged_by: str | None = field(default=None, metadata=CONTENT)
    seed: int = 1
    name: str = "own"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.path:
            raise ValueError("path must be your folder in BEIR's layout: own.collection=my/folder")
        if self.judged_by is not None and self.held_out_split is not None:
            raise ValueError("judged_by divides the queries of a teacher's run by held_out; leave held_out_split out")
        if self.held_out_split == self.split:
            raise ValueError(f"held_out_split and split are both {self.split!r}: what is trained on would be measured")

    @cached_property
    def _folder(self) -> BeirFolder:
        chosen = self.held_out_split if self.part == "held_out" and self.held_out_split else self.split
        return BeirFolder(str(self.path), chosen, self.name)

    def queries(self) -> dict[str, Query]:
        return self._folder.queries()

    def qrels(self) -> dict[str, dict[str, int]]:
        every = self._folder.qrels() if self.judged_by is None else grades_of(self.judged_by)
        if self.held_out_split is not None:
            return every
        topics = self.queries()
        first = families({query: topics[query].text if query in topics else query for query in every})
        held_out = {query for query in every if _share(first[query], self.seed) < self.held_out}
        if not held_out or len(held_out) == len(every):
            raise DataError(
                f"{self.judged_by or self.path}: {len(every)} judged queries can't be divided into training and "
                f"held-out ones with own.held_out={self.held_out:g}; judge more, or name another split "
                "(own.held_out_split)"
            )
        return {query: judged for query, judged in every.items() if (query in held_out) == (self.part == "held_out")}

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return self._folder.passages(ids)

    def lacks(self, ids: Iterable[str]) -> set[str]:
        return self._folder.lacks(ids)

    def iter_passages(self) -> Iterator[Passage]:
        return self._folder.iter_passages()

    def fingerprint(self) -> str:
        return self._folder.fingerprint()


@dataclass(frozen=True)
class OwnFirstStage:
    """The lists to rerank: of a TREC run, or BM25's where ``run`` is ``null``."""

    bm25: Any
    run: str | None = field(default=None, metadata=CONTENT)

    @property
    def label(self) -> str:
        """In tables."""
        return "bm25" if self.run is None else "run"

    def fitted(self, index: str, language: str) -> OwnFirstStage:
        """For a benchmark's language; see ``Fits``."""
        return replace(self, bm25=self.bm25.fitted(index, language)) if isinstance(self.bm25, Fits) else self

    @property
    def chosen(self) -> Any:
        """The first stage that it is."""
        return self.bm25 if self.run is None else RunFile(self.run)

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        found: dict[str, Candidates] = self.chosen.retrieve(collection, queries, depth)
        return found


def grades_of(run: str) -> dict[str, dict[str, int]]:
    """A teacher's order as judgements: ``TEACHERS_GRADES`` by place. Raises ``DataError`` for a file that is no run."""
    return {
        query: {
            passage: TEACHERS_GRADES[place] if place < len(TEACHERS_GRADES) else 0
            for place, (passage, _) in enumerate(ranked)
        }
        for query, ranked in read_run(run).items()
    }


def _share(query: str, seed: int) -> float:
    """In [0, 1), by the id and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"own/{seed}/{query}".encode()).digest()[:6]) / 2**48
