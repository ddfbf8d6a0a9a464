"""All queries at once: none waits for another's slowest answer, and a failed one is named, not hidden."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

from rearank.ranking.base import (
    AbortRunError,
    Planned,
    Ranker,
    Resamples,
    Scorer,
    Strategy,
    UsesFirstStage,
    check_ranking,
)
from rearank.types import Candidates, Permutation, Ranking, Window


@dataclass(frozen=True)
class Failure:
    """A query without a ranking, and why."""

    query_id: str
    error: Exception

    def __str__(self) -> str:
        return " ".join(f"query {self.query_id}: {type(self.error).__name__}: {self.error}".split())  # one line


@runtime_checkable
class CountsUnparsed(Protocol):
    """A ranker that counts the answers which named no order at all."""

    @property
    def unparsed(self) -> int: ...


async def rerank_all(
    candidates: Iterable[Candidates],
    strategy: Strategy,
    ranker_for: Callable[[Candidates], Ranker],
    *,
    max_concurrent_queries: int | None = None,
    max_concurrent_calls: int | None = None,
    on_done: Callable[[Ranking | Failure], None] | None = None,
) -> dict[str, Ranking | Failure]:
    """Rerank every query's candidates concurrently.

    Args:
        candidates: one list a query; ids must differ.
        strategy: how a list is read.
        ranker_for: the ranker of one query (its own object, so that it counts that query's answers).
        max_concurrent_queries: how many queries are under way at once; ``None`` for all.
        max_concurrent_calls: how many calls the engine gets at once (its slots); the query with most calls still to
            come goes first, which keeps the tail of a run short. ``None`` hands over every window that is ready, as
            an engine wants that batches by itself.
        on_done: called with each result as it comes, for progress.

    Returns:
        A ranking or a failure for each query, in the order given. A call that raises fails its query with that cause;
        it never means "keep the order". So does a strategy whose result isn't every candidate once (``StrategyError``).

    Raises:
        ValueError: for a query id that occurs twice, or a limit below 1.
        AbortRunError: from a ranker, passed on after every other query was cancelled.
    """
    work = list(candidates)
    if len({item.query.id for item in work}) != len(work):
        raise ValueError("a query id occurs twice; rerank each query once")
    results: dict[str, Ranking | Failure] = {}

    def done(result: Ranking | Failure) -> None:
        results[result.query_id] = result
        if on_done is not None:
            on_done(result)

    await rerank_stream(
        work,
        strategy,
        ranker_for,
        max_concurrent_queries=max_concurrent_queries,
        max_concurrent_calls=max_concurrent_calls,
        on_done=done,
    )
    return {item.query.id: results[item.query.id] for item in work}


async def rerank_stream(
    candidates: Iterable[Candidates] | AsyncIterable[Candidates],
    strategy: Strategy,
    ranker_for: Callable[[Candidates], Ranker],
    *,
    max_concurrent_queries: int | None = None,
    max_concurrent_calls: int | None = None,
    on_done: Callable[[Ranking | Failure], None],
) -> None:
    """As ``rerank_all``, of lists that are taken one by one, each when there is a place for it; none is kept.

    Args:
        candidates: one list a query; ids of those under way at one moment must differ.
        strategy: how a list is read.
        ranker_for: the ranker of one query.
        max_concurrent_queries: how many queries are under way at once; ``None`` for all that ``candidates`` gives.
        max_concurrent_calls: how many calls the engine gets at once.
        on_done: called with each result as it comes; what it raises ends everything.

    Raises:
        ValueError: for a limit below 1.
        AbortRunError: from a ranker, passed on after every other query was cancelled; so is what ``candidates`` raises.
    """
    for name, limit in (("queries", max_concurrent_queries), ("calls", max_concurrent_calls)):
        if limit is not None and limit < 1:
            raise ValueError(f"max_concurrent_{name} must be at least 1, or null for no limit, not {limit}")
    places = asyncio.Semaphore(max_concurrent_queries) if max_concurrent_queries else None
    gate = _PriorityGate(max_concurrent_calls) if max_concurrent_calls else None

    async def one(item: Candidates) -> None:
        try:
            result = await _rerank_one(item, strategy, ranker_for, gate)
        finally:
            if places is not None:
                places.release()
        on_done(result)

    try:
        async with asyncio.TaskGroup() as group, aclosing(_each(candidates)) as items:
            if places is not None:
                await places.acquire()
            async for item in items:
                group.create_task(one(item))
                if places is not None:  # before the next is taken: reading must not run ahead of the engine
                    await places.acquire()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _each(items: Iterable[Candidates] | AsyncIterable[Candidates]) -> AsyncGenerator[Candidates]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _rerank_one(
    item: Candidates, strategy: Strategy, ranker_for: Callable[[Candidates], Ranker], gate: _PriorityGate | None
) -> Ranking | Failure:
    try:
        ranker = ranker_for(item)
        if isinstance(strategy, UsesFirstStage):
            strategy = strategy.informed(item.scores)
        planned = strategy.calls(len(item.passages)) if isinstance(strategy, Planned) else 0
        gated = ranker if gate is None else _Gated(ranker, _Turns(gate, planned))
        ranking = await strategy.rerank(item.query, item.passages, gated)
        check_ranking(ranking, item.query, item.passages, strategy)
    except AbortRunError:
        raise
    except Exception as error:
        return Failure(item.query.id, error)
    return replace(ranking, unparsed=ranker.unparsed) if isinstance(ranker, CountsUnparsed) else ranking


@dataclass
class _PriorityGate:
    """A semaphore whose free place goes to the most urgent waiter; among equals, to the first that came."""

    free: int
    _waiting: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)
    _arrivals: int = 0

    @asynccontextmanager
    async def place(self, urgency: int) -> AsyncIterator[None]:
        if self.free > 0:
            self.free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._arrivals += 1
            heapq.heappush(self._waiting, (-urgency, self._arrivals, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # the place was given in the same moment; it must not be lost
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[-1]
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


@dataclass
class _Turns:
    """A query's way to the gate; ``remaining`` counts the calls it still has before it."""

    gate: _PriorityGate
    remaining: int

    @asynccontextmanager
    async def next(self) -> AsyncIterator[None]:
        async with self.gate.place(self.remaining):
            self.remaining -= 1
            yield


class _Gated:
    """A ranker that waits for its turn. It has those optional abilities that ``ranker`` has, and no others."""

    def __init__(self, ranker: Ranker, turns: _Turns) -> None:
        self._ranker = ranker
        self._turns = turns
        # As attributes of the object: a protocol is asked for by what there is, so a class that had them all would lie.
        if isinstance(ranker, Scorer):
            self.score = partial(self._score, ranker)
        if isinstance(ranker, Resamples):
            self.resampled = partial(self._resampled, ranker)

    async def order(self, window: Window) -> Permutation:
        async with self._turns.next():
            return await self._ranker.order(window)

    async def _score(self, scorer: Scorer, window: Window) -> float:
        async with self._turns.next():
            return await scorer.score(window)

    def _resampled(self, ranker: Resamples, number: int) -> Ranker:
        return _Gated(ranker.resampled(number), self._turns)
