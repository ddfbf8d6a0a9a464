"""ReasonRank's three terms in this project's reading: nDCG, recall and rank-biased overlap.

``reward=reasonrank`` pays what their code pays: binary gain, recall over the query, RBO at p = 1, a teacher's list as
gold, and any digits of the answer as identifiers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from rearank.metrics import rank_biased_overlap, recall
from rearank.rewards.base import Measured, Reward


@dataclass(frozen=True, kw_only=True)
class MultiviewReward(Reward):
    """``nDCG@k + 0.2 Recall@k + 0.1 RBO``; 0 unless the answer is a permutation, -1 if the tags are missing.

    The format enters as a gate, so the three weights of the paper's sum are not used. The gold order for RBO is by
    grade, ties as given.
    """

    weight_recall: float = 0.2
    weight_overlap: float = 0.1
    overlap_p: Annotated[float, Interval(gt=0, lt=1)] = 0.9
    missing_tags: float = -1.0

    @property
    def never_negative(self) -> bool:
        return min(self.unparsed, self.missing_tags, self.weight_recall, self.weight_overlap) >= 0

    def rank_score(self, measured: Measured) -> float:
        grades = measured.judged.relevance
        order = measured.parsed.permutation.order
        gold = sorted(range(len(grades)), key=lambda i: -grades[i])
        return (
            self.value(measured)
            + self.weight_recall * recall(measured.named_relevance, grades, self.k)
            + self.weight_overlap * rank_biased_overlap(order, gold, self.overlap_p)
        )

    def total(self, rank: float, tags: float, form: float, measured: Measured) -> float:
        return rank if tags else self.missing_tags
