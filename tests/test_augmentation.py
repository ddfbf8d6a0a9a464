"""Windows drawn from judged candidates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.augmentation import Augmentation, MultiSample, NoAugmentation, WindowFilter
from rearank.metrics import ndcg
from rearank.types import Candidates, Passage, Query

ANY = WindowFilter(minimum=0.0, min_relevant=0)


def candidates(query: str, n: int = 100) -> Candidates:
    return Candidates(Query(query, query), tuple(Passage(f"{query}-{i}", "text") for i in range(n)))


def grades(query: str, every: int = 4, n: int = 140) -> dict[str, int]:
    return {f"{query}-{i}": 1 + i % 3 for i in range(0, n, every)}


def test_the_papers_sets() -> None:
    got = MultiSample(filter=ANY).augment(candidates("a"), grades("a"))
    assert len(got.windows) == 50
    assert not got.dropped
    assert isinstance(MultiSample(), Augmentation)
    assert isinstance(NoAugmentation(), Augmentation)
    for judged in got.windows:
        ids = [p.id for p in judged.window.passages]
        assert len(set(ids)) == 20
        assert judged.relevance == tuple(grades("a").get(i, 0) for i in ids)
        assert sorted(judged.ideal or ()) == sorted(grades("a").values())
    orders = [[p.id for p in w.window.passages] for w in got.windows]
    assert any(ids != sorted(ids, key=lambda i: int(i[2:])) for ids in orders)


@given(st.integers(0, 2**31), st.integers(2, 40))
def test_deterministic_and_per_query(seed: int, n: int) -> None:
    sample = MultiSample(sets=5, size=10, filter=ANY, seed=seed)
    first = sample.augment(candidates("a", n), grades("a"))
    sample.augment(candidates("b", n), grades("b"))
    assert sample.augment(candidates("a", n), grades("a")) == first


def test_seed_and_query_change_the_draw() -> None:
    def positions(query: str, seed: int) -> list[list[str]]:
        windows = MultiSample(filter=ANY, seed=seed).augment(candidates(query), {}).windows
        return [[p.id.split("-")[1] for p in w.window.passages] for w in windows]

    assert positions("a", 1) != positions("a", 2)
    assert positions("a", 1) != positions("b", 1)


def test_first_stage_order_is_kept() -> None:
    for judged in MultiSample(order="first_stage", filter=ANY).augment(candidates("a"), {}).windows:
        ranks = [int(p.id[2:]) for p in judged.window.passages]
        assert ranks == sorted(ranks)


def test_short_lists_never_repeat_a_window() -> None:
    got = MultiSample(size=20, filter=ANY).augment(candidates("a", 3), {})
    orders = {tuple(p.id for p in w.window.passages) for w in got.windows}
    assert len(orders) == len(got.windows) <= 6
    assert got.dropped["repeated"] == 50 - len(got.windows)
    assert MultiSample().augment(candidates("a", 1), {}).windows == ()


@pytest.mark.parametrize("on", ["initial", "best"])
def test_filter_bounds_the_ndcg_it_names(on: str) -> None:
    judged = grades("a", every=30)
    every = MultiSample(filter=ANY).augment(candidates("a"), judged).windows
    got = MultiSample(filter=WindowFilter(on=on, minimum=0.3)).augment(candidates("a"), judged)  # type: ignore[arg-type]

    def value(relevance: tuple[int, ...]) -> float:
        order = relevance if on == "initial" else sorted(relevance, reverse=True)
        return ndcg(order, list(judged.values()))

    kept = tuple(w for w in every if any(w.relevance) and value(w.relevance) >= 0.3)
    assert got.windows == kept
    assert 0 < len(kept) < 50
    assert sum(got.dropped.values()) == 50 - len(kept)


def test_filter_on_relevant_count_and_upper_bound() -> None:
    got = MultiSample(filter=WindowFilter(min_relevant=3, maximum_initial=0.5)).augment(candidates("a"), grades("a", 8))
    assert got.windows
    for w in got.windows:
        assert sum(g > 0 for g in w.relevance) >= 3
        assert 0.1 <= ndcg(w.relevance, w.ideal or ()) < 0.5


def test_none_is_the_first_window() -> None:
    (judged,) = NoAugmentation().augment(candidates("a"), grades("a")).windows
    assert [p.id for p in judged.window.passages] == [f"a-{i}" for i in range(20)]
    assert NoAugmentation().augment(candidates("a"), {}).dropped == {"too few relevant": 1}


def test_negative_grades_are_not_relevant() -> None:
    got = MultiSample(sets=3).augment(candidates("a"), {f"a-{i}": -1 for i in range(100)})
    assert got.dropped == {"too few relevant": 3}


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: MultiSample(sets=0), "sets"),
        (lambda: MultiSample(size=101), "size"),
        (lambda: MultiSample(order="best"), "order"),  # type: ignore[arg-type]
        (lambda: WindowFilter(on="last"), "on must be"),  # type: ignore[arg-type]
        (lambda: WindowFilter(minimum=1.5), "minimum must"),
        (lambda: WindowFilter(minimum=0.5, maximum_initial=0.4), "maximum_initial"),
        (lambda: NoAugmentation(size=1), "size"),
    ],
)
def test_bad_parameters_name_themselves(build: object, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        build()  # type: ignore[operator]
