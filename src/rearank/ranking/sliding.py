"""The sliding window (paper section 3.1): from the bottom of the list to its top, in one or several passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rearank.ranking.base import Ranker, Reads
from rearank.ranking.plan import plan_windows
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class SlidingWindow:
    """Reorder each window of the plan in turn, so that a good passage can travel from the last rank to the first.

    Calls a query: ``passes * (1 + ceil(max(n - size, 0) / step))``, every one waiting for the one before. A single
    candidate needs no call. One pass brings the best ``size - step`` passages to the top when the ranker is perfect.
    """

    size: int = 20
    step: int = 10
    passes: int = 1

    reads: ClassVar[Reads] = "ranking"

    def __post_init__(self) -> None:
        plan_windows(1, self.size, self.step)
        if self.passes < 1:
            raise ValueError(f"passes must be at least 1, not {self.passes}")

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
