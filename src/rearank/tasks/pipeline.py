"""The system in one picture: rows, training, evaluation, report.

Each step takes what it needs and returns what it made; its stage says where it works and what its result depends on,
and picks up what it finds done. The tasks here are parts of the pipeline; no step that they call knows the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from rearank.data.irds import Irds
from rearank.experiment import Run
from rearank.prompts import Prompt, Tokenizer
from rearank.ranking import Strategy
from rearank.reranker.setup import Parts
from rearank.runs.layout import ANALYSIS, DISTILLED, EVALUATION, PREPARED, SFT, SHORT_ANALYSIS, TEACHER, TRAINING
from rearank.runs.stage import Stage
from rearank.tasks.analyse import analyse, look
from rearank.tasks.evaluate import Evaluating, evaluate
from rearank.tasks.evaluate.tracked import track_report
from rearank.tasks.overlap import digests, measured_queries, refuse_overlap, training_queries
from rearank.tasks.prepare import Preparing, Rows, prepare
from rearank.tasks.report import report_at_end
from rearank.tasks.train import Start, Trained, fine_tune, train
from rearank.training.base import TrainingResult
from rearank.training.rows import VERSION

_TRAINS: tuple[str, ...] = ("dataset", "model", "trainer", "algorithm", "tracking")
_MEASURES: tuple[str, ...] = ("benchmark", "model", "engine", "tracking")
_MAKES_ROWS = ("rearank.tasks.prepare", "rearank.data.overlap", "rearank.training.rows")
_READS_ANSWERS = (
    *("rearank.parsing", "rearank.marks", "rearank.yes_no", "rearank.engines.ranker", "rearank.engines.session"),
    *("rearank.ranking.schedule", "rearank.evaluation.scoring"),
)
"""Modules that decide a result whatever is chosen."""


@dataclass(frozen=True)
class PipelineTask:
    """The main job: from judged candidates to a trained, measured reranker.

    Args:
        method: ``rl``; ``sft`` (``sft.targets``) instead; or ``sft_then_rl``, which starts from that checkpoint.
    """

    method: Literal["rl", "sft", "sft_then_rl"] = "rl"
    needs: ClassVar[tuple[str, ...]] = (*_TRAINS, "benchmark", "engine")

    def __post_init__(self) -> None:
        if self.method not in ("rl", "sft", "sft_then_rl"):
            raise ValueError(f"task.method must be rl, sft or sft_then_rl, not {self.method!r}")

    def run(self, run: Run) -> None:
        """Rows, training, evaluation, a look at the answers, report."""
        rows = prepare_rows(run)
        refuse_measured_queries(run, rows)
        tuned = fine_tune_model(run, rows) if self.method != "rl" else None
        if self.method != "sft":
            train_model(run, rows, tuned)
        evaluate_models(run, tuned)
        look_at_answers(run, tuned)
        page = report_at_end(run.folder, run.experiment.report, run.cache)
        if page is not None:
            track_report(page, run.trackers)
        print(f"everything is in {run.folder}; the curves: {run.folder / TRAINING / 'figures'}", flush=True)


@dataclass(frozen=True)
class PrepareTask:
    """Write the rows both trainers read."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/prepared``."""
        prepare_rows(run)


