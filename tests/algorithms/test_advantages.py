"""Advantages as functions of rewards and groups: what holds for all of them, and what TRL's own formulas give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rearank.algorithms import ADVANTAGES, MaxRl, PolicyGradient
from rearank.rewards import (
    AbsoluteReward,
    DifferenceReward,
    ExactReward,
    MultiviewReward,
    NdcgReward,
    RankR1Reward,
    RearankAuthorsReward,
    ReasonRankReward,
    RewardFunction,
)

SHIFTED = sorted(ADVANTAGES)
NAMED = {**{name: PolicyGradient(advantage=name) for name in ADVANTAGES}, "maxrl": MaxRl()}  # type: ignore[arg-type]
ALL = pytest.mark.parametrize("name", sorted(NAMED))


@st.composite
def groups(draw: Any) -> tuple[Any, Any]:
    """Rewards in [0, 1] of groups of several sizes, their answers in any order."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    ids = np.repeat(np.arange(len(sizes)), sizes)
    rewards = draw(arrays(np.float64, len(ids), elements=st.integers(0, 20).map(lambda n: n / 20)))
    order = np.array(draw(st.permutations(range(len(ids)))))
    return rewards, ids[order]


@ALL
@given(groups())
def test_one_finite_number_an_answer_whatever_the_order(name: str, drawn: tuple[Any, Any]) -> None:
    rewards, ids = drawn
    found = NAMED[name].advantages(rewards, ids)
    assert found.shape == rewards.shape
    assert np.isfinite(found).all()
    back = np.random.default_rng(0).permutation(len(ids))
    assert NAMED[name].advantages(rewards[back], ids[back]) == pytest.approx(found[back], abs=1e-9)
    named = np.array([f"window-{number}" for number in ids], dtype=object)  # verl's ids are texts
    assert np.array_equal(NAMED[name].advantages(rewards, named), found)


@ALL
@given(groups())
def test_they_sum_to_nothing(name: str, drawn: tuple[Any, Any]) -> None:
    rewards, ids = drawn
    found = NAMED[name].advantages(rewards, ids)
    for members in [np.ones_like(ids, bool)] if name == "batch" else [ids == one for one in set(ids)]:
        assert found[members].sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", SHIFTED)
@given(groups(), st.integers(-8, 8))
def test_a_constant_added_to_every_reward_changes_nothing(name: str, drawn: tuple[Any, Any], shift: int) -> None:
    rewards, ids = drawn
    found, shifted = (NAMED[name].advantages(values, ids) for values in (rewards, rewards + shift))
    assert shifted == pytest.approx(found, abs=1e-5)


@given(groups())
def test_leave_one_out_is_what_it_says(drawn: tuple[Any, Any]) -> None:
    rewards, ids = drawn
    for place, found in enumerate(NAMED["leave_one_out"].advantages(rewards, ids)):
        others = rewards[(ids == ids[place]) & (np.arange(len(ids)) != place)]
        assert found == pytest.approx(rewards[place] - others.mean() if len(others) else 0.0)


def test_maxrl_weighs_a_rare_success_more() -> None:
    rewards = np.array([1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    found = MaxRl().advantages(rewards, np.arange(12) // 4)
    assert found.tolist() == pytest.approx([3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1, 0, 0, 0, 0])
    assert found.dtype == np.float32
    assert MaxRl().advantages(rewards * 2, np.arange(12) // 4) == pytest.approx(found), "the reward's scale is nothing"
    with pytest.raises(ValueError, match=r"never negative, and one is -0\.5"):
        MaxRl().advantages(np.array([1.0, -0.5]), np.zeros(2))


def test_maxrl_takes_rewards_that_are_never_negative() -> None:
    taken = (AbsoluteReward(), ExactReward(), RankR1Reward(), NdcgReward(floor=0.0, unparsed=0.0))
    refused = (NdcgReward(), DifferenceReward(), AbsoluteReward(unparsed=-0.1), MultiviewReward(), ReasonRankReward())
    for reward in (*taken, MultiviewReward(missing_tags=0.0), ReasonRankReward(missing_tags=0.0)):
        assert MaxRl().misfits(reward) == [], reward
    for reward in (*refused, RearankAuthorsReward()):
        (said,) = MaxRl().misfits(reward)
        assert "may be negative: set reward=absolute" in said
        assert type(reward).__name__ in said
        assert PolicyGradient().misfits(reward) == []
    assert not RewardFunction.never_negative.fget(object()), "a reward that says nothing may be"  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [2, 3, 4, 8, 32])
@pytest.mark.parametrize("scaled", [True, False])
def test_trls_own_formula(size: int, scaled: bool) -> None:
    """As GRPOTrainer computes them, in float32: for groups of up to 8 to the last bit but for torch's square root."""
    torch = pytest.importorskip("torch")
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rng = np.random.default_rng(size)
    for _ in range(50):
        rewards = torch.tensor(rng.choice([rng.random(8 * size), rng.integers(0, 3, 8 * size)]), dtype=torch.float32)
        grouped = rewards.view(-1, size)
        theirs = rewards - torch.nanmean(grouped, dim=1).repeat_interleave(size)
        if scaled:
            theirs = theirs / (nanstd(grouped, dim=1).repeat_interleave(size) + 1e-4)
        ours = NAMED["group" if scaled else "centred"].advantages(rewards.numpy(), np.arange(8 * size) // size)
        assert ours.dtype == np.float32
        if size <= 8 and not scaled:
            assert np.array_equal(ours, theirs.numpy())
        assert ours == pytest.approx(theirs.numpy(), rel=1e-6, abs=1e-6)
