"""Rank-R1's reward as its authors' code pays it (arXiv 2503.06034; ielab/llm-rankers, ``Rank-R1/train_grpo.py``).

``reward=exact`` reads the answer by ``rearank.parsing``: a list counts by its first passage, and any passage of the
highest grade is right. Here the answer's text must be the one label and nothing else, by the peer's own reading of
the tags (``peer_answers``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rearank.prompts import Asks
from rearank.rewards.base import RewardBreakdown, RewardFunction
from rearank.rewards.peer_answers import reasoned_answer
from rearank.types import JudgedWindow


@dataclass(frozen=True, kw_only=True)
class RankR1Reward(RewardFunction):
    """1 where ``<think>...</think> <answer>[n]</answer>`` names the gold passage, else 0.

    The gold passage is the first of the row's gold order (``JudgedWindow.gold``), or the first of the highest grade. A
    list, a bare number and another passage of the same grade earn 0.
    """

    asks: ClassVar[Asks] = "best"

    @property
    def never_negative(self) -> bool:
        return True

    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        answer = reasoned_answer(completion)
        gold = judged.gold_order
        right = float(answer is not None and len(gold) > 0 and answer.strip() == f"[{gold[0] + 1}]")
        return self.breakdown(self.measure(completion, judged), right, right, float(answer is not None), right)
