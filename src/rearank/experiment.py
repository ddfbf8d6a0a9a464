"""The whole config as one typed object: what ``conf/config.yaml`` builds to, and a run of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_type_hints, runtime_checkable

from annotated_types import Ge

from rearank.algorithms import PolicyGradient
from rearank.analysis import Analyse
from rearank.augmentation import Augmentation
from rearank.checks import check_fields
from rearank.config import ConfigError, build
from rearank.data import HoldsRows, JudgedSource, Retriever
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.engines import EngineNode
from rearank.engines.model import Model
from rearank.prompts import Prompt
from rearank.ranking import Strategy
from rearank.report import Report
from rearank.rewards import RewardFunction
from rearank.runs import INCIDENTAL, code_of, files_of
from rearank.runs.environment import commit
from rearank.runs.identity import modules_alone
from rearank.runs.layout import SHARED
from rearank.runs.stage import Stage
from rearank.sections import Compare, Distill, Evaluation, Own, Preparation, Rerank
from rearank.serving import Serving
from rearank.tracking import TrackingNode
from rearank.tracking.run_trackers import KeepsFiles, RunTrackers
from rearank.training.base import Trainer
from rearank.training.sft import Sft
from rearank.training.verl import Cluster
from rearank.training.what_to_export import Export


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
        rerun: make every stage of the task again; what is there is moved aside. Recorded answers are kept: delete
            ``completions.sqlite`` to ask the model again.
        validation: a dataset for the held-out windows, ``null`` for a share of the training queries.
    """

    name: str = field(metadata=INCIDENTAL)
    output_dir: str = field(metadata=INCIDENTAL)
    seed: Annotated[int, Ge(0)]
    arm: str | None = field(metadata=INCIDENTAL)
    paths: dict[str, str] = field(metadata=INCIDENTAL)
    task: Task
    model: Model
    dataset: JudgedSource | HoldsRows
    validation: JudgedSource | HoldsRows | None
    augmentation: Augmentation
    reward: RewardFunction
    prompt: Prompt
    algorithm: PolicyGradient
    trainer: Trainer
    engine: EngineNode
    strategy: Strategy
    retriever: Retriever | None
    benchmark: Benchmark | BenchmarkList
    tracking: TrackingNode = field(metadata=INCIDENTAL)
    prepare: Preparation
    sft: Sft
    evaluation: Evaluation
    compare: Compare = field(metadata=INCIDENTAL)
    analyse: Analyse
    cluster: Cluster
    serve: Serving = field(metadata=INCIDENTAL)
    report: Report = field(metadata=INCIDENTAL)
    rerank: Rerank = field(default_factory=Rerank, metadata=INCIDENTAL)
    export: Export = field(default_factory=Export, metadata=INCIDENTAL)
    distill: Distill = field(default_factory=Distill)
    own: Own = field(default_factory=Own)
    accept_changed_code: bool = field(default=False, metadata=INCIDENTAL)
    rerun: bool = field(default=False, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: the output folder is named after it")
        check_fields(self)
        for key, expected in _groups().items():
            if not isinstance(getattr(self, key), expected):
                found = type(getattr(self, key)).__name__
                raise ConfigError(f"{key}: {found} is not what this place takes; choose one of conf/{key}/")


@cache
def _groups() -> Mapping[str, Any]:
    """Field -> the classes and protocols that it takes, of the fields that hold nodes."""
    plain = {str, int, bool, type(None)}
    hints = get_type_hints(Experiment)
    return {
        name: hint for name, hint in hints.items() if name != "paths" and not set(get_args(hint) or (hint,)) <= plain
    }


DECIDED_BY = (
    *("dataset", "validation", "retriever", "augmentation", "prompt", "reward", "algorithm", "trainer", "strategy"),
    "benchmark",
)
"""Whose code decides a result. An engine's doesn't: its answers are recorded under its own identity."""


@dataclass(frozen=True)
class Run:
    """An experiment under way: its object, its plain config, the options chosen, and its folder.

    The command, the pipeline and the tasks know it; the steps that they call take what they need by name.
    """

    experiment: Experiment
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    sweep: Path | None = None
    """The sweep's folder, where this is one of its jobs."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.experiment.output_dir)

    @property
    def cache(self) -> Path:
        """``paths.cache``."""
        return Path(self.experiment.paths["cache"])

    @property
    def shared(self) -> Path | None:
        """The folder that a sweep's jobs share; ``None`` outside a sweep, and where everything is made again."""
        return self.sweep / SHARED if self.sweep is not None and not self.experiment.rerun else None

    @property
    def trackers(self) -> RunTrackers:
        """Under this run's name and group."""
        name = self.experiment.name
        title, group = (name, name) if self.sweep is None else (self.folder.name, self.sweep.name)
        choices = {key: value for key, value in self.choices.items() if not key.startswith("hydra/")}
        config = {**self.config, "choices": choices, "commit": commit()}
        node = self.experiment.tracking
        return RunTrackers(node.kept_in(self.folder) if isinstance(node, KeepsFiles) else node, title, group, config)

    def stage(self, name: str, *keys: str, modules: Sequence[str] = (), **more: Any) -> Stage:
        """The stage that works in the folder ``name`` and depends on these keys of the config, and on ``more``.

        ``modules``: of our own that decide its result, besides the classes chosen.
        """
        return Stage(
            self.folder / name,
            {**{key: self.config[key] for key in keys}, **more},
            self.code(*keys) | modules_alone(*modules),
            self.files(*keys),
            self.experiment.accept_changed_code,
            self.experiment.rerun,
            self.cache,
        )

    def code(self, *keys: str) -> dict[str, str]:
        """Digests of the code behind what was chosen for these keys, where users change it; see ``code_of``."""
        return code_of(*(getattr(self.experiment, key) for key in keys if key in DECIDED_BY))

    def files(self, *keys: str) -> dict[str, str]:
        """Digests of the local files and folders that what was chosen for these keys reads; see ``files_of``."""
        return files_of(self.cache, **{key: getattr(self.experiment, key) for key in keys})


def make_run(config: Mapping[str, Any], choices: Mapping[str, str], sweep: Path | None = None) -> Run:
    """Build and check everything; nothing heavy is imported and nothing is loaded.

    Raises ``ConfigError`` naming the key.
    """
    experiment: Experiment = build(config)
    if experiment.retriever is not None:
        replaced = {key: _with_retriever(getattr(experiment, key), experiment.retriever) for key in _WITH_RETRIEVER}
        experiment = replace(experiment, **replaced)
    if experiment.own.teacher is not None:  # whichever task makes the cold start learns from it
        sft = replace(experiment.sft, targets="teacher", traces=experiment.own.teacher)
        experiment = replace(experiment, sft=sft)
        config = {**config, "sft": {**config["sft"], "targets": sft.targets, "traces": sft.traces}}
    return Run(experiment, config, choices, sweep)


_WITH_RETRIEVER = ("dataset", "validation", "benchmark")


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
