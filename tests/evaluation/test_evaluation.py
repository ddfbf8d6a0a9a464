"""Scores are trec_eval's; tests and intervals behave."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rearank.evaluation import bootstrap_interval, paired_test, score
from rearank.metrics import ndcg


@pytest.mark.parametrize(("year", "known"), [("dl19", 0.5058), ("dl21", 0.4458)])
def test_published_bm25_figures(shared_data: Path, year: str, known: float) -> None:
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (shared_data / "qrels" / f"qrels.{year}-passage.txt").read_text().splitlines():
        query, _, passage, grade = line.split()
        qrels[query][passage] = int(grade)
    run: dict[str, list[str]] = defaultdict(list)
    for line in (shared_data / "runs" / f"bm25.{year}.top100.trec").read_text().splitlines():
        query, _, passage, *_ = line.split()
        run[query].append(passage)
    values = score(run, qrels)["ndcg_cut_10"]
    assert sum(values.values()) / len(values) == pytest.approx(known, abs=5e-5)


def test_missing_queries_count_zero_or_are_skipped() -> None:
    qrels = {"a": {"x": 1}, "b": {"y": 1}, "empty": {}}
    run = {"a": ["x"], "unjudged": ["z"]}
    assert score(run, qrels) == {"ndcg_cut_10": {"a": 1.0, "b": 0.0}}
    assert score(run, qrels, missing="skip") == {"ndcg_cut_10": {"a": 1.0}}


def test_which_grades_are_relevant_where_grades_do_not_count() -> None:
    run, qrels = {"q": ["a", "c", "b"]}, {"q": {"a": 1, "b": 2, "c": 0}}
    measures = ["ndcg_cut_10", "map", "recip_rank", "recall_2", "P_1"]
    low, high = (score(run, qrels, measures, relevant_from=grade) for grade in (1, 2))
    assert [low[m]["q"] for m in measures[1:]] == pytest.approx([5 / 6, 1, 0.5, 1])
    assert [high[m]["q"] for m in measures[1:]] == pytest.approx([1 / 3, 1 / 3, 0, 0])
    assert low["ndcg_cut_10"] == high["ndcg_cut_10"]
    with pytest.raises(ValueError, match="relevant_from"):
        score(run, qrels, relevant_from=0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.randoms())
def test_any_grades_score_like_our_own_ndcg(grades: list[int], random: object) -> None:
    qrels = {f"d{i}": g for i, g in enumerate(grades)}
    ranked = list(qrels)
    random.shuffle(ranked)  # type: ignore[attr-defined]
    got = score({"q": ranked}, {"q": qrels}, ["ndcg_cut_10", "map"])
    assert got["ndcg_cut_10"]["q"] == pytest.approx(ndcg([qrels[p] for p in ranked], grades), abs=1e-6)


@pytest.mark.parametrize(
    ("run", "qrels", "measures", "names"),
    [
        ({"a": ["x"]}, {"a": {"x": 1}}, ["nonsense_10"], "nonsense_10"),
        ({"a": ["x"]}, {"a": {}}, ["map"], "no judged query"),
        ({"a": ["x", "x"]}, {"a": {"x": 1}}, ["map"], "ranked twice"),
        ({"a": ["x\ud83d"]}, {"a": {"x": 1}}, ["map"], r"query 'a', passage id 'x\\ud83d' can't be scored"),
        ({"a": ["x"]}, {"a": {"x\ud83d": 1}}, ["map"], "without lone surrogates"),
        ({"a\ud83d": ["x"]}, {"a\ud83d": {"x": 1}}, ["map"], "without lone surrogates"),
        ({"a": ["x\0y"]}, {"a": {"x\0y": 1}}, ["map"], "without NUL"),
        ({"a": ["x"]}, {"a": {"x": 2**31 - 1}}, ["map"], "query 'a', passage 'x': grade 2147483647 is above 10000"),
        ({"a": ["x"]}, {"a": {"x": 1}, "b": {"x": 99999999999}}, ["map"], "query 'b', passage 'x': grade 99999999999"),
    ],
)
def test_bad_input_is_named(
    run: dict[str, list[str]], qrels: dict[str, dict[str, int]], measures: list[str], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        score(run, qrels, measures)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=40))
def test_paired_t_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a = {str(i): x for i, (x, _) in enumerate(pairs)}
    b = {str(i): y for i, (_, y) in enumerate(pairs)}
    got = paired_test(a, b, permutations=50)
    differences = [y - x for x, y in pairs]
    assert got.wins + got.ties + got.losses == got.queries == len(pairs)
    if max(differences) - min(differences) > 1e-3:
        theirs = stats.ttest_rel([y for _, y in pairs], [x for x, _ in pairs])
        assert got.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)


def test_randomisation_agrees_on_clear_cases() -> None:
    a = {str(i): i % 5 / 10 for i in range(60)}
    better = {q: v + 0.1 + 0.01 * (int(q) % 3) for q, v in a.items()}
    assert paired_test(a, better).p_randomisation < 0.001
    assert paired_test(a, better).p_value < 0.001
    assert paired_test(a, dict(a)).p_value == paired_test(a, dict(a)).p_randomisation == 1.0
    with pytest.raises(ValueError, match="same queries"):
        paired_test({"a": 1, "b": 1}, {"a": 1, "c": 1})


def test_bootstrap_interval_covers_the_mean_and_repeats() -> None:
    values = [i / 99 for i in range(100)]
    low, high = bootstrap_interval(values, seed=3)
    assert low < 0.5 < high
    assert 0.09 < high - low < 0.14  # 2 x 1.96 x .2915 / 10 = .114
    assert bootstrap_interval(values, seed=3) == (low, high)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])
