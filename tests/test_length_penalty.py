"""What long answers lose: the formula, its bounds, and that both trainers take it off whatever the reward."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.algorithms import MaxRl
from rearank.rewards import LengthPenalty, NdcgReward, RankR1Reward, RewardBreakdown, score, score_groups
from rearank.training.base import describe
from rearank.training.verl.reward import CountedText, compute_score
from rearank.types import JudgedWindow, Passage, Query, Window

WINDOW = JudgedWindow(Window(Query("q", "x"), (Passage("a", ""), Passage("b", ""))), (0, 1))
BEST = "<think> b </think> <answer> [2] > [1] </answer>"
Form = Literal["linear", "cosine"]
FORMS: tuple[Form, ...] = ("linear", "cosine")


@pytest.mark.parametrize(
    ("form", "tokens", "expected"),
    [
        ("linear", 100, 0.0),
        ("linear", 150, -0.2),
        ("linear", 200, -0.4),
        ("linear", 10_000, -0.4),
        ("cosine", 100, 0.0),
        ("cosine", 125, -0.4 * (1 - math.cos(math.pi / 4)) / 2),
        ("cosine", 150, -0.2),
        ("cosine", 200, -0.4),
    ],
)
def test_by_hand(form: Form, tokens: int, expected: float) -> None:
    assert LengthPenalty(budget=100, full=200, weight=0.4, form=form)(tokens) == pytest.approx(expected)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.01, 10), st.sampled_from(FORMS), st.integers(0, 10**9))
def test_it_is_bounded_falls_with_every_token_and_is_nothing_in_the_budget(
    budget: int, more: int, weight: float, form: Form, tokens: int
) -> None:
    penalty = LengthPenalty(budget=budget, full=budget + more, weight=weight, form=form)
    assert -weight <= penalty(tokens) <= 0
    assert penalty(tokens + 1) <= penalty(tokens)
    assert penalty(budget) == 0
    assert penalty(budget + more) == pytest.approx(-weight)


@pytest.mark.parametrize(
    "settings", [{"budget": 0}, {"budget": 5, "full": 5}, {"budget": 5, "weight": 0.0}, {"budget": 5, "form": "x"}]
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"budget|full|weight|form"):
        LengthPenalty(**settings)


def test_it_is_taken_off_any_reward_and_kept_apart() -> None:
    penalty = LengthPenalty(budget=100, full=200)
    for reward in (NdcgReward(), RankR1Reward()):
        plain, short, long = (
            score(one, BEST, WINDOW, tokens=tokens)
            for one, tokens in (
                (reward, 400),
                (replace(reward, length=penalty), 90),
                (replace(reward, length=penalty), 150),
            )
        )
        assert short == plain, "within the budget"
        assert long == replace(plain, total=plain.total - 0.25, length=-0.25)
    groups = score_groups(replace(NdcgReward(), length=penalty), [(BEST, WINDOW)] * 2, [0, 0], [90, 200])
    assert [one.length for one in groups] == [0, -0.5]
    with pytest.raises(ValueError, match=r"reward\.length needs the tokens"):
        score(NdcgReward(length=penalty), BEST, WINDOW)


class Together(NdcgReward):
    """Scores a group at once."""

    def score_group(self, completions: list[str], judged: JudgedWindow) -> list[RewardBreakdown]:
        return [self(completion, judged) for completion in completions]


def test_a_reward_of_groups_loses_it_too() -> None:
    found = score_groups(Together(length=LengthPenalty(budget=10)), [(BEST, WINDOW)] * 3, [1, 1, 2], [10, 15, 99])
    assert [one.length for one in found] == [0, -0.25, -0.5]
    assert found[0].total - found[2].total == 0.5


def test_the_mean_is_shown_where_anything_was_taken() -> None:
    penalty = LengthPenalty(budget=10)
    taken = score_groups(NdcgReward(length=penalty), [(BEST, WINDOW)] * 2, [0, 0], [5, 20])
    assert describe(taken)["reward/length"] == -0.25
    assert describe(taken)["reward/total"] == pytest.approx(1.0 - 0.25)
    assert "reward/length" not in describe(taken[:1])


def test_verl_gets_the_tokens_with_the_text() -> None:
    node = {
        "_target_": "rearank.rewards.ndcg.NdcgReward",
        "length": {"_target_": "rearank.rewards.LengthPenalty", "budget": 10, "weight": 1.0},
    }
    truth = {"relevance": [0, 1], "ideal": [1], "has_ideal": True}
    extra = {"index": 3, "query_id": "q", "query": "x", "passage_ids": ["a", "b"]}
    given_row = {"data_source": "s", "ground_truth": truth, "extra_info": extra, "reward": json.dumps(node)}
    scores = compute_score(solution_str=CountedText.of(BEST, 15), **given_row)
    assert (scores["length"], scores["score"]) == (-0.5, pytest.approx(0.5))
    with pytest.raises(ValueError, match=r"reward\.length needs the tokens"):
        compute_score(solution_str=BEST, **given_row)


def test_a_total_that_can_fall_below_0_is_not_for_maxrl() -> None:
    reward = NdcgReward(floor=0.0, unparsed=0.0)
    assert not MaxRl().misfits(reward)
    assert MaxRl().misfits(replace(reward, length=LengthPenalty(budget=10)))


@pytest.mark.slow
def test_trl_trains_with_it(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from rearank.tracking import read_jsonl
    from tests.training.test_trl import ALGORITHM, TRAINER, job, made_rows

    reward = NdcgReward(length=LengthPenalty(budget=5, weight=1.0))
    given_job = replace(job(made_rows(tmp_path), tmp_path / "run"), reward=reward)
    TRAINER.train(given_job, replace(ALGORITHM, steps=1))
    logged = read_jsonl(tmp_path / "run" / "train.jsonl")
    (step,) = [line for line in logged if "train/loss" in line]
    parts = (
        0.8 * step["train/reward/rank"]
        + 0.1 * step["train/reward/format_tags"]
        + 0.1 * step["train/reward/format_list"]
    )
    assert step["train/reward/length"] == pytest.approx(-1.0), "every answer is twice the budget"
    assert step["train/reward/total"] == pytest.approx(parts - 1.0)
    assert all("val/reward/length" in line for line in logged if "val/ndcg@10" in line)
