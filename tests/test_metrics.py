"""nDCG equals trec_eval's."""

from __future__ import annotations

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from rearank.metrics import dcg, ideal_dcg, ndcg, rank_biased_overlap, recall

CUTS = (1, 3, 5, 10, 20)


@given(st.data())
def test_ndcg_equals_trec_eval(data: st.DataObject) -> None:
    # Grades under -1 make trec_eval itself crash; rearank.evaluation raises them to 0 first.
    grades = data.draw(st.lists(st.integers(-1, 4), min_size=1, max_size=40))
    retrieved = data.draw(st.integers(1, len(grades)))
    unjudged = data.draw(st.sets(st.integers(0, len(grades) - 1), max_size=len(grades) - 1))
    qrels = {f"d{i}": g for i, g in enumerate(grades) if i not in unjudged}
    ranked = data.draw(st.permutations(range(len(grades))))[:retrieved]
    scores = {f"d{i}": float(len(ranked) - r) for r, i in enumerate(ranked)}
    theirs = pytrec_eval.RelevanceEvaluator({"q": qrels}, {f"ndcg_cut.{','.join(map(str, CUTS))}"}).evaluate(
        {"q": scores}
    )
    in_order = [qrels.get(f"d{i}", 0) for i in ranked]
    for k in CUTS:
        assert ndcg(in_order, list(qrels.values()), k) == pytest.approx(theirs["q"][f"ndcg_cut_{k}"], abs=1e-6)


def test_edges() -> None:
    assert ndcg([], [], 10) == 0.0
    assert ndcg([1], [0, -1], 10) == 0.0
    assert recall([0, 1], [1, 1], 2) == 0.5
    assert recall([0, 1], [0, -1]) == 0.0
    assert recall([-1, 2, 1], [2, 1], 2) == 0.5
    with pytest.raises(ValueError, match=r"^nDCG's cut-off k must be at least 1, not 0$"):
        ndcg([1], [1], 0)


def test_cut_offs_are_ten_unless_given() -> None:
    eleventh = [0] * 10 + [1]
    assert (dcg(eleventh), ndcg(eleventh, [1]), recall(eleventh, [1])) == (0, 0, 0)
    tenth = eleventh[1:]
    assert dcg(tenth) == pytest.approx(0.2890648263178879)  # 1 / log2(11)
    assert ndcg(tenth, [1]) == pytest.approx(0.2890648263178879)
    assert recall(tenth, [1]) == 1
    assert ideal_dcg([1] * 11) == ideal_dcg([1] * 10) < ideal_dcg([1] * 11, 11)
    assert ndcg([2], [2], 1) == 1


def test_overlap_by_hand() -> None:
    # Shares 0, 1, 1 of the first one, two and three, which weigh 1, 1/2, 1/4.
    assert rank_biased_overlap([1, 0, 2], [0, 1, 2], 0.5) == pytest.approx((0 + 1 / 2 + 1 / 4) / (1 + 1 / 2 + 1 / 4))
    assert rank_biased_overlap([1, 0], [0, 1]) == pytest.approx(0.9 / 1.9)
    assert rank_biased_overlap([], []) == 1.0


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, 1.5])
def test_overlap_weighs_by_a_share(p: float) -> None:
    with pytest.raises(ValueError, match=rf"^rank-biased overlap needs p strictly between 0 and 1, not {p}$"):
        rank_biased_overlap([0, 1], [0, 1], p)


@pytest.mark.parametrize(("order", "reference"), [([0, 1], [0, 2]), ([0], [0, 1]), ([0, 1], [0])])
def test_overlap_is_of_the_same_items(order: list[int], reference: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^rank-biased overlap compares two orders of the same items$"):
        rank_biased_overlap(order, reference)


@given(st.permutations(range(12)))
def test_overlap_is_one_only_for_equal_orders(order: list[int]) -> None:
    value = rank_biased_overlap(order, range(12))
    assert 0 < value <= 1 + 1e-12
    assert (value > 1 - 1e-12) == (list(order) == list(range(12)))
