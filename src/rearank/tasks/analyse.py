"""``task=analyse``: length, faithfulness, position bias, attacks; of the model, and of what was trained in this folder.

``<output_dir>/analysis/`` holds ``analysis.json`` (all rows; the same bytes whenever the same answers are looked at)
and ``tables.md``; per benchmark tables as CSV and LaTeX, and ``figures/``. Every call is in
``<output_dir>/completions.sqlite``: what an evaluation asked isn't asked again, and a killed analysis goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rearank.analysis import Analyse
from rearank.data import DataError
from rearank.engines import CompletionStore, EngineError, RecordingEngine
from rearank.progress import progress
from rearank.ranking import Failure
from rearank.runs.layout import write_json
from rearank.tasks.asking import Asker
from rearank.tasks.benchmark import Benchmark
from rearank.tasks.experiment import Run
from rearank.tasks.findings import Findings, SystemAnswers
from rearank.tasks.questions import Questions, choose_queries
from rearank.tasks.stage import CODE, FILES, open_stage
from rearank.tasks.systems import System, systems
from rearank.types import Sampling

RESULT, TABLES = "analysis.json", "tables.md"
_DEPENDS_ON = ("analyse", "model", "prompt", "strategy", "engine", "benchmark", "retriever", "seed")
_log = logging.getLogger(__name__)


class AnalysisError(RuntimeError):
    """An analysis that can't be made as asked, or too many of whose calls failed."""


@dataclass(frozen=True)
class AnalyseTask:
    """Look at what the model writes, not only at what it scores."""

    needs: ClassVar[tuple[str, ...]] = ("benchmark", "model", "engine")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/analysis``."""
        analyse(run)


def analyse(run: Run) -> dict[str, Any]:
    """Every benchmark in turn; returns and writes ``analysis.json``, anew after each of them.

    A benchmark whose data is missing is named and left out where there are others.

    Raises:
        AnalysisError: for settings that don't go together; and, after everything was written, where a larger share of
            calls failed than ``evaluation.max_failed`` allows.
    """
    experiment = run.experiment
    chosen = _chosen(run)
    evaluated = {key: run.config["evaluation"][key] for key in ("depth", "measures")}
    settings = {**run.settings(*_DEPENDS_ON), "evaluation": evaluated, CODE: run.code(*_DEPENDS_ON)}
    settings[FILES] = run.files(*_DEPENDS_ON)
    folder = open_stage(run.folder / "analysis", settings, accept_changed_code=experiment.accept_changed_code)
    failures: list[Failure] = []
    parts: dict[str, Any] = {}
    texts: list[str] = []
    result: dict[str, Any] = {"model": experiment.model.name, "seed": experiment.seed}
    asked = 0
    store = CompletionStore(run.folder / "completions.sqlite")
    try:
        for benchmark in experiment.benchmark.benchmarks:
            try:
                found, calls = _analysed(run, _settled(run, benchmark), chosen, store, failures)
            except DataError as error:
                if len(experiment.benchmark.benchmarks) == 1:
                    raise
                _log.error("benchmark %s is left out: %s", benchmark.name, error)
                continue
            asked += calls
            parts[benchmark.name] = found.as_json()
            texts.append(found.write(folder / benchmark.name))
            result |= {"benchmarks": parts, "failed": len(failures)}
            _write(folder, result, texts)
    finally:
        store.close()
    if not parts:
        raise DataError("none of the benchmarks has its data here; the reasons are above")
    print(f"\n{(folder / TABLES).read_text(encoding='utf-8')}\nfigures and tables are in {folder}", flush=True)
    if len(failures) > experiment.evaluation.max_failed * asked:
        raise AnalysisError(
            f"{len(failures)} of {asked} calls failed, the first: {failures[0]}. What came of the others is kept in "
            f"{folder}: run the same command again, or allow a share of failures (evaluation.max_failed)"
        )
    return result


def _chosen(run: Run) -> list[System]:
    """What an evaluation measures, but for samples: ``analyse.repeats`` and ``analyse.temperature`` say how to draw."""
    settings: Analyse = run.experiment.analyse
    chosen = [system for system in systems(run) if system.name != "base_sampled"]
    if not chosen:
        raise AnalysisError("engine=none answers nothing and this task asks a model; choose another engine")
    if settings.repeats > 1 and not _samplings(settings, chosen[0])[0].temperature:
        raise AnalysisError(
            f"analyse.repeats={settings.repeats}: at the model's temperature 0 every repeat is the same; set "
            "analyse.temperature=0.6 (the paper's), say"
        )
    return chosen


def _write(folder: Path, result: Mapping[str, Any], texts: Sequence[str]) -> None:
    write_json(folder / RESULT, result)
    (folder / TABLES).write_text("\n\n".join(["# Understanding the reasoning", *texts]) + "\n", encoding="utf-8")


def _settled(run: Run, benchmark: Benchmark) -> Benchmark:
    """The depth and the measures of ``task=evaluate``, so that its answers serve here too."""
    evaluation = run.experiment.evaluation
    return replace(
        benchmark, depth=evaluation.depth or benchmark.depth, measures=evaluation.measures or benchmark.measures
    )


def _analysed(
    run: Run, benchmark: Benchmark, chosen: Sequence[System], store: CompletionStore, failures: list[Failure]
) -> tuple[Findings, int]:
    """One benchmark's findings, and of how many queries and windows they came."""
    experiment, settings = run.experiment, run.experiment.analyse
    with progress(f"{benchmark.name}: first stage"):
        judged = choose_queries(benchmark.judged(), settings)
    questions = Questions(benchmark, judged, settings, experiment.strategy, experiment.prompt)
    grades = {item.candidates.query.id: item.grades for item in judged}
    found = Findings(benchmark.name, benchmark.measures[0], settings, experiment.prompt.labels == "letters")
    for system in chosen:
        with progress(f"{benchmark.name}: loading {system.label}"):
            engine = experiment.engine.create(
                system.model, revision=system.revision, judgements=grades, thinking=experiment.model.thinking
            )
        before = len(failures)
        found.add(asyncio.run(_ask(run, questions, system, RecordingEngine(engine, store), failures)))
        if questions.total and len(failures) - before == questions.total:
            raise EngineError(f"{benchmark.name}, {system.label}: every call failed, the first: {failures[before]}")
    return found, questions.total * len(chosen)


async def _ask(
    run: Run, questions: Questions, system: System, recording: RecordingEngine, failures: list[Failure]
) -> SystemAnswers:
    experiment, answered = run.experiment, Counter[str]()
    what = f"{questions.benchmark.name}: {system.label}"
    samplings = _samplings(experiment.analyse, system)

    def note(seconds: float) -> str:
        return f"{answered.total()} answers"

    with progress(what, questions.total, "queries and windows", note=note) as bar:
        most = experiment.evaluation.max_concurrent_queries
        asker = Asker(recording, experiment.prompt, system.samplings[0], bar, most, failures, answered)
        try:
            answers = await questions.ask(asker, samplings, system.label)
        finally:
            await recording.aclose()
    _log.info("%s: %d calls paid for now, %d answered from the store", what, recording.paid, recording.recalled)
    return answers


def _samplings(settings: Analyse, system: System) -> list[Sampling]:
    """How the rankings of whole lists are drawn: as in an evaluation, unless a temperature is given."""
    drawn = system.samplings[0]
    if settings.temperature is not None:
        drawn = replace(drawn, temperature=settings.temperature)
    return [replace(drawn, sample=number) for number in range(settings.repeats)] if settings.repeats > 1 else [drawn]
