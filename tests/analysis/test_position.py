"""Position bias of rankers whose bias is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.analysis.answers import answer, said, window

from rearank.analysis import Asked, ideal, ndcg_rows, position_row, rank_rows, shuffled
from rearank.types import JudgedWindow

GRADES = (0, 3, 1, 2)


def best(judged: JudgedWindow) -> list[int]:
    return sorted(range(len(judged.window)), key=lambda i: -judged.relevance[i])


def kept(judged: JudgedWindow) -> list[int]:
    return list(range(len(judged.window)))


def asked(ranker: Callable[[JudgedWindow], list[int]], count: int = 6, grades: tuple[int, ...] = GRADES) -> list[Asked]:
    orders = [shuffled(window(grades, f"q{number}"), count, seed=1) for number in range(8)]
    return [Asked(tuple(answer(one, ranker(one)) for one in order)) for order in orders]


def test_shuffles_keep_passages_and_grades_together() -> None:
    judged = window(GRADES)
    orders = shuffled(judged, 5, seed=3)
    assert orders[0] == judged
    assert shuffled(judged, 5, seed=3) == orders
    assert len({one.window.passages for one in orders}) > 1
    for one in orders:
        assert {p.id: grade for p, grade in zip(one.window.passages, one.relevance, strict=True)} == {
            f"d{i}": grade for i, grade in enumerate(GRADES)
        }


def test_an_oracle_has_no_bias() -> None:
    row = position_row(asked(best))
    assert (row["consistency"], row["slope"], row["slope low"], row["slope high"]) == (1.0, 0.0, 0.0, 0.0)
    rows = {row["initial order"]: row for row in ndcg_rows(asked(best))}
    assert {row["nDCG after"] for row in rows.values()} == {1.0}


def test_keeping_the_order_is_all_bias() -> None:
    found = asked(kept)
    row = position_row(found)
    assert row["slope"] == pytest.approx(1.0)
    assert row["as given"] == 1.0
    assert abs(float(row["consistency"] or 0)) < 0.3
    assert [(r["initial position"], r["mean rank"]) for r in rank_rows(found)] == [(i, float(i)) for i in range(1, 5)]
    rows = {r["initial order"]: r for r in ndcg_rows(found)}
    assert rows["shuffled"]["nDCG after"] == rows["shuffled"]["nDCG before"]
    assert float(rows["worst shuffle"]["nDCG after"] or 0) < float(rows["best shuffle"]["nDCG after"] or 0)


def test_turning_the_order_round_is_bias_too() -> None:
    row = position_row(asked(lambda judged: kept(judged)[::-1]))
    assert row["slope"] == pytest.approx(-1.0)
    assert row["as given"] == 0.0


def test_ties_make_even_the_ideal_order_depend_on_the_places() -> None:
    tied = asked(kept, grades=(1, 1, 0, 0))
    yardstick = position_row([ideal(one) for one in tied])
    assert 0.0 < float(yardstick["slope"] or 0) < 1.0
    assert yardstick["unread"] == 0.0
    assert position_row([ideal(one) for one in asked(kept)])["slope"] == 0.0


def test_answers_that_were_not_read_are_counted() -> None:
    judged = window(GRADES)
    row = position_row([Asked((said(judged, "?"), answer(judged, (0, 1, 2, 3))))])
    assert (row["as given"], row["unread"]) == (1.0, 0.5)
    assert row["slope"] is None or row["slope"] == pytest.approx(1.0)
