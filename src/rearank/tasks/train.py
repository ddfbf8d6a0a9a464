"""``task=train`` and ``task=sft``: rows -> a trained model in the run's folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rearank.tasks.experiment import Run
from rearank.tasks.figures import draw_curves
from rearank.tasks.prepare import TRAIN, VALIDATION, prepare, prepared_settings, rows_depend_on
from rearank.tasks.stage import CODE, FILES, open_stage
from rearank.tasks.tracked import model_artefact, rows_artefact, tracker
from rearank.training.base import TrainingJob, TrainingResult, result_of
from rearank.training.rows import RowError, read_rows

# What changes neither the weights nor which of them is the best: how often, how many, and where.
_INCIDENTAL = {
    *("save_every", "keep", "rollout_samples", "validation_batch", "cluster", "offload", "tokens_per_pass"),
    *("rollout_memory", "max_sequences", "rollout_workers", "reward_workers", "tensor_parallel"),
    *("gradient_checkpointing", "layered_summon"),
}
TRAINED_WITH = ("model", "reward", "algorithm", "trainer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainTask:
    """Train by reinforcement; prepares the rows first where they aren't there."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "algorithm", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/training``."""
        train(run)


@dataclass(frozen=True)
class SftTask:
    """Supervised fine-tuning on the ideal orders of the same rows (the paper's ablation)."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/sft``."""
        sft(run)


def training_folder(run: Run) -> Path:
    """Where ``train`` works."""
    return run.folder / "training"


def stage_settings(run: Run, *keys: str) -> dict[str, Any]:
    """What a training's result depends on: the rows' settings and those of ``keys``."""
    settings: dict[str, Any] = {**prepared_settings(run), **run.settings(*keys)}
    settings[CODE] = run.code(*rows_depend_on(run), *keys)
    settings[FILES] = run.files(*rows_depend_on(run), *keys)
    settings["trainer"] = {k: v for k, v in settings["trainer"].items() if k not in _INCIDENTAL}
    return settings


def sft_folder(run: Run) -> Path:
    """Where ``sft`` works."""
    return run.folder / "sft"


def starting_point(run: Run) -> Run:
    """The run as its reinforcement learning sees it: from this folder's own SFT where ``task.method`` says so."""
    fine_tuned = result_of(sft_folder(run)) if getattr(run.experiment.task, "method", "rl") == "sft_then_rl" else None
    if fine_tuned is None:
        return run
    model = replace(run.experiment.model, path=fine_tuned.model, revision=None)
    config = {**run.config, "model": {**run.config["model"], "path": fine_tuned.model, "revision": None}}
    return replace(run, experiment=replace(run.experiment, model=model), config=config)


def train(run: Run) -> TrainingResult:
    """Train, continue, or return what a finished training of the same settings left."""
    run = starting_point(run)
    experiment = run.experiment

    def work(job: TrainingJob) -> TrainingResult:
        result: TrainingResult = experiment.trainer.train(job, experiment.algorithm)
        return result

    return _stage(run, "training", TRAINED_WITH, work)


def sft(run: Run) -> TrainingResult:
    """As ``train``, on targets instead of rewards."""
    experiment = run.experiment

    def work(job: TrainingJob) -> TrainingResult:
        result: TrainingResult = experiment.trainer.fine_tune(job, experiment.sft, tags=experiment.prompt.tags)
        return result

    return _stage(run, "sft", ("model", "reward", "sft", "trainer"), work)


def _stage(run: Run, name: str, keys: tuple[str, ...], work: Callable[[TrainingJob], TrainingResult]) -> TrainingResult:
    experiment = run.experiment
    rows = prepare(run)
    accept = experiment.accept_changed_code
    folder = open_stage(run.folder / name, stage_settings(run, *keys), accept_changed_code=accept)
    if (finished := result_of(folder)) is not None:
        _log.info("a finished %s found in %s: %s", name, folder, json.dumps(vars(finished)))
        return finished
    with tracker(run, folder, "train" if name == "training" else name) as told:
        told.artefact(rows_artefact(run, rows, prepared_settings(run), used=True))
        result = work(
            TrainingJob(
                model=experiment.model.location,
                revision=experiment.model.revision,
                max_tokens=experiment.model.max_tokens,
                train=read_rows(rows / TRAIN),
                validation=optional_rows(rows / VALIDATION),
                reward=experiment.reward,
                folder=folder,
                tracker=told,
                seed=experiment.seed,
                sizes=experiment.model.sizes,
            )
        )
        told.artefact(model_artefact(run, folder, vars(result)))
    draw_curves(told.jsonl.path, folder / "figures")
    _log.info("%s: %s", folder, json.dumps(vars(result)))
    return result


def optional_rows(path: Path) -> Any:
    """Validation rows; none at all is a choice, a bad one is an error."""
    try:
        return read_rows(path)
    except RowError as error:
        if "no row" in str(error):
            return []
        raise
