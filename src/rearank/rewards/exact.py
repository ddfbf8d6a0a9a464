"""Rank-R1's idea: right or wrong about the single best passage.

``reward=rank_r1`` pays what their code pays: only an answer of one label, and only for the one gold passage.
"""

from __future__ import annotations

from dataclasses import dataclass

from rearank.rewards.base import Measured, Reward


@dataclass(frozen=True, kw_only=True)
class ExactReward(Reward):
    """1 if the passage named first has the window's highest grade (any of several), else 0.

    0 too where nothing is relevant: there is no best passage to name. A setwise prompt, whose answer is one
    identifier, needs ``partial: score``.
    """

    weight_rank: float = 1.0
    weight_tags: float = 0.0
    weight_list: float = 0.0

    @property
    def never_negative(self) -> bool:
        return self.unparsed >= 0

    def rank_score(self, measured: Measured) -> float:
        best = max(measured.judged.relevance)
        return 1.0 if best > 0 and measured.named_relevance[0] == best else 0.0
