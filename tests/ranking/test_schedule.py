"""All queries at once; what fails is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from rearank.ranking import AbortRunError, Failure, Ranker, SelfConsistency, SlidingWindow, rerank_all, rerank_stream
from rearank.types import Candidates, Passage, Permutation, Query, Ranking, Window


def candidates(queries: int, n: int = 5) -> list[Candidates]:
    return [Candidates(Query(str(q), ""), tuple(Passage(f"d{i}", "") for i in range(n))) for q in range(queries)]


class Reverse:
    """Counts how many calls are under way at once; the first query's answers are slow."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.order_seen: list[str] = []
        self.unparsed = 2

    async def order(self, window: Window) -> Permutation:
        self.order_seen.append(window.query.id)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02 if window.query.id == "0" else 0)
        self.now -= 1
        return Permutation(tuple(reversed(range(len(window)))))


class Drawn(Reverse):
    """Its answers can be drawn again."""

    def resampled(self, number: int) -> Drawn:
        return self


def test_every_query_at_once_and_results_as_given() -> None:
    ranker, done = Reverse(), []
    results = asyncio.run(rerank_all(candidates(30), SlidingWindow(4, 2), lambda _: ranker, on_done=done.append))
    assert ranker.most == 30
    assert list(results) == [str(q) for q in range(30)]
    assert len(done) == 30
    assert done[-1].query_id == "0", "nobody waited for the slowest"
    assert results["3"] == Ranking("3", ("d2", "d3", "d4", "d0", "d1"), calls=2, unparsed=2)


@pytest.mark.parametrize(
    ("limits", "most"), [({"max_concurrent_queries": 4}, 4), ({"max_concurrent_calls": 3}, 3), ({}, 20)]
)
def test_limits_hold(limits: dict[str, int], most: int) -> None:
    ranker = Reverse()
    results = asyncio.run(rerank_all(candidates(20), SlidingWindow(2, 1), lambda _: ranker, **limits))
    assert ranker.most == most
    assert all(isinstance(r, Ranking) for r in results.values())


def test_a_free_place_goes_to_the_query_with_most_calls_to_come() -> None:
    short, long = candidates(1, 2)[0], Candidates(Query("long", ""), candidates(1, 12)[0].passages)
    other = Candidates(Query("other", ""), short.passages)
    ranker = Reverse()
    asyncio.run(rerank_all([short, other, long], SlidingWindow(2, 1), lambda _: ranker, max_concurrent_calls=1))
    assert ranker.order_seen[:2] == ["0", "long"]


def test_a_failed_call_fails_its_query_alone() -> None:
    class Broken(Reverse):
        async def order(self, window: Window) -> Permutation:
            if window.query.id == "1":
                raise OSError("gone")
            return await super().order(window)

    done: list[Ranking | Failure] = []
    for limits in ({}, {"max_concurrent_calls": 1}):
        results = asyncio.run(
            rerank_all(candidates(3), SlidingWindow(), lambda _: Broken(), on_done=done.append, **limits)  # type: ignore[arg-type]
        )
        failure = results["1"]
        assert isinstance(failure, Failure)
        assert str(failure) == "query 1: OSError: gone"
        assert failure in done
        assert isinstance(results["0"], Ranking)
        assert isinstance(results["2"], Ranking)


@pytest.mark.parametrize(
    ("returned", "cause"),
    [
        (Ranking("0", ("d4", "d3", "d2")), "of 5 it returned 3, and lacks d0, d1"),
        (Ranking("0", ("d0", "d1", "d2", "d3", "d4", "d1")), "of 5 it returned 6, and repeats or adds d1"),
        (
            Ranking("0", ("d0", "d1", "d2", "d3", "else")),
            "of 5 it returned 5, and lacks d4 and repeats or adds else",
        ),
        (Ranking("other", ("d0", "d1", "d2", "d3", "d4")), "the ranking of another query, 'other'"),
        (["d0", "d1", "d2", "d3", "d4"], "returned list and not a Ranking"),
        (None, "returned NoneType and not a Ranking"),
    ],
)
def test_a_result_that_is_not_every_candidate_once_fails_its_query(returned: Any, cause: str) -> None:
    class Own:
        def calls(self, n: int) -> int:
            return 1

        chain = calls

        async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
            result: Ranking = returned if query.id == "0" else Ranking(query.id, tuple(p.id for p in candidates))
            return result

    for strategy in (Own(), SelfConsistency(Own(), samples=2)):
        results = asyncio.run(rerank_all(candidates(2), strategy, lambda _: Drawn()))
        failure = results["0"]
        assert isinstance(failure, Failure)
        assert str(failure).startswith("query 0: StrategyError: Own.rerank ")
        assert cause in str(failure)
        assert results["1"] == Ranking("1", ("d0", "d1", "d2", "d3", "d4"), unparsed=2)


