"""Every strategy: a permutation whatever the answers, the right top with right ones, and the calls that it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ranking.rankers import QUERY, Timed, first_child, first_last, oracle, passages, rerank, shuffler

from rearank.engines.virtual_time import run_virtual
from rearank.ranking import (
    AbortRunError,
    FullList,
    Pairwise,
    Planned,
    Pointwise,
    SelfConsistency,
    Setwise,
    SlidingWindow,
    Strategy,
    TopDown,
    Tournament,
    misfits,
    rerank_all,
)
from rearank.types import Candidates, Permutation, Query, Ranking, Window

SIZE = st.integers(2, 9)
EXACT: dict[str, st.SearchStrategy[Any]] = {
    "sliding_window": st.builds(
        SlidingWindow, SIZE.map(lambda s: 2 * s), SIZE.map(lambda s: s // 2), st.integers(1, 3)
    ),
    "full_list": st.just(FullList(60)),
    "pairwise": st.builds(Pairwise, st.integers(1, 12), st.booleans()),
    "pointwise": st.just(Pointwise()),
    "tournament": SIZE.flatmap(
        lambda size: st.builds(Tournament, st.just(size), st.integers(1, size // 2), st.integers(1, 3))
    ),
}
"""What answers can't change the calls of."""
BOUNDED: dict[str, st.SearchStrategy[Any]] = {
    "top_down": SIZE.flatmap(lambda size: st.builds(TopDown, st.just(size), st.integers(1, size - 1))),
    "setwise": st.builds(Setwise, st.integers(2, 9), st.integers(1, 12)),
}
WORST: dict[str, Callable[[], Timed]] = {"top_down": first_last, "setwise": first_child}
"""The answers that take the most calls."""
PLAIN = st.one_of(*EXACT.values(), *BOUNDED.values())
ANY = st.one_of(PLAIN, st.builds(SelfConsistency, PLAIN, st.integers(1, 3), st.sampled_from(["rrf", "borda"])))
N = st.integers(0, 60)


def top(strategy: Any, n: int) -> int:
    """How many of the best a perfect ranker is promised to put on top."""
    match strategy:
        case SlidingWindow(size=size, step=step, passes=passes):
            return n if n <= size else passes * (size - step)
        case TopDown(size=size, k=k) | Tournament(size=size, keep=k):
            return n if n <= size else k
        case Setwise(k=k) | Pairwise(k=k):
            return k
        case SelfConsistency(strategy=inner):
            return top(inner, n)
    return n


@given(ANY, N, st.integers(0, 99))
@settings(deadline=None)
def test_whatever_is_answered_the_list_stays_whole(strategy: Any, n: int, seed: int) -> None:
    for ranker in (shuffler(seed), first_child(), first_last()):
        order, ranking, _ = rerank(strategy, n, ranker)
        assert sorted(order) == list(range(n))
        assert ranking.calls == ranker.calls
        assert ranker.calls == 0 or n > 1


@given(ANY, st.data())
@settings(deadline=None)
def test_a_perfect_ranker_puts_the_best_on_top(strategy: Any, data: st.DataObject) -> None:
    distinct = N.flatmap(lambda n: st.permutations(range(n)))
    # Of two that are equally good each wins some tournaments: their points are split, and a third may have more.
    splits = isinstance(strategy, Tournament) and strategy.tournaments > 1
    grades = data.draw(distinct if splits else st.one_of(distinct, st.lists(st.integers(0, 3), max_size=60)))
    n = len(grades)
    order, _, _ = rerank(strategy, n, oracle({f"d{i}": grade for i, grade in enumerate(grades)}))
    best = top(strategy, n)
    assert [grades[i] for i in order][:best] == sorted(grades, reverse=True)[:best]


