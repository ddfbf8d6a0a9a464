"""``task=evaluate``: rerank benchmarks, score, compare.

Per benchmark and system, ``<output_dir>/evaluation/<benchmark>/<system>/`` holds ``run.trec`` and ``metrics.json``;
every model call is in ``<output_dir>/completions.sqlite``, from which the same command goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from rearank.data import DataError, JudgedCandidates
from rearank.data.trec import write_run
from rearank.engines import CompletionStore, EngineError, NoEngine, PromptRanker, RecordingEngine, ScriptedNode
from rearank.evaluation import Cell, bootstrap_interval, paired_test, render_table, summary_row
from rearank.progress import progress
from rearank.ranking import Failure, rerank_all
from rearank.tasks.benchmark import Benchmark
from rearank.tasks.environment import environment
from rearank.tasks.experiment import Run
from rearank.tasks.stage import changed_settings, open_stage
from rearank.tasks.train import TRAINED_WITH, stage_settings, training_folder
from rearank.training.base import result_of, write_json
from rearank.types import Candidates, Completion, Ranking, Sampling

_MANY = 0.1  # share of answers without an order from which on a user is warned
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


@dataclass(frozen=True)
class System:
    """One thing that ranks: a model and how its answers are drawn."""

    name: str
    label: str
    model: str
    revision: str | None
    samplings: tuple[Sampling, ...]


@dataclass(frozen=True)
class Measured:
    """A system's value of the main measure for every query, averaged over its samples."""

    name: str
    label: str
    values: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Over queries."""
        return fmean(self.values.values())


@dataclass(frozen=True)
class _Outcome:
    """One pass over a benchmark: a ranking or a failure for each query, and what it cost."""

    results: Mapping[str, Ranking | Failure]
    figures: Mapping[str, int]


def systems(run: Run) -> list[System]:
    """What there is to measure: the model as it is, its samples, and what was trained from it."""
    experiment, settings = run.experiment, run.experiment.evaluation
    if isinstance(experiment.engine, NoEngine):
        return []
    model = experiment.model
    if isinstance(experiment.engine, ScriptedNode):  # it looks at no model
        label = f"scripted: {experiment.engine.behaviour}"
        return [System("scripted", label, model.location, model.revision, (model.sampling,))]
    found = [System("base", f"{model.name}, greedy", model.location, model.revision, (model.sampling,))]
    if model.temperature:
        found = [replace(found[0], label=model.name)]
    if settings.samples:
        drawn = replace(model.sampling, temperature=settings.sample_temperature, seed=experiment.seed)
        samples = tuple(replace(drawn, sample=number) for number in range(settings.samples))
        label = f"{model.name}, mean of {len(samples)} samples" if len(samples) > 1 else f"{model.name}, one sample"
        found.append(System("base_sampled", label, model.location, model.revision, samples))
    trained = result_of(training_folder(run)) if settings.trained else None
    if trained is not None:
        name = trained_name(run)
        label = f"{model.name} after {name.upper()} (step {trained.best_step})"
        if changed := changed_settings(training_folder(run), stage_settings(run, *TRAINED_WITH)):
            _log.warning("%s was trained with other settings than this command's: %s", trained.model, changed)
        found.append(System(name, label, trained.model, None, (model.sampling,)))
    return found


def trained_name(run: Run) -> str:
    """Of the checkpoint trained in this folder: the algorithm's, as chosen."""
    return run.choices.get("algorithm", "trained")


def evaluate(run: Run) -> dict[str, Any]:
    """Every benchmark in turn; returns and writes ``summary.json``.

    A benchmark whose data is missing is named and left out where there are others.

    Raises:
        EvaluationError: after everything was written, where too many queries failed.
    """
    benchmarks = run.experiment.benchmark.benchmarks
    summaries: dict[str, Any] = {}
    failed: list[str] = []
    store = CompletionStore(run.folder / "completions.sqlite")
    try:
        for benchmark in benchmarks:
            try:
                summaries[benchmark.name] = _evaluate_one(run, benchmark, store, failed)
            except DataError as error:
                if len(benchmarks) == 1:
                    raise
                _log.error("benchmark %s is left out: %s", benchmark.name, error)
    finally:
        store.close()
    if not summaries:
        raise DataError(f"none of the {len(benchmarks)} benchmarks has its data here; the reasons are above")
    only = next(iter(summaries.values()))
    summary = only if len(benchmarks) == 1 else {"benchmarks": summaries, "seed": run.experiment.seed}
    write_json(run.folder / "summary.json", summary)
    _track(run, summaries)
    if failed:
        raise EvaluationError(
            f"{len(failed)} queries failed, the first: {failed[0]}. Everything else is kept in {run.folder}: "
            "mend the cause and run the same command again, or allow a share of failures (evaluation.max_failed)"
        )
    return dict(summary)


