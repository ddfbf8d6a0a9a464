"""Window plans and the sliding window."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.ranking import Ranker, SlidingWindow, Strategy, plan_windows
from rearank.types import Passage, Permutation, Query, Window

SIZES = st.integers(2, 30).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


class Oracle:
    """Sorts by a grade, ties as given."""

    def __init__(self, grades: dict[str, int]) -> None:
        self.grades = grades
        self.calls = 0

    async def order(self, window: Window) -> Permutation:
        self.calls += 1
        ids = [p.id for p in window.passages]
        return Permutation(tuple(sorted(range(len(ids)), key=lambda i: -self.grades[ids[i]])))


@given(st.integers(1, 300), SIZES)
def test_every_position_is_covered(n: int, shape: tuple[int, int]) -> None:
    size, step = shape
    plan = plan_windows(n, size, step)
    assert {i for span in plan for i in span} == set(range(n))
    assert all(len(span) == min(n, size) for span in plan)
    assert plan[0].stop == n
    assert plan[-1].start == 0
    assert all(0 < below.start - above.start <= step for below, above in itertools.pairwise(plan))
    assert len(plan) == 1 + math.ceil(max(n - size, 0) / step)


def test_the_papers_plan_and_the_list_it_forgot() -> None:
    assert [span.start for span in plan_windows(100, 20, 10)] == [80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert plan_windows(95, 20, 10)[-1] == range(20)
    assert plan_windows(7, 20, 10) == [range(7)]
    assert plan_windows(0, 20, 10) == []


@pytest.mark.parametrize(("n", "size", "step", "names"), [(-1, 20, 10, "-1"), (9, 1, 1, "size"), (9, 4, 5, "step")])
def test_bad_plans_are_refused(n: int, size: int, step: int, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        plan_windows(n, size, step)


def rerank(strategy: SlidingWindow, grades: list[int]) -> tuple[list[int], int]:
    passages = [Passage(str(i), "") for i in range(len(grades))]
    oracle = Oracle({str(i): g for i, g in enumerate(grades)})
    ranking = asyncio.run(strategy.rerank(Query("q", ""), passages, oracle))
    assert sorted(ranking.passage_ids) == sorted(p.id for p in passages)
    assert ranking.calls == oracle.calls
    return [grades[int(i)] for i in ranking.passage_ids], ranking.calls


@given(st.data(), st.integers(1, 200), SIZES)
def test_a_perfect_ranker_brings_the_best_to_the_top(data: st.DataObject, n: int, shape: tuple[int, int]) -> None:
    size, step = shape
    grades = data.draw(st.permutations(range(n)))
    ranked, _ = rerank(SlidingWindow(size, step), list(grades))
    best = size - step if n > size else n
    assert ranked[:best] == sorted(grades, reverse=True)[:best]


def test_calls_and_passes() -> None:
    grades = list(range(100))
    once, calls = rerank(SlidingWindow(), grades)
    assert (calls, once[:10]) == (9, list(range(99, 89, -1)))
    twice, calls = rerank(SlidingWindow(passes=2), grades)
    assert (calls, twice[:20]) == (18, list(range(99, 79, -1)))
    assert rerank(SlidingWindow(), [1]) == ([1], 0)


def test_a_failed_call_fails_the_query() -> None:
    class Broken:
        async def order(self, window: Window) -> Permutation:
            raise RuntimeError("engine down")

    assert isinstance(Broken(), Ranker)
    assert isinstance(SlidingWindow(), Strategy)
    with pytest.raises(RuntimeError, match="engine down"):
        asyncio.run(SlidingWindow().rerank(Query("q", ""), [Passage("a", ""), Passage("b", "")], Broken()))
