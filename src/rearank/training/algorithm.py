"""The policy gradient: how sampled answers become an update. One class; what differs between algorithms are its values.

``conf/algorithm`` holds the named ones, each with its source: GRPO, Dr. GRPO, DAPO, GSPO, RLOO, REINFORCE++ and PPO.
The defaults here are what they share (``_base.yaml``); what the paper's authors set beside is in ``grpo.yaml``.
Every trainer reads the same object and says which settings it can't run (``check``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_GROUPED = ("group", "centred", "leave_one_out")


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
            the whole batch; ``critic`` estimates it with a value model (``Ppo``).
        loss: ``token`` averages over the batch's tokens (paper), ``sequence`` over each answer's first, ``constant``
            divides by the longest possible answer.
        dynamic_sampling: replace groups whose answers all earn the same, which teach nothing, by fresh ones.
        correction: truncated importance sampling. The rollout engine and the trainer give the same answer slightly
            different probabilities; ``token`` weighs each token's loss by their ratio, ``sequence`` by the answer's.
        correction_cap: the largest such weight.
    """

    steps: int | None = None
    epochs: float = 2.0
    prompts_per_step: int = 128
    group_size: int = 32
    minibatches: int = 1
    updates: int = 1
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    kl: float = 0.001
    kl_in: Literal["loss", "reward"] = "loss"
    clip: float = 0.2
    clip_high: float | None = None
    ratio: Literal["token", "sequence"] = "token"
    temperature: float = 1.0
    top_p: float = 1.0
    advantage: Literal["group", "centred", "leave_one_out", "batch", "critic"] = "group"
    loss: Literal["token", "sequence", "constant"] = "token"
    dynamic_sampling: bool = False
    correction: Literal["none", "token", "sequence"] = "none"
    correction_cap: float = 2.0

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "minibatches", "updates", "group_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.group_size < 2 and self.advantage in _GROUPED:
            raise ValueError(f"group_size must be at least 2: an answer is judged beside others; not {self.group_size}")
        if self.prompts_per_step % self.minibatches:
            raise ValueError(
                f"minibatches ({self.minibatches}) must divide prompts_per_step ({self.prompts_per_step}): all are of "
                "one size; minibatches=1 makes one update a step"
            )
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie between 0 and 1 (1e-6 is usual), not {self.learning_rate}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, or all answers are equal; not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        for name in ("kl", "warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1 (0.2 is usual), not {self.clip}")
        if self.correction_cap <= 1:
            raise ValueError(f"correction_cap must be above 1, where both engines agree, not {self.correction_cap}")
        if self.epochs <= 0 or self.max_grad_norm <= 0:
            raise ValueError("epochs and max_grad_norm must be above 0")
        if (self.advantage == "critic") != isinstance(self, Ppo):
            raise ValueError("advantage=critic goes with algorithm=ppo, which has a value model, and with nothing else")
        if self.dynamic_sampling and self.group_size < 2:
            raise ValueError("dynamic_sampling compares the answers of a group: set group_size to 2 or more")

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


@dataclass(frozen=True)
class Ppo(PolicyGradient):
    """PPO with a value model and generalised advantage estimation (Schulman et al. 2017, arXiv 1707.06347).

    Args:
        critic_learning_rate: of the value model, which starts from the policy's weights.
        critic_warmup: steps in which only the value model learns.
        gamma: discount of a token's future reward.
        lam: lambda of the advantage estimation.
        value_clip: how far a value may move in an update.
    """

    advantage: Literal["group", "centred", "leave_one_out", "batch", "critic"] = "critic"
    kl_in: Literal["loss", "reward"] = "reward"
    group_size: int = 1
    critic_learning_rate: float = 1e-5
    critic_warmup: int = 0
    gamma: float = 1.0
    lam: float = 1.0
    value_clip: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.critic_learning_rate < 1:
            raise ValueError(f"critic_learning_rate must lie between 0 and 1, not {self.critic_learning_rate}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.critic_warmup < 0 or self.value_clip <= 0:
            raise ValueError("critic_warmup must not be negative and value_clip must be above 0")
