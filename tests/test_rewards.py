"""Five variants over one reading of the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rearank.metrics import ndcg
from rearank.parsing import ParseStatus
from rearank.rewards import (
    AbsoluteReward,
    DifferenceReward,
    ExactReward,
    Measured,
    MultiviewReward,
    NdcgReward,
    NotFiniteError,
    Reward,
    RewardBreakdown,
    score,
    score_groups,
)
from rearank.types import JudgedWindow, Passage, Query, Window

VARIANTS: list[Reward] = [NdcgReward(), AbsoluteReward(), DifferenceReward(), MultiviewReward(), ExactReward()]


def judged(grades: tuple[int, ...], ideal: tuple[int, ...] | None = None) -> JudgedWindow:
    passages = tuple(Passage(f"d{i}", "text") for i in range(len(grades)))
    return JudgedWindow(Window(Query("q", "query"), passages), grades, ideal)


def answer(order: list[int] | tuple[int, ...]) -> str:
    return f"<think>notes</think> <answer>{' > '.join(f'[{i + 1}]' for i in order)}</answer>"


GRADES = st.lists(st.integers(-1, 3), min_size=1, max_size=20).map(tuple)


@given(GRADES, st.randoms())
def test_ndcg_is_the_share_of_the_reachable_improvement(grades: tuple[int, ...], random: object) -> None:
    order = list(range(len(grades)))
    random.shuffle(order)  # type: ignore[attr-defined]
    got = NdcgReward(floor=None)(answer(order), judged(grades))
    start, best = ndcg(grades, grades), ndcg(sorted(grades, reverse=True), grades)
    end = ndcg([grades[i] for i in order], grades)
    if best - start > 1e-9:
        assert got.rank == pytest.approx((end - start) / (best - start))
    else:
        assert got.rank == (1.0 if best - end <= 1e-12 else 0.0)
    assert got.total == pytest.approx(0.8 * got.rank + 0.2)


def test_the_ideal_cancels_in_the_ratio_only() -> None:
    small, large = judged((0, 1, 2)), judged((0, 1, 2), (3, 3, 3, 2, 1))
    text = answer((1, 2, 0))
    assert NdcgReward()(text, small).rank == pytest.approx(NdcgReward()(text, large).rank)
    assert AbsoluteReward()(text, small).rank > AbsoluteReward()(text, large).rank
    assert AbsoluteReward(ideal="window")(text, large).rank == AbsoluteReward()(text, small).rank


def test_the_difference_is_over_the_given_order() -> None:
    # From 1 / log2(3) to 1, and back.
    given = 0.6309297535714575
    assert DifferenceReward()(answer([1, 0]), judged((0, 1))).rank == pytest.approx(1 - given)
    assert DifferenceReward()(answer([1, 0]), judged((1, 0))).rank == pytest.approx(given - 1)


def test_floor() -> None:
    window = judged((3, 2, 0, 1))
    worst = answer((2, 3, 1, 0))
    assert NdcgReward(floor=None)(worst, window).rank < -1
    assert NdcgReward()(worst, window).rank == -1


@pytest.mark.parametrize("reward", VARIANTS, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(
    "text", ["", "<think>x</think> <answer></answer>", "<think>x</think> <answer>no</answer>", answer([0])]
)
@pytest.mark.parametrize("grades", [(2, 1, 0), (1, 0, 2), (0, 0, 1), (1, 1, 1)])
def test_naming_nothing_or_only_the_first_is_no_free_lunch(reward: Reward, text: str, grades: tuple[int, ...]) -> None:
    kept = reward(answer(range(3)), judged(grades))  # type: ignore[arg-type]
    got = reward(text, judged(grades))
    assert got.format_list == 0
    assert got.rank <= reward.unparsed
    assert got.total < kept.total or kept.total == kept.rank == 0 == got.total


def test_partial_scores_what_was_named_alone() -> None:
    reward = AbsoluteReward(partial="score")
    window = judged((1, 3, 2, 2))
    assert reward(answer([0]), window).rank < reward(answer([0, 1, 2, 3]), window).rank
    assert reward(answer([0]), window).rank == pytest.approx(ndcg([1], [1, 3, 2, 2]))
    # At a cut-off of 1 the one that was named is all there is.
    assert AbsoluteReward(partial="score", k=1)(answer([0]), judged((1, 0, 1))).rank == 1


def test_the_cut_off_is_of_all_values() -> None:
    # Grade 1 of at most 2 comes first, from 0.
    got = NdcgReward(k=1)(answer([1, 2, 0]), judged((0, 1, 2)))
    assert (got.rank, got.ndcg_initial, got.ndcg_reranked, got.ndcg_best) == (0.5, 0, 0.5, 1)
    nothing = NdcgReward()(answer([1, 0]), judged((0, 0)))
    assert (nothing.ndcg_initial, nothing.ndcg_reranked, nothing.ndcg_best) == (0, 0, 0)


def test_a_prompt_without_tags() -> None:
    got = NdcgReward(tags=False)("[2] > [1]", judged((0, 1)))
    assert (got.total, got.rank, got.format_tags, got.format_list, got.status) == (1, 1, 1, 1, ParseStatus.OK)


def test_format_terms() -> None:
    reward, window = NdcgReward(), judged((0, 1))
    assert reward("<answer>[2] > [1]</answer>", window).format_tags == 0
    json_list = reward("<think>x</think><answer>[2, 1]</answer>", window)
    assert (json_list.rank, json_list.format_tags, json_list.format_list) == (1, 1, 0)
    assert reward(answer([1, 1, 0]), window).status is ParseStatus.DUPLICATES
    assert reward(answer([1, 1, 0]), window).format_list == 0


def test_another_models_marks_earn_no_tags() -> None:
    """The order behind them is read, and the form that the prompt asks for is paid for its own tags alone."""
    got = NdcgReward()("[THINK]x[/THINK]<answer>[2] > [1]</answer>", judged((0, 1)))
    assert (got.rank, got.format_tags, got.format_list) == (1, 0, 1)


def test_multiview_is_gated_by_format() -> None:
    reward, window = MultiviewReward(), judged((0, 1, 2))
    assert reward(answer([2, 1, 0]), window).total == pytest.approx(1.3)
    assert reward(answer([2, 1]), window).total == 0
    assert reward("<answer>[3] > [2] > [1]</answer>", window).total == -1


def test_multiviews_three_terms() -> None:
    # Gold is [3] > [2] > [1]. At k = 1: grade 1 of 2, one of two relevant; shares 0, 1, 1 weigh 1, 1/2, 1/4.
    got = MultiviewReward(k=1, overlap_p=0.5)(answer([1, 2, 0]), judged((0, 1, 2)))
    assert got.rank == got.total == pytest.approx(1 / 2 + 0.2 / 2 + 0.1 * (3 / 4) / (7 / 4))


@pytest.mark.parametrize(
    ("reward", "never"),
    [
        (NdcgReward(), False),
        (NdcgReward(floor=0.0, unparsed=0.0), True),
        (NdcgReward(floor=None, unparsed=0.0), False),
        (NdcgReward(floor=0.0), False),
        (NdcgReward(floor=0.0, unparsed=0.0, degenerate=-0.1), False),
        (NdcgReward(floor=0.0, unparsed=0.0, degenerate=0.0), True),
        (AbsoluteReward(), True),
        (AbsoluteReward(unparsed=-0.1), False),
        (DifferenceReward(), False),
        (ExactReward(), True),
        (ExactReward(unparsed=-0.1), False),
        (MultiviewReward(), False),
        (MultiviewReward(missing_tags=0.0), True),
        (MultiviewReward(missing_tags=0.0, unparsed=-0.1), False),
        (MultiviewReward(missing_tags=0.0, weight_recall=-0.1), False),
        (MultiviewReward(missing_tags=0.0, weight_overlap=-0.1), False),
    ],
)
def test_whether_a_total_is_ever_negative(reward: Reward, never: bool) -> None:
    assert reward.never_negative is never


def test_exact_names_the_best() -> None:
    reward = ExactReward()
    assert reward(answer([2, 0, 1]), judged((0, 1, 2))).total == 1
    assert reward(answer([1, 2, 0]), judged((0, 1, 2))).total == 0
    assert reward(answer([0, 1, 2]), judged((0, 0, 0))).total == 0
    assert ExactReward()(answer([1, 0]), judged((0, 1))).total == 1
    assert ExactReward(partial="score")(answer([2]), judged((0, 1, 2))).total == 1


@given(st.text(), GRADES)
def test_any_completion_is_scored(text: str, grades: tuple[int, ...]) -> None:
    for reward in VARIANTS:
        got = reward(text, judged(grades))
        assert -1.0 <= got.total <= 1.3 + 1e-9


@pytest.mark.parametrize(("field", "value"), [("k", 0), ("ideal", "all"), ("partial", "x"), ("weight_rank", -1.0)])
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        NdcgReward(**{field: value})  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5).map(tuple), st.lists(st.permutations(range(5)), min_size=3))
def test_a_group_has_the_same_advantages_by_three_of_the_rewards(
    grades: tuple[int, ...], orders: list[list[int]]
) -> None:
    """Normalised, absolute and difference differ by a factor and a constant a window, and (r - mean) / std undoes both.

    As long as every answer has the form that is asked for, and the floor is not reached: see experiments/rewards.
    """
    assume(ndcg(sorted(grades, reverse=True), grades) - ndcg(grades, grades) > 1e-6)

    def advantages(reward: Reward) -> list[float]:
        totals = [reward(answer(order), judged(grades)).total for order in orders]
        spread = pstdev(totals)
        return [(total - fmean(totals)) / spread for total in totals] if spread > 1e-9 else [0.0] * len(totals)

    absolute = advantages(AbsoluteReward())
    assert advantages(DifferenceReward()) == pytest.approx(absolute, abs=1e-6)
    assert advantages(NdcgReward(floor=None)) == pytest.approx(absolute, abs=1e-6)


@pytest.mark.parametrize(
    ("grades", "orders", "why"),
    [
        ((3, 2, 1, 0), [(0, 1, 2, 3), (0, 1, 3, 2), (3, 2, 1, 0)], "nothing to gain: the normalised reward is 1 or 0"),
        ((3, 2, 0, 1), [(0, 1, 3, 2), (2, 3, 1, 0), (2, 3, 0, 1)], "two of them below the floor"),
    ],
)
def test_where_the_three_rewards_are_not_one(grades: tuple[int, ...], orders: list[tuple[int, ...]], why: str) -> None:
    def advantages(reward: Reward) -> list[float]:
        totals = [reward(answer(order), judged(grades)).total for order in orders]
        return [(total - fmean(totals)) / pstdev(totals) for total in totals]

    assert advantages(DifferenceReward()) == pytest.approx(advantages(AbsoluteReward()))
    assert advantages(NdcgReward()) != pytest.approx(advantages(AbsoluteReward()), abs=0.01), why


@dataclass(frozen=True, kw_only=True)
class Odd(NdcgReward):
    """Divides by the length of the answer's reasoning, in effect: no number comes of an answer without one."""

    given: float = math.nan
    part: str = "total"

    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        found = super().__call__(completion, judged)
        return found if "<think>" in completion else replace(found, **{self.part: self.given})


