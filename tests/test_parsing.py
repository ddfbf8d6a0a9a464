"""Any string gives a full permutation and a status."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rearank.parsing import ParseStatus, parse_ranking, parse_yes_no


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


@pytest.mark.parametrize(
    ("answer", "expected", "status"),
    [
        ("[3]", (2, 0, 1), "ok"),
        ("3", (2, 0, 1), "ok"),
        ("3.", (2, 0, 1), "ok"),
        ("Passage 3", (2, 0, 1), "ok"),
        ("the best one is document [2]", (1, 0, 2), "ok"),
        ("**Passage 3** is best", (2, 0, 1), "ok"),
        ("[3] > [1] > [2]", (2, 0, 1), "duplicates"),
        ("[3] > [1]", (2, 0, 1), "duplicates"),
        ("[2] [2]", (1, 0, 2), "duplicates"),
        ("[4]", (0, 1, 2), "out_of_range"),
        ("[0] [2]", (1, 0, 2), "out_of_range"),
        ("the third", (0, 1, 2), "empty"),
        ("", (0, 1, 2), "empty"),
    ],
)
def test_the_best_alone(answer: str, expected: tuple[int, ...], status: str) -> None:
    for text, tags in ((f"<think>[1] or [2]?</think><answer> {answer} </answer>", True), (answer, False)):
        parsed = parse_ranking(text, 3, tags=tags, best=True)
        assert (parsed.permutation.order, parsed.status.value) == (expected, status)
        assert parsed.named == (status not in ("empty", "out_of_range")) + (answer.count("> [")) or "[0]" in answer
    bare = parse_ranking("I prefer [3]", 3, best=True)
    assert (bare.permutation.order, bare.status) == ((0, 1, 2), ParseStatus.NO_ANSWER_TAG)
    assert parse_ranking("Passage 3", 3, tags=False).named == 0, "prose is no ranking"


@pytest.mark.parametrize(
    ("answer", "best", "expected", "status"),
    [
        ("Passage B", True, (1, 0), "ok"),
        ("passage B is better.", True, (1, 0), "ok"),
        ("Output: Passage B", True, (1, 0), "ok"),
        ("B", True, (1, 0), "ok"),
        ("b.", True, (1, 0), "ok"),
        ("[B]", True, (1, 0), "ok"),
        ("Passage [A]", True, (0, 1), "ok"),
        ("Passage B is better than Passage A", True, (1, 0), "duplicates"),
        ("Passage C", True, (0, 1), "out_of_range"),
        ("a passage like this", True, (0, 1), "empty"),
        ("A tie, I think", True, (0, 1), "empty"),
        ("[B] > [A]", False, (1, 0), "ok"),
        ("B > A", False, (1, 0), "ok"),
        ("[B]", False, (1, 0), "partial"),
        ("[1]", False, (0, 1), "empty"),
    ],
)
def test_letters(answer: str, best: bool, expected: tuple[int, ...], status: str) -> None:
    parsed = parse_ranking(f"<think>A?</think><answer>{answer}</answer>", 2, best=best, letters=True)
    assert (parsed.permutation.order, parsed.status.value) == (expected, status)


@pytest.mark.parametrize(
    ("text", "relevant", "status"),
    [
        ("<think>no, or yes</think><answer> Yes </answer>", True, "ok"),
        ("<answer>no.</answer>", False, "ok"),
        ("<answer>**No**, since the query asks for more: yes?</answer>", False, "ok"),
        ("<answer>the answer is yes</answer>", True, "ok"),
        ("<answer>neither yes nor no</answer>", None, "empty"),
        ("<answer>nothing known</answer>", None, "empty"),
        ("<answer></answer>", None, "empty"),
        ("", None, "empty"),
        ("<think>yes", None, "unclosed_think"),
        ("yes", None, "no_answer_tag"),
    ],
)
def test_yes_or_no(text: str, relevant: bool | None, status: str) -> None:
    parsed = parse_yes_no(text)
    assert (parsed.relevant, parsed.status.value) == (relevant, status)
    assert parsed.ranking.named == (relevant is not None)
    assert parsed.ranking.status is parsed.status


def test_yes_or_no_without_tags() -> None:
    assert parse_yes_no("Yes", tags=False).relevant is True
    assert parse_yes_no("<think>yes</think> no", tags=False).relevant is False


ALPHABET = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "[1]",
        "[2]",
        "[B]",
        "Passage A",
        "yes",
        "no",
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
    for best in (False, True):
        for letters in (False, True):
            parsed = parse_ranking(text, size, tags=tags, best=best, letters=letters)
            assert sorted(parsed.permutation.order) == list(range(size))
            assert 0 <= parsed.named <= size
            assert parsed.named or parsed.permutation.order == tuple(range(size))
            if parsed.status is ParseStatus.OK:
                assert parsed.named == (1 if best else size)
            assert not (best and parsed.status is ParseStatus.PARTIAL)
    parsed_yes = parse_yes_no(text, tags=tags)
    assert (parsed_yes.status is not ParseStatus.OK) or parsed_yes.relevant is not None


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
@given(
    st.sampled_from(
        [
            "[",
            "1 ",
            "1>",
            "<answer>",
            "</answer>",
            "<think>",
            "9",
            "[1",
            " ",
            "1 > ",
            "A > ",
            "no",
            "yes ",
            "Passage ",
            "*",
        ]
    )
)
def test_long_hostile_text_is_read_in_linear_time(piece: str) -> None:
    # Quadratic matching of these 300,000 characters would take minutes, far past the deadline.
    text = piece * (300_000 // len(piece))
    for best, letters in ((False, False), (True, False), (True, True)):
        parsed = parse_ranking(text, 20, tags=False, best=best, letters=letters)
        assert len(parsed.permutation) == 20
    parse_yes_no(text, tags=False)


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        parse_ranking("", -1)
