"""MaxRL: maximum likelihood reinforcement learning (Tajwar et al. 2026, arXiv 2602.02710). The worked example.

An algorithm of your own is a file like this one and a yaml like ``conf/algorithm/maxrl.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rearank.algorithms.base import Advantage, HasSign, PolicyGradient
from rearank.algorithms.groups import Floats, mean_of_group


@dataclass(frozen=True)
class MaxRl(PolicyGradient):
    """``(r - mean) / mean`` over the answers to a window: the fewer succeed, the more each success counts.

    For a reward of 0 or 1 this is the gradient of the likelihood of success (to the order that the group's size
    allows), where GRPO's follows its share. Here any reward that is never negative is taken, as ``reward=absolute``.
    """

    advantage: Advantage = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl > 0 and self.kl_in == "reward":
            raise ValueError("kl_in=reward can make rewards negative, which MaxRL can't divide by: set kl_in=loss")

    def advantages(self, rewards: Floats, groups: NDArray[np.generic]) -> Floats:
        """0 where the group's mean is 0: nothing succeeded, and nothing is learnt."""
        if rewards.min(initial=0.0) < 0:
            raise ValueError(f"MaxRL takes rewards that are never negative, and one is {rewards.min()}")
        mean, _ = mean_of_group(rewards, groups)
        return np.divide(rewards - mean, mean, out=np.zeros_like(rewards), where=mean > 0)

    def misfits(self, reward: HasSign) -> list[str]:
        """A reward that may be negative."""
        if reward.never_negative and getattr(reward, "length", None) is None:
            return []
        return [
            f"algorithm=maxrl divides by a group's mean reward and {type(reward).__name__} may be negative: set "
            "reward=absolute or reward=exact, or an algorithm that takes any reward (algorithm=grpo)"
        ]
