"""``evaluate``: rerank benchmarks, score, compare.

Per benchmark and system, ``<output_dir>/evaluation/<benchmark>/<system>/`` holds ``run.trec`` and ``metrics.json``
(``scores`` says what else); tables lie above them; every model call is in ``<output_dir>/completions.sqlite``, from
which the same command goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rearank.data import DataError
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.engines import CompletionStore, NoEngine, ScriptedNode
from rearank.reranker.setup import Parts
from rearank.runs.layout import (
    ENGINE,
    ENVIRONMENT,
    METRICS,
    RUN,
    SEAL,
    SETTINGS,
    STORE,
    SUMMARY,
    free_name,
    set_aside,
    write_json,
)
from rearank.runs.reader import SYSTEM, TUNED, UNTRAINED, FolderError, on_its_way, read_systems
from rearank.runs.seal import damaged
from rearank.runs.stage import Stage, StageError
from rearank.sections import Evaluation
from rearank.tasks.evaluate.benchmark_lists import report_list
from rearank.tasks.evaluate.measuring import Measuring
from rearank.tasks.evaluate.scores import Places, SystemScores
from rearank.tasks.evaluate.systems import System, systems
from rearank.tasks.evaluate.tables import report
from rearank.tasks.evaluate.tracked import track_evaluation
from rearank.tasks.overlap import Rule, measured_queries, refuse_overlap, training_queries
from rearank.tasks.train import Trained
from rearank.tracking.run_trackers import RunTrackers

_log = logging.getLogger(__name__)
_OF_A_SYSTEM = (SETTINGS, ENVIRONMENT, METRICS, RUN, ENGINE, SEAL)


class EvaluationError(RuntimeError):
    """More queries failed than ``evaluation.max_failed`` allows."""


@dataclass(frozen=True)
class Evaluating:
    """What is measured, on what, and how.

    Args:
        parts: model, prompt, strategy and engine.
        trained: what lies trained in the run's folder.
        benchmark: one or a list.
        settings: the section ``evaluation``.
        seed: of sampled answers.
        chosen: the option of each group of the config.
        overlap: what happens where a system was trained on queries of a benchmark (``prepare.overlap``).
        shared: the folder that a sweep's jobs share, ``None`` outside one.
    """

    parts: Parts
    trained: Trained
    benchmark: Benchmark | BenchmarkList
    settings: Evaluation
    seed: int
    chosen: Mapping[str, str]
    overlap: Rule = "error"
    shared: Path | None = None

    @property
    def benchmarks(self) -> list[Benchmark]:
        """With this command's depth and measures."""
        return [settled(benchmark, self.settings) for benchmark in self.benchmark.benchmarks]


def asked(parts: Parts) -> dict[str, str | None]:
    """For a summary: the model, or the engine where that answers without any."""
    if isinstance(parts.engine, ScriptedNode):
        return {"model": None, "engine": f"scripted: {parts.engine.behaviour}"}
    return {"model": None, "engine": "none"} if isinstance(parts.engine, NoEngine) else {"model": parts.model.name}


def settled(benchmark: Benchmark, settings: Evaluation) -> Benchmark:
    """``benchmark`` with the depth and the measures that the section ``evaluation`` sets."""
    return replace(benchmark, depth=settings.depth or benchmark.depth, measures=settings.measures or benchmark.measures)