@dataclass(frozen=True, kw_only=True)
class OddGroup(Odd):
    def score_group(self, completions: list[str], judged: JudgedWindow) -> list[RewardBreakdown]:
        return [self(text, judged) for text in completions]


@pytest.mark.parametrize("reward", [Odd, OddGroup])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["total", "rank", "ndcg_reranked"])
def test_a_reward_that_is_not_finite_is_refused_with_its_row_and_text(
    reward: type[Odd], value: float, part: str
) -> None:
    window, good, bad = judged((1, 0, 2)), answer((2, 0, 1)), "<answer> no reasoning </answer>"
    odd = reward(given=value, part=part)
    assert score_groups(odd, [(good, window)], [7]) == [NdcgReward()(good, window)]
    with pytest.raises(NotFiniteError) as refused:
        score_groups(odd, [(good, window), (bad, window)], [7, 8])
    line = str(refused.value)
    for named in (f"{part} is {value}", "row 8", "query 'q'", repr(bad), reward.__name__):
        assert named in line
    assert "\n" not in line
    with pytest.raises(NotFiniteError, match="row 3"):
        score(odd, bad, window, 3)


def test_a_long_answer_is_shown_in_part() -> None:
    with pytest.raises(NotFiniteError) as refused:
        score(Odd(), "x\n" * 50_000, judged((1, 0)))
    assert len(str(refused.value)) < 4000
    assert "(100000 characters)" in str(refused.value)


