"""A strategy: which windows of a query's list are asked about, in plain sequential code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rearank.ranking import Ranker
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class TopAlone:
    """Reorder the first ``size`` candidates in one call, and leave the others as they are.

    ``calls`` and ``chain`` are optional: with them progress and costs are known beforehand.
    """

    size: int = 5

    reads: ClassVar[str] = "ranking"
    """What it needs of an answer: the whole order. A prompt that asks for less is refused before any work."""

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size must be at least 2, not {self.size}")

    def calls(self, n: int) -> int:
        """Of a list of ``n``."""
        return int(n > 1)

    def chain(self, n: int) -> int:
        """Those of them that wait for one another."""
        return self.calls(n)

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The whole list, each candidate once; what ``ranker`` raises passes through."""
        head, tail = tuple(candidates[: self.size]), candidates[self.size :]
        if len(head) > 1:
            head = (await ranker.order(Window(query, head))).apply(head)
        return Ranking(query.id, tuple(passage.id for passage in (*head, *tail)), self.calls(len(head)))
