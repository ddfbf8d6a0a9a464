"""What is reasoning and what is code or prose; orders that no status may lie about."""

from __future__ import annotations

import pytest

from rearank.marks import answers_in, split_reasoning
from rearank.parsing import ParseStatus, cut_in_reasoning, parse_ranking, parse_yes_no


def read(answer: str, size: int = 3, **form: bool) -> tuple[tuple[int, ...], str]:
    parsed = parse_ranking(f"<think>x</think><answer>{answer}</answer>", size, **form)
    return tuple(place + 1 for place in parsed.permutation.order), parsed.status.value


@pytest.mark.parametrize(
    "answer",
    [
        *("[1] < [3] < [2]", "[1] \u227a [3] \u227a [2]", "[1] \uff1c [3] \uff1c [2]", "[1] &lt; [3] &lt; [2]"),
        *("[1] <= [3] <= [2]", "[1] <- [3] <- [2]", "[1]<[3]<[2]", "**[1]** < **[3]** < **[2]**", "[1] <\n[3] <\n[2]"),
        "Ranking from least to most relevant: [1] < [3] < [2]",
        "Ranking from least to most relevant: [1], [3], [2]",
        "Worst to best: [1] [3] [2]",
        "Least relevant first:\n[1]\n[3]\n[2]",
        *("1 < 3 < 2", "[1 < 3 < 2]", "(1) < (3) < (2)"),
    ],
)
def test_an_order_from_worst_to_best_is_none(answer: str) -> None:
    for best in (False, True):
        assert read(answer, best=best) == ((1, 2, 3), "empty")


def test_an_order_from_worst_to_best_beside_one_from_best_to_worst() -> None:
    assert read("[1] < [3], so [2] > [3] > [1]") == ((2, 3, 1), "ok")
    assert read("from least to most it was turned round: [2] > [3] > [1]") == ((2, 3, 1), "ok")
    assert read("the least relevant to the query is last: [2], [3], [1]") == ((2, 3, 1), "ok")
    assert read("[2] <br> [3] <br> [1]") == ((2, 3, 1), "ok")


def test_letters_from_worst_to_best() -> None:
    for answer in ("[A] < [B]", "Passage A < Passage B", "A < B", "**Passage A** < **Passage B**"):
        for best in (False, True):
            assert read(answer, 2, letters=True, best=best) == ((1, 2), "empty")
    assert read("Passage 1 < Passage 2", 2, best=True) == ((1, 2), "empty")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("(2) > (1) > (3)", "ok"),
        ("(2), (1), (3)", "ok"),
        ("the order is (2) > (1) > (3), I think", "ok"),
        ("\uff082\uff09\uff1e\uff081\uff09\uff1e\uff083\uff09", "ok"),
        ("(2 > 1 > 3)", "ok"),
        ("2>1>3\n\nconfidence: [1]", "ok"),
        ("[3]: see below. The order is 2 > 1 > 3", "ok"),
        ("See [1995]: 2 > 1 > 3", "ok"),
    ],
)
def test_a_chain_without_square_brackets(answer: str, expected: str) -> None:
    assert read(answer) == ((2, 1, 3), expected)
    letters = answer.translate(str.maketrans("123", "ABC"))
    if "1995" not in answer:
        assert read(letters, letters=True) == ((2, 1, 3), expected)


def test_a_bare_chain_of_some_gives_way_to_brackets() -> None:
    assert read("[3] since 2 > 1") == ((3, 1, 2), "partial")
    assert read("[3] (as 2 > 1 > 3)", best=True) == ((3, 1, 2), "ok")


@pytest.mark.parametrize(
    ("answer", "relevant"),
    [
        ("It is not a yes", False),
        ("not yes", False),
        ("That isn\u2019t a clear yes", False),
        ('It is not "yes"', False),
        ("never a yes", False),
        ("not sure, but yes", True),
        ("I do not hesitate: yes", True),
        ("It is not a no", None),
        ("not a yes, so: no", False),
    ],
)
def test_a_yes_that_is_denied(answer: str, relevant: bool | None) -> None:
    parsed = parse_yes_no(f"<answer>{answer}</answer>")
    assert parsed.relevant is relevant
    assert (parsed.status is ParseStatus.OK) is (relevant is not None)


@pytest.mark.parametrize(
    "text",
    [
        "The List<thought> is <answer>[2] > [1] > [3]</answer>",
        "<answer>[2] > [1] > [3] because of <reason> code</answer>",
        "<answer>[2] > [1] > [3] <think></answer>",
        "by[reason]: <answer>[2] > [1] > [3]</answer>",
        "the List<thought> says </think><answer>[2] > [1] > [3]</answer>",
        "<answer>[1] <reason></answer> or <answer>[2] > [1] > [3] of <reason> and <think></answer>",
        "<answer><think>[3] > [1]</think>[2] > [1] > [3]</answer>",
        "<answer>[2] > [1] > [3] as List<Answer> says</answer>",
    ],
)
def test_a_word_costs_no_answer(text: str) -> None:
    parsed = parse_ranking(text, 3)
    assert (parsed.permutation.order, parsed.status) == ((1, 0, 2), ParseStatus.OK)


