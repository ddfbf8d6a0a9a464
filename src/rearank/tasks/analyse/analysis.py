"""``analyse``: length, faithfulness, position bias, attacks; of the model, and of what was trained in this folder.

``<output_dir>/analysis/`` holds ``analysis.json`` (all rows; the same bytes whenever the same answers are looked at)
and ``tables.md``; per benchmark tables as CSV and LaTeX, and ``figures/``. Every call is in
``<output_dir>/completions.sqlite``: what an evaluation asked isn't asked again, and a killed analysis goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rearank.analysis import Analyse
from rearank.data import DataError
from rearank.data.benchmark import Benchmark
from rearank.engines import CompletionStore, EngineError, EngineNode, RecordingEngine
from rearank.evaluation import for_terminal
from rearank.progress import progress
from rearank.ranking import Failure
from rearank.runs import files_of
from rearank.runs.layout import ANALYSED, STORE, write_json
from rearank.runs.stage import Stage, StageError
from rearank.tasks.analyse.asking import Asker
from rearank.tasks.analyse.questions import Questions, choose_queries
from rearank.tasks.analyse.short import short_table, shortened
from rearank.tasks.analyse.tables import AnalysisTables, SystemAnswers
from rearank.tasks.evaluate import Evaluating, System, systems
from rearank.tasks.evaluate.scores import SystemWeights
from rearank.tasks.evaluate.systems import SHARED_IN_SWEEPS
from rearank.types import Sampling

TABLES = "tables.md"
_log = logging.getLogger(__name__)


class AnalysisError(RuntimeError):
    """An analysis that can't be made as asked, or too many of whose calls failed."""


def look(how: Evaluating, settings: Analyse, stage: Stage) -> None:
    """The short look of a pipeline's end: at the first benchmark; what keeps it from being made is only said."""
    first = replace(how, benchmark=how.benchmarks[0])
    few = shortened(settings)
    try:
        result = analyse(first, few, stage, brief=True)
    except (DataError, AnalysisError, EngineError, StageError) as error:
        _log.warning("no look at what training did to the answers: %s", error)
        return
    labels = [system.label for system in _chosen(first, few)]
    (part,) = result["benchmarks"].values()
    print(f"\n{short_table(part['tables'], labels)}\nmore of this: task=analyse; its rows: {stage.folder}", flush=True)


def analyse(how: Evaluating, settings: Analyse, stage: Stage, *, brief: bool = False) -> dict[str, Any]:
    """Every benchmark in turn; returns and writes ``analysis.json``, anew after each of them.

    A benchmark whose data is missing is named and left out where there are others.

    Args:
        how: the same systems are evaluated: an evaluation's answers serve here, too.
        settings: the section ``analyse``.
        stage: where, and what the result depends on.
        brief: draw no figures and print no tables.

    Raises:
        AnalysisError: for settings that don't go together; and, after everything was written, where a larger share of
            calls failed than ``evaluation.max_failed`` allows.
    """
    chosen = _chosen(how, settings)
    weights = {system.name: SystemWeights(system.model) for system in chosen}
    stage = replace(stage, files={**stage.files, **files_of(how.trained.cache, **weights)})
    folder = stage.open()
    parts: dict[str, Any] = {}
    texts: list[str] = []
    result: dict[str, Any] = {"model": how.parts.model.name, "seed": how.seed}
    store = CompletionStore(folder.parent / STORE)
    asking = _Asking(how, settings, chosen, store)
    try:
        for benchmark in how.benchmarks:
            try:
                found = asking.analysed(benchmark)
            except DataError as error:
                if len(how.benchmarks) == 1:
                    raise
                _log.error("benchmark %s is left out: %s", benchmark.name, error)
                continue
            parts[benchmark.name] = found.as_json()
            texts.append(found.write(folder / benchmark.name, figures=not brief))
            result |= {"benchmarks": parts, "failed": len(asking.failures)}
            _write(folder, result, texts)
    finally:
        store.close()
    if not parts:
        raise DataError("none of the benchmarks has its data here; the reasons are above")
    if not brief:
        text = for_terminal((folder / TABLES).read_text(encoding="utf-8"), TABLES)
        print(f"\n{text}\nfigures and tables are in {folder}", flush=True)
    if len(asking.failures) > how.settings.max_failed * asking.asked:
        raise AnalysisError(
            f"{len(asking.failures)} of {asking.asked} calls failed, the first: {asking.failures[0]}. What came of the "
            f"others is kept in {folder}: run the same command again, or allow a share of failures "
            "(evaluation.max_failed)"
        )
    return result


