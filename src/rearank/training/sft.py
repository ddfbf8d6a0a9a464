"""Supervised fine-tuning: its settings, and the answer that each window is learnt with.

The paper's ablation learns ideal orders. A cold start before reinforcement learns a teacher's reasoning, or answers
that come with the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from rearank.checks import check_fields
from rearank.runs import CONTENT
from rearank.training.rows import TrainingRow
from rearank.training.traces import answer_text, file_of
from rearank.types import JudgedWindow

_log = logging.getLogger(__name__)


def ideal_answer(judged: JudgedWindow, *, notes: bool, tags: bool = True) -> str:
    """The best order of a window as an answer: by grade, ties as given.

    Args:
        judged: the window and its grades.
        notes: reason by naming each passage's grade; the paper's ablation gives no reasoning.
        tags: wrap it in ``<think>`` and ``<answer>``.
    """
    grades = [max(grade, 0) for grade in judged.relevance]
    order = sorted(range(len(grades)), key=lambda i: -grades[i])
    thoughts = " ".join(f"[{i}] {grade}" for i, grade in enumerate(grades, start=1)) if notes else ""
    return answer_text(order, thoughts, tags=tags)


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
        targets: what is learnt. ``ideal``: the best order, without reasoning (the paper's ablation); ``grades``: with
            each passage's grade as the reasoning; ``teacher``: reasoning and order that ``task=distill`` kept;
            ``given``: the answers that come with the dataset's rows.
        traces: for ``teacher``, the folder of the run that distilled, or its ``teacher.jsonl``; ``null`` for what was
            distilled in this run's own folder. Windows are known by their query and passages, whatever the prompt.
        notes: what ``targets`` was called before; ``grades`` is ``targets: grades``.
    """

    steps: Annotated[int, Ge(1)] | None = None
    epochs: Annotated[float, Gt(0)] = 1.0
    batch: Annotated[int, Ge(1)] = 64
    micro_batch: Annotated[int, Ge(1)] | None = None
    learning_rate: Annotated[float, Interval(gt=0, lt=1)] = 1e-5
    warmup_steps: Annotated[int, Ge(0)] = 0
    targets: Literal["ideal", "grades", "teacher", "given"] = "ideal"
    traces: str | None = field(default=None, metadata=CONTENT)
    notes: Literal["none", "grades"] = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.traces is not None:
            object.__setattr__(self, "traces", str(file_of(Path(self.traces))))
        if self.notes == "grades":
            if self.targets not in ("ideal", "grades"):
                raise ValueError(f"notes=grades is targets=grades, and targets={self.targets} is set; leave notes out")
            if self.targets == "ideal":
                _log.warning("sft.notes=grades is called sft.targets=grades now")
            object.__setattr__(self, "targets", "grades")
            object.__setattr__(self, "notes", "none")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) must divide batch ({self.batch})")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps over ``rows`` windows."""
        return self.steps or max(1, round(self.epochs * rows / self.batch))

    @property
    def given(self) -> bool:
        """Whether answers come with the rows, from a teacher or the dataset, and are not made of the grades."""
        return self.targets in ("teacher", "given")

    def answers(self, rows: Sequence[TrainingRow], *, tags: bool) -> list[str]:
        """What each row's prompt is to be answered with.

        Raises:
            ValueError: for a row without an answer, where these come with the rows.
        """
        if not self.given:
            return [ideal_answer(row.judged, notes=self.targets == "grades", tags=tags) for row in rows]
        if bare := [row.index for row in rows if row.completion is None]:
            raise ValueError(f"sft.targets={self.targets}: row {bare[0]} has no answer to learn")
        return [row.completion or "" for row in rows]
