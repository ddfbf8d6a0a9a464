"""PPO (Schulman et al. 2017, arXiv 1707.06347): a value model estimates each token's advantage. trainer=verl alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Interval

from rearank.algorithms.base import Advantage, KlIn, PolicyGradient


@dataclass(frozen=True)
class Ppo(PolicyGradient):
    """PPO with a value model and generalised advantage estimation, which are verl's own.

    Args:
        critic_learning_rate: of the value model, which starts from the policy's weights.
        critic_warmup: steps in which only the value model learns.
        gamma: discount of a token's future reward.
        lam: lambda of the advantage estimation.
        value_clip: how far a value may move in an update.
    """

    critic: ClassVar[bool] = True
    advantage: Advantage = "critic"
    kl_in: KlIn = "reward"
    group_size: Annotated[int, Ge(1)] = 1
    critic_learning_rate: Annotated[float, Interval(gt=0, lt=1)] = 1e-5
    critic_warmup: Annotated[int, Ge(0)] = 0
    gamma: Annotated[float, Interval(ge=0, le=1)] = 1.0
    lam: Annotated[float, Interval(ge=0, le=1)] = 1.0
    value_clip: Annotated[float, Gt(0)] = 0.5
