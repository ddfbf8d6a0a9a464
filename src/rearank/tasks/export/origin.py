"""What is exported: a finished training, found in its run's folder, with what is known of it there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rearank.runs import files_of
from rearank.runs.layout import ENVIRONMENT, PREPARED, SETTINGS, SFT, SUMMARY, TRAINING, read_json
from rearank.runs.reader import (
    FIRST,
    SYSTEM,
    TUNED,
    UNTRAINED,
    Evaluated,
    analysis_since,
    by_benchmark,
    on_its_way,
    read_systems,
)
from rearank.tasks.evaluate.scores import SystemWeights
from rearank.tasks.train import Trained
from rearank.training.base import TrainingResult

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_WEIGHTS = "weights.path"
_DIGESTS = ("code", "files", "code_accepted")
_SETTING = ("prompt", "strategy", "engine", "evaluation", "retriever", "benchmark", "seed")
"""What rows of one table have in common."""


class ExportError(RuntimeError):
    """Nothing that can be exported as asked; the message says what to do first."""


@dataclass(frozen=True)
class Origin:
    """A finished training.

    Args:
        run: the folder of its run.
        folder: of the training in it, ``training`` or ``sft``.
        result: which step is the best, and where its model lies.
        settings: what it follows from (its ``settings.json``).
        environment: with what versions, and by which command.
        started_from: the settings of the fine-tuning before it, where there was one.
        rows: how many queries and windows there were.
    """

    run: Path
    folder: Path
    result: TrainingResult
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    started_from: Mapping[str, Any] | None
    rows: Mapping[str, Any]

    @property
    def by_rewards(self) -> bool:
        """By reinforcement, and not by fine-tuning."""
        return self.folder.name == TRAINING

    @property
    def model(self) -> Path:
        """The whole model's folder."""
        return Path(self.result.model)

    @property
    def model_node(self) -> Mapping[str, Any]:
        """How answers are drawn, and what the model is called."""
        found: Mapping[str, Any] = self.settings.get("model") or {}
        return found

    @property
    def lora(self) -> Mapping[str, Any] | None:
        """Of a training of adapters."""
        found: Mapping[str, Any] | None = (self.settings.get("trainer") or {}).get("lora")
        return found

    @property
    def base(self) -> tuple[str, str | None] | None:
        """Hub id and revision of the model that all began with; ``None`` for one that lies in a folder."""
        first = self.started_from or self.settings
        node, files = first.get("model") or {}, first.get("files") or {}
        path = str(node.get("path", ""))
        local = "model.path" in files or not _HUB_ID.fullmatch(path)
        return None if local else (path, node.get("revision"))


def find_origin(run: Path, which: Literal["best", "sft"], cache: Path | None = None) -> Origin:
    """The training in a run's folder that is to be exported.

    Args:
        run: the folder of the run.
        which: ``best``: by reinforcement, where that was done; ``sft``: by fine-tuning.
        cache: a folder in which digests of large files are kept.

    Raises:
        ExportError: where nothing is trained.
        TrainingError: where a file of it is damaged.
    """
    there = Trained(run, "", cache=cache)
    names, task = ((SFT,), "sft") if which == "sft" else ((TRAINING, SFT), "train")
    for name in names:
        folder = run / name
        if (result := there.tuned if name == SFT else there.result) is not None:
            settings = read_json(folder / SETTINGS)
            if not settings:
                raise ExportError(f"{folder / SETTINGS}: is missing, so nothing says how {result.model} was trained")
            before = read_json(run / SFT / SETTINGS) if name == TRAINING and _is_tuned(settings) else None
            environment = read_json(folder / ENVIRONMENT)
            return Origin(run, folder, result, settings, environment, before or None, _rows(run / PREPARED, settings))
        if (folder / SETTINGS).is_file():
            raise ExportError(
                f"{folder}: this training isn't finished; the same command with task={'sft' if name == SFT else task} "
                "goes on with it"
            )
    raise ExportError(
        f"{run}: nothing is trained here{' by fine-tuning' if which == 'sft' else ''}; run the same command with "
        f"task={task} first, or give the settings of the run (experiment=..., name=...) whose model is meant"
    )


def _rows(prepared: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """How many rows there are, where they are still those that ``settings`` trained on."""
    made = read_json(prepared / SETTINGS)
    alike = all(settings.get(key) == value for key, value in made.items() if key in settings and key not in _DIGESTS)
    return read_json(prepared / SUMMARY) if alike else {}


def _is_tuned(settings: Mapping[str, Any]) -> bool:
    """Whether the model that training started from is one that a run fine-tuned before."""
    return Path(str((settings.get("model") or {}).get("path", ""))).parts[-2:] == (SFT, "model")


@dataclass(frozen=True)
class OnBenchmark:
    """One benchmark: the exported model's own result, and all rows of its setting in a table's order, its own too."""

    own: Evaluated
    rows: tuple[Evaluated, ...]


def find_measured(origin: Origin, cache: Path | None = None) -> tuple[list[OnBenchmark], list[str]]:
    """What these very weights came to on each benchmark, and a line for each result that is left out.

    Raises:
        FolderError: for a result that can't be read.
    """
    weights = files_of(cache, weights=SystemWeights(str(origin.model)))[_WEIGHTS]
    start = origin.run / SFT / "model"
    tuned = files_of(cache, weights=SystemWeights(str(start)))[_WEIGHTS] if start.is_dir() else None
    found, left_out = [], []
    for name, group in by_benchmark(read_systems(origin.run)).items():
        trained = [
            one
            for one in group
            if one.role == SYSTEM and one.name not in UNTRAINED and (one.name != TUNED) == origin.by_rewards
        ]
        mine = [one for one in trained if _digest(one) == weights and on_its_way(one.name) is None]
        if not mine:
            left_out += [f"{name}: measured of other weights than these: {one.label}" for one in trained]
            continue
        own, beside = mine[0], []
        for one in group:
            if one is own:
                beside.append(one)
            elif one.role == FIRST or one.name == "base" or (one.name == TUNED and origin.by_rewards):
                alike = all(one.settings.get(key) == own.settings.get(key) for key in _SETTING)
                if one.name == "base":
                    alike = alike and one.settings.get("model") == own.settings.get("model")
                elif one.name == TUNED:
                    alike = alike and _digest(one) == tuned
                beside += [one] if alike else []
                left_out += [] if alike else [f"{name}: measured with other settings: {one.label}"]
        found.append(OnBenchmark(own, tuple(beside)))
    # One card speaks of one way of asking.
    same = [one for one in found if _way_of_asking(one.own) == _way_of_asking(found[0].own)]
    left_out += [
        f"{one.own.benchmark}: measured with another prompt, strategy or sampling than {found[0].own.benchmark}"
        for one in found
        if one not in same
    ]
    return same, left_out


def _way_of_asking(one: Evaluated) -> list[Any]:
    """Prompt, strategy and sampling of a result."""
    return [one.settings.get("prompt"), one.settings.get("strategy"), sampling_of(one.settings.get("model") or {})]


def sampling_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """How a model node's answers are drawn."""
    return {key: model[key] for key in ("max_tokens", "temperature", "top_p", "thinking") if key in model}


def _digest(one: Evaluated) -> str | None:
    """Of the weights that were measured."""
    return (one.settings.get("files") or {}).get(_WEIGHTS)


def find_analyses(origin: Origin) -> Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]:
    """Benchmark -> the tables of the fullest analysis that was begun after this training; empty where there is none."""
    found = analysis_since(origin.run, str(origin.environment.get("time", "")))
    return {key: part.get("tables", {}) for key, part in found.get("benchmarks", {}).items()}