def test_an_answer_at_the_limit_is_shown_whole() -> None:
    for length, shown in ((2000, repr("x" * 2000)), (2001, repr("x" * 2000 + "... (2001 characters)"))):
        with pytest.raises(NotFiniteError) as refused:
            score(Odd(), "x" * length, judged((1, 0)))
        assert f"the answer {shown};" in str(refused.value)


@dataclass(frozen=True, kw_only=True)
class Broken(NdcgReward):
    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        return replace(super().__call__(completion, judged), total=math.nan, rank=-math.inf)


@pytest.mark.parametrize(("row", "where"), [(None, "query 'q'"), (0, "row 0, query 'q'")])
def test_what_is_not_finite_is_named_with_the_remedy(row: int | None, where: str) -> None:
    with pytest.raises(NotFiniteError) as refused:
        score(Broken(), "[1]", judged((1, 0)), row)
    assert str(refused.value) == (
        f"the reward Broken gave a number that is not finite: total is nan, rank is -inf, for {where} and the answer "
        "'[1]'; mend the reward (a division by 0, say), then run the same command with accept_changed_code=true, and "
        "it goes on from its last checkpoint"
    )
    with pytest.raises(NotFiniteError, match=f"for {where} and"):
        score_groups(Broken(), [("[1]", judged((1, 0)))], ["an id" if row is None else row])


