"""One benchmark measured: its first stage, every system, and the best order there is of the candidates."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from rearank.data import JudgedCandidates
from rearank.engines import CompletionStore, EngineError, RecordingEngine
from rearank.progress import progress
from rearank.ranking import Failure
from rearank.runs.layout import write_json
from rearank.tasks.benchmark import Benchmark
from rearank.tasks.beside import beside_first_stage, beside_system, first_stage_row
from rearank.tasks.experiment import Run
from rearank.tasks.reranking import Outcome, rerank
from rearank.tasks.results import FIRST, IDEAL, SYSTEM, Measured, Weights, keep, open_place
from rearank.tasks.systems import System, systems
from rearank.types import Ranking

_MANY = 0.1  # share of answers without an order from which on a user is warned
_log = logging.getLogger(__name__)


def measured(run: Run, benchmark: Benchmark, store: CompletionStore, failed: list[str]) -> Iterator[Measured]:
    """Each as it is done; queries that failed are added to ``failed`` unless ``evaluation.max_failed`` allows them.

    Raises:
        DataError: where the benchmark's data is missing.
        EngineError: where the engine can't start, or every query failed.
    """
    kept = max(benchmark.depth, run.experiment.evaluation.kept_depth or 0)
    with progress(f"{benchmark.name}: first stage"):
        judged = replace(benchmark, depth=kept).judged() if kept > benchmark.depth else benchmark.judged()
    write_json(
        run.folder / "evaluation" / benchmark.name / "queries.json",
        {item.candidates.query.id: item.candidates.query.text for item in judged},
    )
    name = type(benchmark.retriever).__name__.lower()
    yield keep(
        open_place(run, benchmark, name),
        benchmark,
        [{item.candidates.query.id: _ids(item) for item in judged}],
        label=f"first stage ({name})",
        role=FIRST,
        row=first_stage_row(benchmark),
        beside=beside_first_stage(benchmark, judged),
    )
    for system in systems(run):
        yield _measure_system(run, benchmark, judged, system, store, failed)
    ideal = {item.candidates.query.id: _ideal_order(item, benchmark.depth) for item in judged}
    place = open_place(run, benchmark, "ideal")
    yield keep(place, benchmark, [ideal], label="ideal order of the candidates", role=IDEAL)


def _ids(item: JudgedCandidates) -> list[str]:
    return [passage.id for passage in item.candidates.passages]


def _ideal_order(item: JudgedCandidates, depth: int) -> list[str]:
    ids = _ids(item)
    return sorted(ids[:depth], key=lambda i: -max(item.grades.get(i, 0), 0)) + ids[depth:]


def _measure_system(
    run: Run,
    benchmark: Benchmark,
    judged: Sequence[JudgedCandidates],
    system: System,
    store: CompletionStore,
    failed: list[str],
) -> Measured:
    experiment = run.experiment
    place = open_place(run, benchmark, system.name, Weights(system.model))
    qrels = {item.candidates.query.id: item.grades for item in judged}
    with progress(f"{benchmark.name}: loading {system.label}"):
        engine = experiment.engine.create(
            system.model, revision=system.revision, judgements=qrels, thinking=experiment.model.thinking
        )
    recording = RecordingEngine(engine, store)
    # With these an answer is found again in the store, without a model: task=report shows every window so.
    write_json(
        place / "engine.json",
        {
            **{"model": system.model, "revision": system.revision, "identity": dict(recording.identity)},
            "samplings": [asdict(sampling) for sampling in system.samplings],
        },
    )
    outcomes = asyncio.run(_every_sample(run, benchmark, judged, system, recording))
    asked = sum(bool(item.candidates.passages) for item in judged)
    lost = [[str(result) for result in outcome.results.values() if isinstance(result, Failure)] for outcome in outcomes]
    for lines in lost:
        if len(lines) > experiment.evaluation.max_failed * asked:
            failed += lines
        for line in lines[:3]:
            _log.error("%s, %s: %s", benchmark.name, system.label, line)
    if asked and all(len(lines) == asked for lines in lost):
        raise EngineError(f"{benchmark.name}, {system.label}: every query failed, the first: {lost[0][0]}")
    figures = {**_total([outcome.figures for outcome in outcomes]), "failed": sum(map(len, lost))}
    paid = _total([outcome.paid for outcome in outcomes])
    _log.info("%s, %s: %s", benchmark.name, system.label, json.dumps({**figures, **paid}))
    _warn_of_unread(f"{benchmark.name}, {system.label}", figures)
    return keep(
        place,
        benchmark,
        [_rankings(outcome, judged, benchmark.depth) for outcome in outcomes],
        label=system.label,
        role=SYSTEM,
        figures=figures,
        row=system.published,
        beside=beside_system(run, benchmark, judged, system),
    )


async def _every_sample(
    run: Run, benchmark: Benchmark, judged: Sequence[JudgedCandidates], system: System, recording: RecordingEngine
) -> list[Outcome]:
    work = [item.candidates.top(benchmark.depth) for item in judged if item.candidates.passages]
    place = run.folder / "evaluation" / benchmark.name / system.name
    unsettled: list[Callable[[], None]] = []
    try:
        return [
            await rerank(run, f"{benchmark.name}: {system.label}", work, recording, sampling, place, unsettled)
            for sampling in system.samplings
        ]
    finally:
        await recording.aclose()
        with suppress(OSError):  # a full disk is what it may have stopped for
            for settle in unsettled:
                settle()


def _rankings(outcome: Outcome, judged: Sequence[JudgedCandidates], depth: int) -> dict[str, list[str]]:
    """What was reranked, then what was not but is kept (``evaluation.kept_depth``); failed queries have none."""
    tails = {item.candidates.query.id: _ids(item)[depth:] for item in judged}
    ranked = {query: result for query, result in outcome.results.items() if isinstance(result, Ranking)}
    return {query: [*result.passage_ids, *tails[query]] for query, result in ranked.items()}


def _total(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several samples: sums, and the speed of them all."""
    names = dict.fromkeys(name for figures in counts for name in figures)
    total = {name: sum(figures.get(name, 0) for figures in counts) for name in names}
    if total.get("seconds"):
        total["tokens_per_second"] = round(total["completion_tokens_paid_now"] / total["seconds"], 1)
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in total.items()}


def _warn_of_unread(what: str, figures: Mapping[str, float]) -> None:
    if figures["unparsed"] > _MANY * figures["calls"]:
        _log.warning(
            "%s: %d of %d answers named no order at all, so their windows stayed as given; what was wrong with "
            "them is counted in metrics.json (status_...), the texts are in completions.sqlite",
            *(what, figures["unparsed"], figures["calls"]),
        )