@dataclass(frozen=True)
class TrainTask:
    """Train by reinforcement; prepares the rows first where they aren't there."""

    needs: ClassVar[tuple[str, ...]] = _TRAINS

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/training``."""
        rows = prepare_rows(run)
        refuse_measured_queries(run, rows)
        train_model(run, rows)


@dataclass(frozen=True)
class SftTask:
    """Supervised fine-tuning on answers to the same rows (``sft.targets``; by default the paper's ablation)."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/sft``."""
        rows = prepare_rows(run)
        refuse_measured_queries(run, rows)
        fine_tune_model(run, rows)


@dataclass(frozen=True)
class EvaluateTask:
    """Measure the model, and the checkpoint trained in this folder where there is one."""

    needs: ClassVar[tuple[str, ...]] = _MEASURES

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/evaluation``."""
        evaluate_models(run)


@dataclass(frozen=True)
class AnalyseTask:
    """Look at what the model writes, not only at what it scores."""

    needs: ClassVar[tuple[str, ...]] = ("benchmark", "model", "engine")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/analysis``."""
        analyse_models(run)


def prepare_rows(run: Run) -> Rows:
    """Judged candidates -> training and validation rows."""
    return prepare(preparing(run), rows_stage(run), run.trackers, run.shared)


def fine_tune_model(run: Run, rows: Rows) -> TrainingResult:
    """The model, on the answers of the rows that ``sft.targets`` names."""
    if run.experiment.sft.targets == "teacher":
        place = teachers_file(run)
        rows = rows.taught(place, tags=run.experiment.prompt.tags)
        # It counts for what is learnt, wherever it lies.
        run = replace(run, experiment=replace(run.experiment, sft=replace(run.experiment.sft, traces=str(place))))
    chosen = run.experiment
    start = Start(chosen.model, rows, chosen.reward, chosen.seed, _reranks(run))
    stage = stage_after_rows(
        run, SFT, "model", "reward", "sft", "trainer", *_validates_by(run), tags=chosen.prompt.tags
    )
    return fine_tune(start, chosen.sft, chosen.trainer, stage, run.trackers, tags=chosen.prompt.tags)


def teachers_file(run: Run) -> Path:
    """Where ``sft.targets=teacher`` finds answers."""
    return Path(run.experiment.sft.traces or run.folder / DISTILLED / TEACHER)


def train_model(run: Run, rows: Rows, tuned: TrainingResult | None = None) -> TrainingResult:
    """The model, or what was ``tuned`` from it, by reinforcement."""
    run = started_from(run, tuned)
    chosen = run.experiment
    start = Start(chosen.model, rows, chosen.reward, chosen.seed, _reranks(run))
    return train(start, chosen.algorithm, chosen.trainer, training_stage(run), run.trackers)


def evaluate_models(run: Run, tuned: TrainingResult | None = None) -> dict[str, Any]:
    """The model and what lies trained in the run's folder, on every benchmark.

    ``tuned`` is what training started from, where it wasn't the model.
    """
    keys = ("model", "prompt", "strategy", "engine", "evaluation", "retriever", "seed")
    # A system's own weights count where it is measured, and no other's.
    # This stage is never opened itself: the folder of each system inside it is one that depends on this and more.
    stage = replace(run.stage(EVALUATION, *keys, modules=_READS_ANSWERS), files=run.files("retriever"))
    return evaluate(evaluating(run, tuned), stage, run.cache, run.trackers)


def refuse_measured_queries(run: Run, rows: Rows) -> None:
    """Raises ``OverlapError`` where rows to train on and the benchmarks share queries, before anything is trained.

    A task that measures nothing downloads no benchmark for this.
    """
    chosen = run.experiment
    measures = "benchmark" in chosen.task.needs
    here = [one for one in chosen.benchmark.benchmarks if measures or not isinstance(one.collection, Irds)]
    measured = measured_queries(here, missing="skip")
    refuse_overlap(training_queries(rows.folder.parent), measured, chosen.prepare.overlap)


def analyse_models(run: Run) -> dict[str, Any]:
    """What the same systems write."""
    return analyse(evaluating(run), run.experiment.analyse, analysis_stage(run, ANALYSIS))


def look_at_answers(run: Run, tuned: TrainingResult | None = None) -> None:
    """What training did to the answers besides the score, in short."""
    if run.experiment.analyse.after_training:
        look(evaluating(run, tuned), run.experiment.analyse, analysis_stage(run, SHORT_ANALYSIS))


def analysis_stage(run: Run, name: str) -> Stage:
    """What an analysis in the folder ``name`` depends on."""
    keys = ("analyse", "model", "prompt", "strategy", "engine", "benchmark", "retriever", "seed")
    measured = {key: run.config["evaluation"][key] for key in ("depth", "measures")}
    return run.stage(name, *keys, modules=_READS_ANSWERS, evaluation=measured)


def preparing(run: Run) -> Preparing:
    """How this run makes rows."""
    chosen = run.experiment

    def load_tokenizer() -> Tokenizer:
        from rearank.training.local import load_tokenizer

        tokenizer: Tokenizer = load_tokenizer(chosen.model.location, chosen.model.revision)
        return tokenizer

    return Preparing(
        chosen.dataset,
        chosen.validation,
        chosen.augmentation,
        chosen.prompt,
        chosen.prepare,
        chosen.seed,
        load_tokenizer,
        lambda: measured_queries(chosen.benchmark.benchmarks),
        validates_on_lists(run),
    )


def evaluating(run: Run, tuned: TrainingResult | None = None) -> Evaluating:
    """What this run measures, and on what."""
    chosen = run.experiment
    parts = Parts(chosen.model, chosen.prompt, chosen.strategy, chosen.engine)
    changed = training_stage(started_from(run, tuned)).changed()
    trained = Trained(run.folder, run.choices.get("algorithm", "trained"), changed, run.cache)
    overlap = chosen.prepare.overlap
    return Evaluating(
        *(parts, trained, chosen.benchmark, chosen.evaluation, chosen.seed, run.choices, overlap), shared=run.shared
    )


def rows_stage(run: Run) -> Stage:
    """What the rows depend on."""
    keys = (*_rows_depend_on(run), "prepare", "seed")
    kept: dict[str, Any] = {"validation_lists": True} if validates_on_lists(run) else {}
    return run.stage(PREPARED, *keys, modules=_MAKES_ROWS, version=VERSION, **_without(run), **kept)


def training_stage(run: Run) -> Stage:
    """What the model trained by reinforcement depends on: what the rows do, and more."""
    return stage_after_rows(run, TRAINING, "model", "reward", "algorithm", "trainer", *_validates_by(run))


def started_from(run: Run, tuned: TrainingResult | None) -> Run:
    """The run with a fine-tuned checkpoint as its model, where there is one."""
    if tuned is None:
        return run
    model = replace(run.experiment.model, path=tuned.model, revision=None)
    config = {**run.config, "model": {**run.config["model"], "path": tuned.model, "revision": None}}
    return replace(run, experiment=replace(run.experiment, model=model), config=config)


def stage_after_rows(run: Run, name: str, *keys: str, modules: Sequence[str] = (), tags: bool | None = None) -> Stage:
    """The stage in the folder ``name``; it depends on what the rows do, on ``keys`` of the config and ``modules``.

    ``tags``: the prompt's, where the result depends on them even if rows bring prompts of their own.
    """
    made = _rows_depend_on(run)
    more = {"tags": tags} if tags is not None and "prompt" not in made else {}
    keys = (*made, "prepare", "seed", *keys)
    return run.stage(name, *keys, modules=(*_MAKES_ROWS, *modules), version=VERSION, **_without(run), **more)


def validates_on_lists(run: Run) -> bool:
    """Whether checkpoints are chosen by whole lists; a trainer of one's own need not know of it."""
    return getattr(run.experiment.trainer, "validate_on", "windows") == "lists"


def _validates_by(run: Run) -> tuple[str, ...]:
    """The groups by which whole lists are reranked in validation."""
    return ("strategy", "prompt") if validates_on_lists(run) else ()


def _reranks(run: Run) -> tuple[Strategy, Prompt] | None:
    return (run.experiment.strategy, run.experiment.prompt) if validates_on_lists(run) else None


def _without(run: Run) -> dict[str, Any]:
    """The queries that training does without, where it does without those that are measured."""
    chosen = run.experiment
    if chosen.prepare.overlap != "drop":
        return {}
    return {"without": digests(measured_queries(chosen.benchmark.benchmarks))}


def _rows_depend_on(run: Run) -> tuple[str, ...]:
    """The groups whose options make the rows."""
    made = ("retriever", "augmentation", "prompt") if preparing(run).draws_windows else ()
    return ("dataset", "validation", *made)
