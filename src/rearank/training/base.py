"""What a trainer is given, what it gives back, and what all trainers share."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from annotated_types import Ge, Interval

from rearank.algorithms import PolicyGradient
from rearank.checks import check_fields
from rearank.engines.model import Architecture, Model
from rearank.parsing import ParseStatus, parse_ranking
from rearank.rewards import RewardBreakdown, RewardFunction
from rearank.runs.layout import RESULT, SEAL, write_json
from rearank.runs.seal import damaged, read_checked, seal
from rearank.tracking import Trackers, transcript
from rearank.tracking.jsonl import ARTEFACTS
from rearank.training.rows import TrainingRow
from rearank.training.sft import Sft

if TYPE_CHECKING:
    from rearank.training.lists import ListValidation

_log = logging.getLogger(__name__)
_COMPONENTS = ("total", "rank", "format_tags", "format_list")


class TrainingError(RuntimeError):
    """Training that can't start or go on; the message says why and how to mend it."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters instead of all weights. ``alpha`` defaults to twice the rank."""

    rank: Annotated[int, Ge(1)] = 32
    alpha: int | None = None
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    modules: str = "all-linear"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingJob:
    """One training: from which model, on what, by which reward, into which folder.

    ``model`` (a folder or a hub id) and ``revision`` say where the weights come from; ``max_tokens`` bounds an answer.
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
    lists: ListValidation | None = None
    """Whole lists to validate on; ``None`` validates on the windows of ``validation``."""


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
    """What a node of ``conf/trainer`` builds to: cheap to make, imports nothing heavy.

    Its two verbs train, or go on from the last checkpoint in ``job.folder``, or return what a finished run left there.
    They raise ``TrainingError`` for settings that don't fit and models that can't be trained.
    """

    def preflight(self) -> list[str]:
        """What this machine lacks, each with its remedy."""

    def train(self, job: TrainingJob, algorithm: PolicyGradient) -> TrainingResult:
        """By reinforcement: sampled answers, the job's reward."""

    def fine_tune(self, job: TrainingJob, sft: Sft, *, tags: bool = True) -> TrainingResult:
        """On the rows' ideal answers, with the prompt's ``tags`` around them or without."""


@runtime_checkable
class ChecksAlgorithm(Protocol):
    """A trainer that knows which algorithm settings it can't run."""

    def check(self, algorithm: PolicyGradient) -> None:
        """Raises ``TrainingError`` naming the keys."""


@dataclass
class TrainingForecast:
    """``problems`` keep the run from starting, each with its remedy; ``warnings`` are printed whatever the task, since
    they cost much; ``notes`` say what to expect of it."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@runtime_checkable
class Examines(Protocol):
    """A trainer that knows what a run would take."""

    def examine(self, algorithm: PolicyGradient, model: Model, folder: Path) -> TrainingForecast:
        """What training ``model`` into ``folder`` would fail at, and what it would take."""

    def measure(self, report: TrainingForecast, model: Model, rows: Mapping[str, Sequence[TrainingRow]]) -> None:
        """Add to ``report`` what the rows' prompts say, by the model's own tokenizer."""


def check_reward(algorithm: PolicyGradient, reward: RewardFunction) -> None:
    """Raises ``TrainingError`` where the algorithm can't learn from the reward."""
    if found := algorithm.misfits(reward):
        raise TrainingError("\n".join(found))


def check_enough(algorithm: PolicyGradient, rows: Sequence[TrainingRow]) -> None:
    """Raises ``TrainingError`` where a step takes more windows than there are."""
    if len(rows) < algorithm.prompts_per_step:
        raise TrainingError(
            f"{len(rows)} training windows are fewer than a step takes: lower algorithm.prompts_per_step "
            f"({algorithm.prompts_per_step}), draw more windows (augmentation.sets) or judge more queries"
        )


def note_of(figures: Mapping[str, float]) -> str:
    """The few figures that progress shows."""
    shown = ("train/reward/total", "rollout/ndcg@10", "train/loss", "val/ndcg@10")

    def text(value: float) -> str:
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"  # a policy's loss is tiny

    return ", ".join(f"{name.partition('/')[2]} {text(figures[name])}" for name in shown if name in figures)


