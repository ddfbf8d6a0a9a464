"""What ``trainer=trl`` says: values alone, and which algorithms they go with. ``node`` puts the verbs on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from rearank.algorithms import PolicyGradient
from rearank.checks import check_fields, missing_packages
from rearank.runs import INCIDENTAL
from rearank.training.base import Lora, TrainingError
from rearank.training.guard import Guard

# What TRL has no setting for, and what to do about it.
_OTHERS = "use trainer=verl, or an algorithm without a value model (algorithm=grpo)"
_UNSUPPORTED = (
    ("advantage", "critic", _OTHERS),
    ("kl_in", "reward", "set algorithm.kl_in=loss, or use trainer=verl"),
    ("dynamic_sampling", True, "set algorithm.dynamic_sampling=false, or use trainer=verl"),
    ("group_size", 1, "set algorithm.group_size=2 or more (and fewer algorithm.prompts_per_step), or use trainer=verl"),
    # TRL samples with the policy itself here: there is nothing to correct
    ("correction", "token", "set algorithm.correction=none, or use trainer=verl"),
    ("correction", "sequence", "set algorithm.correction=none, or use trainer=verl"),
)
_Positive = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class TrlSettings:
    """One machine, CPU or one GPU.

    Args:
        micro_batch: answers in one forward and backward pass; ``null``: all of an update's, or as many as fit the
            memory by estimate.
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
        shared_prompt: whether a group's prompt is computed once, with the same loss and gradients but for rounding.
            ``auto``: where that works for the model, else each answer's anew, with a line in the log. ``true``: an
            error where it doesn't work.
    """

    micro_batch: _Positive | None = None
    lora: Lora | None = None
    save_every: _Positive = field(default=10, metadata=INCIDENTAL)
    keep: _Positive = field(default=2, metadata=INCIDENTAL)
    validate_every: _Positive = 10
    validation_batch: _Positive = field(default=64, metadata=INCIDENTAL)
    guard: Guard = field(default_factory=Guard)
    rollout_samples: Annotated[int, Ge(0)] = field(default=4, metadata=INCIDENTAL)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = field(default=False, metadata=INCIDENTAL)
    threads: _Positive | None = None
    shared_prompt: Literal["auto", True, False] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def preflight(self) -> list[str]:
        """Missing packages."""
        packages = ("torch", "transformers", "trl", *(("peft",) if self.lora else ()))
        return [f"trainer=trl: {line}" for line in missing_packages("train", *packages)]

    def check(self, algorithm: PolicyGradient) -> None:
        """Whether TRL can run it and the batch divides; raises ``TrainingError`` naming the keys."""
        found = [
            f"trainer=trl can't run algorithm.{name}={value}: {remedy}"
            for name, value, remedy in _UNSUPPORTED
            if getattr(algorithm, name) == value and not (name == "kl_in" and algorithm.kl == 0)
        ]
        if self.micro_batch is not None and algorithm.answers_per_update % self.micro_batch:
            found.append(
                f"trainer.micro_batch ({self.micro_batch}) must divide an update's answers: algorithm.prompts_per_step "
                f"/ algorithm.minibatches x algorithm.group_size ({algorithm.prompts_per_step} / "
                f"{algorithm.minibatches} x {algorithm.group_size} = {algorithm.answers_per_update})"
            )
        if found:
            raise TrainingError("\n".join(found))
