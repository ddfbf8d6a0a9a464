"""Windows as a sliding window's passes meet them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.augmentation import Augmentation, MultiSample, WindowFilter
from rearank.ranking import SlidingWindow
from rearank.ranking.pass_windows import PassWindows
from rearank.types import Candidates, JudgedWindow, Passage, Permutation, Query, Window

ANY = WindowFilter(minimum=0.0, min_relevant=0)


def candidates(n: int, query: str = "q") -> Candidates:
    return Candidates(Query(query, query), tuple(Passage(f"p{i}", "text") for i in range(n)))


def ids(judged: JudgedWindow) -> tuple[str, ...]:
    return tuple(passage.id for passage in judged.window.passages)


def met_by_the_strategy(
    given_list: Candidates, size: int, step: int, grades: Mapping[str, int] | None
) -> list[tuple[str, ...]]:
    """What ``strategy=sliding_window`` asks of a ranker that is ideal, or (no grades) leaves windows as they are."""
    seen = []

    class Ranker:
        async def order(self, window: Window) -> Permutation:
            names = [passage.id for passage in window.passages]
            seen.append(tuple(names))
            places = range(len(names))
            by = grades or {}
            return Permutation(tuple(sorted(places, key=lambda place: -by.get(names[place], 0))))

    asyncio.run(SlidingWindow(size, step).rerank(given_list.query, given_list.passages, Ranker()))
    return seen


@given(st.integers(2, 40), st.integers(2, 10), st.data())
def test_they_are_the_strategys_own(n: int, size: int, data: st.DataObject) -> None:
    """Without noise and with room for all: those of the first stage's pass and of an ideal one, and no others."""
    step = data.draw(st.integers(1, size))
    grades = {f"p{i}": data.draw(st.integers(0, 3)) for i in range(n)}
    made = PassWindows(sets=200, size=size, depth=100, step=step, passes=1, noise=0.0, mix=1.0, filter=ANY)
    found = [ids(one) for one in made.augment(candidates(n), grades).windows]
    assert len(found) == len(set(found))
    expected = [*met_by_the_strategy(candidates(n), size, step, None)]
    expected += met_by_the_strategy(candidates(n), size, step, grades)
    assert set(found) == set(expected)


def test_promoted_passages_stand_last() -> None:
    """By hand: of 4 windows of 4 the last ones' tails hold the two best of what lies below."""
    grades = {"p9": 3, "p8": 2, "p3": 1}
    made = PassWindows(sets=9, size=4, depth=10, step=2, passes=1, noise=0.0, mix=1.0, filter=ANY)
    found = {ids(one) for one in made.augment(candidates(10), grades).windows}
    as_given = [("p6", "p7", "p8", "p9"), ("p4", "p5", "p6", "p7"), ("p2", "p3", "p4", "p5"), ("p0", "p1", "p2", "p3")]
    ideal = [("p4", "p5", "p9", "p8"), ("p2", "p3", "p9", "p8"), ("p0", "p1", "p9", "p8")]
    assert found == {*as_given, *ideal}


settings = st.builds(
    PassWindows,
    sets=st.integers(1, 30),
    size=st.integers(2, 8),
    depth=st.just(30),
    step=st.integers(1, 2),
    passes=st.integers(0, 4),
    noise=st.floats(0, 5),
    mix=st.floats(0, 1),
    filter=st.just(ANY),
    seed=st.integers(0, 99),
)


@given(settings, st.integers(0, 40))
def test_as_many_as_asked_and_each_once(made: PassWindows, n: int) -> None:
    grades = {f"p{i}": i % 3 for i in range(0, n, 2)}
    found = made.augment(candidates(n), grades)
    assert made.augment(candidates(n), grades) == found, "the same again"
    shown = [ids(one) for one in found.windows]
    assert len(shown) == len(set(shown)) <= made.sets
    wanted = round(made.mix * made.sets)
    drawn = MultiSample(max(made.sets - wanted, 1), made.size, made.depth, filter=ANY, seed=made.seed)
    of_draw = [ids(one) for one in drawn.augment(candidates(n), grades).windows] if made.sets > wanted else []
    from_passes = [one for one in shown if one not in of_draw]
    assert len(from_passes) <= wanted
    for one in found.windows:
        assert len(set(ids(one))) == len(one.relevance) == min(made.size, n)
        assert one.relevance == tuple(grades.get(i, 0) for i in ids(one))
        assert sorted(one.ideal or ()) == sorted(grade for grade in grades.values() if grade)
    if made.mix == 0:
        assert (
            found.windows
            == MultiSample(made.sets, made.size, 30, filter=ANY, seed=made.seed).augment(candidates(n), grades).windows
        )


def test_mix_noise_seed_and_filter_have_their_say() -> None:
    grades = {f"p{i}": 1 + i % 3 for i in range(0, 100, 7)}
    made = PassWindows(filter=ANY)
    assert isinstance(made, Augmentation)
    assert len(made.augment(candidates(100), grades).windows) == 50

    def of(changed: PassWindows) -> list[tuple[str, ...]]:
        return [ids(one) for one in changed.augment(candidates(100), grades).windows]

    passes_alone = replace(made, mix=1.0)
    assert of(replace(passes_alone, seed=1)) != of(passes_alone)
    assert of(replace(passes_alone, noise=0.0)) != of(passes_alone)
    few = replace(made, passes=0, mix=1.0)
    assert len(of(few)) == 9, "never padded: one pass has nine windows"
    strict = replace(few, filter=WindowFilter(minimum=0.2)).augment(candidates(100), grades)
    assert len(strict.windows) + strict.dropped["initial nDCG too low"] == 9
    assert len(strict.windows) < 9
    assert [ids(one) for one in islice(strict.windows, 1)] != []
    assert made.augment(candidates(1), grades).windows == ()


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"step must lie between 1 and size \(5\)"):
        PassWindows(size=5, step=6)
    with pytest.raises(ValueError, match="mix must be at least 0 and at most 1"):
        PassWindows(mix=1.5)
    with pytest.raises(ValueError, match="size must be at most depth"):
        PassWindows(size=20, depth=10)
