"""What an evaluation measures: the model as it is, its samples, and what was trained from it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from rearank.engines import NoEngine, OpenAINode, ScriptedNode
from rearank.tasks.experiment import Run
from rearank.tasks.stage import changed_settings
from rearank.tasks.sweep import ON_ITS_WAY
from rearank.tasks.train import TRAINED_WITH, sft_folder, stage_settings, starting_point, training_folder
from rearank.training.base import result_of
from rearank.types import Sampling

_log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that was not kept."""


@dataclass(frozen=True)
class System:
    """One thing that ranks: a model and how its answers are drawn.

    ``published`` is the row of the published tables whose numbers are this system's, ``None`` where there is none.
    """

    name: str
    label: str
    model: str
    revision: str | None
    samplings: tuple[Sampling, ...]
    published: str | None = None


def systems(run: Run) -> list[System]:
    """In the order of the table; none where ``engine=none``."""
    experiment, settings = run.experiment, run.experiment.evaluation
    if isinstance(experiment.engine, NoEngine):
        return []
    model = experiment.model
    if isinstance(experiment.engine, ScriptedNode):  # it looks at no model
        label = f"scripted: {experiment.engine.behaviour}"
        return [System("scripted", label, model.location, model.revision, (model.sampling,))]
    label = model.name if model.temperature else f"{model.name}, greedy"
    found: list[System] = []
    if settings.base:
        found.append(System("base", label, model.location, model.revision, (model.sampling,), model.published))
    if settings.samples:
        drawn = replace(model.sampling, temperature=settings.sample_temperature, seed=experiment.seed)
        samples = tuple(replace(drawn, sample=number) for number in range(settings.samples))
        label = f"{model.name}, mean of {len(samples)} samples" if len(samples) > 1 else f"{model.name}, one sample"
        found.append(System("base_sampled", label, model.location, model.revision, samples))
    if settings.trained and (tuned := result_of(sft_folder(run))) is not None and not _serves_another(run, tuned.model):
        label = f"{model.name} after SFT (step {tuned.best_step})"
        found.append(System("sft", label, tuned.model, None, (model.sampling,)))
    trained = result_of(training_folder(run)) if settings.trained else None
    if trained is not None and not _serves_another(run, trained.model):
        name = trained_name(run)
        label = f"{model.name} after {name.upper()} (step {trained.best_step})"
        if changed := changed_settings(training_folder(run), stage_settings(starting_point(run), *TRAINED_WITH)):
            _log.warning("%s was trained with other settings than this command's: %s", trained.model, changed)
        for step in settings.steps:
            place = checkpoint_of(training_folder(run), step)
            on_its_way = f"{model.name} after {step} steps of {name.upper()}"
            found.append(System(f"{name}{ON_ITS_WAY}{step}", on_its_way, str(place), None, (model.sampling,)))
        found.append(System(name, label, trained.model, None, (model.sampling,)))
    return found


def checkpoint_of(training: Path, step: int) -> Path:
    """The weights after ``step`` steps.

    Raises:
        CheckpointError: where the training kept none.
    """
    kept = {
        int(path.name.rpartition("-")[2]): path
        for path in training.glob("checkpoints/checkpoint-*")
        if (path / "config.json").is_file()
    }
    if step not in kept:
        there = f"it kept those of steps {', '.join(map(str, sorted(kept)))}" if kept else "it kept none"
        raise CheckpointError(
            f"evaluation.steps: {training} has no checkpoint of step {step}, {there}; train with trainer=trl and "
            f"trainer.save_every and trainer.keep so that this step is kept, or name another one"
        )
    return kept[step]


def _serves_another(run: Run, checkpoint: str) -> bool:
    """Whether the engine is a server that would answer with another model's words than ``checkpoint``'s."""
    engine = run.experiment.engine
    if not (isinstance(engine, OpenAINode) and engine.served_model):
        return False
    _log.warning("%s is left out: engine.served_model names another model, serve and name this one", checkpoint)
    return True


def trained_name(run: Run) -> str:
    """Of the checkpoint trained in this folder: the algorithm's, as chosen."""
    return run.choices.get("algorithm", "trained")
