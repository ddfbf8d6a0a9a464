"""Any number of systems: corrected for their number, over the queries that they share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.evaluation import Scored, compare, heading, holm, most_moved, paired_test


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(values: list[float]) -> None:
    got = holm(values)
    for value, corrected in zip(values, got, strict=True):
        assert value <= corrected <= min(1.0, len(values) * value) + 1e-12
    ordered = [corrected for _, corrected in sorted(zip(values, got, strict=True))]
    assert ordered == sorted(ordered)


@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_holm_has_the_digits_of_statsmodels(values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")  # a test's, never a requirement of ours
    assert holm(values) == multitest.multipletests(values, method="holm")[1].tolist()


def scored(label: str, shift: float, benchmark: str = "one", queries: int = 20) -> Scored:
    values = {str(q): 0.3 + 0.02 * (q % 7) + shift * (1 + q % 3) for q in range(queries)}
    return Scored(label, benchmark, {"ndcg_cut_10": values, "map": {q: v / 2 for q, v in values.items()}})


def test_every_pair_or_all_against_one() -> None:
    systems = [
        scored("a", 0.0),
        scored("b", 0.05),
        scored("c", 0.001),
        scored("d", 0.0, "other"),
        scored("e", 0.1, "other"),
    ]
    pairs = compare(systems, ["ndcg_cut_10", "map"], permutations=200)
    assert [(one.benchmark, one.a, one.b) for one in pairs if one.measure == "map"] == [
        *(("one", "a", "b"), ("one", "a", "c"), ("one", "b", "c"), ("other", "d", "e")),
    ]
    alone = paired_test(systems[0].values["map"], systems[1].values["map"], permutations=200)
    one = next(one for one in pairs if (one.measure, one.b) == ("map", "b"))
    assert one.test == alone
    assert [one.holm for one in pairs] == holm([one.test.p_value for one in pairs]), "one family: all that was compared"
    against = compare(systems[:3], ["map"], baseline="b", permutations=200)
    assert [(one.a, one.b) for one in against] == [("b", "a"), ("b", "c")]


def test_only_common_queries_count() -> None:
    short = scored("b", 0.1, queries=10)
    (one,) = compare([scored("a", 0.0), short], ["map"], permutations=50)
    assert one.test.queries == 10


def test_what_can_not_be_compared_is_named() -> None:
    strange = Scored("z", "one", {"map": {"x": 0.1, "y": 0.2}})
    with pytest.raises(ValueError, match=r"one: a \(20 queries\) and z \(2 queries\) share 0 queries"):
        compare([scored("a", 0.0), strange], ["map"])
    with pytest.raises(ValueError, match=r"z: no values of ndcg_cut_10; it has map"):
        compare([scored("a", 0.0), strange], ["ndcg_cut_10"])
    with pytest.raises(ValueError, match="labelled 'a'; give each its own label"):
        compare([scored("a", 0.0), scored("a", 0.1)], ["map"])
    with pytest.raises(ValueError, match="no system is labelled 'x'; there are a, b"):
        compare([scored("a", 0.0), scored("b", 0.1)], ["map"], baseline="x")


def test_queries_that_moved_most() -> None:
    a = Scored("a", "one", {"map": {"q1": 0.5, "q2": 0.5, "q3": 0.5, "q4": 0.5}})
    b = Scored("b", "one", {"map": {"q1": 0.5, "q2": 0.9, "q3": 0.1, "q4": 0.6}})
    assert most_moved(a, b, "map", 10) == [("q2", 0.5, 0.9), ("q3", 0.5, 0.1), ("q4", 0.5, 0.6)]
    assert most_moved(a, b, "map", 1) == [("q2", 0.5, 0.9)]


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        *(("ndcg_cut_10", "nDCG@10"), ("map", "MAP"), ("recall_100", "R@100"), ("recip_rank", "MRR"), ("P_5", "P@5")),
        *(("map_cut_1000", "MAP@1000"), ("success_1", "Success@1"), ("gm_map", "gm_map"), ("ndcg", "nDCG")),
    ],
)
def test_headings(measure: str, name: str) -> None:
    assert heading(measure) == name
