"""Any string gives a full permutation and a status."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rearank.parsing import ParseStatus, parse_ranking


def order(text: str, size: int = 3, *, tags: bool = True) -> tuple[tuple[int, ...], str]:
    parsed = parse_ranking(text, size, tags=tags)
    return parsed.permutation.order, parsed.status.value


@pytest.mark.parametrize(
    ("text", "expected", "status"),
    [
        ("<think>a</think><answer>[3] > [1] > [2]</answer>", (2, 0, 1), "ok"),
        ("<think>a</think><answer>3 > 1 > 2</answer>", (2, 0, 1), "ok"),
        ("<think>a</think><answer>[3, 1, 2]</answer>", (2, 0, 1), "ok"),
        ('<think>a</think><answer>["3", "1", "2"]</answer>', (2, 0, 1), "ok"),
        ("<answer>［3］ > ［1］ > 【2】</answer>", (2, 0, 1), "ok"),
        ("<answer>[３] > [１] > [２]</answer>", (2, 0, 1), "ok"),
        ("<Answer>[2] > [1] > [3]</ANSWER>", (1, 0, 2), "ok"),
        ("<answer>[1]</answer> no, better <answer>[2] > [3] > [1]</answer>", (1, 2, 0), "ok"),
        ("<answer>[2] > [3] > [1]</answer><answer>[1]", (1, 2, 0), "ok"),
        ("[3] is best</think><answer>[2] > [1] > [3]</answer>", (1, 0, 2), "ok"),
        ("<answer>[0] > [3] > [2] > [1]</answer>", (2, 1, 0), "out_of_range"),
        ("<answer>[-1] > [3] > [2] > [1]</answer>", (2, 1, 0), "out_of_range"),
        ("<answer>[4]</answer>", (0, 1, 2), "out_of_range"),
        ("<answer>[3] > [3] > [1]</answer>", (2, 0, 1), "duplicates"),
        ("<answer>[2]</answer>", (1, 0, 2), "partial"),
        ("<answer></answer>", (0, 1, 2), "empty"),
        ("<answer>none of them</answer>", (0, 1, 2), "empty"),
        ("  \n", (0, 1, 2), "empty"),
        ("<think>[3] > [2] > [1]", (0, 1, 2), "unclosed_think"),
        ("<think>so <answer>[3] > [2] > [1]</answer>", (0, 1, 2), "unclosed_think"),
        ("<think>[3] > [2]</think> I would say so", (0, 1, 2), "no_answer_tag"),
        ("<think><answer>[3]</answer></think> done", (0, 1, 2), "no_answer_tag"),
        ("<answer>In 1995, 3 of 2 people</answer>", (0, 1, 2), "empty"),
        ("<answer>the order is 3 > 2 > 1.</answer>", (2, 1, 0), "ok"),
    ],
)
def test_tagged(text: str, expected: tuple[int, ...], status: str) -> None:
    assert order(text) == (expected, status)


@pytest.mark.parametrize(
    ("text", "expected", "status"),
    [
        ("[3] > [1] > [2]", (2, 0, 1), "ok"),
        ("<think>[1] > [2] > [3]</think>[3] > [1] > [2]", (2, 0, 1), "ok"),
        ("I can't rank these", (0, 1, 2), "empty"),
    ],
)
def test_untagged(text: str, expected: tuple[int, ...], status: str) -> None:
    assert order(text, tags=False) == (expected, status)


ALPHABET = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "[1]",
        "[2]",
        "[0]",
        "[-3]",
        ">",
        " ",
        "［２］",
        "17",
        ",",
        "[",
        "]",
        "x",
        "²",
    ]
)


@given(st.one_of(st.text(), st.lists(ALPHABET, max_size=30).map("".join)), st.integers(0, 25), st.booleans())
@example("9" * 5000, 5, False)
@example("[" + "9" * 5000 + "]", 5, False)
def test_any_string_gives_a_full_permutation(text: str, size: int, tags: bool) -> None:
    parsed = parse_ranking(text, size, tags=tags)
    assert sorted(parsed.permutation.order) == list(range(size))
    assert 0 <= parsed.named <= size
    assert parsed.named or parsed.permutation.order == tuple(range(size))
    if parsed.status is ParseStatus.OK:
        assert parsed.named == size


@given(st.permutations(range(1, 21)), st.text())
def test_round_trip(ids: list[int], reasoning: str) -> None:
    reasoning = reasoning.replace("<", "")
    text = f"<think>{reasoning}</think> <answer>{' > '.join(f'[{i}]' for i in ids)}</answer>"
    parsed = parse_ranking(text, 20)
    assert [i + 1 for i in parsed.permutation.order] == ids
    assert parsed.status is ParseStatus.OK
    assert parsed.is_canonical
    assert parsed.think == reasoning


@settings(deadline=10_000)
@given(st.sampled_from(["[", "1 ", "1>", "<answer>", "</answer>", "<think>", "9", "[1", " ", "1 > "]))
def test_long_hostile_text_is_read_in_linear_time(piece: str) -> None:
    # Quadratic matching of these 300,000 characters would take minutes, far past the deadline.
    parsed = parse_ranking(piece * (300_000 // len(piece)), 20, tags=False)
    assert len(parsed.permutation) == 20


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        parse_ranking("", -1)
