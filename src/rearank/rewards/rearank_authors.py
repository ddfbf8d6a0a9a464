"""The reward by which the paper's authors trained: their code's rules, loose ones included.

The authors published (June 2025) an edited verl tree that can't be run as it is; we publish a runnable recipe. This is
that tree's scorer restated, with its own reading of an answer, and ``reward=ndcg`` is ours of the paper's text. Where
the two differ:

- nothing to gain (best = given) earns 0; ``ndcg`` pays ``degenerate``, 1, for keeping the order;
- an answer without an order is the given order and earns 0 in the rank term, not ``unparsed``;
- passages that an answer leaves out follow in the given order, and the whole list is scored;
- the list term asks for one ``[n]`` anywhere in the answer, not for a complete list;
- the tags term asks that nothing stands around ``<think>...</think> <answer>...</answer>``;
- the first closed ``<answer>`` is read, and without one the whole text, reasoning included;
- every run of digits there is an identifier; the first mention counts, what is outside 1..n is ignored;
- the three nDCG values are rounded to five decimals before the ratio, which has no floor.

Their code looks the given and the best order's nDCG up in the row and sorts by the row's stored scores; both follow
from the window here, so that a shuffled row is scored rightly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from rearank.metrics import ndcg
from rearank.rewards.base import Measured, RewardBreakdown, RewardFunction
from rearank.rewards.peer_answers import digit_runs, first_answer, is_reasoned_answer, numbers
from rearank.types import JudgedWindow

_IDENTIFIER = re.compile(r"\[\d+\]")
_DECIMALS = 5  # of the nDCG that the authors' evaluation gives


@dataclass(frozen=True, kw_only=True)
class RearankAuthorsReward(RewardFunction):
    """``0.8 rank + 0.1 tags + 0.1 list``; ``rank`` is ``(r_rerank - r_init) / (r* - r_init)``, 0 where undefined."""

    weight_rank: Annotated[float, Ge(0)] = 0.8
    weight_tags: Annotated[float, Ge(0)] = 0.1
    weight_list: Annotated[float, Ge(0)] = 0.1

    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        measured, answer = self.measure(completion, judged), first_answer(completion)
        rank = self._rank(completion if answer is None else answer, measured)
        tags = float(is_reasoned_answer(completion))
        form = float(answer is not None and _IDENTIFIER.search(answer) is not None)
        total = self.weight_rank * rank + self.weight_tags * tags + self.weight_list * form
        return self.breakdown(measured, total, rank, tags, form)

    def _rank(self, answer: str, measured: Measured) -> float:
        named = numbers(digit_runs(answer))
        if named is None:  # their scorer stops here, and an exception earns 0
            return 0.0
        grades = measured.judged.relevance
        size = len(grades)
        order = dict.fromkeys((*(number - 1 for number in named if 1 <= number <= size), *range(size)))
        reached = ndcg([grades[i] for i in order], measured.ideal, self.k)
        reranked, initial, best = (round(value, _DECIMALS) for value in (reached, measured.initial, measured.best))
        return (reranked - initial) / (best - initial) if best != initial else 0.0
