"""Queries that are trained on and measured on are found, whatever their ids and spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.data.overlap import JudgedQuery, normalised, overlaps, unnumbered
from rearank.types import Query


def judged(query_id: str, text: str, *relevant: str) -> JudgedQuery:
    return JudgedQuery(Query(query_id, text), frozenset(relevant))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is BM25?", "what is bm25"),
        ("  vitamin-D   deficiency ", "Vitamin D deficiency"),
        ("ﬁne‑tuning", "fine-tuning"),
        ("source co\u00adde", "source code"),
        ("source\u200b code", "source code"),
        ("???", "???"),
    ],
)
def test_spellings_of_one_query(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), [("what is C++", "what is C"), ("what is C#", "what is C"), ("?", "!")])
def test_other_queries_stay_apart(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_a_text_of_punctuation_keeps_it() -> None:
    assert normalised(" ?\t!") == "? !"


@given(st.text())
def test_normalised_again_is_the_same(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_by_text_whatever_the_ids() -> None:
    found = overlaps([judged("a", "one query"), judged("b", "another")], [judged("7", "One query.")])
    assert [(one.training.id, one.other.id) for one in found] == [("a", "7")]


def test_an_id_counts_with_its_judgements_alone() -> None:
    measured = [judged("1", "wing flutter", "12", "13")]
    assert not overlaps([judged("1", "ionosphere", "99", "12", "98")], [judged("1", "wing flutter", "12", "13", "14")])
    assert not overlaps([judged("1", "ionosphere")], measured)
    # Half of the smaller set is enough, less is not.
    assert len(overlaps([judged("1", "flutter of wings", "12", "98")], measured)) == 1
    assert not overlaps([judged("1", "flutter of wings", "12", "97", "98")], [judged("1", "w", "12", "13", "14")])
    assert len(overlaps([judged("1", "flutter of wings", "12", "13")], measured)) == 1
    assert len(overlaps([judged("1#4", "flutter of wings", "12")], measured)) == 1


def test_only_a_number_at_the_end_is_one() -> None:
    assert [unnumbered(one) for one in ("q#12", "q#", "q#a", "c#3x")] == ["q", "q#", "q#a", "c#3x"]
