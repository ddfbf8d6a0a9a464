"""ReasonRank's reward as its authors' code pays it (arXiv 2508.07050; 8421BCD/ReasonRank, ``reward_score/ranking.py``).

``reward=multiview`` has the same three terms in this project's reading: graded gain, recall over the window, RBO with
p = .9, an answer read by ``rearank.parsing``. Here nDCG has binary gain, recall is over all that is relevant to the
query, RBO has p = 1 (average overlap), and the peer's own reading is kept (``peer_answers``): identifiers are digits
anywhere in the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from rearank.metrics import average_overlap, ndcg, recall
from rearank.rewards.base import RewardBreakdown, RewardFunction
from rearank.rewards.peer_answers import digit_runs, numbers, reasoned_answer
from rearank.types import JudgedWindow


@dataclass(frozen=True, kw_only=True)
class ReasonRankReward(RewardFunction):
    """``nDCG@k + 0.2 Recall@k + 0.1 RBO``; 0 unless as many ids are named as the gold order has, each once.

    The gold order is the row's (``JudgedWindow.gold``, the teacher's list), or by grade with ties as given. As in their
    code an id outside the window passes that gate: it holds a rank of the gold list and no passage, and ``[0]`` means
    the last passage. Where nothing is relevant their scorer fails; that earns 0 here.
    """

    weight_recall: float = 0.2
    weight_overlap: float = 0.1
    missing_tags: float = -1.0

    @property
    def never_negative(self) -> bool:
        return min(self.missing_tags, self.weight_recall, self.weight_overlap) >= 0

    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        measured = self.measure(completion, judged)
        answer = reasoned_answer(completion)
        if answer is None:
            return self.breakdown(measured, self.missing_tags, 0.0, 0.0, 0.0)
        runs, gold = digit_runs(answer), [str(position + 1) for position in judged.gold_order]
        named = numbers(runs)
        if named is None or not len(runs) == len(set(runs)) == len(gold):
            return self.breakdown(measured, 0.0, 0.0, 1.0, 0.0)
        rank = self._rank(named, judged, average_overlap(runs, gold))
        return self.breakdown(measured, rank, rank, 1.0, 1.0)

    def _rank(self, named: list[int], judged: JudgedWindow, overlap: float) -> float:
        size = len(judged.relevance)
        # 0 is their index -1; where a passage has two ranks (by 0 and by its number) the later one holds.
        last = {(number or size) - 1: rank for rank, number in enumerate(named) if number <= size and size}
        ranked = [int(judged.relevance[position] > 0) for position in sorted(last, key=last.__getitem__)]
        ideal = [int(grade > 0) for grade in self.ideal_of(judged)]
        if not any(ideal):
            return 0.0
        gain = ndcg(ranked, ideal, self.k) + self.weight_recall * recall(ranked, ideal, self.k)
        return gain + self.weight_overlap * overlap