def spreads_of(rewards: Sequence[float], groups: Sequence[Hashable]) -> dict[str, float]:
    """How far the answers to one prompt differ in what they earn: without that a step teaches nothing.

    Exact: in float32 eight rewards of 0.2 have a spread, which made a policy that had stopped learning look alive.

    Args:
        rewards: of answers.
        groups: of each answer, what names its prompt.
    """
    together: dict[Hashable, list[float]] = {}
    for reward, group in zip(rewards, groups, strict=True):
        together.setdefault(group, []).append(reward)
    spreads = [pstdev(some) for some in together.values()]
    return {
        "rollout/reward_spread": fmean(spreads),
        "rollout/groups_without_spread": fmean(spread == 0 for spread in spreads),
    }


def describe(breakdowns: Sequence[RewardBreakdown]) -> dict[str, float]:
    """Means of a batch of scored answers; ``rearank.tracking.names`` says under which names they are logged."""
    figures = {f"reward/{name}": fmean(getattr(b, name) for b in breakdowns) for name in _COMPONENTS}
    if any(b.length for b in breakdowns):
        figures["reward/length"] = fmean(b.length for b in breakdowns)
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
        """What the file says, or a fresh one.

        Raises:
            TrainingError: naming a damaged file, this one or one of the checkpoint's.
        """
        if not path.is_file():
            return cls(path)
        try:
            stored = json.loads(path.read_bytes())
            best = cls(path, int(stored["step"]), stored["ndcg"])
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path}: can't be parsed ({error!r}); {way_out(path.parent)}") from error
        place = path.with_name(f"best-{best.step}")
        place = place if place.is_dir() else path.with_name("model")
        found = damaged(place) or ([] if place.is_dir() else [f"{path}: names step {best.step}, which isn't kept"])
        if not found and (read_checked(place / SEAL) or {}).get("best", best.as_json) != best.as_json:
            found = [f"{path}: was changed after it was written"]
        if found:
            raise TrainingError(f"{found[0]}; {way_out(path.parent)}")
        return best

    @property
    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {"step": self.step, "ndcg": self.ndcg}

    def beaten_by(self, ndcg: float) -> bool:
        """Strictly better: of equal ones the earliest stays."""
        return self.ndcg is None or ndcg > self.ndcg + 1e-12

    def update(self, step: int, ndcg: float | None) -> None:
        """Remember, on disk."""
        self.step, self.ndcg = step, ndcg
        write_json(self.path, self.as_json)


def way_out(folder: Path) -> str:
    """What to do about a damaged file of a training."""
    return f"put the file back, or move {folder} away to have it trained again"


def result_of(folder: Path) -> TrainingResult | None:
    """The result a finished training left in ``folder``; raises ``TrainingError`` for a damaged one."""
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        stored = TrainingResult(**json.loads(path.read_bytes()))
        return replace(stored, model=str(folder / stored.model))
    except (ValueError, TypeError) as error:
        raise TrainingError(
            f"{path}: is not what a finished training writes ({error}); remove it and run the same command again: "
            "training goes on from its last checkpoint"
        ) from error


def check_whole(folder: Path, cache: Path | None = None) -> None:
    """Whether a finished training is as it was left: result, model and curves.

    Args:
        folder: of the training.
        cache: a folder in which digests of large files are kept.

    Raises:
        TrainingError: naming the first file that isn't; curves may be gone.
    """
    for line in damaged(folder, cache):
        if not line.endswith(".jsonl: is missing"):
            gone = " or remove it to go on without its curves," if ".jsonl: " in line else ""
            raise TrainingError(f"{line};{gone} {way_out(folder)}")
        _log.warning("%s; the result goes on without it", line)


def write_result(folder: Path, result: TrainingResult) -> TrainingResult:
    """Mark ``folder`` as finished; its files are sealed."""
    model = Path(result.model).name
    (folder / SEAL).unlink(missing_ok=True)  # of a result that is gone
    write_json(folder / RESULT, asdict(replace(result, model=model)))
    curves = (path.name for path in sorted(folder.glob("*.jsonl")) if path.name != ARTEFACTS)
    seal(folder, (RESULT, model, *curves) if (folder / model).exists() else (RESULT, *curves))
    return result
