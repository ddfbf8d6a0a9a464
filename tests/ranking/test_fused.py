"""Fusion with the first stage: the sums, ties, scores where there are any, and what it leaves as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ranking.rankers import oracle, passages, rerank, shuffler

from rearank.ranking import FullList, Fused, Pointwise, Ranker, SlidingWindow, Strategy, rerank_all
from rearank.ranking.base import StrategyError
from rearank.types import Candidates, Passage, Permutation, Query, Ranking, Window


class Reversed:
    async def order(self, window: Window) -> Permutation:
        return Permutation(tuple(reversed(range(len(window)))))


def fused(strategy: Strategy, n: int, scores: tuple[float, ...] = (), ranker: Any = None) -> Ranking:
    item = Candidates(Query("q", "?"), tuple(passages(n)), scores)
    (result,) = asyncio.run(rerank_all([item], strategy, lambda _: ranker or Reversed())).values()
    assert isinstance(result, Ranking), result
    return result


def test_reciprocal_ranks() -> None:
    found = fused(Fused(FullList(), constant=0, weight=0.5), 3)
    by_id = dict(zip(found.passage_ids, found.scores, strict=True))
    ids = [passage.id for passage in passages(3)]
    assert [by_id[one] for one in ids] == pytest.approx([(1 + 1 / 3) / 2, 1 / 2, (1 + 1 / 3) / 2])
    assert found.passage_ids == (ids[0], ids[2], ids[1]), "equal sums keep the given order"
    assert found.calls == 1


def test_scores_of_the_first_stage_count_where_there_are_any() -> None:
    strategy = Fused(FullList(), fusion="linear", weight=0.5)
    ids = [passage.id for passage in passages(3)]
    # The last is first again: 1; the middle .5; the first 0. First stage: 1, .9, 0.
    assert fused(strategy, 3, (10.0, 9.0, 0.0)).passage_ids == (ids[1], ids[0], ids[2])
    assert fused(strategy, 3, (10.0, 0.0, 0.0)).passage_ids == (ids[0], ids[2], ids[1])
    assert fused(strategy, 3).scores == pytest.approx((0.5, 0.5, 0.5)), "ranks where there are none"
    assert fused(strategy, 3, (7.0, 7.0, 7.0)).passage_ids == tuple(reversed(ids)), "equal scores say nothing"


def test_scores_of_the_reranker_count_where_there_are_any() -> None:
    grades = {passage.id: grade for passage, grade in zip(passages(3), (0.0, 0.1, 1.0), strict=True)}
    found = fused(Fused(Pointwise(), fusion="linear", weight=0.4), 3, (3.0, 2.0, 1.0), oracle(grades))
    assert found.scores == pytest.approx((0.6, 0.4, 0.4 * 0.5 + 0.6 * 0.1))


@given(st.integers(0, 12), st.floats(0, 1), st.sampled_from(["rrf", "linear"]), st.integers(0, 9))
def test_any_list_comes_back_whole(n: int, weight: float, fusion: Any, seed: int) -> None:
    inner = SlidingWindow(size=4, step=2)
    strategy = Fused(inner, fusion=fusion, weight=weight)
    order, result, _ = rerank(strategy, n, shuffler(seed))
    assert sorted(order) == list(range(n))
    assert list(result.scores) == sorted(result.scores, reverse=True)
    assert (strategy.calls(n), strategy.chain(n), result.calls) == (inner.calls(n), inner.chain(n), inner.calls(n))
    alone = rerank(inner, n, shuffler(seed))[0]
    assert rerank(Fused(inner, fusion=fusion, weight=0.0), n, shuffler(seed))[0] == alone
    assert rerank(Fused(inner, fusion=fusion, weight=1.0), n, shuffler(seed))[0] == list(range(n))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="strategy must be a node"):
        Fused("top_down")
    with pytest.raises(ValueError, match="weight"):
        Fused(FullList(), weight=1.5)
    assert Fused(Pointwise()).reads == "yes_no"

    class Loses:
        def calls(self, n: int) -> int:
            return 1

        chain = calls

        async def rerank(self, query: Query, candidates: list[Passage], ranker: Ranker) -> Ranking:
            return Ranking(query.id, (), 1)

    with pytest.raises(StrategyError, match=r"Loses\.rerank must return every candidate once"):
        rerank(Fused(Loses()), 3, Reversed())
