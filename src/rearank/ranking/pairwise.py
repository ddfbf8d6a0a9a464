"""Pairwise ranking prompting (PRP), sliding k: a bubble sort for the best k, two passages a call.

Source: Qin et al., *Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting*, 2023 (arXiv
2306.17563).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads, ranking, together
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class Pairwise:
    """``k`` passes from the bottom of the list to its top; in each a passage moves up while it beats the one above.

    ``both_orders`` asks about each pair twice, with either passage first, and swaps only where both answers agree:
    many models favour the passage they read first. With a perfect ranker the best ``k`` come out in order.

    Comparisons a query: the sum of ``n - 1 - j`` over the passes ``j`` = 0 to ``min(k, n - 1) - 1``; one call each, or
    two with ``both_orders``. The chain is ``n + min(k, n - 1) - 2`` and not the sum: a pass starts as soon as the one
    before is two places further up, and the two orders of a pair are asked at the same time. 100 passages, 10 passes:
    945 comparisons in a chain of 108.
    """

    k: Annotated[int, Ge(1)] = 10
    both_orders: bool = True

    reads: ClassVar[Reads] = "best"

    def __post_init__(self) -> None:
        check_fields(self)

    def calls(self, n: int) -> int:
        """How many calls a list of ``n`` takes."""
        return sum(n - 1 - number for number in range(self._passes(n))) * (1 + self.both_orders)

    def chain(self, n: int) -> int:
        """The calls that wait for one another."""
        return n + self._passes(n) - 2 if n > 1 else 0

    def _passes(self, n: int) -> int:
        return max(min(self.k, n - 1), 0)

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The reordered list of ``query``; what ``ranker`` raises passes through."""
        ranked = list(candidates)
        n = len(ranked)
        # passed[j][i]: pass j has compared positions i and i + 1, and so left i + 1 for good.
        passed = [[asyncio.Event() for _ in range(n - 1)] for _ in range(self._passes(n))]

        async def go(number: int) -> None:
            for upper in range(n - 2, number - 1, -1):
                if number:
                    await passed[number - 1][upper - 1].wait()
                if await self._lower_wins(query, ranked[upper], ranked[upper + 1], ranker):
                    ranked[upper], ranked[upper + 1] = ranked[upper + 1], ranked[upper]
                passed[number][upper].set()

        await together(go(number) for number in range(self._passes(n)))
        return ranking(query, ranked, self.calls(n))

    async def _lower_wins(self, query: Query, upper: Passage, lower: Passage, ranker: Ranker) -> bool:
        asked = [ranker.order(Window(query, (upper, lower)))]
        if self.both_orders:
            asked.append(ranker.order(Window(query, (lower, upper))))
        first, *turned = await together(asked)
        return first.order[0] == 1 and all(permutation.order[0] == 0 for permutation in turned)
