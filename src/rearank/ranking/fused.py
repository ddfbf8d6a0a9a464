"""The first stage and any strategy merged: what both rank high comes first.

By reciprocal ranks (Cormack, Clarke, Buettcher, *Reciprocal Rank Fusion*, SIGIR 2009) or by scores scaled to [0, 1],
whose equal sum is CombSUM (Fox, Shaw, *Combination of Multiple Searches*, TREC-2, 1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads, check_inside, check_ranking, ranking, reads_of
from rearank.types import Passage, Query, Ranking


@dataclass(frozen=True)
class Fused:
    """Rerank by ``strategy`` and merge its ranking with the given one. It takes the strategy's calls and no more.

    Args:
        strategy: any other strategy's node.
        fusion: ``rrf`` adds weight / (constant + rank); ``linear`` adds weight x score, each side's scores scaled to
            [0, 1] within the list. A side without scores has its ranks for them.
        weight: of the first stage, 0 to 1; the reranker has the rest. 0.5 of ``linear`` is CombSUM.
        constant: of ``rrf``; 60 is the source's.

    Equal sums keep the given order.
    """

    strategy: Any
    fusion: Literal["rrf", "linear"] = "rrf"
    weight: Annotated[float, Interval(ge=0, le=1)] = 0.5
    constant: Annotated[int, Ge(0)] = 60
    _first: tuple[float, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        check_inside(self.strategy)
        check_fields(self)

    @property
    def reads(self) -> Reads:
        """The strategy's own; a whole order where it declares none."""
        return reads_of(self.strategy)

    def calls(self, n: int) -> int:
        """The strategy's own."""
        return int(self.strategy.calls(n))

    def chain(self, n: int) -> int:
        """The strategy's own."""
        return int(self.strategy.chain(n))

    def informed(self, scores: Sequence[float]) -> Fused:
        """For a list whose first stage gave these scores, one a candidate in the given order, or none."""
        copy = replace(self)
        object.__setattr__(copy, "_first", tuple(scores))
        return copy

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The merged ranking of ``query``'s list, with the sums as scores; what ``ranker`` raises passes through.

        Raises:
            StrategyError: where the strategy's own result isn't every candidate once.
        """
        found = await self.strategy.rerank(query, candidates, ranker)
        check_ranking(found, query, candidates, self.strategy)
        place = {passage_id: rank for rank, passage_id in enumerate(found.passage_ids)}
        if self.fusion == "rrf":
            first = [1 / (self.constant + rank) for rank in range(1, len(candidates) + 1)]
            again = [1 / (self.constant + 1 + place[passage.id]) for passage in candidates]
        else:
            scores = found.scores or [-rank for rank in range(len(candidates))]
            first = _scaled(self._first or [-rank for rank in range(len(candidates))])
            again = _scaled([scores[place[passage.id]] for passage in candidates])
        sums = [self.weight * one + (1 - self.weight) * other for one, other in zip(first, again, strict=True)]
        order = sorted(range(len(candidates)), key=lambda i: -sums[i])
        return ranking(query, [candidates[i] for i in order], found.calls, [sums[i] for i in order])


def _scaled(scores: Sequence[float]) -> list[float]:
    """To [0, 1]; equal ones, which say nothing, to 0."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]
