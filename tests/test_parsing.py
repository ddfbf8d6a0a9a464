"""Any string gives a full permutation and a status."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rearank.parsing import ParseStatus, cut_in_reasoning, is_mark, opened_at_end, parse_ranking, parse_yes_no


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
        # Prose before, behind and around the order.
        ("<answer>2 > 1 > 3 because their grades are 3 > 2 > 1</answer>", (1, 0, 2), "ok"),
        ("<answer>2 > 1 > 3 because 5 > 3</answer>", (1, 0, 2), "ok"),
        ("<answer>0.9 > 0.5, so 2 > 3 > 1</answer>", (1, 2, 0), "ok"),
        ("<answer>In 2020 > 1999 terms: 2 > 1 > 3</answer>", (1, 0, 2), "ok"),
        ("<answer>[1] is weak. Ranking: [2] > [1] > [3]</answer>", (1, 0, 2), "ok"),
        ("<answer>[1] is off-topic, so [2] > [3]</answer>", (1, 2, 0), "partial"),
        ("<answer>[2] > [1] > [3]\nPassage [2] says more than [3] > [1]</answer>", (1, 0, 2), "ok"),
        ("<answer>Of [1], [2], [3]: [2] > [1] > [3]</answer>", (1, 0, 2), "ok"),
        ("<answer>Of [1, 2, 3]: [2] > [1] > [3]</answer>", (1, 0, 2), "ok"),
        ("<answer>[1] is weak. My list: [2], [1], [3]</answer>", (1, 0, 2), "ok"),
        ("<answer>[3] (best) > [1] > [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>[3] because of x > [1] > [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>[3] > [1], [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>[3 > 1 > 2], as [1] is weak</answer>", (2, 0, 1), "ok"),
        ("<answer>**[3]** → **[1]** → **[2]**</answer>", (2, 0, 1), "ok"),
        ("<answer>1. [3]\n2. [1]\n3. [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>[3]: the best\n[1]: fair\n[2]: off-topic</answer>", (2, 0, 1), "ok"),
        ("<answer>[3] is best, followed by [1], and [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>[3]: see [1], [2]\n[1]: fair\n[2]: poor</answer>", (2, 0, 1), "duplicates"),
        ("<answer>[1] > [2], but then [9] > [8] > [7] > [3]</answer>", (0, 1, 2), "partial"),
        # Without a word around them all count; with one, the chain does.
        ("<answer>[1], [2] > [3]</answer>", (0, 1, 2), "ok"),
        ("<answer>[1] (weak), [2] > [3]</answer>", (0, 1, 2), "ok"),
        ("<answer>注[1], [2] > [3]</answer>", (1, 2, 0), "partial"),
        ("<answer>[sorted] [3] > [1] > [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>Of [1]: weak\n> [3] > [2]</answer>", (2, 1, 0), "partial"),
        ("<answer>Of [1], [2]: **[3]** > **[2]**</answer>", (2, 1, 0), "partial"),
        ("<answer>Of [2]: [3] > [1], [2]</answer>", (2, 0, 1), "ok"),
        ("<answer>Of [2]: [3 > 1]</answer>", (2, 0, 1), "partial"),
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
    "reasoning",
    [
        "[THINK]{}[/THINK]",
        "◁think▷{}◁/think▷",
        "<thinking>{}</thinking>",
        "<Thought>{}</Thought>",
        "<reasoning>{}</reasoning>",
        "<seed:think>{}</seed:think>",
        "<longcat_think>{}</longcat_think>",
        "<|begin_of_thought|>{}<|end_of_thought|>",
        "<|reasoning_start|>{}<|reasoning_end|>",
        "<think_begin>{}<think_end>",
        "<|START_THINKING|>{}<|END_THINKING|>",
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|inner_prefix|>{}<|inner_suffix|>",
        "<unused94>thought\n{}<unused95>",
        "analysisWe see {}assistantfinal",
        "Here is my thought process: {}Here is my response: ",
        "{}</think>",
        "{}[/THINK]",
        "<think>{} [/THINK] <thinking> </answer></think>",
    ],
)
def test_no_models_reasoning_is_read_as_the_order(reasoning: str) -> None:
    inside = "[1] is weak, [3] > [1] better"
    for text, tags in ((f"{reasoning}[2] > [1] > [3]", False), (f"{reasoning}<answer>[2] > [1] > [3]</answer>", True)):
        parsed = parse_ranking(text.format(inside), 3, tags=tags)
        assert (parsed.permutation.order, parsed.status) == ((1, 0, 2), ParseStatus.OK)
        assert parsed.think is not None
        assert inside in parsed.think
        assert parsed.tagged is ("</think>" in reasoning)
    opening = reasoning.partition("{}")[0]
    if opening and not opening.startswith("Here"):
        assert order(f"{opening}The format is <answer>[3] > [2] > [1]</answer>. So") == ((0, 1, 2), "unclosed_think")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("<think>[2]</think>[3] > [1]", "[3] > [1]"),
        ("[3] <think>[2]</think>> [1]", "[3] > [1]"),
        ("analysisWe see [2]assistantfinal[3] > [1]", "[3] > [1]"),
        ("analysisWe see [2]", ""),
        ("<think>[2]", ""),
    ],
)
def test_the_reply_is_what_stands_outside_the_reasoning(text: str, reply: str) -> None:
    assert parse_ranking(text, 3, tags=False).answer == reply


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("[/INST][THINK]", "[THINK]"),
        ("<|START_THINKING|> ", "<|START_THINKING|> "),
        ("assistant\n<think>\n\n</think>\n\n", ""),
        ("use <think> tags\nassistant\n", ""),
        ("", ""),
    ],
)
def test_the_reasoning_that_a_prompt_opens(prompt: str, opened: str) -> None:
    assert opened_at_end(prompt) == opened


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<think>", True),
        ("[/THINK]", True),
        ("<|inner_suffix|>", True),
        ("<think>x", False),
        ("\n<think>", False),
        ("", False),
    ],
)
def test_a_mark_and_nothing_else(text: str, mark: bool) -> None:
    assert is_mark(text) is mark


def test_a_mark_of_another_kind_ends_no_reasoning() -> None:
    assert order("[THINK]<think> [3] > [2] > [1] </think>", tags=False) == ((0, 1, 2), "unclosed_think")
    assert order("[think] about it: [2] > [1] > [3]", tags=False) == ((0, 1, 2), "unclosed_think")
    assert order("I think, and reason: [2] > [1] > [3]", tags=False) == ((1, 0, 2), "ok")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("The format is <answer> [3] > [1] > [2] </answer>. Now passage [1] is about", True),
        ("Okay, [1] is about ships, [3]", True),
        ("[1] is about ships", True),
        ("Passage 1 is about", True),
        (" ", False),
        ("<think> [1]", False),
        ("x </think> <answer> [1]", False),
        ("<answer> [3] > [1", False),
        ("[3] > [1", False),
        ("**Ranking**:\n[3] > [1", False),
        ("3, 1, 2", False),
        ('["3", "1"', False),
        ("[3]\n[1]", False),
        ("1. [3]\n2. [", False),
        ("B", False),
        ("Passage B", False),
        ("Yes", False),
        ("no, since", False),
    ],
)
def test_a_cut_text_is_a_reasoning_unless_it_begins_with_an_answer(text: str, cut: bool) -> None:
    assert cut_in_reasoning(text) is cut


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
        ("[A] is weak: [B] > [A]", False, (1, 0), "ok"),
        ("B > A, since C > D > E", False, (1, 0), "ok"),
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


def test_the_texts_of_a_yes_or_no() -> None:
    parsed = parse_yes_no("<think>so</think><answer> yes </answer>")
    assert (parsed.think, parsed.answer, parsed.ranking.think, parsed.ranking.answer) == ("so", " yes ", "so", " yes ")


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
        "[THINK]",
        "</thinking>",
        "◁think▷",
        "because",
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


PIECES = [
    *("<think>", "</think>", "<think></think>", "[THINK]", "<thinking>x</thinking>", "<|", "<", "analysisA"),
    *(
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "[",
        "[1",
        "[1]",
        "[1] > ",
        "[1](",
        "[1] x >",
        "[1]\n1.",
        "(",
        "\n1.",
    ),
    *(
        "1 ",
        "1>",
        "9",
        "1 > ",
        "1.",
        " ",
        "A > ",
        "no",
        "yes ",
        "Passage ",
        "*",
        "<aaaaaaaaaaaaaaaaaaaa:",
        "a:",
        '"1",',
    ),
    *(
        "<cot></cot>",
        "<cot>",
        "<a_x>1 b</a_x>",
        "< /",
        "<",
        "</cot",
        "(ab)",
        "#1 > ",
        "Passage 1 > ",
        "**",
        "[1.0",
        "1.0",
    ),
]


def steps(text: str) -> int:
    """What reading ``text`` costs: characters that are copied, and Python's own steps; it takes no clock."""
    copied = 0

    class Counting(str):
        def __getitem__(self, part: Any) -> Counting:
            nonlocal copied
            found = str.__getitem__(self, part)
            copied += len(found)
            return Counting(found)

    lines = 0

    def count(*_: Any) -> Any:
        nonlocal lines
        lines += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        for best, letters in ((False, False), (True, False), (True, True)):
            for tags in (True, False):
                assert len(parse_ranking(Counting(text), 20, tags=tags, best=best, letters=letters).permutation) == 20
        parse_yes_no(Counting(text), tags=False)
        cut_in_reasoning(Counting(text))
    finally:
        sys.settrace(before)
    return copied + lines


