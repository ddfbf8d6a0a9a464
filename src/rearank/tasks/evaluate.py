"""``task=evaluate``: rerank benchmarks, score, compare.

Per benchmark and system, ``<output_dir>/evaluation/<benchmark>/<system>/`` holds ``run.trec`` and ``metrics.json``
(``results`` says what else); tables lie above them; every model call is in ``<output_dir>/completions.sqlite``, from
which the same command goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rearank.data import DataError
from rearank.engines import CompletionStore
from rearank.runs.layout import write_json
from rearank.tasks.benchmark import Benchmark, BenchmarkList
from rearank.tasks.experiment import Run
from rearank.tasks.lists import report_list
from rearank.tasks.measuring import measured
from rearank.tasks.results import Measured
from rearank.tasks.systems import trained_name
from rearank.tasks.tables import report
from rearank.tasks.tracked import model_artefact
from rearank.tasks.tracked_results import track_evaluation
from rearank.tasks.train import training_folder
from rearank.tracking import Artefact
from rearank.training.base import result_of

_log = logging.getLogger(__name__)


class EvaluationError(RuntimeError):
    """More queries failed than ``evaluation.max_failed`` allows."""


@dataclass(frozen=True)
class EvaluateTask:
    """Measure the model, and the checkpoint trained in this folder where there is one."""

    needs: ClassVar[tuple[str, ...]] = ("benchmark", "model", "engine", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/evaluation``."""
        evaluate(run)


def evaluate(run: Run) -> dict[str, Any]:
    """Every benchmark in turn; returns and writes ``summary.json``.

    A benchmark whose data is missing is named and left out where there are others. An error that stops the run leaves
    the tables and the summary of what was measured before it.

    Raises:
        EvaluationError: after everything was written, where too many queries failed.
    """
    node, benchmarks = run.experiment.benchmark, _settled(run)
    results: dict[str, list[Measured]] = {}
    missing: dict[str, str] = {}
    failed: list[str] = []
    stopped: Exception | None = None
    store = CompletionStore(run.folder / "completions.sqlite")
    try:
        for benchmark in benchmarks:
            found = results.setdefault(benchmark.name, [])
            try:
                for one in measured(run, benchmark, store, failed):
                    found.append(one)
            except DataError as error:
                if len(benchmarks) == 1:
                    raise
                missing[benchmark.name] = str(error)
                found.clear()
                _log.error("benchmark %s is left out: %s", benchmark.name, error)
            except Exception as error:
                stopped = error
                break
    finally:
        store.close()
    results = {name: found for name, found in results.items() if found}
    if stopped is None and not results:
        raise DataError(f"none of the {len(benchmarks)} benchmarks has its data here; the reasons are above")
    summary = _summarise(run, node, benchmarks, results, missing, stopped) if results else {}
    if stopped is not None:
        raise stopped
    if failed:
        raise EvaluationError(
            f"{len(failed)} queries failed, the first: {failed[0]}. Everything else is kept in {run.folder}: "
            "mend the cause and run the same command again, or allow a share of failures (evaluation.max_failed)"
        )
    return summary


def _settled(run: Run) -> list[Benchmark]:
    """The benchmarks with this command's depth and measures."""
    settings = run.experiment.evaluation
    changes: dict[str, Any] = {}
    if settings.depth is not None:
        changes["depth"] = settings.depth
    if settings.measures is not None:
        changes["measures"] = settings.measures
    return [
        replace(benchmark, **changes) if changes else benchmark for benchmark in run.experiment.benchmark.benchmarks
    ]


def _summarise(
    run: Run,
    node: Benchmark | BenchmarkList,
    benchmarks: Sequence[Benchmark],
    results: Mapping[str, Sequence[Measured]],
    missing: Mapping[str, str],
    stopped: Exception | None,
) -> dict[str, Any]:
    """Tables of what there is, ``summary.json`` and the trackers."""
    folder, common = run.folder / "evaluation", {"seed": run.experiment.seed, "model": run.experiment.model.name}
    parts = {
        benchmark.name: {
            **report(benchmark, results[benchmark.name], trained_name(run), folder / benchmark.name),
            **common,
        }
        for benchmark in benchmarks
        if benchmark.name in results
    }
    if isinstance(node, BenchmarkList) and len(benchmarks) > 1:
        cost = round(sum(part["cost"] for part in parts.values()), 9)
        summary = {"benchmarks": parts, **report_list(node, results, missing, folder), "cost": cost, **common}
    else:
        summary = next(iter(parts.values()))
    if stopped is not None:
        summary = {**summary, "stopped": f"{type(stopped).__name__}: {stopped}"}
    write_json(run.folder / "summary.json", summary)
    track_evaluation(run, results, _trained_model(run))
    return summary


def _trained_model(run: Run) -> Artefact | None:
    """The checkpoint that is measured too, where there is one."""
    found = result_of(training_folder(run)) if run.experiment.evaluation.trained else None
    return model_artefact(run, training_folder(run), vars(found), used=True) if found is not None else None
