"""Rank correlations against scipy's, and intervals that draw whole queries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from rearank.analysis.rank_statistics import clustered_interval, compare_pairs, mean_over_queries, spearman

SCORINGS = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 3), min_size=n, max_size=n) for _ in range(2)))
)


@given(SCORINGS)
def test_tau_b_and_rho_are_scipys(both: tuple[list[int], list[int]]) -> None:
    left, right = both
    found = compare_pairs(left, right)
    assert found.agree + found.disagree <= found.all
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert found.tau is None
        assert spearman(left, right) is None
    else:
        assert found.tau == pytest.approx(kendalltau(left, right).statistic)
        assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic)


def test_scorings_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        compare_pairs([1, 2], [1])


def test_an_interval_over_clusters_is_wider_than_one_over_points() -> None:
    clusters = [[float(number)] * 20 for number in range(10)]
    mean = lambda values: math.fsum(values) / len(values)  # noqa: E731
    whole = clustered_interval(clusters, mean)
    single = clustered_interval([[value] for cluster in clusters for value in cluster], mean)
    assert whole is not None
    assert single is not None
    assert whole[1] - whole[0] > 3 * (single[1] - single[0])
    assert clustered_interval(clusters[:1], mean) is None
    assert clustered_interval(clusters, lambda values: None) is None


def test_every_query_counts_the_same() -> None:
    assert mean_over_queries({"a": [1.0] * 9, "b": [0.0], "c": []}).value == 0.5
    assert mean_over_queries({}).value is None