@pytest.mark.parametrize("name", EXACT)
@given(data=st.data(), n=N, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_calls_and_chain_are_what_it_says(name: str, data: st.DataObject, n: int, seed: int) -> None:
    strategy = data.draw(EXACT[name])
    ranker = shuffler(seed)
    _, _, seconds = rerank(strategy, n, ranker)
    assert (ranker.calls, seconds) == (strategy.calls(n), strategy.chain(n))
    merged = SelfConsistency(strategy, samples=3)
    ranker = shuffler(seed)
    _, _, seconds = rerank(merged, n, ranker)
    assert (ranker.calls, seconds) == (merged.calls(n), merged.chain(n)) == (3 * strategy.calls(n), strategy.chain(n))
    assert ranker.draws == [0, 1, 2]


@pytest.mark.parametrize("name", BOUNDED)
@given(data=st.data(), n=N, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_calls_and_chain_reach_their_bound_and_never_pass_it(name: str, data: st.DataObject, n: int, seed: int) -> None:
    strategy = data.draw(BOUNDED[name])
    worst = WORST[name]()
    _, _, seconds = rerank(strategy, n, worst)
    assert (worst.calls, seconds) == (strategy.calls(n), strategy.chain(n))
    ranker = shuffler(seed)
    _, _, seconds = rerank(strategy, n, ranker)
    assert ranker.calls <= strategy.calls(n)
    assert seconds <= strategy.chain(n)


@pytest.mark.parametrize(
    ("strategy", "calls", "chain"),
    [
        (SlidingWindow(), 9, 9),
        (SlidingWindow(passes=3), 27, 27),
        (FullList(), 1, 1),
        (TopDown(), 31, 17),
        (Setwise(), 25, 21),
        (Setwise(children=3), 85, 46),
        (Pairwise(), 1890, 108),
        (Pairwise(both_orders=False), 945, 108),
        (Pointwise(), 100, 1),
        (Tournament(), 22, 4),
        (SelfConsistency(TopDown(), samples=5), 155, 17),
    ],
)
def test_the_figures_of_the_docstrings(strategy: Any, calls: int, chain: int) -> None:
    assert (strategy.calls(100), strategy.chain(100)) == (calls, chain)
    assert (strategy.calls(1), strategy.chain(1), strategy.calls(0), strategy.chain(0)) == (0, 0, 0, 0)
    assert isinstance(strategy, Strategy)
    assert isinstance(strategy, Planned)


def test_top_down_is_done_with_one_list_where_nothing_beats_the_pivot() -> None:
    ranker = oracle({f"d{i}": -i for i in range(100)})
    _, ranking, seconds = rerank(TopDown(), 100, ranker)
    assert (ranking.calls, seconds) == (6, 2)
    late = {f"d{i}": float(-i) for i in range(100)} | {"d99": 1.0}
    order, ranking, seconds = rerank(TopDown(), 100, oracle(late))
    assert (ranking.calls, seconds) == (7, 3)
    assert order[:3] == [99, 0, 1]


def test_top_down_shows_the_pivot_first_and_puts_losers_after_it() -> None:
    shown: list[list[str]] = []

    def as_given(window: Window) -> list[int]:
        shown.append([p.id for p in window.passages])
        return list(range(len(window)))

    order, _, _ = rerank(TopDown(size=4, k=2), 9, Timed(as_given))
    assert shown == [["d0", "d1", "d2", "d3"], ["d1", "d4", "d5", "d6"], ["d1", "d7", "d8"]]
    assert order == list(range(9))


def test_setwise_needs_the_winner_only_and_leaves_the_rest_as_given() -> None:
    grades = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]

    def winner(window: Window) -> list[int]:
        best = max(range(len(window)), key=lambda i: grades[int(window.passages[i].id[1:])])
        return [best, *(i for i in reversed(range(len(window))) if i != best)]

    order, _, _ = rerank(Setwise(children=3, k=3), len(grades), Timed(winner))
    assert [grades[i] for i in order[:3]] == [9, 9, 8]
    assert order[3:] == sorted(order[3:])


def test_both_orders_of_a_pair_undo_a_bias() -> None:
    """A model that always names the second passage reverses the list, unless it is asked both ways."""
    second = Timed(lambda window: [1, 0])
    assert rerank(Pairwise(k=5, both_orders=False), 6, second)[0] == [5, 4, 3, 2, 1, 0]
    assert rerank(Pairwise(k=5), 6, second)[0] == [0, 1, 2, 3, 4, 5]


def test_pointwise_ties_keep_the_given_order_and_need_a_score() -> None:
    assert rerank(Pointwise(), 4, Timed(lambda _: [], lambda p: float(p.id in ("d1", "d3"))))[0] == [1, 3, 0, 2]

    class OrdersOnly:
        async def order(self, window: Window) -> Permutation:
            return Permutation.identity(len(window))

    for strategy, lacks in ((Pointwise(), "score"), (SelfConsistency(SlidingWindow()), "resampled")):
        with pytest.raises(TypeError, match=f"OrdersOnly .*method `{lacks}`"):
            asyncio.run(strategy.rerank(QUERY, passages(3), OrdersOnly()))


def test_a_tournament_meets_in_groups_dealt_from_the_list() -> None:
    shown: list[list[int]] = []

    def as_given(window: Window) -> list[int]:
        shown.append([int(p.id[1:]) for p in window.passages])
        return list(range(len(window)))

    order, _, _ = rerank(Tournament(size=4, keep=2, tournaments=1), 7, Timed(as_given))
    assert shown == [[0, 2, 4, 6], [1, 3, 5], [0, 1, 2, 3]]
    assert order == list(range(7))
    shown.clear()
    rerank(Tournament(size=4, keep=2, tournaments=2), 7, Timed(as_given))
    assert sorted(map(sorted, shown[:4])) == [[0, 2, 4, 6], [0, 2, 4, 6], [1, 3, 5], [1, 3, 5]]
    assert shown[0] == [0, 2, 4, 6]
    again = list(shown)
    shown.clear()
    rerank(Tournament(size=4, keep=2, tournaments=2), 7, Timed(as_given))
    assert shown == again, "the random orders are fixed by the seed"


def test_a_list_too_long_for_one_call_is_refused() -> None:
    with pytest.raises(ValueError, match=r"100 candidates.*strategy\.size=100.*benchmark\.depth"):
        rerank(FullList(size=50), 100, oracle({}))


class Draws:
    """Another fixed order for each draw."""

    def __init__(self, orders: list[list[int]], number: int | None = None) -> None:
        self.orders = orders
        self.number = number

    async def order(self, window: Window) -> Permutation:
        assert self.number is not None, "asked without a draw"
        return Permutation(tuple(self.orders[self.number]))

    def resampled(self, number: int) -> Draws:
        return Draws(self.orders, number)


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("rrf", [0, 2, 3, 1]),  # with constant 0 a first, a last and a third beat three seconds
        ("borda", [1, 0, 2, 3]),
    ],
)
def test_samples_are_merged(fusion: Any, expected: list[int]) -> None:
    draws = Draws([[0, 1, 2, 3], [2, 1, 3, 0], [3, 1, 0, 2]])
    strategy = SelfConsistency(FullList(), samples=3, fusion=fusion, constant=0)
    assert rerank(strategy, 4, draws)[0] == expected
    opposed = Draws([[0, 1, 2, 3], [3, 2, 1, 0]])
    tied = rerank(SelfConsistency(FullList(), samples=2, fusion="borda"), 4, opposed)[0]
    assert tied == [0, 1, 2, 3], "equal sums keep the given order"


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: SlidingWindow(passes=0), "passes"),
        (lambda: FullList(1), "size"),
        (lambda: TopDown(size=1), "size"),
        (lambda: TopDown(size=5, k=5), "k is the pivot"),
        (lambda: Setwise(children=1), "children"),
        (lambda: Setwise(k=0), "k must"),
        (lambda: Pairwise(k=0), "k must"),
        (lambda: Tournament(size=1), "size"),
        (lambda: Tournament(size=5, keep=3), "keep"),
        (lambda: Tournament(tournaments=0), "tournaments"),
        (lambda: SelfConsistency(Pointwise(), samples=0), "samples"),
        (lambda: SelfConsistency(Pointwise(), fusion="mean"), "fusion"),  # type: ignore[arg-type]
        (lambda: SelfConsistency(Pointwise(), constant=-1), "constant"),
        (lambda: SelfConsistency("top_down"), "strategy must be a node"),
    ],
)
def test_what_is_out_of_range_is_named(make: Callable[[], object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        make()


@pytest.mark.parametrize(
    ("strategy", "asks", "temperature", "said"),
    [
        (SlidingWindow(), "ranking", 0, []),
        (SlidingWindow(), "best", 0, ["the best passage alone"]),
        (TopDown(), "yes_no", 0, ["a yes or no about one passage"]),
        (Setwise(), "best", 0, []),
        (Setwise(), "ranking", 0, []),
        (Pairwise(), "yes_no", 0, ["asks: best or asks: ranking"]),
        (Pointwise(), "yes_no", 0, []),
        (Pointwise(), "ranking", 0, ["asks: yes_no"]),
        (SelfConsistency(Setwise()), "best", 0.7, []),
        (SelfConsistency(Pointwise()), "best", 0, ["asks: yes_no", "set model.temperature"]),
    ],
)
def test_a_prompt_must_ask_what_the_strategy_reads(
    strategy: Any, asks: Any, temperature: float, said: list[str]
) -> None:
    found = misfits(strategy, asks, temperature)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


@given(ANY, st.integers(2, 25))
@settings(deadline=None, max_examples=60)
def test_the_gate_passes_every_ability_on(strategy: Any, n: int) -> None:
    """With two places among three queries nothing changes but who waits."""

    class Places(Timed):
        now = most = 0

        async def _count(self, window: Window) -> None:
            Places.now += 1
            Places.most = max(Places.most, Places.now)
            await super()._count(window)
            Places.now -= 1

    grades = {f"d{i}": float(i * 7 % 11) for i in range(n)}
    plain = oracle(grades)
    lists = [Candidates(Query(str(q), ""), tuple(passages(n))) for q in range(3)]

    async def gated() -> dict[str, Any]:
        return await rerank_all(
            lists, strategy, lambda _: Places(plain.order_of, plain.score_of), max_concurrent_calls=2
        )

    results, _ = run_virtual(gated())
    alone = rerank(strategy, n, plain)[1]
    if not _is_drawn_by_query(strategy):
        assert {r.passage_ids for r in results.values()} == {alone.passage_ids}
    assert all(isinstance(result, Ranking) and result.calls == alone.calls for result in results.values())
    assert Places.most <= 2


def _is_drawn_by_query(strategy: Any) -> bool:
    inner = strategy.strategy if isinstance(strategy, SelfConsistency) else strategy
    return isinstance(inner, Tournament)


def test_the_gate_adds_no_ability() -> None:
    class OrdersOnly:
        async def order(self, window: Window) -> Permutation:
            return Permutation.identity(len(window))

    lists = [Candidates(QUERY, tuple(passages(3)))]
    for strategy in (Pointwise(), SelfConsistency(FullList())):
        results = asyncio.run(rerank_all(lists, strategy, lambda _: OrdersOnly(), max_concurrent_calls=1))
        assert "OrdersOnly" in str(results["q"]) or "_Gated" in str(results["q"])
        assert not isinstance(results["q"], Ranking)


@pytest.mark.parametrize("strategy", [TopDown(4, 2), Setwise(2, 3), Pairwise(3), Pointwise(), Tournament(4, 2)])
def test_a_failed_call_raises_as_it_is_and_stops_its_siblings(strategy: Any) -> None:
    class Broken(Timed):
        async def _count(self, window: Window) -> None:
            self.calls += 1
            await asyncio.sleep(self.calls)
            if self.calls >= 2:
                raise OSError("engine down")

    with pytest.raises(OSError, match="engine down"):
        rerank(strategy, 20, Broken(lambda window: list(range(len(window)))))


def test_an_abort_goes_before_other_failures_however_deep() -> None:
    """What stops a run is not lost behind a sibling's ordinary failure."""

    class Full(Timed):
        async def _count(self, window: Window) -> None:
            self.calls += 1
            number = self.calls
            await asyncio.sleep(1.0)
            raise AbortRunError("disk full") if number == 7 else OSError(f"call {number}")

    with pytest.raises(AbortRunError, match="disk full"):
        rerank(SelfConsistency(Pointwise(), samples=2), 6, Full(lambda window: [0]))


def test_strategies_that_score_say_so() -> None:
    items, ranker = passages(4), Timed(lambda w: list(range(len(w))), lambda p: {"d1": 0.9, "d3": 0.4}.get(p.id, 0.0))
    scored = run_virtual(Pointwise().rerank(QUERY, items, ranker))[0]
    assert (scored.passage_ids, scored.scores) == (("d1", "d3", "d0", "d2"), (0.9, 0.4, 0.0, 0.0))
    # One group, kept as it is: first of four has 4/4 of a point, the last 1/4.
    assert run_virtual(Tournament(4, 2, 1).rerank(QUERY, items, ranker))[0].scores == (1.0, 0.75, 0.5, 0.25)
    assert run_virtual(SlidingWindow(2, 1).rerank(QUERY, items, ranker))[0].scores == ()
