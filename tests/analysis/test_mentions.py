"""What a reasoning mentions and implies: known texts, and any text at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.analysis import OrderSource, read_implied, read_mentions

PIECES = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(["[", "]", "[1]", "[3]", "[99]", "[0]", " > ", ">", "-", "–", "to", ",", "and", " "]),
        st.sampled_from(["Passage 2", "passages 1, 2", "Document", "9" * 40, "[1-5]", "[2]-[4]", "8/10", "\n", "[B]"]),
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("[3] is good, [1] is not", (2, 0)),
        ("[1, 4] and [2 and 5]", (0, 3, 1, 4)),
        ("[2]-[4] say little", (1, 2, 3)),
        ("[4]–[2]", (3, 2, 1)),
        ("[2-4]", (1, 2, 3)),
        ("Passage 3 beats passage [1]", (2, 0)),
        ("Passages 1, 2 and 5 are off topic", (0, 1, 4)),
        ("documents 2 to 4", (1, 2, 3)),
        ("candidate #2", (1,)),
        ("passage 3, 5 days old", (2,)),
        ("compare [1] to [3]", (0, 2)),
        ("In 1995, 3 of 4 passages [1995] [0] [-1] [6] passage 77", ()),
        ("[2]-[9] and [9999999999]", (1,)),
        ("［3］ and 【2】", (2, 1)),
        ("Passage A, [B]", ()),
        ("context 3, subtext 2, passage 3rd", ()),
        ("", ()),
    ],
)
def test_mentions(text: str, first: tuple[int, ...]) -> None:
    assert read_mentions(text, 5).first == first


def test_letters() -> None:
    assert read_mentions("[B] over Passage A; a [b], [Z], passages C and D, [1]", 4, letters=True).first == (1, 0, 2, 3)
    assert read_implied("[B] > [A]", 2, letters=True).values == {1: 0.0, 0: -1.0}  # type: ignore[union-attr]


def test_mentions_are_counted() -> None:
    found = read_mentions("[2] then [1], [2] again", 3)
    assert found.counts == {1: 2, 0: 1}
    assert not found.in_given_order
    assert read_mentions("[1] [3] [1]", 3).in_given_order


def test_the_last_chain_is_what_the_reasoning_arrived_at() -> None:
    found = read_implied("First [1] > [2]. But no: [3] > [1] > [9] > [3] > [2]. [4] is like [2].", 4)
    assert found is not None
    assert found.source is OrderSource.CHAIN
    assert sorted(found.values, key=lambda i: -found.values[i]) == [2, 0, 1]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[1] couch basement 2 [2] 0 [3] couch 1", {0: 2, 1: 0, 2: 1}),
        ("[1] 3 [2] 0", {0: 3, 1: 0}),
        ("[1]: on topic. Score: 8/10.\n[2]: off topic. Score: 2/10.", {0: 8, 1: 2}),
        ("Passage 1: 0.5; Passage 2: 0.25;", {0: 0.5, 1: 0.25}),
    ],
)
def test_notes(text: str, values: dict[int, float]) -> None:
    found = read_implied(text, 3)
    assert found is not None
    assert found.source is OrderSource.NOTES
    assert found.values == values


@pytest.mark.parametrize(
    "text",
    [
        "[1] couch 2 [2] basement",  # one note without a number
        "[1] 2 [2] 1 [1] 0",  # a passage noted twice
        "[1] 2",  # one passage
        "[1] from 1995 [2] from 1996",  # years
        "[1] 999 [2] 3",
        "[1] is good, [2] is bad, [3] is best",  # sentiment isn't read
        "[1, 2] 3 [3] 4",
        "[1] > [99]",
        "2 > 1",
        "",
    ],
)
def test_no_order_is_made_up(text: str) -> None:
    assert read_implied(text, 3) is None


@given(text=PIECES, size=st.integers(0, 26), letters=st.booleans())
def test_any_text_is_read_and_positions_are_the_windows(text: str, size: int, letters: bool) -> None:
    mentions = read_mentions(text, size, letters=letters)
    assert len(set(mentions.first)) == len(mentions.first)
    assert all(0 <= position < size for position in mentions.first)
    assert set(mentions.counts) == set(mentions.first)
    implied = read_implied(text, size, letters=letters)
    if implied is not None:
        assert len(implied.values) > 1
        assert set(implied.values) <= set(mentions.first)


@given(order=st.permutations(range(6)))
def test_a_chain_is_read_as_it_was_written(order: list[int]) -> None:
    found = read_implied("so " + " > ".join(f"[{i + 1}]" for i in order), 6)
    assert found is not None
    assert sorted(found.values, key=lambda i: -found.values[i]) == order


@given(values=st.lists(st.integers(0, 20), min_size=2, max_size=20))
def test_notes_are_read_as_they_were_written(values: list[int]) -> None:
    found = read_implied(" ".join(f"[{i}] word {value}" for i, value in enumerate(values, start=1)), len(values))
    assert found is not None
    assert found.values == dict(enumerate(map(float, values)))


def test_long_texts_take_no_time() -> None:
    for text in ("[1] > " * 20000, "passages 1, " * 20000, "[1" * 40000, "[1] 2 " * 20000, "[1-" * 20000, "1" * 100000):
        assert set(read_mentions(text, 20).first) <= set(range(20))
        implied = read_implied(text, 20)
        assert implied is None or set(implied.values) <= set(range(20))
