"""Supervised fine-tuning on the ideal order of each window (the paper's SFT ablation): its settings and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from rearank.checks import check_fields
from rearank.training.rows import TrainingRow
from rearank.types import JudgedWindow


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
        micro_batch: windows in one pass with TRL, ``null``: a whole batch, or as many as fit the memory by estimate;
            verl goes by ``trainer.tokens_per_pass``.
        learning_rate: peak, then down to 0 along a cosine.
        warmup_steps: linear.
        notes: ``grades`` reasons by naming each passage's grade, ``none`` is the paper's ablation.
    """

    steps: Annotated[int, Ge(1)] | None = None
    epochs: Annotated[float, Gt(0)] = 1.0
    batch: Annotated[int, Ge(1)] = 64
    micro_batch: Annotated[int, Ge(1)] | None = None
    learning_rate: Annotated[float, Interval(gt=0, lt=1)] = 1e-5
    warmup_steps: Annotated[int, Ge(0)] = 0
    notes: Literal["none", "grades"] = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) must divide batch ({self.batch})")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps over ``rows`` windows."""
        return self.steps or max(1, round(self.epochs * rows / self.batch))

    def answers(self, rows: Sequence[TrainingRow], *, tags: bool) -> list[str]:
        """What each row's prompt is to be answered with."""
        return [ideal_answer(row.judged, notes=self.notes == "grades", tags=tags) for row in rows]
