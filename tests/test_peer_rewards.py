"""Rewards of other projects, rule by rule: worked by hand, beside trec_eval, and under any text at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import pytrec_eval
from hypothesis import example, given
from hypothesis import strategies as st

from rearank.metrics import average_overlap
from rearank.parsing import ParseStatus
from rearank.rewards import NdcgReward, RankR1Reward, RearankAuthorsReward, ReasonRankReward, RewardFunction
from rearank.rewards.peer_answers import digit_runs, first_answer, is_reasoned_answer, numbers, reasoned_answer
from rearank.types import JudgedWindow, Passage, Query, Window


def judged(
    grades: tuple[int, ...], ideal: tuple[int, ...] | None = None, gold: tuple[int, ...] | None = None
) -> JudgedWindow:
    passages = tuple(Passage(f"d{i}", "text") for i in range(len(grades)))
    return JudgedWindow(Window(Query("q", "query"), passages), grades, ideal, gold)


def chain(ids: Sequence[int]) -> str:
    return " > ".join(f"[{i}]" for i in ids)


def answered(ids: Sequence[int]) -> str:
    return f"<think>notes</think> <answer>{chain(ids)}</answer>"


def trec_ndcg(grades: Sequence[int], order: Sequence[int], outside: Sequence[int] = ()) -> float:
    """nDCG@10 by trec_eval, as the authors compute it: positions in ``order``, judgements outside the window too."""
    qrels = {"q": {f"d{i}": grade for i, grade in enumerate(grades)} | {f"o{i}": g for i, g in enumerate(outside)}}
    run = {"q": {f"d{i}": float(-rank) for rank, i in enumerate(order)}}
    return float(pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)["q"]["ndcg_cut_10"])


# Grades 0, 1, 2: the given order's nDCG is worst, [3] > [2] > [1] best.
SMALL = judged((0, 1, 2))
AUTHORS, OURS = RearankAuthorsReward(), NdcgReward()


@pytest.mark.parametrize(
    ("text", "window", "rank", "tags", "form", "ours"),
    [
        pytest.param(answered([3, 2, 1]), SMALL, 1, 1, 1, 1, id="a perfect answer is one under both"),
        pytest.param(answered([1, 2]), judged((1, 0)), 0, 1, 1, 1, id="nothing to gain"),
        pytest.param("<think>x</think> <answer>none</answer>", SMALL, 0, 1, 0, -1, id="no order"),
        pytest.param(answered([3, 2]), SMALL, 1, 1, 1, -1, id="left out: they follow as given"),
        pytest.param(
            "<think>x</think> <answer>3, 2, [1]</answer>", SMALL, 1, 1, 1, -1, id="one [n] is form enough, digits read"
        ),
        pytest.param("so <think>x</think> <answer>[3] > [2] > [1]</answer>", SMALL, 1, 0, 1, 1, id="text before"),
        pytest.param(answered([3, 2, 1]) + "\n", SMALL, 1, 0, 1, 1, id="text after"),
        pytest.param("<answer>[1]</answer> " + answered([3, 2, 1]), SMALL, 0, 0, 1, 1, id="the first answer counts"),
        pytest.param("<think>3 over 2", SMALL, 1, 0, 0, -1, id="no answer: reasoning is read"),
        pytest.param("<think>x</think> [3] > [2] > [1]", SMALL, 1, 0, 0, -1, id="no answer tag: form earns nothing"),
        pytest.param(answered([3, 3, 2, 1]), SMALL, 1, 1, 1, 1, id="first mention wins"),
        pytest.param(answered([0, 9, 3, 2, 1]), SMALL, 1, 1, 1, 1, id="outside 1..n is ignored"),
        pytest.param("<think>x</think> <answer>in 1995 [3] 2 1</answer>", SMALL, 1, 1, 1, -1, id="a year is ignored"),
        pytest.param("<think>x</think> <answer>[3] > [2] in x2</answer>", SMALL, 1, 1, 1, -1, id="digits inside words"),
        pytest.param("<think>x</think> <answer>[3²] > [2]</answer>", SMALL, 0, 1, 1, -1, id="an exception earns 0"),
        pytest.param(
            "<think>x</think> <answer>[" + "3" * 5000 + "]</answer>", SMALL, 0, 1, 1, -1, id="so does an endless number"
        ),
        pytest.param("<Think>x</Think> <Answer>[3] > [2]</Answer>", SMALL, 1, 0, 0, -1, id="tags as written only"),
        pytest.param("", SMALL, 0, 0, 0, -1, id="nothing at all"),
    ],
)
def test_the_authors_rules(text: str, window: JudgedWindow, rank: float, tags: float, form: float, ours: float) -> None:
    got = AUTHORS(text, window)
    assert (got.rank, got.format_tags, got.format_list) == (rank, tags, form)
    assert got.total == pytest.approx(0.8 * rank + 0.1 * tags + 0.1 * form)
    assert OURS(text, window).rank == ours


def test_the_authors_ratio_has_no_floor_and_is_of_rounded_values() -> None:
    window = judged((3, 2, 0, 1))
    worst = AUTHORS(answered([3, 4, 2, 1]), window)
    values = [round(trec_ndcg((3, 2, 0, 1), order), 5) for order in ((2, 3, 1, 0), (0, 1, 2, 3), (0, 1, 3, 2))]
    assert worst.rank == (values[0] - values[1]) / (values[2] - values[1]) < -1
    assert worst.rank != NdcgReward(floor=None)(answered([3, 4, 2, 1]), window).rank, "by a digit far behind"
    # Grades that differ only below the ideal list's tenth place: no gain is left after rounding.
    flat = judged((1, 2, *[0] * 8), (5_000_000, *[0] * 9))
    assert AUTHORS(answered(range(10, 0, -1)), flat).rank == 0


def test_the_authors_ideal_is_the_querys() -> None:
    wide = judged((0, 1, 2), (3, 3, 3, 2, 1))
    text = answered([2, 3, 1])
    values = [round(trec_ndcg((0, 1, 2), order, (3, 3, 3)), 5) for order in ((1, 2, 0), (0, 1, 2), (2, 1, 0))]
    assert AUTHORS(text, wide).rank == pytest.approx((values[0] - values[1]) / (values[2] - values[1]), abs=1e-9)
    assert RearankAuthorsReward(ideal="window")(text, wide).rank == AUTHORS(text, judged((0, 1, 2))).rank


def test_the_authors_cut_off() -> None:
    # Grade 1 of at most 2 comes first, from 0.
    assert RearankAuthorsReward(k=1)(answered([2, 3, 1]), SMALL).rank == 0.5


def test_a_breakdowns_ndcg_is_evaluations_whatever_the_reward_read() -> None:
    got = AUTHORS("<think>3 over 2", SMALL)
    assert (got.status, got.rank, got.ndcg_reranked) == (ParseStatus.UNCLOSED_THINK, 1, got.ndcg_initial)
    assert AUTHORS("[3] > [2] > [1]", SMALL).status is ParseStatus.NO_ANSWER_TAG


GRADES = st.lists(st.integers(-1, 3), min_size=1, max_size=20).map(tuple)


@given(GRADES, st.lists(st.integers(0, 3), max_size=5), st.randoms())
def test_the_authors_reward_is_trec_evals_values(grades: tuple[int, ...], outside: list[int], random: object) -> None:
    order = list(range(len(grades)))
    random.shuffle(order)  # type: ignore[attr-defined]
    best = sorted(order, key=lambda i: -grades[i])
    window = judged(grades, (*grades, *outside))
    after, before, most = (round(trec_ndcg(grades, o, outside), 5) for o in (order, range(len(grades)), best))
    rank = (after - before) / (most - before) if most != before else 0.0
    assert AUTHORS(answered([i + 1 for i in order]), window).total == pytest.approx(0.8 * rank + 0.2, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think></think><answer></answer>", True),
        ("<think>a</think>\n\n <answer>b</answer>", True),
        ("<think>a</think> <answer>b</answer> c </answer>", True),
        ("<think>a</think> b </think> <answer>c</answer>", True),
        ("<think>a</think> b <answer>c</answer>", False),
        ("<think>a</think> <answer>c</answer>.", False),
        ("<think>a</think> <answer>c", False),
        ("<answer>b</answer>", False),
    ],
)
def test_a_whole_text_of_reasoning_and_answer(text: str, expected: bool) -> None:
    assert is_reasoned_answer(text) is expected


PIECES = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "1", "[2]", "x", "²"])


@given(st.lists(PIECES, max_size=14).map("".join))
@example("<answer>1</answer><answer>2</answer></answer>")
@example("</answer><answer>1</answer>")
@example("<answer>1<answer>2</answer>")
@example("before </answer>")
@example("<answer>1")
@example("<think>x</think><answer>1</answer><think>")
@example("<think>x</think><answer>1</answer></answer>")
@example("</answer><think>x</think><answer>1</answer>")
@example("</think><answer>1</answer><think>x</think><answer>2</answer>")
@example("a long text </think><answer>1</answer>")
@example("<think>x</think><answer>1")
def test_tags_are_read_as_the_expressions_that_peers_search_for(text: str) -> None:
    """Theirs go back and forth over a hostile text for minutes; ours find the same in one pass."""
    import re

    dotall = re.DOTALL
    assert is_reasoned_answer(text) is bool(re.fullmatch("<think>.*?</think>\\s*<answer>.*?</answer>", text, dotall))
    for found, pattern in (
        (first_answer(text), "<answer>(.*?)</answer>"),
        (reasoned_answer(text), "<think>.*?</think>\\s*<answer>(.*?)</answer>"),
    ):
        match = re.search(pattern, text, dotall)
        assert found == (match.group(1) if match else None)


def test_digits_are_those_of_any_script() -> None:
    assert numbers(digit_runs("[12] > ٣, x4y")) == [12, 3, 4]
    assert numbers(digit_runs("[2²]")) is None


# Grades 2, 0, 1: gold by grade is [1] > [3] > [2]; two of three are relevant.
REASONRANK = ReasonRankReward()
TRIPLE = judged((2, 0, 1))


@pytest.mark.parametrize(
    ("text", "total"),
    [
        pytest.param(answered([1, 3, 2]), 1 + 0.2 + 0.1, id="the gold order"),
        # Binary gain: [3] before [1] loses no nDCG, only agreement: (0 + 1 + 1) / 3.
        pytest.param(answered([3, 1, 2]), 1 + 0.2 + 0.1 * 2 / 3, id="gain is binary"),
        pytest.param("<think>x</think> <answer>1, then 3; 2</answer>", 1.3, id="digits anywhere in the answer"),
        pytest.param("and <think>x</think> <answer>[1] [3] [2]</answer> end", 1.3, id="text around it"),
        pytest.param(answered([1, 3]), 0, id="one left out"),
        pytest.param(answered([1, 3, 2, 2]), 0, id="one too many"),
        pytest.param(answered([1, 3, 3]), 0, id="one twice"),
        pytest.param("<think>x</think> <answer>[1] > [3] > [2²]</answer>", 0, id="no number"),
        pytest.param("<answer>[1] > [3] > [2]</answer>", -1, id="no reasoning"),
        pytest.param("<think>x</think> so <answer>[1] > [3] > [2]</answer>", -1, id="text between"),
        pytest.param("", -1, id="nothing"),
        # An id outside the window has a rank in the list and no passage: agreement 1, 1, 2/3.
        pytest.param(answered([1, 3, 9]), 1 + 0.2 + 0.1 * (1 + 1 + 2 / 3) / 3, id="outside the window"),
    ],
)
def test_reasonranks_rules(text: str, total: float) -> None:
    assert REASONRANK(text, TRIPLE).total == pytest.approx(total)


def test_reasonranks_zero_is_the_last_passage() -> None:
    # [0] > [2] > [1] are passages 3, 2, 1 to their scorer, of which 3 alone is relevant.
    window = judged((0, 0, 1))
    got = REASONRANK(answered([0, 2, 1]), window).total
    gold = ["3", "1", "2"]
    assert got == pytest.approx(1 + 0.2 + 0.1 * average_overlap(["0", "2", "1"], gold))
    # And where 3 is named, too, the later rank holds.
    assert REASONRANK(answered([0, 2, 3]), window).total < got


def test_reasonrank_goes_by_the_teachers_list() -> None:
    taught = judged((2, 0, 1), gold=(1, 2, 0))
    assert REASONRANK(answered([2, 3, 1]), taught).total > REASONRANK(answered([2, 3, 1]), TRIPLE).total
    # A list of two asks for two ids.
    assert REASONRANK(answered([1, 3]), judged((2, 0, 1), gold=(0, 2))).total == pytest.approx(1.3)


def test_reasonrank_pays_nothing_where_nothing_is_relevant() -> None:
    assert REASONRANK(answered([1, 2]), judged((0, 0))).total == 0
    assert REASONRANK("none", judged((0, 0))).total == -1


def test_reasonranks_recall_is_over_the_query() -> None:
    wide = judged((1, 0), (1, 1, 1, 1))
    text = answered([1, 2])
    ideal = 1 + 1 / 1.584962500721156 + 1 / 2 + 1 / 2.321928094887362
    assert REASONRANK(text, wide).total == pytest.approx(1 / ideal + 0.2 / 4 + 0.1)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        pytest.param("<think>x</think> <answer>[1]</answer>", 1, id="the label"),
        pytest.param("so <think>x</think>\n<answer> [1]\n</answer> end", 1, id="white space and text around"),
        pytest.param("<think>x</think> <answer>1</answer>", 0, id="a bare number"),
        pytest.param("<think>x</think> <answer>[01]</answer>", 0, id="another spelling"),
        pytest.param("<think>x</think> <answer>[1] > [2]</answer>", 0, id="a list"),
        pytest.param("<think>x</think> <answer>[3]</answer>", 0, id="another passage of the same grade"),
        pytest.param("<answer>[1]</answer>", 0, id="no reasoning"),
        pytest.param("", 0, id="nothing"),
    ],
)
def test_rank_r1s_rules(text: str, total: float) -> None:
    assert RankR1Reward()(text, judged((2, 0, 2))).total == total


def test_rank_r1_goes_by_the_single_label() -> None:
    text = "<think>x</think> <answer>[2]</answer>"
    assert RankR1Reward()(text, judged((2, 0, 2), gold=(1,))).total == 1
    assert RankR1Reward()(text, judged((2, 0, 2))).total == 0


THOUGHT = "<think>x</think> <answer>"


@pytest.mark.parametrize(
    ("reward", "text", "parts"),
    [
        pytest.param(REASONRANK, answered([1, 3, 2]), (1.3, 1.3, 1, 1), id="ReasonRank: all of it"),
        pytest.param(REASONRANK, answered([1, 3]), (0, 0, 1, 0), id="ReasonRank: the tags without the list"),
        pytest.param(REASONRANK, "[1] > [3] > [2]", (-1, 0, 0, 0), id="ReasonRank: no tags"),
        pytest.param(RankR1Reward(), THOUGHT + "[1]</answer>", (1, 1, 1, 1), id="Rank-R1: the label"),
        pytest.param(RankR1Reward(), THOUGHT + "[2]</answer>", (0, 0, 1, 0), id="Rank-R1: another"),
        pytest.param(RankR1Reward(), "[1]", (0, 0, 0, 0), id="Rank-R1: no tags"),
    ],
)
def test_the_parts_of_a_peers_reward(reward: RewardFunction, text: str, parts: tuple[float, ...]) -> None:
    got = reward(text, TRIPLE)
    assert (got.total, got.rank, got.format_tags, got.format_list) == pytest.approx(parts)


def test_reasonranks_cut_off_is_of_both_measures() -> None:
    # Gold is [2] > [3] > [1]: one of two relevant in the first place, agreement 1, 1/2, 1.
    got = ReasonRankReward(k=1)(answered([2, 1, 3]), judged((0, 1, 1)))
    assert got.total == pytest.approx(1 + 0.2 / 2 + 0.1 * (1 + 1 / 2 + 1) / 3)
    # The relevant one comes second: nothing of it in the first place.
    assert ReasonRankReward(k=1)(answered([1, 2]), judged((0, 1))).total == pytest.approx(0.1 * (0 + 1) / 2)


def test_ranks_of_a_window_without_passages() -> None:
    assert RankR1Reward()(THOUGHT + "[1]</answer>", judged(())).total == 0


@pytest.mark.parametrize(
    ("reward", "never"),
    [
        (AUTHORS, False),
        (REASONRANK, False),
        (ReasonRankReward(missing_tags=0.0), True),
        (ReasonRankReward(missing_tags=0.0, weight_recall=-0.1), False),
        (ReasonRankReward(missing_tags=0.0, weight_overlap=-0.1), False),
        (RankR1Reward(), True),
    ],
)
def test_whether_a_peers_total_is_ever_negative(reward: RewardFunction, never: bool) -> None:
    assert reward.never_negative is never


ALL: list[RewardFunction] = [AUTHORS, REASONRANK, RankR1Reward()]
HOSTILE = st.one_of(st.text(), st.lists(PIECES, max_size=20).map("".join))


@given(HOSTILE, st.lists(st.integers(-1, 3), max_size=20).map(tuple), st.booleans())
def test_any_text_on_any_window_is_scored(text: str, grades: tuple[int, ...], by_window: bool) -> None:
    window = judged(grades, None if by_window else (*grades, 3))
    for reward, least, most in ((AUTHORS, None, 1.0), (REASONRANK, -1.0, 1.3), (RankR1Reward(), 0.0, 1.0)):
        got = reward(text, window)
        assert got.total <= most + 1e-9
        assert least is None or got.total >= least
        assert 0 <= got.ndcg_initial <= got.ndcg_best + 1e-9


def test_a_long_hostile_text_is_read_at_once() -> None:
    import time

    began = time.monotonic()
    for text in ("<think>" + "</think> <answer>" * 20_000, "<think>" * 50_000, "<answer>" + "[1" * 50_000):
        for reward in ALL:
            reward(text, SMALL)
    assert time.monotonic() - began < 10


def test_average_overlap_by_hand() -> None:
    assert average_overlap("abc", "abc") == 1
    assert average_overlap("ab", "ba") == 0.5
    assert average_overlap("abc", "xyz") == 0
    assert average_overlap("abcd", "ab") == 1, "over the shorter list"
    assert average_overlap("abc", "bad") == pytest.approx((0 + 1 + 2 / 3) / 3)
    assert (average_overlap("", ""), average_overlap("a", "")) == (1, 0)


@pytest.mark.parametrize(("field", "value"), [("k", 0), ("ideal", "all"), ("weight_tags", -1.0)])
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        RearankAuthorsReward(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("gold", [(0, 0), (3,), (-1,)])
def test_a_gold_order_is_of_the_windows_positions(gold: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"gold must hold some of the positions 0\.\.2, each once"):
        judged((0, 1, 2), gold=gold)
