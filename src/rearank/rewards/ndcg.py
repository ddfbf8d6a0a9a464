"""The paper's reward (eq. 5, 6): the share of the reachable improvement that the answer realised."""

from __future__ import annotations

from dataclasses import dataclass

from rearank.rewards.base import SAME, Measured, Reward


@dataclass(frozen=True, kw_only=True)
class NdcgReward(Reward):
    """``(r_rerank - r_init) / (r* - r_init)``: 0 for the given order, 1 for the best one.

    Args:
        floor: lower bound of the rank term, ``null`` for none. The ratio has none of its own: where the given order is
            nearly perfect a small slip costs -20 and drowns the group's other rewards.
        degenerate: the rank term where ``r* = r_init`` and the order stays optimal (0 if it does not); the paper
            leaves the case undefined and its filter removes most such windows.
    """

    unparsed: float = -1.0
    floor: float | None = -1.0
    degenerate: float = 1.0

    @property
    def never_negative(self) -> bool:
        return self.floor is not None and min(self.floor, self.degenerate, self.unparsed) >= 0

    def rank_score(self, measured: Measured) -> float:
        value = self.value(measured)
        if measured.degenerate:
            return self.degenerate if measured.best - value <= SAME else 0.0
        ratio = (value - measured.initial) / (measured.best - measured.initial)
        return ratio if self.floor is None else max(self.floor, ratio)
