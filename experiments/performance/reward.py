"""Reward: 4,096 completions of 3,400 characters over 20 passages, compared with a pytrec_eval evaluator per completion.

The peers' reward functions parse an answer and then build an evaluator for it. Both sides here parse with our parser
and are given the same completions. ``one measure`` is the other side's cheapest form, the new order's score alone;
``same work`` has its evaluator measure the given and the best order too, which a normalised reward needs.
"""

from __future__ import annotations

import random

from common import Result, in_turns, words

from rearank.parsing import parse_ranking
from rearank.rewards import NdcgReward
from rearank.types import JudgedWindow, Passage, Query, Window

WINDOWS, SAMPLES, CHARACTERS, SIZE = 128, 32, 3400, 20  # the paper's batch
OUTSIDE = (3, 1, 1)  # grades of the query's judged passages that the window lacks


def completions(seed: int = 0) -> list[tuple[str, JudgedWindow]]:
    """Well-formed answers: long notes, each naming its passage, and a full order."""
    draw = random.Random(seed)
    made = []
    for number in range(WINDOWS):
        grades = tuple(draw.choice((0, 0, 0, 1, 2, 3)) for _ in range(SIZE))
        passages = tuple(Passage(f"{number}-{i}", "") for i in range(SIZE))
        judged = JudgedWindow(Window(Query(str(number), ""), passages), grades, (*grades, *OUTSIDE))
        made += [(answer(draw), judged) for _ in range(SAMPLES)]
    return made


def answer(draw: random.Random) -> str:
    order = " > ".join(f"[{i}]" for i in draw.sample(range(1, SIZE + 1), SIZE))
    ending = f" </think> <answer> {order} </answer>"
    notes = " ".join(f"[{i}] {words(30, 5000, draw.random)}." for i in range(1, SIZE + 1))
    return f"<think> {notes}"[: CHARACTERS - len(ending)].ljust(CHARACTERS - len(ending), ".") + ending


def with_evaluators(batch: list[tuple[str, JudgedWindow]], *, new_order_only: bool) -> list[float]:
    """nDCG@10 of each answer, by an evaluator of its own."""
    import pytrec_eval

    values = []
    for text, judged in batch:
        order = parse_ranking(text, SIZE).permutation.order
        grades = judged.relevance
        qrels = {"q": {str(i): grade for i, grade in enumerate(grades)}}
        # What the window lacks of the query's judgements counts in the ideal list.
        qrels["q"] |= {f"outside-{i}": grade for i, grade in enumerate(OUTSIDE)}
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"})
        orders = [order]
        if not new_order_only:
            orders += [range(SIZE), sorted(range(SIZE), key=lambda i: -grades[i])]
        scores = [
            evaluator.evaluate({"q": {str(position): float(SIZE - rank) for rank, position in enumerate(positions)}})
            for positions in orders
        ]
        values.append(scores[0]["q"]["ndcg_cut_10"])
    return values


def run() -> list[Result]:
    batch = completions()
    assert {len(text) for text, _ in batch} == {CHARACTERS}
    reward = NdcgReward()
    breakdowns = [reward(text, judged) for text, judged in batch]
    values = with_evaluators(batch, new_order_only=False)
    assert all(abs(b.ndcg_reranked - v) < 1e-6 for b, v in zip(breakdowns, values, strict=True)), "not the same measure"
    ours, same, cheapest, parsing = in_turns(
        lambda: [reward(text, judged) for text, judged in batch],
        lambda: with_evaluators(batch, new_order_only=False),
        lambda: with_evaluators(batch, new_order_only=True),
        lambda: [parse_ranking(text, SIZE) for text, _ in batch],
    )
    return [
        Result("reward", "parsing alone, 4,096 completions", parsing, "s"),
        Result("reward", "reward=ndcg", ours, "s"),
        Result("reward", "parsing, an evaluator each, same work", same, "s"),
        Result("reward", "times faster than that", same / ours, "x", "at least 2", same / ours >= 2),
        Result("reward", "parsing, an evaluator each, one measure", cheapest, "s"),
        Result("reward", "times faster than that", cheapest / ours, "x"),
    ]
