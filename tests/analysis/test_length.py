"""Tokens against quality where the relation is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.analysis.answers import answer, window

from rearank.analysis import Point, bin_rows, correlation_row, window_points, without_zeros


def test_a_perfect_relation_has_rho_one() -> None:
    row = correlation_row([Point(f"q{i}", 100 + i, i / 20) for i in range(20)])
    assert row["Spearman's rho"] == pytest.approx(1.0)
    assert row["low"] == pytest.approx(1.0)
    assert row["p"] == pytest.approx(0.0)
    assert row["mean tokens"] == 109.5
    assert row["rho within queries"] is None


def test_harder_queries_are_told_from_longer_answers() -> None:
    """Between queries longer means better, within each query longer means worse."""
    points = [Point(f"q{q}", 100 * q + r, q - r / 10) for q in range(10) for r in range(3)]
    row = correlation_row(points)
    assert float(row["Spearman's rho"] or 0) > 0.9
    assert row["rho within queries"] == pytest.approx(-1.0)
    assert row["p"] is None  # the points of a query depend on one another
    assert (row["points"], row["queries"]) == (30, 10)


@pytest.mark.parametrize("points", [[], [Point("q", 5, 0.5)], [Point("a", 5, 0.1), Point("b", 5, 0.9)]])
def test_where_nothing_varies_there_is_no_correlation(points: list[Point]) -> None:
    row = correlation_row(points)
    assert (row["Spearman's rho"], row["p"]) == (None, None)


def test_bins_are_of_equal_width_and_hold_their_lower_edge() -> None:
    points = [Point("q", tokens, value) for tokens, value in ((0, 0.0), (9, 1.0), (10, 0.5), (40, 0.25))]
    rows = bin_rows(points, 4)
    assert [(row["from"], row["to"], row["points"], row["mean"]) for row in rows] == [
        (0.0, 10.0, 2, 0.5),
        (10.0, 20.0, 1, 0.5),
        (30.0, 40.0, 1, 0.25),
    ]
    assert (rows[0]["low"], rows[0]["high"]) == (0.0, 1.0)
    assert rows[1]["low"] is None
    assert bin_rows([], 4) == []
    assert len(bin_rows([Point("q", 7, 0.1), Point("r", 7, 0.3)], 20)) == 1


@given(tokens=st.lists(st.integers(0, 5000), min_size=1, max_size=30), count=st.integers(1, 25))
def test_every_point_is_in_one_bin(tokens: list[int], count: int) -> None:
    rows = bin_rows([Point("q", t, 0.5) for t in tokens], count)
    assert sum(int(row["points"] or 0) for row in rows) == len(tokens)
    assert len(rows) <= count


def test_windows_count_by_their_change() -> None:
    judged = window((0, 1))
    points = window_points([answer(judged, (1, 0), tokens=7), answer(window((1, 1)), (1, 0))])
    assert len(points) == 1  # where all grades are equal there is nothing to change
    assert points[0] == Point("q", 7, pytest.approx(1 - 1 / 1.5849625))
    assert without_zeros([Point("a", 1, 0.0), Point("b", 1, 0.2)]) == [Point("b", 1, 0.2)]
