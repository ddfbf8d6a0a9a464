"""GRPO on one machine with TRL's GRPOTrainer, unforked: the rows, the reward object and the validation are ours.

What a run leaves in its folder: ``checkpoints/`` (the last few, to resume from), ``model/`` (the best by validation),
``train.jsonl`` (curves), ``train-rollouts.jsonl`` (some sampled answers), ``result.json`` once it is finished.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rearank.rewards import RewardBreakdown
from rearank.tracking import transcript
from rearank.training.base import Lora, TrainingError, TrainingJob, TrainingResult, describe
from rearank.training.fit import Made, fit
from rearank.training.local import device_settings, lora_config, missing_packages
from rearank.training.rows import TrainingRow

# TRL's names -> ours, which are the same for every trainer.
_CURVES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "kl": "train/kl",
    "entropy": "train/entropy",
    "clip_ratio/region_mean": "train/clip_ratio",
    "frac_reward_zero_std": "rollout/groups_without_spread",
    "reward_std": "rollout/reward_spread",
    "completions/mean_length": "rollout/length",
    "completions/max_length": "rollout/length_max",
    "completions/clipped_ratio": "rollout/cut_off",
    "step_time": "train/seconds",
}
_LOSSES = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}


@dataclass(frozen=True)
class Grpo:
    """The algorithm (paper section 3): group-relative advantages, clipped ratios, KL to the model it started from.

    Args:
        steps: optimiser steps; ``null`` for ``epochs`` over the rows.
        epochs: used where ``steps`` is null.
        prompts_per_step: windows a step.
        group_size: sampled answers a window.
        learning_rate: peak, then constant.
        warmup_steps: linear.
        kl: weight of the KL term; 0 leaves the reference model out.
        clip: how far a token's probability ratio counts, below 1 and above.
        clip_high: another bound above 1, ``null`` for the same.
        temperature: of the rollouts.
        top_p: of the rollouts.
        advantage: ``group`` divides by the group's standard deviation (paper), ``centred`` subtracts the mean only.
        loss: ``token`` averages over the batch's tokens (paper), ``sequence`` over each answer's first, ``constant``
            divides by the longest possible answer.
        updates: optimiser passes over a batch of rollouts.
        max_grad_norm: gradients are scaled down to it.
    """

    steps: int | None = None
    epochs: float = 2.0
    prompts_per_step: int = 128
    group_size: int = 32
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    kl: float = 0.001
    clip: float = 0.2
    clip_high: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    advantage: Literal["group", "centred"] = "group"
    loss: Literal["token", "sequence", "constant"] = "token"
    updates: int = 1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "updates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2: an answer is judged beside others; not {self.group_size}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie between 0 and 1 (1e-6 is usual), not {self.learning_rate}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, or all answers are equal; not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        for name in ("kl", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1 (0.2 is usual), not {self.clip}")
        if self.epochs <= 0 or self.max_grad_norm <= 0:
            raise ValueError("epochs and max_grad_norm must be above 0")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps over ``rows`` windows."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * (rows // self.prompts_per_step or 1))) * self.updates


@dataclass(frozen=True)
class TrlTrainer:
    """One machine, CPU or one GPU.

    Args:
        micro_batch: answers in one forward and backward pass; ``null`` for a whole step at once.
        lora: adapters instead of all weights; ``null`` trains all.
        save_every: steps between two checkpoints to resume from.
        keep: how many of them stay.
        validate_every: steps between two validations (and before the first).
        validation_batch: windows answered at once in validation.
        rollout_samples: sampled answers written down at every validation.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``.
        gradient_checkpointing: less memory, more time.
        threads: CPU threads; ``null`` for torch's default.
    """

    micro_batch: int | None = None
    lora: Lora | None = None
    save_every: int = 10
    keep: int = 2
    validate_every: int = 10
    validation_batch: int = 64
    rollout_samples: int = 4
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("micro_batch", "save_every", "keep", "validate_every", "validation_batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.rollout_samples < 0:
            raise ValueError(f"rollout_samples must not be negative, not {self.rollout_samples}")

    def preflight(self) -> list[str]:
        """Missing packages."""
        return missing_packages("trainer=trl", ["torch", "transformers", "trl", *(["peft"] if self.lora else [])])

    def check(self, algorithm: Grpo) -> None:
        """Whether the batch divides; raises ``TrainingError`` naming the keys."""
        batch = algorithm.prompts_per_step * algorithm.group_size
        if self.micro_batch is not None and batch % self.micro_batch:
            raise TrainingError(
                f"trainer.micro_batch ({self.micro_batch}) must divide algorithm.prompts_per_step x "
                f"algorithm.group_size ({algorithm.prompts_per_step} x {algorithm.group_size} = {batch})"
            )

    def train(self, job: TrainingJob, algorithm: Grpo) -> TrainingResult:
        """Train, or go on from the last checkpoint in ``job.folder``, or return what a finished run left there.

        Raises:
            TrainingError: for settings that don't fit, or a model that can't be trained.
        """
        self.check(algorithm)

        def make(tokenizer: Any, rows: Sequence[TrainingRow]) -> Made:
            import trl

            if len(rows) < algorithm.prompts_per_step:
                raise TrainingError(
                    f"{len(rows)} training windows are fewer than a step takes: lower algorithm.prompts_per_step "
                    f"({algorithm.prompts_per_step}), draw more windows (augmentation.sets) or judge more queries"
                )
            steps = algorithm.total_steps(len(rows))
            reward = _RewardFunction(job, rows)
            trainer = trl.GRPOTrainer(
                model=job.model,
                reward_funcs=reward,
                args=self._arguments(job, algorithm, steps),
                train_dataset=_dataset(rows),
                processing_class=tokenizer,
                peft_config=lora_config(self.lora) if self.lora else None,
            )

            def validated(step: int) -> None:
                _write_rollouts(job, reward.scored[:: algorithm.group_size][: self.rollout_samples], step)

            return Made(trainer, steps, _figures, validated)

        return fit(job, self, "training", make)

    def _arguments(self, job: TrainingJob, algorithm: Grpo, steps: int) -> Any:
        import trl

        batch = algorithm.prompts_per_step * algorithm.group_size
        micro = self.micro_batch or batch
        return trl.GRPOConfig(
            output_dir=str(job.folder / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            num_generations=algorithm.group_size,
            max_completion_length=job.max_tokens,
            learning_rate=algorithm.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=algorithm.warmup_steps,
            beta=algorithm.kl,
            epsilon=algorithm.clip,
            epsilon_high=algorithm.clip_high,
            temperature=algorithm.temperature,
            top_p=algorithm.top_p,
            scale_rewards="group" if algorithm.advantage == "group" else "none",
            loss_type=_LOSSES[algorithm.loss],
            num_iterations=algorithm.updates,
            max_grad_norm=algorithm.max_grad_norm,
            save_steps=self.save_every,
            save_total_limit=self.keep,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            seed=job.seed,
            gradient_checkpointing=self.gradient_checkpointing,
            dataloader_pin_memory=False,
            **device_settings(self.device, job.revision),
        )


class _RewardFunction:
    """TRL's reward protocol around our reward object; keeps the breakdowns of the batch for the curves."""

    __name__ = "rearank"

    def __init__(self, job: TrainingJob, rows: Sequence[TrainingRow]) -> None:
        self._reward = job.reward
        self._rows = rows
        self.scored: list[tuple[TrainingRow, str, RewardBreakdown]] = []

    def __call__(self, *, completions: Sequence[Any], row: Sequence[int], log_metric: Any, **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        began = time.perf_counter()
        self.scored = [
            (self._rows[number], text, self._reward(text, self._rows[number].judged))
            for number, text in zip(row, texts, strict=True)
        ]
        for name, value in describe([breakdown for *_, breakdown in self.scored]).items():
            log_metric(f"rollout/{name}", value)
        log_metric("rollout/reward_seconds", time.perf_counter() - began)
        return [breakdown.total for *_, breakdown in self.scored]


def _figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """TRL's log of a step under our names; nothing of the summary at the end."""
    named = {_CURVES.get(name, name): value for name, value in logs.items() if name in _CURVES or "rollout/" in name}
    return {n: float(v) for n, v in named.items() if v is not None} if "rollout/reward/total" in named else {}


def _write_rollouts(job: TrainingJob, scored: Sequence[tuple[TrainingRow, str, RewardBreakdown]], step: int) -> None:
    """Some sampled answers as a table: what the model was paid for, to be read by a person."""
    rows = [
        [row.judged.window.query.id, transcript(row.prompt), text, *map(str, asdict(breakdown).values())]
        for row, text, breakdown in scored
    ]
    if rows:
        columns = ["query", "prompt", "answer", *RewardBreakdown.__dataclass_fields__]
        job.tracker.table("rollouts", columns, rows, step)


def _dataset(rows: Sequence[TrainingRow]) -> Any:
    import datasets

    prompts = [[asdict(message) for message in row.prompt] for row in rows]
    return datasets.Dataset.from_dict({"prompt": prompts, "row": list(range(len(rows)))})