def evaluate(how: Evaluating, stage: Stage, cache: Path, trackers: RunTrackers) -> dict[str, Any]:
    """Every benchmark in turn; returns and writes ``summary.json``.

    A benchmark whose data is missing is named and left out where there are others. An error that stops the run leaves
    the tables and the summary of what was measured before it.

    Args:
        how: what is measured, on what.
        stage: where, and what every system's result depends on.
        cache: of digests of large files.
        trackers: get means, tables of queries, and the runs.

    Raises:
        EvaluationError: after everything was written, where too many queries failed.
    """
    benchmarks, folder = how.benchmarks, stage.folder.parent
    results: dict[str, list[SystemScores]] = {}
    missing: dict[str, str] = {}
    stopped: Exception | None = None
    found = systems(how.parts, how.settings, how.seed, how.trained)
    _refuse_trained_on(found, benchmarks, how.overlap)
    _move_damaged_aside(stage.folder)
    _move_stale_aside(stage.folder, {one.name for one in found}, how.trained.algorithm)
    store = CompletionStore(folder / STORE)
    measuring = Measuring(how.parts, found, how.settings, Places(stage, cache), store, how.chosen, how.shared)
    try:
        for benchmark in benchmarks:
            measured = results.setdefault(benchmark.name, [])
            try:
                for one in measuring.measure(benchmark):
                    measured.append(one)
            except DataError as error:
                if len(benchmarks) == 1:
                    raise
                missing[benchmark.name] = str(error)
                measured.clear()
                _log.error("benchmark %s is left out: %s", benchmark.name, error)
            except Exception as error:
                stopped = error
                break
    finally:
        store.close()
    results = {name: measured for name, measured in results.items() if measured}
    if stopped is None and not results:
        raise DataError(f"none of the {len(benchmarks)} benchmarks has its data here; the reasons are above")
    summary: dict[str, Any] = {}
    if results:
        summary = _summary(how, benchmarks, results, missing, stage.folder)
        if stopped is not None:
            summary["stopped"] = f"{type(stopped).__name__}: {stopped}"
        write_json(folder / SUMMARY, summary)
        model = how.trained.artefact(trackers) if how.settings.trained else None
        track_evaluation(stage.folder, results, model, trackers)
    if stopped is not None:
        raise stopped
    if failed := measuring.failed:
        raise EvaluationError(
            f"{len(failed)} queries failed, the first: {failed[0]}. Everything else is kept in {folder}: "
            "mend the cause and run the same command again, or allow a share of failures (evaluation.max_failed)"
        )
    return summary


def _refuse_trained_on(found: Sequence[System], benchmarks: Sequence[Benchmark], overlap: Rule) -> None:
    """Raises ``OverlapError`` where a system that lies in a run's folder was trained on a benchmark's queries."""
    places = dict.fromkeys(Path(one.model).resolve() for one in found if Path(one.model).is_dir())
    for training in filter(None, map(training_queries, places)):
        # What was to be dropped and is there was trained before this benchmark was chosen.
        rule: Rule = "allow" if overlap == "allow" else "error"
        refuse_overlap(training, measured_queries(benchmarks, missing="skip"), rule)


def _move_damaged_aside(folder: Path) -> None:
    """What can't be believed or read any more; it is made again from the stored answers where it is measured.

    A folder without any file of a system's is a tracker's own (``wandb/``).
    """
    for place in sorted(folder.glob("*/*")):
        ours = place.is_dir() and any((place / name).exists() for name in _OF_A_SYSTEM)
        if ours and not set_aside(place) and (why := _damage(place)):
            aside = free_name(place)
            place.rename(aside)
            _log.warning("%s; %s is made again where it is measured, what was there is kept as %s", why, place, aside)


def _damage(place: Path) -> str:
    """What is wrong in a system's folder; empty where nothing is."""
    if odd := [path for path in sorted(place.iterdir()) if not path.is_file()]:
        return f"{odd[0]}: is no file"
    if lines := damaged(place):
        return lines[0]
    try:
        Stage(place, {}).stored()
        if (place / METRICS).is_file():
            read_systems(place)
    except (StageError, FolderError) as error:
        return str(error).partition(";")[0]
    return ""


def _move_stale_aside(folder: Path, measured: Collection[str], algorithm: str) -> None:
    """What was trained by another algorithm and measured here: its checkpoint is no longer the run's."""
    if algorithm not in measured:
        return
    for one in read_systems(folder):
        trained = (on_its_way(one.name) or (one.name,))[0]
        if one.role == SYSTEM and trained not in {*UNTRAINED, TUNED, algorithm}:
            aside = free_name(one.place)
            one.place.rename(aside)
            _log.warning("%s: of a checkpoint that this run no longer has: kept as %s", one.place, aside)


def _summary(
    how: Evaluating,
    benchmarks: Sequence[Benchmark],
    results: Mapping[str, Sequence[SystemScores]],
    missing: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    """Tables of what there is; returns what they show."""
    common = {"seed": how.seed, **asked(how.parts)}
    parts = {
        one.name: {**report(one, results[one.name], how.trained.algorithm, folder / one.name), **common}
        for one in benchmarks
        if one.name in results
    }
    if isinstance(how.benchmark, BenchmarkList) and len(benchmarks) > 1:
        cost = round(sum(part["cost"] for part in parts.values()), 9)
        uncovered = {one.name: one.gaps for one in benchmarks if one.name in results}
        listed = report_list(how.benchmark, results, missing, folder, uncovered)
        return {"benchmarks": parts, **listed, "cost": cost, **common}
    return next(iter(parts.values()))
