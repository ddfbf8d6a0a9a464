"""GRPO on one machine with TRL's GRPOTrainer, unforked: the rows, the reward object and the validation are ours.

A step is one batch of rollouts and the updates on it, whatever their number: curves, validation and checkpoints count
steps. (Where ``algorithm.updates`` passes go over the same rollouts, each pass counts.)

What a run leaves in its folder: ``checkpoints/`` (the last few, to resume from), ``model/`` (the best by validation),
``train.jsonl`` (curves), ``train-rollouts.jsonl`` (some sampled answers), ``result.json`` once it is finished.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rearank.rewards import RewardBreakdown
from rearank.tracking.names import rollout_name
from rearank.training.algorithm import PolicyGradient
from rearank.training.base import (
    ROLLOUT_COLUMNS,
    Lora,
    TrainingError,
    TrainingJob,
    TrainingResult,
    describe,
    rollout_line,
)
from rearank.training.fit import Made, fit
from rearank.training.guard import Guard
from rearank.training.local import (
    complete_checkpoint,
    device_settings,
    lora_config,
    memory_used,
    missing_packages,
    step_of,
)
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
# What TRL's GRPOTrainer has no setting for.
_UNSUPPORTED = (
    ("advantage", "critic"),
    ("advantage", "leave_one_out"),
    ("advantage", "batch"),
    ("dynamic_sampling", True),
    ("kl_in", "reward"),
    ("correction", "token"),  # TRL samples with the policy itself here: there is nothing to correct
    ("correction", "sequence"),
)
_LOSSES = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}


@dataclass(frozen=True)
class TrlTrainer:
    """One machine, CPU or one GPU.

    Args:
        micro_batch: answers in one forward and backward pass; ``null`` for all of an update's at once.
        lora: adapters instead of all weights; ``null`` trains all.
        save_every: steps between two checkpoints to resume from.
        keep: how many of them stay.
        validate_every: steps between two validations (and before the first).
        validation_batch: windows answered at once in validation.
        guard: when to stop early.
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
    guard: Guard = field(default_factory=Guard)
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

    def check(self, algorithm: PolicyGradient) -> None:
        """Whether TRL can run it and the batch divides; raises ``TrainingError`` naming the keys."""
        for name, value in _UNSUPPORTED:
            if (chosen := getattr(algorithm, name)) == value:
                raise TrainingError(
                    f"trainer=trl can't run algorithm.{name}={chosen}: use trainer=verl, or an algorithm that TRL has "
                    "(grpo, dr_grpo, gspo; dapo with algorithm.dynamic_sampling=false)"
                )
        if self.micro_batch is not None and algorithm.answers_per_update % self.micro_batch:
            raise TrainingError(
                f"trainer.micro_batch ({self.micro_batch}) must divide an update's answers: algorithm.prompts_per_step "
                f"/ algorithm.minibatches x algorithm.group_size ({algorithm.prompts_per_step} / "
                f"{algorithm.minibatches} x {algorithm.group_size} = {algorithm.answers_per_update})"
            )

    def train(self, job: TrainingJob, algorithm: PolicyGradient) -> TrainingResult:
        """Train, or go on from the last checkpoint in ``job.folder``, or return what a finished run left there.

        Raises:
            TrainingError: for settings that don't fit, or a model that can't be trained.
        """
        self.check(algorithm)

        def make(tokenizer: Any, rows: Sequence[TrainingRow]) -> Made:
            if len(rows) < algorithm.prompts_per_step:
                raise TrainingError(
                    f"{len(rows)} training windows are fewer than a step takes: lower algorithm.prompts_per_step "
                    f"({algorithm.prompts_per_step}), draw more windows (augmentation.sets) or judge more queries"
                )
            steps = algorithm.total_steps(len(rows)) * algorithm.updates
            reward = _RewardFunction(job, rows)
            last = complete_checkpoint(job.folder / "checkpoints")
            epochs = step_of(last) // (len(rows) // algorithm.prompts_per_step * algorithm.updates) if last else 0
            trainer = _trainer_class(algorithm.minibatches, epochs)(
                model=job.model,
                reward_funcs=reward,
                args=self._arguments(job, algorithm, steps),
                train_dataset=_dataset(rows),
                processing_class=tokenizer,
                peft_config=lora_config(self.lora) if self.lora else None,
            )

            def figures(logs: Mapping[str, Any]) -> dict[str, float]:
                return _figures(logs, algorithm.minibatches)

            def validated(step: int) -> None:
                _write_rollouts(job, reward.scored[:: algorithm.group_size][: self.rollout_samples], step)

            return Made(trainer, steps, figures, validated, algorithm.minibatches)

        return fit(job, self, "training", make)

    def _arguments(self, job: TrainingJob, algorithm: PolicyGradient, steps: int) -> Any:
        import trl

        # One update is what HF's trainer counts as a step: everything by step is times the updates in one of ours.
        updates = algorithm.minibatches
        micro = self.micro_batch or algorithm.answers_per_update
        return trl.GRPOConfig(
            output_dir=str(job.folder / "checkpoints"),
            max_steps=steps * updates,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=algorithm.answers_per_update // micro,
            steps_per_generation=algorithm.answers_per_step // micro,
            num_generations=algorithm.group_size,
            max_completion_length=job.max_tokens,
            learning_rate=algorithm.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=algorithm.warmup_steps * updates,
            weight_decay=algorithm.weight_decay,
            beta=algorithm.kl,
            epsilon=algorithm.clip,
            epsilon_high=algorithm.clip_high,
            temperature=algorithm.temperature,
            top_p=algorithm.top_p,
            scale_rewards="group" if algorithm.advantage == "group" else "none",
            loss_type=_LOSSES[algorithm.loss],
            importance_sampling_level=algorithm.ratio,
            num_iterations=algorithm.updates,
            max_grad_norm=algorithm.max_grad_norm,
            save_steps=self.save_every * updates,
            save_total_limit=self.keep,
            logging_steps=updates,
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
            log_metric(rollout_name(name), value)
        log_metric("rollout/reward_seconds", time.perf_counter() - began)
        return [breakdown.total for *_, breakdown in self.scored]


def _trainer_class(minibatches: int, epochs: int) -> Any:
    """TRL's trainer, but for two orders.

    It deals the answers of a step out to its minibatches at random: here they stay as they were sampled, so that each
    takes whole groups. And it begins again with the first epoch's order of the windows in a run that goes
    on after ``epochs``: here the orders before are drawn first.
    """
    import torch
    from trl import GRPOTrainer
    from trl.trainer.utils import split_tensor_dict

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        _buffered_inputs: Any

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            if minibatches == 1:
                return super()._prepare_inputs(generation_batch)
            parts = self.args.steps_per_generation
            if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
                self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), parts)
            return self._buffered_inputs[self._step % parts]

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(dataset)
            for _ in range(epochs):
                torch.randperm(sampler.num_samples, generator=sampler.generator)
            return sampler

    return Trainer


def _figures(logs: Mapping[str, Any], updates: int = 1) -> dict[str, float]:
    """TRL's log of a step of so many ``updates`` under our names; nothing of the summary at the end."""
    ours = ("rollout/", "train/reward/")
    named = {_CURVES.get(n, n): value for n, value in logs.items() if n in _CURVES or n.startswith(ours)}
    if "train/reward/total" not in named:
        return {}
    figures = {n: float(v) for n, v in named.items() if v is not None}
    if "train/seconds" in figures:
        figures["train/seconds"] *= updates  # the mean of an update's
    return figures | memory_used()


def _write_rollouts(job: TrainingJob, scored: Sequence[tuple[TrainingRow, str, RewardBreakdown]], step: int) -> None:
    """Some sampled answers as a table."""
    if scored:
        job.tracker.table("rollouts", ROLLOUT_COLUMNS, [rollout_line(*one) for one in scored], step)


def _dataset(rows: Sequence[TrainingRow]) -> Any:
    import datasets

    prompts = [[asdict(message) for message in row.prompt] for row in rows]
    return datasets.Dataset.from_dict({"prompt": prompts, "row": list(range(len(rows)))})