def _chosen(how: Evaluating, settings: Analyse) -> list[System]:
    """What an evaluation measures, but for samples: ``analyse.repeats`` and ``analyse.temperature`` say how to draw."""
    found = systems(how.parts, how.settings, how.seed, how.trained)
    chosen = [system for system in found if system.name != "base_sampled"]
    if not chosen:
        raise AnalysisError("engine=none answers nothing and this task asks a model; choose another engine")
    if settings.repeats > 1 and not _samplings(settings, chosen[0])[0].temperature:
        raise AnalysisError(
            f"analyse.repeats={settings.repeats}: at the model's temperature 0 every repeat is the same; set "
            "analyse.temperature=0.6 (the paper's), say"
        )
    return chosen


def _write(folder: Path, result: Mapping[str, Any], texts: Sequence[str]) -> None:
    write_json(folder / ANALYSED, result)
    (folder / TABLES).write_text("\n\n".join(["# Understanding the reasoning", *texts]) + "\n", encoding="utf-8")


@dataclass
class _Asking:
    """Asks every system about every benchmark."""

    how: Evaluating
    settings: Analyse
    chosen: Sequence[System]
    store: CompletionStore
    failures: list[Failure] = field(default_factory=list)
    asked: int = 0
    """Queries and windows."""

    def analysed(self, benchmark: Benchmark) -> AnalysisTables:
        """One benchmark's tables."""
        parts, settings = self.how.parts, self.settings
        with progress(f"{benchmark.name}: first stage"):
            judged = choose_queries(benchmark.judged(), settings)
        questions = Questions(benchmark, judged, settings, parts.strategy, parts.prompt)
        grades = {item.candidates.query.id: item.grades for item in judged}
        found = AnalysisTables(benchmark.name, benchmark.measures[0], settings, parts.prompt.labels == "letters")
        node = parts.engine
        assert isinstance(node, EngineNode)
        for system in self.chosen:
            with progress(f"{benchmark.name}: loading {system.label}"):
                engine = node.create(
                    system.model, revision=system.revision, judgements=grades, thinking=parts.model.thinking
                )
            with self._with_others(system) as shared:
                recording = RecordingEngine(engine, self.store, shared)
                answers, failures = asyncio.run(self._ask(questions, system, recording))
            if questions.total and len(failures) == questions.total:
                raise EngineError(f"{benchmark.name}, {system.label}: every call failed, the first: {failures[0]}")
            found.add(answers)
            self.failures += failures
        self.asked += questions.total * len(self.chosen)
        return found

    @contextmanager
    def _with_others(self, system: System) -> Iterator[CompletionStore | None]:
        """The answers of an untrained model that the jobs of a sweep share."""
        if self.how.shared is None or system.name not in SHARED_IN_SWEEPS:
            yield None
            return
        with closing(CompletionStore(self.how.shared / STORE)) as store:
            yield store

    async def _ask(
        self, questions: Questions, system: System, recording: RecordingEngine
    ) -> tuple[SystemAnswers, list[Failure]]:
        what = f"{questions.benchmark.name}: {system.label}"

        def note(seconds: float) -> str:
            return f"{asker.account.calls} answers"

        with progress(what, questions.total, "queries and windows", note=note) as bar:
            most = self.how.settings.max_concurrent_queries
            asker = Asker(recording, questions.prompt, system.samplings[0], bar, most)
            try:
                answers = await questions.ask(asker, _samplings(self.settings, system), system.label)
            finally:
                await recording.aclose()
        _log.info("%s: %d calls paid for now, %d from the store", what, recording.spent.calls, recording.recalled)
        return answers, asker.failures


def _samplings(settings: Analyse, system: System) -> list[Sampling]:
    """How the rankings of whole lists are drawn: as in an evaluation, unless a temperature is given."""
    drawn = system.samplings[0]
    if settings.temperature is not None:
        drawn = replace(drawn, temperature=settings.temperature)
    return [replace(drawn, sample=number) for number in range(settings.repeats)] if settings.repeats > 1 else [drawn]
