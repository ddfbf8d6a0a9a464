"""Reward: 4,096 completions of 3,400 characters over 20 passages, beside a pytrec_eval evaluator per completion.

The peers' reward functions parse an answer and then build an evaluator for it. Both sides here parse with our parser
and are given the same completions. ``one measure`` is the other side's cheapest form, the new order's score alone;
``same work`` has its evaluator measure the given and the best order too, which a normalised reward needs.
"""

from __future__ import annotations

import random

from common import Result, seconds, words

from rearank.parsing import parse_ranking
from rearank.rewards import NdcgReward
from rearank.types import JudgedWindow, Passage, Query, Window

COMPLETIONS, CHARACTERS, SIZE = 4096, 3400, 20


def completions(seed: int = 0) -> list[tuple[str, JudgedWindow]]:
    """Well-formed answers: long notes, each naming its passage, and a full order."""
    draw = random.Random(seed)
    made = []
    for number in range(COMPLETIONS):
        grades = tuple(draw.choice((0, 0, 0, 1, 2, 3)) for _ in range(SIZE))
        passages = tuple(Passage(f"{number}-{i}", "") for i in range(SIZE))
        judged = JudgedWindow(Window(Query(str(number), ""), passages), grades, tuple(sorted((*grades, 3, 1, 1))))
        order = " > ".join(f"[{i}]" for i in draw.sample(range(1, SIZE + 1), SIZE))
        ending = f" </think> <answer> {order} </answer>"
        notes = " ".join(f"[{i}] {words(30, 5000, draw.random)}." for i in range(1, SIZE + 1))
        text = f"<think> {notes}"[: CHARACTERS - len(ending)].ljust(CHARACTERS - len(ending), ".") + ending
        made.append((text, judged))
    return made


def with_evaluators(batch: list[tuple[str, JudgedWindow]]) -> list[float]:
    """nDCG@10 of each answer, by an evaluator of its own."""
    import pytrec_eval

    values = []
    for text, judged in batch:
        order = parse_ranking(text, SIZE).permutation.order
        qrels = {"q": {str(i): grade for i, grade in enumerate(judged.relevance)}}
        # What the window lacks of the query's judgements counts in the ideal list.
        outside = list(judged.ideal or ())
        for grade in judged.relevance:
            outside.remove(grade)
        qrels["q"] |= {f"outside-{i}": grade for i, grade in enumerate(outside)}
        run = {"q": {str(position): float(SIZE - rank) for rank, position in enumerate(order)}}
        values.append(pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)["q"]["ndcg_cut_10"])
    return values


def run() -> list[Result]:
    batch = completions()
    assert {len(text) for text, _ in batch} == {CHARACTERS}
    reward = NdcgReward()
    ours, breakdowns = seconds(lambda: [reward(text, judged) for text, judged in batch])
    theirs, values = seconds(lambda: with_evaluators(batch))
    assert all(abs(b.ndcg_reranked - v) < 1e-6 for b, v in zip(breakdowns, values, strict=True)), "not the same measure"
    ratio = theirs / ours
    return [
        Result("reward", "4,096 completions, reward=ndcg", ours, "s"),
        Result("reward", "the same, an evaluator each", theirs, "s"),
        Result("reward", "times faster", ratio, "x", "at least 2", ratio >= 2),
    ]
