"""A reward: one method."""

from __future__ import annotations

from dataclasses import dataclass

from rearank.rewards import Measured, Reward


@dataclass(frozen=True, kw_only=True)
class FirstFind(Reward):
    """One over the place at which the answer has a passage of the window's highest grade; 0 where it names none."""

    @property
    def never_negative(self) -> bool:
        """So that algorithm=maxrl takes it, too."""
        return self.unparsed >= 0

    def rank_score(self, measured: Measured) -> float:
        """Of the order that the answer gives: 1, 1/2, 1/3..."""
        highest = max(measured.judged.relevance)
        found = (place for place, grade in enumerate(measured.named_relevance, 1) if grade == highest)
        return 1 / place if (place := next(found, 0)) else 0.0
