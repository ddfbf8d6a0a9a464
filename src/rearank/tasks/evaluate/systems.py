"""What an evaluation measures: the model as it is, its samples, and what was trained from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rearank.engines import NoEngine, OpenAINode, ScriptedNode
from rearank.engines.model import Model
from rearank.reranker.setup import Parts
from rearank.runs.reader import ON_ITS_WAY, TUNED
from rearank.sections import Evaluation
from rearank.tasks.train import Trained
from rearank.training.local import damage_of
from rearank.types import Sampling

_log = logging.getLogger(__name__)


SHARED_IN_SWEEPS = ("base", "base_sampled")
"""What the jobs of a sweep ask the same: models that nobody has trained. A scripted one costs nothing to ask again."""


class CheckpointError(RuntimeError):
    """A checkpoint that was not kept, or is damaged."""


@dataclass(frozen=True)
class System:
    """One thing that ranks: a model and how its answers are drawn.

    ``published`` is the row of the published tables whose numbers are this system's, ``None`` where there is none;
    ``trained``: the model was trained to rank with this prompt, so that its answers can be read.
    """

    name: str
    label: str
    model: str
    revision: str | None
    samplings: tuple[Sampling, ...]
    published: str | None = None
    trained: bool = False


def systems(parts: Parts, settings: Evaluation, seed: int, trained: Trained) -> list[System]:
    """In the order of the table; none where ``engine=none``.

    Args:
        parts: the model, and the engine that answers for it.
        settings: which systems are wanted.
        seed: of sampled answers.
        trained: what lies trained in the run's folder.
    """
    model, engine = parts.model, parts.engine
    if isinstance(engine, NoEngine):
        return []
    if isinstance(engine, ScriptedNode):  # it looks at no model
        label = f"scripted: {engine.behaviour}"
        return [System("scripted", label, model.location, model.revision, (model.sampling,))]
    label = model.name if model.temperature else f"{model.name}, greedy"
    found: list[System] = []
    if settings.base:
        where = (model.location, model.revision, (model.sampling,))
        found.append(System("base", label, *where, model.published, trained=model.released))
    if settings.samples:
        drawn = replace(model.sampling, temperature=settings.sample_temperature, seed=seed)
        samples = tuple(replace(drawn, sample=number) for number in range(settings.samples))
        label = f"{model.name}, mean of {len(samples)} samples" if len(samples) > 1 else f"{model.name}, one sample"
        found.append(System("base_sampled", label, model.location, model.revision, samples, trained=model.released))
    if settings.trained:
        found += _trained(model, settings.steps, trained, engine)
    return found


def _trained(model: Model, steps: Sequence[int], trained: Trained, engine: Any) -> list[System]:
    """The fine-tuned checkpoint, and the one trained by reinforcement with those on its way."""
    found = []
    if (tuned := trained.tuned) is not None and not _serves_another(engine, tuned.model):
        label = f"{model.name} after SFT (step {tuned.best_step})"
        found.append(System(TUNED, label, tuned.model, None, (model.sampling,), trained=True))
    if (result := trained.result) is not None and not _serves_another(engine, result.model):
        name = trained.algorithm
        label = f"{model.name} after {name.upper()} (step {result.best_step})"
        if trained.changed:
            _log.warning("%s was trained with other settings than this command's: %s", result.model, trained.changed)
        for step in steps:
            place = checkpoint_of(trained.training, step)
            on_its_way = f"{model.name} after {step} steps of {name.upper()}"
            found.append(System(f"{name}{ON_ITS_WAY}{step}", on_its_way, str(place), None, (model.sampling,)))
        found.append(System(name, label, result.model, None, (model.sampling,), trained=True))
    return found


def checkpoint_of(training: Path, step: int) -> Path:
    """The weights after ``step`` steps.

    Raises:
        CheckpointError: where the training kept none, or a file of it is damaged.
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
    if found := damage_of(kept[step]):
        raise CheckpointError(f"{found[0]}; put the file back, or name another step in evaluation.steps")
    return kept[step]


def _serves_another(engine: Any, checkpoint: str) -> bool:
    """Whether the engine is a server that would answer with another model's words than ``checkpoint``'s."""
    if not (isinstance(engine, OpenAINode) and engine.served_model):
        return False
    _log.warning("%s is left out: engine.served_model names another model, serve and name this one", checkpoint)
    return True
