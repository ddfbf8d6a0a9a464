"""The sliding window (paper section 3.1): from the bottom of the list to its top, in one or several passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads
from rearank.ranking.plan import check_plan, plan_windows
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class SlidingWindow:
    """Reorder each window of the plan in turn, so that a good passage can travel from the last rank to the first.

    Calls a query: ``passes * (1 + ceil(max(n - size, 0) / step))``, every one waiting for the one before. A single
    candidate needs no call. One pass brings the best ``size - step`` passages to the top when the ranker is perfect.
    """

    size: Annotated[int, Ge(2)] = 20
    step: Annotated[int, Ge(1)] = 10
    passes: Annotated[int, Ge(1)] = 1

    reads: ClassVar[Reads] = "ranking"

    def __post_init__(self) -> None:
        check_fields(self)
        check_plan(self.size, self.step)

    def calls(self, n: int) -> int:
        """How many windows a list of ``n`` takes."""
        return self.passes * len(plan_windows(n, self.size, self.step)) if n > 1 else 0

    def chain(self, n: int) -> int:
        """All of them: each window holds passages of the one before."""
        return self.calls(n)

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The reordered list of ``query``; what ``ranker`` raises passes through."""
        ranked = list(candidates)
        calls = 0
        plan = plan_windows(len(ranked), self.size, self.step) if len(ranked) > 1 else []
        for _ in range(self.passes):
            for span in plan:
                window = Window(query, tuple(ranked[span.start : span.stop]))
                permutation = await ranker.order(window)
                ranked[span.start : span.stop] = permutation.apply(window.passages)
                calls += 1
        return Ranking(query.id, tuple(passage.id for passage in ranked), calls)
