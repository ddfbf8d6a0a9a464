"""The whole list in one call: for models whose context holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads, ranking
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class FullList:
    """One call for the list as it is.

    Calls a query: 1, and so the chain; none for a single candidate. ``size`` is the most passages a call may show: a
    longer list is refused, because a prompt that overflows the context would be cut without an error, and part of the
    list never read.
    """

    size: Annotated[int, Ge(2)] = 100

    reads: ClassVar[Reads] = "ranking"

    def __post_init__(self) -> None:
        check_fields(self)

    def calls(self, n: int) -> int:
        """1, where there is anything to reorder."""
        return int(n > 1)

    def chain(self, n: int) -> int:
        """1, where there is anything to reorder."""
        return int(n > 1)

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The reordered list of ``query``; what ``ranker`` raises passes through.

        Raises:
            ValueError: for more candidates than ``size``.
        """
        passages = tuple(candidates)
        if len(passages) > self.size:
            raise ValueError(
                f"query {query.id!r} has {len(passages)} candidates and one call may show strategy.size={self.size}; "
                f"set strategy.size={len(passages)} if the model's context holds them all, take fewer candidates "
                "(benchmark.depth), or choose strategy=sliding_window"
            )
        if len(passages) > 1:
            passages = (await ranker.order(Window(query, passages))).apply(passages)
        return ranking(query, passages, self.calls(len(passages)))
