"""``train`` and ``fine_tune``: rows -> a trained model in the run's folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rearank.algorithms import PolicyGradient
from rearank.engines.model import Model
from rearank.moved import attributes_of
from rearank.prompts import Prompt
from rearank.ranking import Strategy
from rearank.rewards import RewardFunction
from rearank.runs.layout import SFT, TRAINING
from rearank.runs.stage import Stage
from rearank.tasks.prepare import Rows
from rearank.tasks.training_figures import draw_curves
from rearank.tracking import Artefact
from rearank.tracking.run_trackers import RunTrackers
from rearank.training.base import Trainer, TrainingJob, TrainingResult, check_whole, result_of
from rearank.training.lists import ListValidation
from rearank.training.sft import Sft

__getattr__ = attributes_of(__name__)  # old names of what has moved

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a training starts from: a model, rows, and the reward by which answers are validated.

    ``reranks``: the strategy and the prompt by which whole lists are validated; ``None``: windows are.
    """

    model: Model
    rows: Rows
    reward: RewardFunction
    seed: int
    reranks: tuple[Strategy, Prompt] | None = None


@dataclass(frozen=True)
class Trained:
    """What lies trained in a run's folder.

    Args:
        folder: of the run.
        algorithm: the option's name, by which tables call the checkpoint.
        changed: how the training's settings differ from this command's; empty where they don't.
        cache: a folder in which digests of large files are kept.
    """

    folder: Path
    algorithm: str
    changed: str = ""
    cache: Path | None = None

    @property
    def tuned(self) -> TrainingResult | None:
        """By fine-tuning."""
        return self._whole(self.folder / SFT)

    @property
    def result(self) -> TrainingResult | None:
        """By reinforcement."""
        return self._whole(self.folder / TRAINING)

    def _whole(self, folder: Path) -> TrainingResult | None:
        """Raises ``TrainingError`` where a file of it is damaged."""
        if (found := result_of(folder)) is not None:
            check_whole(folder, self.cache)
        return found

    @property
    def training(self) -> Path:
        """Where the reinforcement learning worked."""
        return self.folder / TRAINING

    def artefact(self, trackers: RunTrackers) -> Artefact | None:
        """The checkpoint, used; ``None`` where there is none."""
        return None if self.result is None else model_artefact(trackers, self.training, self.result, used=True)


def train(
    start: Start, algorithm: PolicyGradient, trainer: Trainer, stage: Stage, trackers: RunTrackers
) -> TrainingResult:
    """Train by reinforcement, continue, or return what a finished training of the same identity left."""
    return _run_training(start, stage, trackers, "train", lambda job: trainer.train(job, algorithm))


def fine_tune(
    start: Start, sft: Sft, trainer: Trainer, stage: Stage, trackers: RunTrackers, *, tags: bool
) -> TrainingResult:
    """As ``train``, on the ideal orders of the rows instead of rewards (the paper's ablation).

    ``tags``: whether the prompt asks for ``<think>`` and ``<answer>``.
    """
    return _run_training(start, stage, trackers, "sft", lambda job: trainer.fine_tune(job, sft, tags=tags))


def _run_training(
    start: Start, stage: Stage, trackers: RunTrackers, job: str, work: Callable[[TrainingJob], TrainingResult]
) -> TrainingResult:
    folder, model = stage.open(), start.model
    if (finished := result_of(folder)) is not None:
        check_whole(folder, stage.cache)
        _log.info("a finished %s found in %s: %s", folder.name, folder, json.dumps(vars(finished)))
        return finished
    with trackers.open(folder, job) as tracker:
        tracker.artefact(start.rows.artefact(used=True))
        result = work(
            TrainingJob(
                model=model.location,
                revision=model.revision,
                max_tokens=model.max_tokens,
                train=start.rows.train(),
                validation=start.rows.validation(),
                reward=start.reward,
                folder=folder,
                tracker=tracker,
                seed=start.seed,
                sizes=model.sizes,
                lists=ListValidation(start.rows.lists(), *start.reranks) if start.reranks is not None else None,
            )
        )
        tracker.artefact(model_artefact(trackers, folder, result))
    draw_curves(tracker.jsonl.path, folder / "figures")
    _log.info("%s: %s", folder, json.dumps(vars(result)))
    return result


def model_artefact(trackers: RunTrackers, folder: Path, result: TrainingResult, *, used: bool = False) -> Artefact:
    """A training's checkpoint: W&B keeps where it is, unless ``tracking.upload`` names ``model``."""
    name = f"{trackers.name_of('model')}-{folder.name}"
    return Artefact("model", name, {"model": folder / "model"}, dict(vars(result)), used)