def _track(run: Run, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """The means, as ``test/<benchmark>/<system>``."""
    experiment = run.experiment
    tracker = experiment.tracking.open(run.folder / "evaluation", experiment.name, run.config, "evaluate")
    try:
        tracker.jsonl.rewind(-1)
        means = {
            f"test/{benchmark}/{name}": value
            for benchmark, summary in summaries.items()
            for name, value in summary.items()
            if isinstance(value, float) and not name.startswith("p_value")
        }
        tracker.log(means, 0)
    finally:
        tracker.close()


def _evaluate_one(run: Run, benchmark: Benchmark, store: CompletionStore, failed: list[str]) -> dict[str, Any]:
    with progress(f"{benchmark.name}: first stage"):
        judged = benchmark.judged()
    folder = run.folder / "evaluation" / benchmark.name
    first = {item.candidates.query.id: [p.id for p in item.candidates.passages] for item in judged}
    first_name = type(benchmark.retriever).__name__.lower()
    results = [_keep(run, benchmark, folder, first_name, f"first stage ({first_name})", [first], {})]
    for system in systems(run):
        results.append(_measure(run, benchmark, judged, system, store, folder, failed))
    ideal = {item.candidates.query.id: _ideal_order(item) for item in judged}
    results.append(_keep(run, benchmark, folder, "ideal", "ideal order of the candidates", [ideal], {}))
    return _report(run, benchmark, folder, results)


def _ideal_order(item: JudgedCandidates) -> list[str]:
    ids = [passage.id for passage in item.candidates.passages]
    return sorted(ids, key=lambda i: -max(item.grades.get(i, 0), 0))


def _measure(
    run: Run,
    benchmark: Benchmark,
    judged: Sequence[JudgedCandidates],
    system: System,
    store: CompletionStore,
    folder: Path,
    failed: list[str],
) -> Measured:
    experiment = run.experiment
    qrels = {item.candidates.query.id: item.grades for item in judged}
    with progress(f"{benchmark.name}: loading {system.label}"):
        engine = experiment.engine.create(system.model, revision=system.revision, judgements=qrels)
    work = [item.candidates for item in judged if item.candidates.passages]
    recording = RecordingEngine(engine, store)

    async def every_sample() -> list[_Outcome]:
        try:
            return [
                await _rerank(run, f"{benchmark.name}: {system.label}", work, recording, s) for s in system.samplings
            ]
        finally:
            await recording.aclose()

    runs, counts = [], []
    for outcome in asyncio.run(every_sample()):
        lost = [str(result) for result in outcome.results.values() if isinstance(result, Failure)]
        if len(lost) > experiment.evaluation.max_failed * len(work):
            failed += lost
        for line in lost[:3]:
            _log.error("%s, %s: %s", benchmark.name, system.label, line)
        runs.append({q: list(r.passage_ids) for q, r in outcome.results.items() if isinstance(r, Ranking)})
        counts.append({**outcome.figures, "failed": len(lost)})
    unread, asked = sum(c["unparsed"] for c in counts), sum(c["calls"] for c in counts)
    if unread > _MANY * asked:
        _log.warning(
            "%s, %s: %d of %d answers named no order at all, so their windows stayed as given; what was wrong with "
            "them is counted in metrics.json (status_...), the texts are in completions.sqlite",
            *(benchmark.name, system.label, unread, asked),
        )
    if not any(runs):
        raise EngineError(f"{benchmark.name}, {system.label}: every query failed, the first: {failed[0]}")
    _log.info("%s, %s: %s", benchmark.name, system.label, json.dumps(_total(counts)))
    return _keep(run, benchmark, folder, system.name, system.label, runs, _total(counts))


async def _rerank(
    run: Run, what: str, work: Sequence[Candidates], recording: RecordingEngine, sampling: Sampling
) -> _Outcome:
    experiment = run.experiment
    rankers: list[PromptRanker] = []
    planned = getattr(experiment.strategy, "calls", None)
    total = sum(planned(len(item.passages)) for item in work) if planned is not None else None
    already = recording.paid
    with progress(what, total, "windows") as shown:

        def told(completion: Completion) -> None:
            shown.advance()

        def ranker_for(item: Candidates) -> PromptRanker:
            tokenizer = getattr(recording.engine, "tokenizer", None)
            rankers.append(PromptRanker(recording, experiment.prompt, sampling, recording, tokenizer, told))
            return rankers[-1]

        most = experiment.evaluation.max_concurrent_queries
        results = await rerank_all(work, experiment.strategy, ranker_for, max_concurrent_queries=most)
    statuses: Counter[str] = Counter()
    for ranker in rankers:
        statuses.update({f"status_{status.value}": count for status, count in ranker.statuses.items()})
    figures = {
        "calls": sum(statuses.values()),
        "calls_paid_now": recording.paid - already,
        "unparsed": sum(r.unparsed for r in rankers),
        "truncated_prompts": sum(r.truncated_prompts for r in rankers),
        "cut_answers": sum(r.cut_answers for r in rankers),
        "prompt_tokens": sum(r.prompt_tokens for r in rankers),
        "completion_tokens": sum(r.completion_tokens for r in rankers),
        **statuses,
    }
    return _Outcome(results, figures)


def _total(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for figures in counts:
        total.update(figures)
    return dict(total)


def _keep(
    run: Run,
    benchmark: Benchmark,
    folder: Path,
    name: str,
    label: str,
    runs: Sequence[Mapping[str, Sequence[str]]],
    counts: Mapping[str, int],
) -> Measured:
    """Score the runs of a system and write them; several runs are samples, whose values are averaged."""
    keys = ("model", "prompt", "strategy", "engine", "evaluation", "benchmark", "retriever", "seed")
    place = open_stage(folder / name, run.settings(*keys))
    scored = [benchmark.score(ranked) for ranked in runs]
    per_query = {
        measure: {query: fmean(sample[measure][query] for sample in scored) for query in scored[0][measure]}
        for measure in scored[0]
    }
    for number, ranked in enumerate(runs):
        write_run(place / ("run.trec" if len(runs) == 1 else f"run-{number}.trec"), ranked, f"rearank-{name}")
    intervals = {measure: bootstrap_interval(list(values.values())) for measure, values in per_query.items()}
    write_json(
        place / "metrics.json",
        {
            "system": label,
            "benchmark": benchmark.name,
            "mean": {measure: fmean(values.values()) for measure, values in per_query.items()},
            "interval_95": intervals,
            "queries": {measure: len(values) for measure, values in per_query.items()},
            "calls": dict(counts),
            "per_query": per_query,
            "environment": environment(),
        },
    )
    return Measured(name, label, per_query[benchmark.measures[0]])


def _heading(measure: str) -> str:
    """``nDCG@10`` for ``ndcg_cut_10``; other names stay trec_eval's."""
    return f"nDCG@{measure.removeprefix('ndcg_cut_')}" if measure.startswith("ndcg_cut_") else measure


def _comparable(a: Measured, b: Measured) -> bool:
    """A paired test needs the same queries on both sides (``missing=skip`` leaves failed ones out), two at least."""
    return a.values.keys() == b.values.keys() and len(a.values) > 1


def _report(run: Run, benchmark: Benchmark, folder: Path, results: Sequence[Measured]) -> dict[str, Any]:
    """The table, on screen and in ``table.md``, and the summary."""
    first, ideal = results[0], results[-1]
    rows: list[dict[str, Cell]] = []
    for result in results:
        comparable = result not in (first, ideal) and _comparable(first, result)
        compared = first.values if comparable else None
        rows.append(summary_row(result.label, result.values, compared, measure=_heading(benchmark.measures[0])))
    table = render_table(rows)
    lines = [f"{benchmark.name}: {len(first.values)} queries, first {benchmark.depth} candidates; differences are to "
             f"the first stage, intervals are 95% bootstrap", "", table]  # fmt: skip
    summary: dict[str, Any] = {result.name: result.mean for result in results}
    trained = trained_name(run)
    by_name = {result.name: result for result in results}
    if trained in by_name and _comparable(by_name["base"], by_name[trained]):
        test = paired_test(by_name["base"].values, by_name[trained].values)
        against_first = paired_test(first.values, by_name[trained].values)
        lines += [
            "",
            f"{by_name[trained].label} against {by_name['base'].label}: {test.mean_difference:+.4f} "
            f"(paired t-test p = {test.p_value:.2g}, randomisation p = {test.p_randomisation:.2g}; "
            f"better on {test.wins}, equal on {test.ties}, worse on {test.losses})",
        ]
        summary |= {"p_value": test.p_value, f"p_value_{first.name}": against_first.p_value, "test": asdict(test)}
    summary |= {
        "measure": benchmark.measures[0],
        "queries": len(first.values),
        "seed": run.experiment.seed,
        "model": run.experiment.model.name,
    }
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines) + "\n", flush=True)
    return summary
