"""What a task tells the trackers: its run's name and group, its figures and tables, and what it read and made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rearank.tasks.environment import commit
from rearank.tasks.experiment import Run
from rearank.tasks.sharing import fingerprint
from rearank.tracking import Artefact, Trackers


@contextmanager
def tracker(run: Run, folder: Path, job: str) -> Iterator[Trackers]:
    """Open for a block; ``job`` is W&B's job type: prepare, train, sft, evaluate, report.

    A sweep's jobs are a group, named after it; a job's name is its folder's.
    """
    opened = run.experiment.tracking.open(folder, title(run), described(run), job, group(run))
    try:
        yield opened
    finally:
        opened.close()


def title(run: Run) -> str:
    """``reward=ndcg,seed=1`` in a sweep, the experiment's name elsewhere."""
    return run.folder.name if run.sweep is not None else run.experiment.name


def group(run: Run) -> str:
    """The sweep's name, or the experiment's."""
    return run.sweep.name if run.sweep is not None else run.experiment.name


def described(run: Run) -> dict[str, Any]:
    """The whole config, the option chosen in each group, and the commit."""
    choices = {key: value for key, value in run.choices.items() if not key.startswith("hydra/")}
    return {**run.config, "choices": choices, "commit": commit()}


def rows_artefact(run: Run, folder: Path, settings: Mapping[str, Any], *, used: bool = False) -> Artefact:
    """The prepared rows: the same name for the same settings, so that a sweep's jobs share them."""
    files = {path.name: path for path in sorted(folder.glob("*.parquet"))} | {"summary.json": folder / "summary.json"}
    counts = json.loads((folder / "summary.json").read_text())
    name = f"rows-{run.experiment.dataset.name}-{fingerprint(settings)}"
    return Artefact("dataset", name, files, {**counts, "settings": dict(settings)}, used)


def model_artefact(run: Run, folder: Path, result: Mapping[str, Any], *, used: bool = False) -> Artefact:
    """A training's checkpoint: W&B keeps where it is, unless ``tracking.upload`` names ``model``."""
    name = f"model-{group(run)}-{title(run)}-{folder.name}"
    return Artefact("model", name, {"model": folder / "model"}, dict(result), used)
