"""Windows drawn from judged candidates."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.augmentation import Augmentation, MultiSample, NoAugmentation, WindowFilter
from rearank.metrics import ndcg
from rearank.types import Candidates, JudgedWindow, Passage, Query, Window

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


def window(relevance: tuple[int, ...], ideal: tuple[int, ...] | None = None) -> JudgedWindow:
    passages = tuple(Passage(f"d{i}", "text") for i in range(len(relevance)))
    return JudgedWindow(Window(Query("q", "query"), passages), relevance, ideal)


# nDCG of (0, 1) is 1 / log2(3) = 0.63, and 1 / (1 + 0.63) = 0.61 for (1, 0) where the query has another relevant one.
@pytest.mark.parametrize(
    ("bounds", "relevance", "ideal", "reason"),
    [
        (WindowFilter(maximum_initial=1.0), (1, 0), None, "initial nDCG too high"),
        (WindowFilter(minimum=1 / log2(3), maximum_initial=1 / log2(3)), (0, 1), None, "initial nDCG too high"),
        (WindowFilter(minimum=1 / log2(3)), (0, 1), None, None),
        (WindowFilter(minimum=0.64), (0, 1), None, "initial nDCG too low"),
        (WindowFilter(minimum=0.6), (0, 1), None, None),
        (WindowFilter(minimum=0.6, k=1), (0, 1), None, "initial nDCG too low"),
        (WindowFilter(minimum=0.62), (1, 0), (1, 1), "initial nDCG too low"),
        (WindowFilter(minimum=0.62), (1, 0), None, None),
        (WindowFilter(minimum=0.62, on="best"), (0, 1), (1, 1), "best nDCG too low"),
        (WindowFilter(minimum=0.62, on="best", k=1), (0, 1), (1, 1), None),
        (WindowFilter(min_relevant=2), (1, 1), None, None),
        (WindowFilter(min_relevant=2), (3, 0), None, "too few relevant"),
        # The default minimum is 0.1: a tenth of the ideal's gain, and an eleventh.
        (WindowFilter(), (1, 0), (10,), None),
        (WindowFilter(), (1, 0), (11,), "initial nDCG too low"),
    ],
)
def test_filter_at_its_bounds(
    bounds: WindowFilter, relevance: tuple[int, ...], ideal: tuple[int, ...] | None, reason: str | None
) -> None:
    assert bounds.reason_to_drop(window(relevance, ideal)) == reason


def test_the_bounds_of_a_filter_may_be_one() -> None:
    one = WindowFilter(minimum=0.5, maximum_initial=0.5)
    assert one.minimum == one.maximum_initial


def test_two_candidates_are_enough() -> None:
    few = {"fewer than two candidates": 1}
    for augmentation in (MultiSample(sets=1, filter=ANY), NoAugmentation(filter=ANY)):
        (judged,) = augmentation.augment(candidates("a", 2), {}).windows
        assert len(judged.window) == 2
        got = augmentation.augment(candidates("a", 1), {"a-0": 1})
        assert (got.windows, got.dropped) == ((), few)
    assert MultiSample(sets=7).augment(candidates("a", 1), {}).dropped == {"fewer than two candidates": 7}


def test_a_set_may_be_as_large_as_the_depth() -> None:
    got = MultiSample(sets=1, size=4, depth=4, order="first_stage", filter=ANY).augment(candidates("a"), {})
    assert [p.id for p in got.windows[0].window.passages] == ["a-0", "a-1", "a-2", "a-3"]


@pytest.mark.parametrize("build", [MultiSample, NoAugmentation])
def test_the_querys_ideal_is_of_its_positive_grades(build: type[MultiSample] | type[NoAugmentation]) -> None:
    given = {"a-0": 1, "elsewhere": 3, "a-1": 0, "a-2": -2, "a-3": 2}
    judged = build(size=4, filter=ANY).augment(candidates("a", 4), given).windows[0]
    assert judged.ideal == (3, 2, 1)
    assert judged.window.query == Query("a", "a")
    assert build(size=4, ideal="window", filter=ANY).augment(candidates("a", 4), given).windows[0].ideal is None


def test_none_keeps_or_says_why() -> None:
    kept = NoAugmentation().augment(candidates("a"), {"a-0": 1})
    assert (len(kept.windows), kept.dropped) == (1, {})
    assert NoAugmentation().augment(candidates("a"), {}).windows == ()


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
        (lambda: MultiSample(size=101), r"^size must be at most depth \(100\), not 101$"),
        (lambda: MultiSample(order="best"), "order"),  # type: ignore[arg-type]
        (lambda: WindowFilter(on="last"), "on must be"),  # type: ignore[arg-type]
        (lambda: WindowFilter(minimum=1.5), "minimum must"),
        (
            lambda: WindowFilter(minimum=0.5, maximum_initial=0.4),
            r"^maximum_initial \(0\.4\) must not be below minimum \(0\.5\)$",
        ),
        (lambda: NoAugmentation(size=1), "size"),
    ],
)
def test_bad_parameters_name_themselves(build: object, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        build()  # type: ignore[operator]
