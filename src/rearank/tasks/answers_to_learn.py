"""Whether there are answers to fine-tune on, before anything starts: ``sft.targets`` against dataset and prompt."""

from __future__ import annotations

from pathlib import Path

from rearank.data import HoldsRows, JudgedSource
from rearank.prompts import Prompt
from rearank.training.sft import Sft


def lettered(dataset: JudgedSource | HoldsRows, prompt: Prompt) -> bool:
    """Whether training windows label passages A, B...: by their own prompts, or by the one that shows them."""
    if isinstance(dataset, HoldsRows):
        return bool(getattr(dataset, "letters", False))
    return prompt.labels == "letters"


def lacking_answers(sft: Sft, dataset: JudgedSource | HoldsRows, prompt: Prompt, teacher: Path) -> list[str]:
    """A line where ``sft.targets`` names answers that aren't there; ``teacher``: where a teacher's would be."""
    if lettered(dataset, prompt) and sft.targets != "given":
        return [
            f"sft.targets={sft.targets} writes orders of numbers, and the passages are labelled with letters; set "
            "sft.targets=given, or choose a prompt with labels: numbers"
        ]
    if sft.targets == "given" and not isinstance(dataset, HoldsRows):
        return [
            "sft.targets=given learns answers that come with the dataset's rows, and this dataset has none; choose one "
            "of conversations, or sft.targets=ideal, grades or teacher"
        ]
    if sft.targets != "teacher" or teacher.is_file():
        return []
    return [
        f"sft.targets=teacher: {teacher} isn't there; run task=distill with the teacher first, and give the folder of "
        "that run: sft.traces=outputs/..."
    ]