@pytest.mark.parametrize(
    "text",
    [
        "<think>the format is <answer>[2] > [1] > [3]</answer>. So",
        "<answer><think>the format is <answer>[2] > [1] > [3]</answer>. So",
        "<answer> <think> [2] > [1] > [3]",
        "<think>an <answer></think> <reason> [2] > [1] > [3] </answer>",
        "the list: <thought>the format is <answer>[2] > [1] > [3]</answer>. So",
    ],
)
def test_a_reasoning_that_was_cut_is_no_answer(text: str) -> None:
    assert parse_ranking(text, 3).status is ParseStatus.UNCLOSED_THINK


def test_tags_that_are_read() -> None:
    text = "is<answer>1</answer> and<ANSWER>2</Answer>, <Answer>3</answer> x<Answer>4</answer>"
    assert [text[begin:end] for begin, end in answers_in(text)] == ["1", "2", "3"]
    assert split_reasoning("a</think>b") == ("b", "a", False, True)
    assert cut_in_reasoning("Passage [1] has a List<thought> in")
    assert not cut_in_reasoning("(2) > (1")


def test_many_marks_in_one_answer_take_linear_time() -> None:
    for piece in ("<think>", "<reason>x", "a<thought>", "</think><reason>"):
        parsed = parse_ranking(f"<answer>[1] {piece * 200_000}</answer>", 1)
        assert len(parsed.permutation) == 1


WEAK = "[1] is weak, [3] > [1] better"


@pytest.mark.parametrize(
    ("opening", "closing", "known"),
    [
        ("<think >", "</think >", True),
        ("< think >", "</ think >", True),
        ("<THINK lang='en'>", "</think>", True),
        ("<cot>", "</cot>", True),
        ("<inner_monologue>", "</inner_monologue>", True),
        ("<antThinking>", "</antThinking>", True),
        ("<think_on>", "</think_on>", True),
        ("<deliberate>", "</deliberate>", True),
        ('<details type="reasoning">', "</details>", True),
        ("<plan>", "</plan>", False),
        ("<internal>", "</internal>", False),
        ("<assessment>", "</assessment>", False),
        ("<notes><a>x</a>", "</notes>\n<plan>[3] or [1]?</plan>\n<cot>[3]</cot>", False),
    ],
)
def test_a_text_that_begins_with_a_tag_has_its_reasoning_inside(opening: str, closing: str, known: bool) -> None:
    for reply in ("[2] > [1] > [3]", "\nRanking: 2, 1, 3", "<ranking>[2] > [1] > [3]</ranking>", "<b>2 > 1 > 3</b>"):
        parsed = parse_ranking(f"{opening}{WEAK}{closing}{reply}", 3, tags=False)
        assert (parsed.permutation.order, parsed.status, parsed.tagged) == ((1, 0, 2), ParseStatus.OK, False), reply
        assert WEAK in (parsed.think or "")
    quoted = f"{opening}as <answer>[3] > [2] > [1]</answer>{closing}"
    assert parse_ranking(f"{quoted}<answer>[2] > [1] > [3]</answer>", 3).permutation.order == (1, 0, 2)
    assert parse_ranking(f"{opening}2 > 1{closing}B > A", 2, tags=False, letters=True).permutation.order == (1, 0)
    assert parse_yes_no(f"{opening}Yes? {closing}no", tags=False).relevant is False
    cut = parse_ranking(f"{opening}{WEAK}", 3, tags=False)
    assert (cut.status is ParseStatus.UNCLOSED_THINK) is known
    assert known is (parse_ranking(f"{quoted} [2]", 3).status is ParseStatus.NO_ANSWER_TAG)


def test_a_tag_before_the_reasoning_costs_no_reward() -> None:
    text = "<plan>of [1]</plan><think>so</think><answer>[2] > [1] > [3]</answer>"
    parsed = parse_ranking(text, 3)
    assert (parsed.think, parsed.tagged, parsed.permutation.order) == ("so", True, (1, 0, 2))
    assert parse_ranking("<plan>of [1]</plan><think>[3] > [2]", 3).think is None


@pytest.mark.parametrize("name", ["ranking", "final_ranking", "result", "output", "response", "b", "p", "ol", "other"])
@pytest.mark.parametrize("behind", ["", "\nI hope this helps!"])
def test_a_reply_in_a_tag_is_read(name: str, behind: str) -> None:
    for inside in ("[2] > [1] > [3]", "<answer>[2] > [1] > [3]</answer>"):
        parsed = parse_ranking(f"<{name}>{inside}</{name}>{behind}", 3, tags=inside.startswith("<"))
        assert (parsed.permutation.order, parsed.status) == ((1, 0, 2), ParseStatus.OK)


@pytest.mark.parametrize(
    "text",
    [
        "<ranking>[2] > [1] > [3]</ranking> since [3] > [1]",
        "<p>[2] > [1] > [3]</p><p>for [3] > [1] in length</p>",
        "<id>[2]</id> > <id>[1]</id> > <id>[3]</id>",
        "<item>the second: [2]</item><item>the first: [1]</item><item>[3]</item>",
        "<best>[2]</best><fair>[1]</fair><worst>[3]</worst>",
        "<root><answer>[2] > [1] > [3]</answer></root> as asked in 1.",
        "<plan> [2] > [1] > [3]",
    ],
)
def test_what_a_tag_holds_is_not_always_a_reasoning(text: str) -> None:
    parsed = parse_ranking(text, 3, tags="<answer>" in text)
    assert (parsed.permutation.order, parsed.status) == ((1, 0, 2), ParseStatus.OK)
