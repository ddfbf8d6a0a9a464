"""The algorithm's advantages as verl calls them: ``algorithm.adv_estimator=rearank`` in verl's own registry.

The algorithm travels as its node in verl's section ``algorithm``, which verl gives to every estimator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rearank.algorithms import PolicyGradient
from rearank.config import build, node_of

NAME = "rearank"
"""Of the estimator, and of the key below ``algorithm`` that holds the node."""


def estimator_keys(algorithm: PolicyGradient) -> dict[str, Any]:
    """verl's keys below ``algorithm``: the estimator, and what it needs.

    The algorithm's own ``advantages``, but for two that give each token its own number: a value model's (``gae``), and
    REINFORCE++ where the KL is taken off each token's reward. Both are verl's.
    """
    if algorithm.critic:
        return {"adv_estimator": "gae"}
    if algorithm.advantage == "batch" and algorithm.kl > 0 and algorithm.kl_in == "reward":
        return {"adv_estimator": "reinforce_plus_plus"}
    return {"adv_estimator": NAME, f"+{NAME}": json.dumps(node_of(algorithm))}


def register() -> None:
    """Make ``estimate`` known to verl in this process."""
    from verl.trainer.ppo.core_algos import register_adv_est

    register_adv_est(NAME)(estimate)


def estimate(
    *, token_level_rewards: Any, response_mask: Any, index: Any, config: Mapping[str, Any], **_: Any
) -> tuple[Any, Any]:
    """Advantages and returns, which are the same, of every token.

    Args:
        token_level_rewards: tensor (answers, tokens); their sum is an answer's reward, less the KL if it is in it.
        response_mask: tensor (answers, tokens), 1 for an answer's tokens. A row of zeros fills the batch up: it is in
            no group.
        index: array (answers,): the group of each.
        config: verl's section ``algorithm``.

    Returns:
        Two tensors (answers, tokens).
    """
    real = response_mask.any(dim=-1)
    rewards = token_level_rewards.sum(dim=-1)
    found = _algorithm(config[NAME]).advantages(rewards[real].float().cpu().numpy(), index[real.cpu().numpy()])
    advantages = rewards.new_zeros(rewards.shape)
    advantages[real] = rewards.new_tensor(found)
    spread = advantages.unsqueeze(-1) * response_mask
    return spread, spread


@lru_cache(maxsize=8)
def _algorithm(node: str) -> PolicyGradient:
    built: PolicyGradient = build(json.loads(node))
    return built
