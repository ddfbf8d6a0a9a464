"""Finished trainings to export, without the training."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.shipped import ASSETS
from tests.tasks.runs import made

from rearank.experiment import Run
from rearank.tasks.export import export_run
from rearank.tasks.export.task import Command
from rearank.tasks.pipeline import training_stage
from rearank.training.base import TrainingResult, write_result

QUERIES = 4
QUICK = (
    *("experiment=quickstart", "tracking=none", "task=export", "engine=transformers", "evaluation.samples=0"),
    *(f"benchmark.collection.query_count={QUERIES}", "benchmark.collection.passage_count=600"),
)


def command(folder: Path, *overrides: str) -> Run:
    """The run that a command is about; its folder is ``folder/run``."""
    return made(folder, *QUICK, *overrides)


def trained(folder: Path, *overrides: str, model: Path = ASSETS) -> Run:
    """A run whose training is over and left ``model``; no rows and no results are there."""
    run = command(folder, *overrides)
    place = training_stage(run).open()
    shutil.copytree(model, place / "model")
    write_result(place, TrainingResult(str(place / "model"), steps=3, best_step=2, best_ndcg=0.5))
    return run


def exported(run: Run, *, rerun: bool = False) -> Path:
    """The folder that ``task=export`` makes of it."""
    export_run(run.folder, run.experiment.export, Command("grpo", run.config["strategy"], rerun=rerun), run.cache)
    return Path(run.experiment.export.to or run.folder / "export")
