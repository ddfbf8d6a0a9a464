"""The whole config as one typed object: what ``conf/config.yaml`` builds to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rearank.analysis import Analyse
from rearank.augmentation import Augmentation
from rearank.config import ConfigError, build
from rearank.engines import EngineNode
from rearank.engines.model import Model
from rearank.prompts import Prompt
from rearank.ranking import Strategy
from rearank.report import Report
from rearank.rewards import RewardFunction
from rearank.runs import code_of, files_of
from rearank.serving import Serving
from rearank.tasks.benchmark import Benchmark, BenchmarkList
from rearank.tasks.settings import Compare, Evaluation, Preparation
from rearank.tracking import TrackingNode
from rearank.training.base import Trainer


@runtime_checkable
class Task(Protocol):
    """What a node of ``conf/task`` builds to. ``needs`` names the nodes it uses: those are preflighted."""

    needs: tuple[str, ...]

    def run(self, run: Run) -> None: ...


@dataclass(frozen=True)
class Experiment:
    """Every choice of a run; the fields are the groups of ``conf/`` and the sections of ``conf/config.yaml``.

    Args:
        name: of the run; its folder is named after it.
        output_dir: where everything the run makes goes (Hydra's output folder); the same folder again continues.
        seed: of everything random.
        arm: of a study, which arm this run is; it changes no result.
        retriever: a first stage for dataset and benchmark alike, ``null`` for each collection's own.
        accept_changed_code: go on with what a stage made before its code changed, instead of making it again; the
            stage's settings then keep the former code's digests.
        validation: a dataset for the held-out windows, ``null`` for a share of the training queries.
    """

    name: str
    output_dir: str
    seed: int
    arm: Any
    paths: dict[str, str]
    task: Any
    model: Any
    dataset: Any
    validation: Any
    augmentation: Any
    reward: Any
    prompt: Any
    algorithm: Any
    trainer: Any
    engine: Any
    strategy: Any
    retriever: Any
    benchmark: Any
    tracking: Any
    prepare: Any
    sft: Any
    evaluation: Any
    compare: Any
    analyse: Any
    cluster: Any
    serve: Any
    report: Any
    accept_changed_code: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: the output folder is named after it")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        for key, expected in _EXPECTED.items():
            if not isinstance(getattr(self, key), expected):
                found = type(getattr(self, key)).__name__
                raise ConfigError(f"{key}: {found} is not what this place takes; choose one of conf/{key}/")


_EXPECTED: Mapping[str, Any] = {
    "task": Task,
    "model": Model,
    "augmentation": Augmentation,
    "reward": RewardFunction,
    "prompt": Prompt,
    "trainer": Trainer,
    "engine": EngineNode,
    "strategy": Strategy,
    "benchmark": (Benchmark, BenchmarkList),
    "tracking": TrackingNode,
    "prepare": Preparation,
    "evaluation": Evaluation,
    "compare": Compare,
    "analyse": Analyse,
    "serve": Serving,
    "report": Report,
}


DECIDED_BY = (
    *("dataset", "validation", "retriever", "augmentation", "prompt", "reward", "algorithm", "trainer", "strategy"),
    "benchmark",
)
"""Whose code decides a result. An engine's doesn't: its answers are recorded under its own identity."""


@dataclass(frozen=True)
class Run:
    """An experiment under way: its object, its plain config, the options chosen, and its folder."""

    experiment: Experiment
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    sweep: Path | None = None
    """The sweep's folder, where this is one of its jobs."""

    @property
    def cache(self) -> Path | None:
        """``paths.cache``."""
        return Path(self.experiment.paths["cache"]) if "cache" in self.experiment.paths else None

    def code(self, *keys: str) -> dict[str, str]:
        """Digests of the code behind what was chosen for these keys, where users change it; see ``code_of``."""
        return code_of(*(getattr(self.experiment, key) for key in keys if key in DECIDED_BY))

    def files(self, *keys: str) -> dict[str, str]:
        """Digests of the local files and folders that what was chosen for these keys reads; see ``files_of``."""
        return files_of(self.cache, **{key: getattr(self.experiment, key) for key in keys})

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.experiment.output_dir)

    def settings(self, *keys: str) -> dict[str, Any]:
        """The plain config of these keys: what a stage's result depends on."""
        settings = {key: self.config[key] for key in keys}
        if "model" in settings:  # sizes are for planning, a published row for tables
            settings["model"] = {k: v for k, v in settings["model"].items() if k not in ("architecture", "published")}
        return settings


def make_run(config: Mapping[str, Any], choices: Mapping[str, str]) -> Run:
    """Build and check everything; nothing heavy is imported and nothing is loaded.

    Raises ``ConfigError`` naming the key.
    """
    experiment: Experiment = build(config)
    if experiment.retriever is not None:
        replaced = {key: _with_retriever(getattr(experiment, key), experiment.retriever) for key in _FIRST_STAGES}
        experiment = replace(experiment, **replaced)
    return Run(experiment, config, choices)


_FIRST_STAGES = ("dataset", "validation", "benchmark")


def _with_retriever(node: Any, retriever: Any) -> Any:
    """``node`` (a source, a benchmark, or several of them) with another first stage.

    ``{benchmark}`` in the retriever's path stands for each benchmark's name: a run file for every member of a list.
    """
    if node is None:
        return None
    names = {field.name for field in fields(node)}
    if "members" in names:
        return replace(node, members={key: _with_retriever(m, retriever) for key, m in node.members.items()})
    if isinstance(node, Benchmark) and "{benchmark}" in (path := str(getattr(retriever, "path", ""))):
        retriever = replace(retriever, path=path.replace("{benchmark}", node.name))
    return replace(node, retriever=retriever) if "retriever" in names else node
