"""Supervised fine-tuning on the ideal order of each window (the paper's SFT ablation).

On one machine with TRL's SFTTrainer, here; on a cluster with verl's (``rearank.training.verl``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rearank.training.base import TrainingError, TrainingJob, TrainingResult
from rearank.training.fit import Made, fit
from rearank.training.local import device_settings, lora_config
from rearank.training.rows import TrainingRow
from rearank.training.trl import TrlTrainer
from rearank.training.verl import VerlTrainer
from rearank.types import JudgedWindow

_CURVES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "entropy": "train/entropy",
    "mean_token_accuracy": "train/token_accuracy",
}


def ideal_answer(judged: JudgedWindow, *, notes: bool, tags: bool = True) -> str:
    """The best order of a window as an answer: by grade, ties as given.

    Args:
        judged: the window and its grades.
        notes: reason by naming each passage's grade; the paper's ablation gives no reasoning.
        tags: wrap it in ``<think>`` and ``<answer>``.
    """
    grades = [max(grade, 0) for grade in judged.relevance]
    order = sorted(range(len(grades)), key=lambda i: -grades[i])
    ranking = " > ".join(f"[{i + 1}]" for i in order)
    if not tags:
        return ranking
    thoughts = " ".join(f"[{i}] {grade}" for i, grade in enumerate(grades, start=1)) if notes else ""
    return f"<think> {thoughts} </think> <answer> {ranking} </answer>"


@dataclass(frozen=True)
class Sft:
    """How ``task=sft`` trains; the trainer's device, adapters, checkpoints and validation apply here too.

    Args:
        steps: optimiser steps; ``null`` for ``epochs`` over the rows.
        epochs: used where ``steps`` is null.
        batch: windows a step.
        micro_batch: windows in one pass with TRL, ``null`` for a whole batch; verl goes by ``trainer.tokens_per_pass``.
        learning_rate: peak, then down to 0 along a cosine.
        warmup_steps: linear.
        notes: ``grades`` reasons by naming each passage's grade, ``none`` is the paper's ablation.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch: int = 64
    micro_batch: int | None = None
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    notes: Literal["none", "grades"] = "none"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) must divide batch ({self.batch})")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie between 0 and 1 (1e-5 is usual), not {self.learning_rate}")
        if self.epochs <= 0 or self.warmup_steps < 0:
            raise ValueError("epochs must be above 0 and warmup_steps must not be negative")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps over ``rows`` windows."""
        return self.steps or max(1, round(self.epochs * rows / self.batch))

    def train(self, job: TrainingJob, trainer: Any, *, tags: bool = True) -> TrainingResult:
        """Train, or go on from the last checkpoint, or return what a finished run left.

        Raises:
            TrainingError: for a trainer that doesn't fine-tune, or a model that can't be trained.
        """
        if isinstance(trainer, VerlTrainer):
            return trainer.fine_tune(job, self, tags=tags)
        if not isinstance(trainer, TrlTrainer):
            raise TrainingError(
                f"task=sft: {type(trainer).__name__} doesn't fine-tune; set trainer=trl or trainer=verl"
            )

        def make(tokenizer: Any, rows: Sequence[TrainingRow]) -> Made:
            import trl

            steps = self.total_steps(len(rows))
            fitter = trl.SFTTrainer(
                model=job.model,
                args=self._arguments(job, trainer, steps),
                train_dataset=_dataset(rows, self.notes == "grades", tags),
                processing_class=tokenizer,
                peft_config=lora_config(trainer.lora) if trainer.lora else None,
            )
            return Made(fitter, steps, _figures)

        return fit(job, trainer, "fine-tuning", make)

    def _arguments(self, job: TrainingJob, trainer: TrlTrainer, steps: int) -> Any:
        import trl

        micro = self.micro_batch or self.batch
        return trl.SFTConfig(
            output_dir=str(job.folder / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=self.batch // micro,
            learning_rate=self.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=self.warmup_steps,
            max_length=None,  # rows that exceed the context were left out; a cut answer would teach half an order
            completion_only_loss=True,
            save_steps=trainer.save_every,
            save_total_limit=trainer.keep,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            seed=job.seed,
            gradient_checkpointing=trainer.gradient_checkpointing,
            dataloader_pin_memory=False,
            **device_settings(trainer.device, job.revision),
        )


def _figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """TRL's log of a step under our names; nothing of the summary at the end."""
    named = {_CURVES[name]: float(value) for name, value in logs.items() if name in _CURVES}
    return named if "train/loss" in named else {}


def _dataset(rows: Sequence[TrainingRow], notes: bool, tags: bool) -> Any:
    import datasets

    answers = [ideal_answer(row.judged, notes=notes, tags=tags) for row in rows]
    return datasets.Dataset.from_dict(
        {
            "prompt": [[asdict(message) for message in row.prompt] for row in rows],
            "completion": [[{"role": "assistant", "content": answer}] for answer in answers],
        }
    )
