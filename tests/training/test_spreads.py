"""How far answers of a group differ: what says that a policy has stopped learning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.training.base import spreads_of

SPREAD, WITHOUT = "rollout/reward_spread", "rollout/groups_without_spread"


def test_spread_is_of_a_group_and_not_of_the_step() -> None:
    """Four windows, each with eight answers that earn the same: the windows differ and nothing is learnt."""
    rewards = [reward for reward in (1.0, 0.2, 0.2, 0.2) for _ in range(8)]
    assert spreads_of(rewards, [number // 8 for number in range(32)]) == {SPREAD: 0.0, WITHOUT: 1.0}


def test_one_answer_that_differs_is_seen() -> None:
    found = spreads_of([0.2, 0.2, 0.2, 1.0, 0.5, 0.5], ["a", "b", "a", "a", "b", "b"])
    assert found[WITHOUT] == 0
    assert found[SPREAD] == pytest.approx((0.3771236 + 0.1414214) / 2)


@given(st.floats(-2, 2, allow_nan=False), st.integers(2, 16))
def test_equal_rewards_have_none_whatever_they_are(reward: float, size: int) -> None:
    assert spreads_of([reward] * size, [0] * size) == {SPREAD: 0.0, WITHOUT: 1.0}
