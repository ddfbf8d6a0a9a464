"""Top-down partitioning: find the pivot in the first window, then compare all others to it at once.

Source: Parry, MacAvaney, Ganguly, *Top-Down Partitioning for Efficient List-Wise Ranking*, 2024 (arXiv 2405.14589).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads, ranking, together
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class TopDown:
    """Keep what beats the pivot, the passage at rank ``k`` of the first window, and do the same with the kept.

    The other candidates meet the pivot in windows of ``size``, the pivot first in each, all under way at once. Where
    nothing beats it the first window's order stands; else the kept are ranked in the same way, down to one window.
    With a perfect ranker the best ``k`` come out in order; the others follow in groups, as they lost.

    Calls a query: 1 for ``n`` <= ``size``, else ``1 + ceil((n - size) / (size - 1))`` for a list and then those for
    what is kept of it; the chain grows by 2 for each list that is longer than a window and by 1 for the last. The
    fewest calls are those of one list (100, 20, 10: 6, in a chain of 2; 7 and 3 where a few are kept). A list loses
    ``size - k + 1`` passages at least, so that the most are those of the lists ``n``, ``n - (size - k + 1)``, ... down
    to a window (31 calls, a chain of 17): what ``calls`` and ``chain`` give, and what a first stage that puts the worst
    on top causes.

    Departure from the source: no budget of candidates ends the comparison early, since all of it runs in parallel.
    """

    size: Annotated[int, Ge(2)] = 20
    k: Annotated[int, Ge(1)] = 10

    reads: ClassVar[Reads] = "ranking"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.k >= self.size:
            raise ValueError(f"k is the pivot's rank in a window and must be below size ({self.size}), not {self.k}")

    def calls(self, n: int) -> int:
        """The most calls a list of ``n`` takes."""
        return sum(1 + -(-max(length - self.size, 0) // (self.size - 1)) for length in self._lists(n))

    def chain(self, n: int) -> int:
        """The most calls that wait for one another."""
        return sum(1 + (length > self.size) for length in self._lists(n))

    def _lists(self, n: int) -> list[int]:
        """Lengths of the lists that are ranked where as many as possible beat each pivot."""
        lengths = []
        while n > 1:
            lengths.append(n)
            n = n - (self.size - self.k + 1) if n > self.size else 0
        return lengths

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The reordered list of ``query``; what ``ranker`` raises passes through."""
        calls = 0

        async def ordered(passages: Sequence[Passage]) -> Sequence[Passage]:
            nonlocal calls
            calls += 1
            return (await ranker.order(Window(query, tuple(passages)))).apply(passages)

        kept = list(candidates)
        below: list[Passage] = []
        while len(kept) > 1:
            first = await ordered(kept[: self.size])
            if len(kept) <= self.size:
                kept = list(first)
                break
            better, pivot, worse = first[: self.k - 1], first[self.k - 1], first[self.k :]
            rest = kept[self.size :]
            width = self.size - 1
            parts = [(pivot, *rest[start : start + width]) for start in range(0, len(rest), width)]
            met = await together(ordered(part) for part in parts)
            above = [passage for part in met for passage in part[: part.index(pivot)]]
            lost = [passage for part in met for passage in part[part.index(pivot) + 1 :]]
            below = [pivot, *worse, *lost, *below]
            kept = [*better, *above]
            if not above:
                break
        return ranking(query, (*kept, *below), calls)