@dataclass(frozen=True, kw_only=True)
class Counting(NdcgReward):
    """Pays as many points as the group has answers, and the window passages."""

    lost: int = 0

    def score_group(self, completions: list[str], judged: JudgedWindow) -> list[RewardBreakdown]:
        paid = float(10 * len(completions) + len(judged.relevance))
        return [replace(self(text, judged), total=paid) for text in completions][self.lost :]


def test_groups_are_scored_apart_and_come_back_in_order() -> None:
    two, three = judged((1, 0)), judged((1, 0, 0))
    answers = [("a", two), ("b", three), ("c", two)]
    assert [one.total for one in score_groups(Counting(), answers, ["x", "y", "x"])] == [22, 13, 22]


@pytest.mark.parametrize("reward", [NdcgReward(), Counting()])
def test_each_answer_has_its_group(reward: Reward) -> None:
    with pytest.raises((ValueError, IndexError)):
        score_groups(reward, [("a", judged((1, 0)))], [1, 2])
    with pytest.raises(ValueError, match="argument"):
        score_groups(reward, [("a", judged((1, 0)))] * 2, [1])


def test_a_group_of_fewer_scores_than_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        score_groups(Counting(lost=1), [("a", judged((1, 0)))] * 2, [1, 1])


def test_a_sum_of_ones_own_sees_what_was_measured() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Halved(NdcgReward):
        def total(self, rank: float, tags: float, form: float, measured: Measured) -> float:
            return super().total(rank, tags, form, measured) / len(measured.parsed.permutation)

    text = "<think>x</think> <answer>[2] > [1]</answer>"
    assert Halved()(text, judged((0, 1))).total == NdcgReward()(text, judged((0, 1))).total / 2
