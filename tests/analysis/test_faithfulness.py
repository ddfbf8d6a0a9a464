"""Answers compared with reasonings whose order is known."""

from __future__ import annotations

import pytest
from tests.analysis.answers import answer, chain, said, window

from rearank.analysis import OrderSource, compared_with_reasoning, faithfulness_row, tau_rows

NOTES = "[1] a 1 [2] a b 2 [3] 0"
JUDGED = window((1, 2, 0))


@pytest.mark.parametrize(
    ("order", "tau", "best_first", "contradicted"),
    [
        ((1, 0, 2), 1.0, True, 0.0),
        ((0, 1, 2), 1 / 3, False, 1 / 3),
        ((2, 0, 1), -1.0, False, 1.0),
    ],
)
def test_notes_against_the_answer(order: tuple[int, ...], tau: float, best_first: bool, contradicted: float) -> None:
    found = compared_with_reasoning(answer(JUDGED, order, NOTES))
    assert found.source is OrderSource.NOTES
    assert found.mentioned == 1.0
    assert found.in_given_order
    assert found.tau == pytest.approx(tau)
    assert found.tau_given == pytest.approx(1 / 3)
    assert found.best_first is best_first
    assert found.contradicted == pytest.approx(contradicted)
    assert found.as_given is (order == (0, 1, 2))


def test_a_chain_counts_over_notes() -> None:
    found = compared_with_reasoning(answer(JUDGED, (2, 1, 0), f"{NOTES}, so {chain((2, 1, 0))}"))
    assert found.source is OrderSource.CHAIN
    assert found.tau == 1.0


def test_tied_notes_contradict_nothing() -> None:
    """Both tied passages may come first."""
    for order in ((0, 1, 2), (1, 0, 2)):
        found = compared_with_reasoning(answer(JUDGED, order, "[1] 2 [2] 2 [3] 0"))
        assert found.best_first
        assert found.contradicted == 0.0
        assert found.tau == pytest.approx((2 / 3) ** 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "<think>[1] is good, [2] is not</think><answer>[2] > [1] > [3]</answer>",  # sentiment isn't read
        f"<think>{NOTES}</think><answer>[3]</answer>",  # one passage in common: no pair
        f"<think>{NOTES}</think>no answer",
        "<think>[1] 1 [2] 1 [3] 1</think><answer>[2] > [1] > [3]</answer>",  # a tie of all
        f"<think>{NOTES}",
        "",
    ],
)
def test_where_no_order_can_be_compared_none_is(text: str) -> None:
    found = compared_with_reasoning(said(JUDGED, text))
    assert found.tau is None
    assert found.best_first is None
    assert found.contradicted is None


def test_only_what_the_answer_named_is_compared() -> None:
    """The rest of a partial answer is filled up in given order: that isn't the model's word."""
    found = compared_with_reasoning(said(JUDGED, f"<think>{NOTES}</think><answer>[2] > [3]</answer>"))
    assert found.tau == 1.0
    assert found.contradicted == 0.0


def test_the_row_is_of_queries_and_says_its_coverage() -> None:
    right, lazy = answer(window((1, 2, 0), "a"), (1, 0, 2), NOTES), answer(window((1, 2, 0), "b"), (0, 1, 2), NOTES)
    silent = answer(window((1, 2, 0), "c"), (0, 1, 2), "Hm.")
    found = [compared_with_reasoning(one) for one in (right, right, right, lazy, silent)]
    row = faithfulness_row(found)
    assert row["answers"] == 5
    assert row["coverage"] == pytest.approx(2 / 3)
    assert row["by notes"] == pytest.approx(2 / 3)
    assert row["by a chain"] == 0.0
    assert row["tau-b"] == pytest.approx(2 / 3)
    assert row["best first"] == 0.5
    assert row["contradicting"] == 0.5
    assert row["contradicting, as given"] == 0.5
    assert row["pairs contradicted"] == pytest.approx(1 / 6)
    assert row["passages mentioned"] == pytest.approx(2 / 3)
    bins = tau_rows(found)
    assert [row["answers"] for row in bins] == [0, 0, 0, 0, 0, 0, 1, 0, 0, 3]
    assert faithfulness_row([])["tau-b"] is None
