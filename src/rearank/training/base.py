"""What a trainer is given, what it gives back, and what all trainers share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

from rearank.engines.model import Architecture
from rearank.parsing import ParseStatus, parse_ranking
from rearank.rewards import RewardBreakdown, RewardFunction
from rearank.runs.layout import write_json
from rearank.tracking import Trackers, transcript
from rearank.training.rows import TrainingRow

_COMPONENTS = ("total", "rank", "format_tags", "format_list")


class TrainingError(RuntimeError):
    """Training that can't start or go on; the message says why and how to mend it."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters instead of all weights. ``alpha`` defaults to twice the rank."""

    rank: int = 32
    alpha: int | None = None
    dropout: float = 0.0
    modules: str = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class TrainingJob:
    """One training: from which model, on what, by which reward, into which folder.

    ``name`` and ``revision`` say where the weights come from; ``max_tokens`` bounds an answer.
    """

    model: str
    revision: str | None
    max_tokens: int
    train: Sequence[TrainingRow]
    validation: Sequence[TrainingRow]
    reward: RewardFunction
    folder: Path
    tracker: Trackers
    seed: int
    sizes: Architecture | None = None
    """Of the model, where they are known: memory is planned by them."""


@dataclass(frozen=True)
class TrainingResult:
    """Where the best checkpoint lies, by nDCG on the validation rows (the last one, where there are none).

    Fine-tuning with verl goes by the loss on them, and then ``best_ndcg`` is ``None``.

    On disk ``model`` is relative to the training's folder, which may be moved. ``stopped`` says why training ended
    before its last step, where it did (``trainer.guard``).
    """

    model: str
    steps: int
    best_step: int
    best_ndcg: float | None
    stopped: str | None = None


@runtime_checkable
class Trainer(Protocol):
    """What a node of ``conf/trainer`` builds to: cheap to make, imports nothing heavy."""

    def preflight(self) -> list[str]: ...

    def train(self, job: TrainingJob, algorithm: Any) -> TrainingResult: ...


def describe(breakdowns: Sequence[RewardBreakdown]) -> dict[str, float]:
    """Means of a batch of scored answers; ``rearank.tracking.names`` says under which names they are logged."""
    figures = {f"reward/{name}": fmean(getattr(b, name) for b in breakdowns) for name in _COMPONENTS}
    figures["ndcg@10"] = fmean(b.ndcg_reranked for b in breakdowns)
    figures["ndcg@10_given"] = fmean(b.ndcg_initial for b in breakdowns)
    for status in ParseStatus:
        figures[f"parse/{status.value}"] = fmean(b.status is status for b in breakdowns)
    return figures


ROLLOUT_COLUMNS = ("query", "prompt", "reasoning", "answer", "completion", *RewardBreakdown.__dataclass_fields__)
"""Of the table of sampled answers, which a person reads to see what the model is paid for."""


def rollout_line(row: TrainingRow, completion: str, breakdown: RewardBreakdown) -> list[str]:
    """A sampled answer under ``ROLLOUT_COLUMNS``."""
    parsed = parse_ranking(completion, len(row.judged.relevance))
    read = (parsed.think or "", parsed.answer or "", completion)
    return [row.judged.window.query.id, transcript(row.prompt), *read, *map(str, asdict(breakdown).values())]


@dataclass
class Best:
    """The best checkpoint so far, kept in a file so that a resumed run goes on comparing."""

    path: Path
    step: int = -1
    ndcg: float | None = None

    @classmethod
    def load(cls, path: Path) -> Best:
        """What the file says, or a fresh one."""
        if path.is_file():
            stored: Mapping[str, Any] = json.loads(path.read_text())
            return cls(path, stored["step"], stored["ndcg"])
        return cls(path)

    def beaten_by(self, ndcg: float) -> bool:
        """Strictly better: of equal ones the earliest stays."""
        return self.ndcg is None or ndcg > self.ndcg + 1e-12

    def update(self, step: int, ndcg: float | None) -> None:
        """Remember, on disk."""
        self.step, self.ndcg = step, ndcg
        write_json(self.path, {"step": step, "ndcg": ndcg})


def result_of(folder: Path) -> TrainingResult | None:
    """The result a finished training left in ``folder``."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    stored = TrainingResult(**json.loads(path.read_text()))
    return replace(stored, model=str(folder / stored.model))


def write_result(folder: Path, result: TrainingResult) -> TrainingResult:
    """Mark ``folder`` as finished."""
    write_json(folder / "result.json", asdict(replace(result, model=Path(result.model).name)))
    return result
