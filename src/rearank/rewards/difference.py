"""The ablation "reward = difference" (Table 3): the improvement over the given order, not normalised."""

from __future__ import annotations

from dataclasses import dataclass

from rearank.rewards.base import Measured, Reward


@dataclass(frozen=True, kw_only=True)
class DifferenceReward(Reward):
    """``r_rerank - r_init``, in [-1, 1]; 0 is the given order, so an answer without an order earns -1 by default."""

    unparsed: float = -1.0

    def rank_score(self, measured: Measured) -> float:
        return self.value(measured) - measured.initial
