"""The policy gradient: how sampled answers become an update. What differs between most algorithms are its values.

``conf/algorithm`` holds the named ones, each with its source. The defaults here are what they share (``_base.yaml``);
what the paper's authors set besides is in ``grpo.yaml``. A trainer says which settings it can't run (``check``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray

from rearank.algorithms.dr_grpo import centred
from rearank.algorithms.groups import Floats
from rearank.algorithms.grpo import group
from rearank.algorithms.reinforce_pp import batch
from rearank.algorithms.rloo import leave_one_out
from rearank.checks import check_fields

Advantage = Literal["group", "centred", "leave_one_out", "batch", "critic", "own"]
KlIn = Literal["loss", "reward"]
Positive = Annotated[int, Ge(1)]
ADVANTAGES: Mapping[str, Callable[[Floats, NDArray[np.generic]], Floats]] = {
    "group": group,
    "centred": centred,
    "leave_one_out": leave_one_out,
    "batch": batch,
}
"""``algorithm.advantage`` -> what computes it."""


class HasSign(Protocol):
    """What an algorithm asks of a reward."""

    @property
    def never_negative(self) -> bool: ...


@dataclass(frozen=True)
class PolicyGradient:
    """Clipped policy gradient over groups of sampled answers (paper section 3: GRPO).

    Args:
        steps: batches of rollouts; ``null`` for ``epochs`` over the rows.
        epochs: used where ``steps`` is null.
        prompts_per_step: windows a step.
        group_size: sampled answers a window.
        minibatches: equal parts that a step's rollouts are split into, one optimiser update each; 1 is on-policy. TRL's
            are whole groups; verl deals answers out so that every GPU has as many tokens, and may split a group.
        updates: passes over a step's rollouts.
        learning_rate: peak, then constant.
        warmup_steps: linear.
        weight_decay: AdamW's.
        max_grad_norm: gradients are scaled down to it.
        kl: weight of the KL to the model it started from; 0 leaves the reference model out.
        kl_in: ``loss`` adds it to the loss (GRPO), ``reward`` takes it off each token's reward (RLOO, PPO).
        clip: how far a probability ratio counts, below 1 and above. verl bounds it at 3 for bad answers, too (dual
            clip); TRL doesn't. With one update a step every ratio is 1, and no clip matters.
        clip_high: another bound above 1, ``null`` for the same.
        ratio: ``token`` by token, or one of the whole ``sequence``, its geometric mean (GSPO).
        temperature: of the rollouts.
        top_p: of the rollouts.
        advantage: ``group`` subtracts the group's mean reward and divides by its standard deviation (paper);
            ``centred`` subtracts the mean only; ``leave_one_out`` the mean of the others; ``batch`` normalises over
            the whole batch; ``critic`` estimates it with a value model (``Ppo``); ``own``: the class's, as ``MaxRl``'s.
        loss: ``token`` averages over the batch's tokens (paper), ``sequence`` over each answer's first, ``constant``
            divides by the longest possible answer.
        dynamic_sampling: replace groups whose answers all earn the same, which teach nothing, by fresh ones.
        correction: truncated importance sampling. The rollout engine and the trainer give the same answer slightly
            different probabilities; ``token`` weighs each token's loss by their ratio, ``sequence`` by the answer's.
        correction_cap: the largest such weight.
    """

    critic: ClassVar[bool] = False
    """Whether a value model estimates the advantage."""

    steps: Positive | None = None
    epochs: Annotated[float, Gt(0)] = 2.0
    prompts_per_step: Positive = 128
    group_size: Positive = 32
    minibatches: Positive = 1
    updates: Positive = 1
    learning_rate: Annotated[float, Interval(gt=0, lt=1)] = 1e-6
    warmup_steps: Annotated[int, Ge(0)] = 0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    kl: Annotated[float, Ge(0)] = 0.001
    kl_in: KlIn = "loss"
    clip: Annotated[float, Interval(gt=0, lt=1)] = 0.2
    clip_high: float | None = None
    ratio: Literal["token", "sequence"] = "token"
    temperature: Annotated[float, Gt(0)] = 1.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    advantage: Advantage = "group"
    loss: Literal["token", "sequence", "constant"] = "token"
    dynamic_sampling: bool = False
    correction: Literal["none", "token", "sequence"] = "none"
    correction_cap: Annotated[float, Gt(1)] = 2.0

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.advantage == "critic") != self.critic:
            raise ValueError("advantage=critic goes with algorithm=ppo, which has a value model, and with nothing else")
        own = type(self).advantages is not PolicyGradient.advantages
        if (self.advantage == "own") != own:
            why = "computes its own: set advantage: own" if own else "computes none of its own: set advantage: group"
            raise ValueError(f"advantage={self.advantage}: {type(self).__name__} {why} in its yaml (conf/algorithm)")
        if self.group_size < 2 and self.advantage not in ("batch", "critic"):
            raise ValueError(f"group_size must be at least 2: an answer is compared with others; not {self.group_size}")
        if self.dynamic_sampling and self.group_size < 2:
            raise ValueError("dynamic_sampling compares the answers of a group: set group_size to 2 or more")
        if self.prompts_per_step % self.minibatches:
            raise ValueError(
                f"minibatches ({self.minibatches}) must divide prompts_per_step ({self.prompts_per_step}): all are of "
                "one size; minibatches=1 makes one update a step"
            )

    def advantages(self, rewards: Floats, groups: NDArray[np.generic]) -> Floats:
        """How much better each answer is than was to be expected: what its tokens' gradients are weighed by.

        Args:
            rewards: of a step's answers, shape (answers,); computed in their own precision, float32 from both trainers.
            groups: shape (answers,): the id, of any kind, of the window that each answers. Groups may differ in size
                and answers come in any order.

        Returns:
            One number an answer, shape (answers,), all of them finite.
        """
        return ADVANTAGES[self.advantage](rewards, groups)

    def misfits(self, reward: HasSign) -> list[str]:
        """Why this algorithm can't learn from ``reward``, each with its remedy; asked before anything heavy starts."""
        return []

    @property
    def answers_per_step(self) -> int:
        """Rollouts a step."""
        return self.prompts_per_step * self.group_size

    @property
    def answers_per_update(self) -> int:
        """Rollouts that an optimiser update learns from."""
        return self.answers_per_step // self.minibatches

    def total_steps(self, rows: int) -> int:
        """Batches of rollouts over ``rows`` windows."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * (rows // self.prompts_per_step or 1)))
