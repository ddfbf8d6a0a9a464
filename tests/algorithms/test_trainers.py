"""Both libraries' trainers weigh the same groups by the same object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rearank.algorithms import MaxRl, PolicyGradient
from rearank.config import node_of
from rearank.training.verl.advantage import NAME, estimate, estimator_keys

torch = pytest.importorskip("torch")
SIZES = (4, 4, 4)
IDS = np.repeat(["b", "a", "c"], SIZES)


@dataclass(frozen=True)
class Best(PolicyGradient):
    """A user's own: 1 for the best answers of a window, nothing for the others."""

    advantage: Any = "own"

    def advantages(self, rewards: Any, groups: Any) -> Any:
        best = {group: rewards[groups == group].max() for group in set(groups)}
        return np.array([reward == best[group] for reward, group in zip(rewards, groups, strict=True)], rewards.dtype)


ALGORITHMS = [
    *(PolicyGradient(advantage=name) for name in ("group", "centred", "leave_one_out", "batch")),  # type: ignore[arg-type]
    *(MaxRl(kl=0.0), Best()),
]


def by_trl(algorithm: PolicyGradient, rewards: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What TRL's trainer, our named subclass, hands to its loss."""
    pytest.importorskip("trl")
    from trl import GRPOTrainer

    from rearank.training.trl.policy import PolicyTrainer

    scored = [(Row(group), "", Breakdown(reward)) for group, reward in zip(IDS, rewards.tolist(), strict=True)]
    found = {"advantages": torch.zeros(len(rewards)), "completion_ids": None}
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", lambda *_: found)
    trainer = object.__new__(PolicyTrainer)
    trainer._algorithm, trainer._reward = algorithm, SimpleNamespace(scored=scored)
    return trainer._generate_and_score_completions([])["advantages"]


@dataclass
class Row:
    index: str


@dataclass
class Breakdown:
    total: float


def by_verl(algorithm: PolicyGradient, rewards: Any, estimator: Any = estimate) -> Any:
    """What verl's trainer gives every token, from its registry or, without verl, the function that is put there."""
    lengths = torch.arange(len(rewards)) % 3 + 2
    mask = (torch.arange(6) < lengths.unsqueeze(1)).int()
    mask = torch.cat([mask, torch.zeros(2, 6, dtype=torch.int32)])  # verl's padding
    scores = torch.zeros(len(mask), 6)
    scores[torch.arange(len(rewards)), lengths - 1] = rewards
    index = np.array([*IDS, "b", "z"], dtype=object)
    keys = {key.removeprefix("+"): value for key, value in estimator_keys(algorithm).items()}
    assert keys["adv_estimator"] == NAME
    advantages, returns = estimator(token_level_rewards=scores, response_mask=mask, index=index, config=keys)
    assert torch.equal(advantages, returns)
    first = advantages[:, 0]
    assert torch.equal(advantages, first.unsqueeze(1) * mask), "all tokens of an answer weigh the same"
    assert (first[len(rewards) :] == 0).all()
    return first[: len(rewards)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: f"{type(a).__name__}-{a.advantage}")
def test_both_trainers_call_the_same_object(algorithm: PolicyGradient, monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = torch.tensor(np.random.default_rng(3).random(sum(SIZES)), dtype=torch.float32)
    expected = torch.from_numpy(algorithm.advantages(rewards.numpy(), IDS))
    assert torch.equal(by_verl(algorithm, rewards), expected)
    assert torch.equal(by_trl(algorithm, rewards, monkeypatch), expected)


def test_what_stays_verls() -> None:
    from rearank.algorithms import Ppo

    assert estimator_keys(Ppo()) == {"adv_estimator": "gae"}
    by_token = PolicyGradient(advantage="batch", kl_in="reward", group_size=1)
    assert estimator_keys(by_token) == {"adv_estimator": "reinforce_plus_plus"}
    whole = PolicyGradient(advantage="batch", kl_in="loss", group_size=1)
    assert estimator_keys(whole) == {"adv_estimator": NAME, f"+{NAME}": json.dumps(node_of(whole))}