def test_a_ranker_that_cannot_be_made_fails_its_query() -> None:
    def no_ranker(item: Candidates) -> Reverse:
        raise KeyError(item.query.id)

    results = asyncio.run(rerank_all(candidates(2), SlidingWindow(), no_ranker))
    assert all(isinstance(r, Failure) for r in results.values())


def test_an_abort_stops_everything() -> None:
    calls = Reverse()

    class Full:
        async def order(self, window: Window) -> Permutation:
            raise AbortRunError("disk full")

    def ranker_for(item: Candidates) -> Reverse | Full:
        return Full() if item.query.id == "1" else calls

    with pytest.raises(AbortRunError, match="disk full"):
        asyncio.run(rerank_all(candidates(3, 30), SlidingWindow(2, 1), ranker_for, max_concurrent_calls=2))
    assert len(calls.order_seen) < 29


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: rerank_all(candidates(2) * 2, SlidingWindow(), lambda _: Reverse()), "twice"),
        (lambda: rerank_all([], SlidingWindow(), lambda _: Reverse(), max_concurrent_calls=0), "max_concurrent_calls"),
        (lambda: rerank_all([], SlidingWindow(), lambda _: Reverse(), max_concurrent_queries=-1), "concurrent_queries"),
    ],
)
def test_bad_requests_are_refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asyncio.run(run())  # type: ignore[arg-type]


def test_nothing_to_do() -> None:
    assert asyncio.run(rerank_all([], SlidingWindow(), lambda _: Reverse())) == {}
    empty = Candidates(Query("q", ""), ())
    results = asyncio.run(rerank_all([empty], SlidingWindow(), lambda _: Reverse()))
    assert results == {"q": Ranking("q", (), 0, 2)}


def test_a_cancelled_waiter_gives_its_place_back() -> None:
    async def main() -> dict[str, Ranking | Failure]:
        ranker = Reverse()
        doomed = asyncio.create_task(
            rerank_all(candidates(5), SlidingWindow(2, 1), lambda _: ranker, max_concurrent_calls=1)
        )
        await asyncio.sleep(0.005)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
        assert doomed.cancelled()
        return await rerank_all(candidates(5), SlidingWindow(2, 1), lambda _: ranker, max_concurrent_calls=1)

    assert len(asyncio.run(main())) == 5


def test_a_stream_is_read_as_places_come_free() -> None:
    taken: list[str] = []
    ahead: list[int] = []
    done: list[Ranking | Failure] = []

    def lists() -> Iterator[Candidates]:
        for item in candidates(30):
            taken.append(item.query.id)
            ahead.append(len(taken) - len(done))
            yield item

    asyncio.run(
        rerank_stream(lists(), SlidingWindow(4, 2), lambda _: Reverse(), max_concurrent_queries=3, on_done=done.append)
    )
    assert sorted(taken) == sorted(one.query_id for one in done)
    assert max(ahead) == 3, "no more are read than are under way"


def test_what_a_stream_or_its_reader_raises_ends_everything() -> None:
    async def broken() -> AsyncIterator[Candidates]:
        yield candidates(1)[0]
        raise KeyError("line 2")

    def full(result: Ranking | Failure) -> None:
        raise OSError("disk")

    for work, done, error in ((broken(), lambda _: None, KeyError), (candidates(3), full, OSError)):
        with pytest.raises(error):
            asyncio.run(rerank_stream(work, SlidingWindow(4, 2), lambda _: Reverse(), on_done=done))
