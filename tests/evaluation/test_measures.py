"""Every name of a measure gives the value that others compute, or is refused with what could be meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import log2
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from rearank.evaluation import ScoreError, check_measures, heading, score, trec_order
from rearank.metrics import ndcg

GOLDEN: Mapping[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "measures.json").read_text())


@pytest.mark.parametrize("name", GOLDEN["ir_measures"])
def test_a_name_of_ir_measures_has_its_value(name: str) -> None:
    assert score(GOLDEN["run"], GOLDEN["qrels"], [name])[name] == pytest.approx(GOLDEN["ir_measures"][name], abs=1e-6)


@pytest.mark.parametrize("name", GOLDEN["scikit-learn"])
def test_ndcg_is_scikit_learns(name: str) -> None:
    expected = GOLDEN["scikit-learn"][name]
    assert score(GOLDEN["run"], GOLDEN["qrels"], [name])[name] == pytest.approx(expected, abs=1e-6)
    cut = int(name.rpartition("_")[2])
    for query, ranked in GOLDEN["run"].items():
        grades = GOLDEN["qrels"][query]
        ours = ndcg([grades.get(one, 0) for one in ranked], list(grades.values()), cut)
        assert ours == pytest.approx(expected[query], abs=1e-9)


def test_ndcg_by_hand() -> None:
    qrels = {"q": {"a": 3, "b": 2, "c": 0, "d": 1}}
    dcg = 2 / log2(2) + 0 / log2(3) + 3 / log2(5)  # b, c, an unjudged one, a; d isn't found
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert score({"q": ["b", "c", "x", "a"]}, qrels)["ndcg_cut_10"]["q"] == pytest.approx(dcg / ideal, abs=1e-9)


def test_every_measure_of_trec_eval_is_computed_or_refused() -> None:
    """Against its real list: a perfect ranking's value is trec_eval's own, under exactly this name."""
    qrels, ranked = {"q": {f"d{i}": 1 for i in range(12)} | {"z": 0}}, [f"d{i}" for i in range(12)]
    scores = {"q": {one: float(-n) for n, one in enumerate(ranked)}}
    refused = set()
    for family in sorted(pytrec_eval.supported_measures):
        for name, value in pytrec_eval.RelevanceEvaluator(qrels, {family}).evaluate(scores)["q"].items():
            try:
                assert score({"q": ranked}, qrels, [name])[name]["q"] == value
            except ValueError:
                refused.add(name)
    assert refused == {"gm_bpref", "gm_map", "num_q", "relstring", "runid"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((family, f"{family}_10") for family in ("P", "recall", "ndcg_cut", "map_cut", "success", "relative_P")),
        ("iprec_at_recall", r"iprec_at_recall_0\.10"),
        ("map_10", "map_cut_10"),
        ("ndcg_10", "ndcg_cut_10"),  # aborts the process in trec_eval
        ("recip_rank_10", "recip_rank_cut_10"),
        *((name, "no cut-off") for name in ("bpref_10", "Rprec_10", "set_F_2", "utility_1", "G_3", "num_ret_5")),
        *((name, "whole number") for name in ("P_0", "ndcg_cut_0", "nDCG@0", "P_1.5", "recall_99999999999")),
        ("iprec_at_recall_2.00", "share"),
        ("gm_map", "logarithm"),
        *((name, "ndcg_cut_10") for name in ("runid", "", "P_-5", "P_5,10", "ERR@10", "ndcg_cut_１０", "P_5abc")),
        *((name, "needs a cut-off") for name in ("R", "Precision", "R(rel=2)")),
        ("Bpref@10", "no cut-off"),
        ("nDCG(rel=2)@10", "parameter"),
        ("NumRet(rel=1)", "parameter"),
        ("P(rel=0)@5", "rel="),
        ("AP(judged_only=True)", "rel="),
    ],
)
def test_what_can_not_be_computed_is_refused(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        score({"q": ["a"]}, {"q": {"a": 1}}, [name])


@pytest.mark.parametrize(
    ("given", "ours", "shown"),
    [
        ("nDCG@10", "ndcg_cut_10", "nDCG@10"),
        ("NDCG@20", "ndcg_cut_20", "nDCG@20"),
        ("ndcg_cut.10", "ndcg_cut_10", "nDCG@10"),
        ("MRR@10", "recip_rank_cut_10", "MRR@10"),
        ("recip_rank_cut_10", "recip_rank_cut_10", "MRR@10"),
        ("MAP", "map", "MAP"),
        ("AP@100", "map_cut_100", "MAP@100"),
        ("Recall@100", "recall_100", "R@100"),
        ("P_05", "P_5", "P@5"),
        ("relative_P_5", "relative_P_5", "relative_P_5"),
        ("P( rel=2 )@5", "P(rel=2)@5", "P(rel=2)@5"),
        ("IPrec@0.1", "iprec_at_recall_0.10", "iprec_at_recall_0.10"),
        ("Judged@10", "judged_10", "judged@10"),
        ("Rprec", "Rprec", "R-precision"),
    ],
)
def test_one_measure_has_one_name(given: str, ours: str, shown: str) -> None:
    assert check_measures((given, ours)) == (ours,)
    assert heading(ours) == shown


def test_a_level_in_a_name_goes_before_the_benchmarks() -> None:
    run, qrels = {"q": ["a", "b"]}, {"q": {"a": 1, "b": 2}}
    found = score(run, qrels, ["RR", "RR(rel=1)", "RR(rel=2)", "MRR@1"], relevant_from=2)
    assert {name: values["q"] for name, values in found.items()} == {
        **{"RR": 0.5, "RR(rel=1)": 1.0, "RR(rel=2)": 0.5, "MRR@1": 0.0}
    }


def test_judged_is_of_what_was_ranked() -> None:
    qrels = {"q": {"a": 0, "b": 1}, "failed": {"a": 1}}
    run = {"q": ["a", "x", "b", "y", *(f"z{i}" for i in range(20))]}
    assert score(run, qrels, ["judged_10", "judged_2"]) == {"judged_10": {"q": 0.2}, "judged_2": {"q": 0.5}}
    assert score({"q": ["a"]}, qrels, ["Judged@10"])["Judged@10"] == {"q": 1.0}, "of one that is there, not of ten"


@pytest.mark.parametrize("bad", ["d\ud83d", "\udc00", "d\0a"])
def test_ids_that_crash_the_scorer_are_named(bad: str) -> None:
    good = {"q": {"a": 1}}
    for run, qrels in (
        ({"q": [bad, "a"]}, good),
        ({"q": ["a"]}, {"q": {bad: 1}}),
        ({"q": ["a"]}, {"q": {"a": 1}, bad: {"a": 1}}),
    ):
        with pytest.raises(ScoreError, match="can't be scored") as caught:
            score(run, qrels)
        assert repr(bad) in str(caught.value)
        str(caught.value).encode()
    assert score({bad: ["a"], "q": ["a"]}, good) == {"ndcg_cut_10": {"q": 1.0}}, "a query that isn't judged"


def test_a_grade_that_is_none_is_named() -> None:
    with pytest.raises(ScoreError, match=r"'q', passage 'b': grade 99999999999 is above 10000"):
        score({"q": ["a"]}, {"q": {"a": 1, "b": 99_999_999_999}})
    assert score({"q": ["a"]}, {"q": {"a": 10_000}}) == {"ndcg_cut_10": {"q": 1.0}}


@given(
    st.dictionaries(st.text("aB1é\U0001f600~", min_size=1, max_size=3), st.sampled_from([0, 1, 1.0 + 1e-9, 2, -3.5]))
)
def test_trec_order_is_trec_evals(scored: dict[str, float]) -> None:
    """Every passage gets a grade of its own, so that nDCG tells any two orders apart."""
    grades = {passage: n + 1 for n, passage in enumerate(scored)}
    if scored:
        theirs = pytrec_eval.RelevanceEvaluator({"q": grades}, {"ndcg"}).evaluate(
            {"q": {passage: float(value) for passage, value in scored.items()}}
        )
        ours = score({"q": trec_order(scored.items())}, {"q": grades}, ["ndcg"])
        assert ours["ndcg"]["q"] == pytest.approx(theirs["q"]["ndcg"], abs=1e-12)


def test_a_grade_that_nothing_has_is_refused() -> None:
    with pytest.raises(ScoreError, match=r"P\(rel=3\)@5: no passage has a grade of 3 or more, the highest is 2"):
        score({"q": ["a"]}, {"q": {"a": 2}}, ("P(rel=3)@5",))
    assert score({"q": ["a"]}, {"q": {"a": 2}}, ("P(rel=2)@5",)) == {"P(rel=2)@5": {"q": 0.2}}