@pytest.mark.parametrize("piece", PIECES)
def test_the_work_grows_as_the_text_does(piece: str) -> None:
    small, large = (steps(piece * (length // len(piece))) for length in (4_000, 16_000))
    assert large < 5 * small + 2_000


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        parse_ranking("", -1)


@pytest.mark.parametrize(
    "answer",
    [
        # The last of several complete orders that contradict each other.
        "Not [3] > [1] > [2] but [2] > [1] > [3]",
        "The given order was [1] > [2] > [3]. Better: [2] > [1] > [3]",
        "Because 3 > 2 > 1 in grades, 2 > 1 > 3",
        "Of [1], [2], [3] I make [2], [1], [3]",
        "Not [1] > [2] > [3], nor [3 > 2 > 1]: **[2] > [1] > [3]**, and [3] > [1] in length",
        # The first, if the answer begins with it.
        "[2] > [1] > [3], and not [3] > [1] > [2]",
        "**[2] > [1] > [3]**: the given order was [1] > [2] > [3]",
        "[2], [1], [3] is better than [1], [2], [3]",
        "Passage 2 > Passage 1 > Passage 3, though the grades are 3 > 2 > 1",
        # The first of those that say the same: what comes behind it doesn't count.
        "My order is [2] > [1] > [3], that is [2] > [1] > [3] > [9]",
    ],
)
def test_the_order_among_several(answer: str) -> None:
    assert order(f"<answer>{answer}</answer>") == ((1, 0, 2), "ok")
    letters = parse_ranking(answer.translate(str.maketrans("1239", "ABCZ")), 3, tags=False, letters=True)
    if "Passage" not in answer:
        assert (letters.permutation.order, letters.status) == ((1, 0, 2), ParseStatus.OK)


@pytest.mark.parametrize(
    ("answer", "expected", "status"),
    [
        ("Passage 2 > Passage 1 > Passage 3", (1, 0, 2), "ok"),
        ("The order: document 2 > document 1 > document 3.", (1, 0, 2), "ok"),
        ("#2 > #1 > #3", (1, 0, 2), "ok"),
        ("Passage #2 > Passage #1 > Passage #3", (1, 0, 2), "ok"),
        ("**2** > **1** > **3**", (1, 0, 2), "ok"),
        ('"2" > "1" > "3"', (1, 0, 2), "ok"),
        ("**2** > **1**", (1, 0, 2), "partial"),
        ("2, 1, 3 (most relevant first)", (1, 0, 2), "ok"),
        ("2, 1, 3 (the grades are 3 > 2 > 1).", (1, 0, 2), "ok"),
        ("Ranking: 2, 1, 3", (1, 0, 2), "ok"),
        ("**Final ranking:** 2 1 3", (1, 0, 2), "ok"),
        ("The order is: 2, 1, 3 (best first)", (1, 0, 2), "ok"),
        ("Ranking: 2, 1", (0, 1, 2), "empty"),
        ("Scores: 2, 1, 3", (0, 1, 2), "empty"),
        ("Ranking: 2, 1, 3 years", (0, 1, 2), "empty"),
        ("2, 1, 3 (least relevant first)", (0, 1, 2), "empty"),
        ("[2.0] > [1] > [3]", (1, 0, 2), "ok"),
        ("[2.0, 1.0, 3.00]", (1, 0, 2), "ok"),
        ("[2.5] > [1] > [3]", (0, 2, 1), "partial"),
    ],
)
def test_an_order_that_a_person_reads_at_once(answer: str, expected: tuple[int, ...], status: str) -> None:
    assert order(answer, tags=False) == (expected, status)
    assert order(f"<answer> {answer}\n</answer>") == (expected, status)


def test_letters_that_a_person_reads_at_once() -> None:
    for answer in ("**B** > **A** > **C**", "Ranking: B, A, C", "B, A, C (best first)"):
        parsed = parse_ranking(answer, 3, tags=False, letters=True)
        assert (parsed.permutation.order, parsed.status) == ((1, 0, 2), ParseStatus.OK), answer
    assert parse_ranking("Ranking: B, A", 3, tags=False, letters=True).status is ParseStatus.EMPTY
