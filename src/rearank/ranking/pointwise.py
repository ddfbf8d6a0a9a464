"""Pointwise ranking: how relevant is this one passage, asked about each by itself.

The yes/no question is that of Liang et al., *Holistic Evaluation of Language Models*, 2022 (arXiv 2211.09110), and of
the pointwise baselines since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rearank.ranking.base import Ranker, Reads, Scorer, ranking, together
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class Pointwise:
    """Score each passage alone, best score first, ties in their given order.

    Calls a query: ``n``, all at once: a chain of 1; none for a single candidate. Where the ranker only answers yes or
    no (1 or 0) the given order decides among the yeses: a good first stage then hides much of the model's weakness.
    """

    reads: ClassVar[Reads] = "yes_no"

    def calls(self, n: int) -> int:
        """One a passage, where there is anything to reorder."""
        return n if n > 1 else 0

    def chain(self, n: int) -> int:
        """1, where there is anything to reorder."""
        return int(n > 1)

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """``query``'s list by score; what ``ranker`` raises passes through.

        Raises:
            TypeError: for a ranker that can't score.
        """
        passages, scores = list(candidates), list[float]()
        if len(passages) > 1:
            if not isinstance(ranker, Scorer):
                raise TypeError(
                    f"strategy=pointwise asks how relevant one passage is and {type(ranker).__name__} only orders "
                    "windows; give it a method `score`, or choose another strategy"
                )
            scores = await together(ranker.score(Window(query, (passage,))) for passage in passages)
            places = sorted(range(len(passages)), key=lambda i: -scores[i])
            passages, scores = [passages[i] for i in places], [scores[i] for i in places]
        return ranking(query, passages, self.calls(len(passages)), scores)
