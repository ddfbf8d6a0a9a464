"""The ablation "reward = absolute" (Table 3): the answer's own nDCG."""

from __future__ import annotations

from dataclasses import dataclass

from rearank.rewards.base import Measured, Reward


@dataclass(frozen=True, kw_only=True)
class AbsoluteReward(Reward):
    """``r_rerank``, in [0, 1]; an answer without an order earns ``unparsed``, 0 by default."""

    @property
    def never_negative(self) -> bool:
        return self.unparsed >= 0

    def rank_score(self, measured: Measured) -> float:
        return self.value(measured)
