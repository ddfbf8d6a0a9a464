"""Self-consistency over any strategy: several samples of its ranking, merged by rank fusion.

The idea is that of Wang et al., *Self-Consistency Improves Chain of Thought Reasoning in Language Models*, 2022 (arXiv
2203.11171); rankings are merged as in Cormack, Clarke, Buettcher, *Reciprocal Rank Fusion*, SIGIR 2009, or by Borda's
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import (
    Ranker,
    Reads,
    Resamples,
    check_inside,
    check_ranking,
    ranking,
    reads_of,
    together,
)
from rearank.types import Passage, Query, Ranking


@dataclass(frozen=True)
class SelfConsistency:
    """Rerank ``samples`` times by ``strategy``, each time with another draw of every answer, and merge the rankings.

    Args:
        strategy: any other strategy's node.
        samples: rankings to merge. The model's temperature must be above 0, or all would be the same.
        fusion: ``rrf`` adds 1 / (constant + rank), in which the top counts most; ``borda`` adds n - rank.
        constant: of ``rrf``; 60 is the source's.

    Equal sums keep the given order. Calls a query: ``samples`` times the strategy's; the samples run at once, so that
    the chain is the strategy's.
    """

    strategy: Any
    samples: Annotated[int, Ge(1)] = 5
    fusion: Literal["rrf", "borda"] = "rrf"
    constant: Annotated[int, Ge(0)] = 60

    def __post_init__(self) -> None:
        check_inside(self.strategy)
        check_fields(self)

    @property
    def reads(self) -> Reads:
        """The strategy's own; a whole order where it declares none."""
        return reads_of(self.strategy)

    def calls(self, n: int) -> int:
        """``samples`` times the strategy's."""
        return int(self.samples * self.strategy.calls(n))

    def chain(self, n: int) -> int:
        """The strategy's own."""
        return int(self.strategy.chain(n))

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The merged ranking of ``query``'s list; what ``ranker`` raises passes through.

        Raises:
            TypeError: for a ranker that can't draw again.
            StrategyError: where the strategy's own result isn't every candidate once.
            ValueError: from a ranker whose answers are not drawn at all (temperature 0).
        """
        if not isinstance(ranker, Resamples):
            raise TypeError(
                f"strategy=self_consistency draws each answer several times and {type(ranker).__name__} can't; give "
                "it a method `resampled`, or choose another strategy"
            )
        rankers = [ranker.resampled(number) for number in range(self.samples)]
        drawn: list[Ranking] = await together(self.strategy.rerank(query, candidates, one) for one in rankers)
        # Fractions, so that equal sums are equal whichever sample put a passage where.
        points = {passage.id: Fraction(0) for passage in candidates}
        for sample in drawn:
            check_ranking(sample, query, candidates, self.strategy)
            for rank, passage_id in enumerate(sample.passage_ids, start=1):
                points[passage_id] += self._points(rank, len(candidates))
        merged = sorted(candidates, key=lambda passage: -points[passage.id])
        return ranking(query, merged, sum(sample.calls for sample in drawn))

    def _points(self, rank: int, n: int) -> Fraction:
        return Fraction(1, self.constant + rank) if self.fusion == "rrf" else Fraction(n - rank)
