"""Rankers for tests: an oracle, adversaries, and a shell that counts and times every call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from rearank.engines.virtual_time import run_virtual
from rearank.ranking import Planned, Strategy
from rearank.types import Passage, Permutation, Query, Ranking, Window

QUERY = Query("q", "")


class Timed:
    """Every call takes a second; ``order_of`` says what it answers, ``score_of`` what a passage is worth."""

    def __init__(
        self, order_of: Callable[[Window], list[int]], score_of: Callable[[Passage], float] = lambda _: 0.0
    ) -> None:
        self.order_of = order_of
        self.score_of = score_of
        self.calls = 0
        self.widest = 0
        self.draws: list[int] = []

    async def order(self, window: Window) -> Permutation:
        await self._count(window)
        return Permutation(tuple(self.order_of(window)))

    async def score(self, window: Window) -> float:
        await self._count(window)
        (passage,) = window.passages
        return self.score_of(passage)

    def resampled(self, number: int) -> Timed:
        self.draws.append(number)
        return self

    async def _count(self, window: Window) -> None:
        self.calls += 1
        self.widest = max(self.widest, len(window))
        await asyncio.sleep(1.0)


def oracle(grades: Mapping[str, float]) -> Timed:
    """Best grade first, ties as given."""

    def order_of(window: Window) -> list[int]:
        return sorted(range(len(window)), key=lambda i: -grades[window.passages[i].id])

    return Timed(order_of, lambda passage: grades[passage.id])


def first_child() -> Timed:
    """The second passage shown is always the best: the longest way down a heap for every passage."""
    return Timed(lambda window: [1, 0, *range(2, len(window))] if len(window) > 1 else [0])


def first_last() -> Timed:
    """The first passage shown is always the worst: everything beats every pivot."""
    return Timed(lambda window: [*range(1, len(window)), 0])


def shuffler(seed: int) -> Timed:
    """Another random order and score for every call."""
    draw = random.Random(seed)
    return Timed(lambda window: draw.sample(range(len(window)), len(window)), lambda _: draw.random())


def passages(n: int) -> list[Passage]:
    return [Passage(f"d{i}", "") for i in range(n)]


def rerank(strategy: Strategy, n: int, ranker: Any) -> tuple[list[int], Ranking, float]:
    """(given positions in their new order, the ranking, the longest chain of calls)."""
    assert isinstance(strategy, Planned)
    ranking, seconds = run_virtual(strategy.rerank(QUERY, passages(n), ranker))
    return [int(i.removeprefix("d")) for i in ranking.passage_ids], ranking, seconds
