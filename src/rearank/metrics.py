"""Ranking measures on plain grades: pure, fast, equal to trec_eval's (tests hold them to it)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2
from operator import mul


@lru_cache(maxsize=64)
def _discounts(k: int) -> tuple[float, ...]:
    return tuple(1.0 / log2(rank + 2) for rank in range(k))


def dcg(relevance_in_rank_order: Sequence[int], k: int = 10) -> float:
    """Discounted cumulative gain at ``k`` with linear gain (trec_eval's; paper eq. 5). Negative grades gain nothing."""
    top = relevance_in_rank_order[:k]
    if top and min(top) < 0:
        top = [max(grade, 0) for grade in top]
    # map and mul run in C: rewards call this a million times a training run.
    total: float = sum(map(mul, top, _discounts(len(top))))
    return total


def ndcg(relevance_in_rank_order: Sequence[int], ideal_relevance: Sequence[int], k: int = 10) -> float:
    """nDCG@k: the list's DCG over the DCG of ``ideal_relevance`` sorted best first.

    Args:
        relevance_in_rank_order: grades of the ranked passages, best rank first; unjudged passages count 0.
        ideal_relevance: the grades the ideal list is made of, in any order (all judged grades of the query, or those
            of a window).
        k: cut-off, at least 1.

    Returns:
        A number in [0, 1] when the ideal covers the list; 0.0 where nothing in ``ideal_relevance`` is relevant.

    Raises:
        ValueError: if ``k`` < 1.
    """
    if k < 1:
        raise ValueError(f"nDCG's cut-off k must be at least 1, not {k}")
    best = ideal_dcg(ideal_relevance, k)
    return dcg(relevance_in_rank_order, k) / best if best > 0 else 0.0


def ideal_dcg(ideal_relevance: Sequence[int], k: int = 10) -> float:
    """DCG at ``k`` of the grades sorted best first: what nDCG divides by."""
    return dcg(sorted(ideal_relevance, reverse=True), k)


def recall(relevance_in_rank_order: Sequence[int], ideal_relevance: Sequence[int], k: int = 10) -> float:
    """Share of the relevant passages (grade >= 1) that stand in the first ``k``; 0.0 where none is relevant."""
    relevant = sum(grade > 0 for grade in ideal_relevance)
    return sum(grade > 0 for grade in relevance_in_rank_order[:k]) / relevant if relevant else 0.0


def rank_biased_overlap(order: Sequence[int], reference: Sequence[int], p: float = 0.9) -> float:
    """Rank-biased overlap of two orders of the same items (Webber et al. 2010), scaled so that equal orders give 1.

    Raises ``ValueError`` unless both hold the same items and 0 < p < 1.
    """
    if not 0 < p < 1:
        raise ValueError(f"rank-biased overlap needs p strictly between 0 and 1, not {p}")
    if sorted(order) != sorted(reference):
        raise ValueError("rank-biased overlap compares two orders of the same items")
    seen_left: set[int] = set()
    seen_right: set[int] = set()
    total = weight_sum = 0.0
    weight = 1.0
    for depth, (left, right) in enumerate(zip(order, reference, strict=True), start=1):
        seen_left.add(left)
        seen_right.add(right)
        total += weight * len(seen_left & seen_right) / depth
        weight_sum += weight
        weight *= p
    return total / weight_sum if weight_sum else 1.0


def average_overlap(order: Sequence[object], reference: Sequence[object]) -> float:
    """Mean share of common items over the depths of the shorter list: rank-biased overlap at p = 1 (Fagin et al. 2003).

    The two may hold different items, each once. Two empty lists give 1, one alone gives 0.
    """
    depths = min(len(order), len(reference))
    if not depths:
        return float(len(order) == len(reference))
    seen_left: set[object] = set()
    seen_right: set[object] = set()
    total, common = 0.0, 0
    for depth, (left, right) in enumerate(zip(order, reference, strict=False), start=1):
        common += (left in seen_right) + (right in seen_left) + (left == right)
        seen_left.add(left)
        seen_right.add(right)
        total += common / depth
    return total / depths
