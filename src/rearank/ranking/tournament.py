"""A tournament in groups: the better passages of each group meet again, points add up over several tournaments.

After TourRank (Chen et al., *TourRank: Utilizing Large Language Models for Documents Ranking with a
Tournament-Inspired Strategy*, 2024, arXiv 2406.11678).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Annotated, ClassVar

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads, ranking, together
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class Tournament:
    """Deal the passages into groups of at most ``size``; the best ``keep`` of each go on, until one group is left.

    Groups are dealt like cards from the list as it stands, so that its best meet late. A passage earns a point for
    each stage it survives and, in its last group, the share of that group that stands at or below it. Points add up
    over ``tournaments``, which run at once; equal points keep the given order. The first tournament shows each group
    in its given order, the others in a random one (fixed by ``seed``, the query's id and the tournament's number), so
    that what a model owes to the order it reads in averages out. With a perfect ranker the best ``keep`` come out in
    order, unless some are equally good: then each wins some tournaments, and another one may have more points.

    A stage of ``m`` passages takes ``g(m) = ceil(m / size)`` calls at once and leaves the sum of ``min(keep, group)``
    over its groups, whose sizes differ by 1 at most. Calls a query: ``tournaments`` times the sum of ``g`` over the
    stages; the chain is the number of stages, whatever ``tournaments`` is. 100, 20, 10: stages of 100, 50, 30 and 20
    passages in 5, 3, 2 and 1 groups, so 11 calls a tournament in a chain of 4.

    Departures from the source: its model picks a set from each group, ours orders it, and so one last order of
    ``size`` passages and the share of a point replace its stages of 20, 10, 5 and 2.
    """

    size: Annotated[int, Ge(2)] = 20
    keep: Annotated[int, Ge(1)] = 10
    tournaments: Annotated[int, Ge(1)] = 2
    seed: int = 0

    reads: ClassVar[Reads] = "ranking"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.keep > self.size // 2:
            raise ValueError(
                f"keep must be at most size//2 ({self.size // 2}), or no stage would be smaller than the one before, "
                f"not {self.keep}"
            )

    def calls(self, n: int) -> int:
        """How many calls a list of ``n`` takes."""
        return self.tournaments * sum(len(groups) for groups in self._stages(n))

    def chain(self, n: int) -> int:
        """The number of stages."""
        return len(self._stages(n))

    def _stages(self, n: int) -> list[list[int]]:
        """The sizes of the groups, stage by stage."""
        stages: list[list[int]] = []
        while n > 1 and (not stages or len(stages[-1]) > 1):
            groups = -(-n // self.size)
            stages.append([len(range(start, n, groups)) for start in range(groups)])
            n = sum(min(self.keep, group) for group in stages[-1])
        return stages

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """``query``'s list by points; what ``ranker`` raises passes through."""
        n = len(candidates)
        played = await together(self._play(query, candidates, ranker, number) for number in range(self.tournaments))
        points: Counter[int] = Counter()
        for earned in played:
            points.update(earned)
        places = sorted(range(n), key=lambda i: -points[i])
        return ranking(query, (candidates[i] for i in places), self.calls(n), (float(points[i]) for i in places))

    async def _play(
        self, query: Query, candidates: Sequence[Passage], ranker: Ranker, number: int
    ) -> dict[int, Fraction]:
        """One tournament: position in the given list -> points."""
        shuffle = Random(f"{self.seed} {number} {query.id}").shuffle if number else None

        async def meet(group: list[int]) -> tuple[int, ...]:
            order = await ranker.order(Window(query, tuple(candidates[i] for i in group)))
            return order.apply(group)

        points: dict[int, Fraction] = {}
        left = list(range(len(candidates)))
        for stage, sizes in enumerate(self._stages(len(left))):
            groups = [left[start :: len(sizes)] for start in range(len(sizes))]
            if shuffle is not None:
                for group in groups:
                    shuffle(group)
            results = await together(meet(group) for group in groups)
            for result in results:
                points.update({i: stage + Fraction(len(result) - rank, len(result)) for rank, i in enumerate(result)})
            # Winners first, then all seconds, ...: the next deal parts those that did equally well.
            left = [result[rank] for rank in range(self.keep) for result in results if rank < len(result)]
        return points
