"""Seeds of one thing, pooled."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rearank.runs.seeds import Seeds, p_over_seeds

VALUES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), min_size=1)


@given(st.dictionaries(st.sampled_from("123"), VALUES, min_size=1))
def test_queries_that_all_seeds_have_are_averaged(each: dict[str, dict[str, float]]) -> None:
    seeds = Seeds(each)
    shared = set.intersection(*(set(values) for values in each.values()))
    assert set(seeds.values) == shared
    for query in shared:
        assert seeds.values[query] == pytest.approx(fmean(values[query] for values in each.values()))
    assert seeds.mean == pytest.approx(fmean(fmean(values.values()) for values in each.values()))
    means = list(seeds.means.values())
    assert seeds.deviation == (None if len(means) < 2 else pytest.approx(stdev(means)))


def test_other_trainings() -> None:
    a, b = {"1": 0.5, "2": 0.6, "3": 0.4}, {"1": 0.7, "2": 0.75, "3": 0.62, "4": 0.1}
    assert p_over_seeds(a, b) == pytest.approx(stats.ttest_rel([0.7, 0.75, 0.62], [0.5, 0.6, 0.4]).pvalue)
    assert p_over_seeds(a, {"1": 0.7, "9": 0.2}) is None, "one seed in common"
