"""One benchmark measured: its first stage, every system, and the best order there is of the candidates."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rearank.data import JudgedCandidates
from rearank.data.benchmark import Benchmark
from rearank.engines import CompletionStore, Engine, EngineError, EngineNode, RecordingEngine
from rearank.engines.account import describe_unread, unread_of
from rearank.engines.chat import Chat
from rearank.engines.session import Session
from rearank.engines.template import example, refusal
from rearank.evaluation import trec_order
from rearank.neutral import reserved_of
from rearank.progress import progress
from rearank.prompts import Prompt
from rearank.ranking import Failure
from rearank.reranker.setup import Parts
from rearank.runs.layout import ENGINE, QUERIES, SETTINGS, STORE, read_json, write_json
from rearank.runs.reader import FIRST, IDEAL, SYSTEM
from rearank.runs.sharing import fingerprint
from rearank.sections import Evaluation
from rearank.tasks.evaluate.published import first_stage_row, published_first_stage, published_system
from rearank.tasks.evaluate.reranking import MANY, Pass, PassResult, UnreadLimit
from rearank.tasks.evaluate.scores import Places, SystemScores, SystemWeights, score_and_write
from rearank.tasks.evaluate.systems import SHARED_IN_SWEEPS, System
from rearank.types import Ranking

_log = logging.getLogger(__name__)


@dataclass
class Measuring:
    """Everything that is the same for all benchmarks of an evaluation.

    Args:
        parts: model, prompt, strategy and engine.
        systems: what is measured.
        settings: the section ``evaluation``.
        places: where results go.
        store: of answers.
        chosen: the option of each group of the config.
        shared: of a sweep's jobs: what one of them asked an untrained model no other one asks; ``None``: no sweep.
        failed: queries that failed and aren't allowed for by ``evaluation.max_failed``.
    """

    parts: Parts
    systems: Sequence[System]
    settings: Evaluation
    places: Places
    store: CompletionStore
    chosen: Mapping[str, str]
    shared: Path | None = None
    failed: list[str] = field(default_factory=list)

    def measure(self, benchmark: Benchmark) -> Iterator[SystemScores]:
        """Each system's result as it is done, the first stage's first.

        Raises:
            DataError: where the benchmark's data is missing.
            EngineError: where the engine can't start, or every query failed.
            UnreadError: where a trained model's answers can't be read; its row comes first, if it is whole.
        """
        kept = max(benchmark.depth, self.settings.kept_depth or 0)
        with progress(f"{benchmark.name}: first stage"):
            judged = benchmark.judged(kept)
        write_json(
            self.places.stage.folder / benchmark.name / QUERIES,
            {item.candidates.query.id: item.candidates.query.text for item in judged},
        )
        name = first_stage_name(benchmark)
        yield score_and_write(
            self.places.open(benchmark, name),
            benchmark,
            [{item.candidates.query.id: _first_order(item, self.settings.ties) for item in judged}],
            label=f"first stage ({getattr(benchmark.retriever, 'shown', name)})",
            role=FIRST,
            row=first_stage_row(benchmark),
            published=published_first_stage(benchmark, judged),
        )
        for system in self.systems:
            scores, limit = self._system(benchmark, judged, system), self._limit(system)
            yield scores
            limit.check(f"{benchmark.name}, {system.label}", scores.unread, scores.calls)
        ideal = {item.candidates.query.id: _ideal_order(item, benchmark.depth) for item in judged}
        place = self.places.open(benchmark, "ideal")
        yield score_and_write(place, benchmark, [ideal], label="ideal order of the candidates", role=IDEAL)

    def _system(self, benchmark: Benchmark, judged: Sequence[JudgedCandidates], system: System) -> SystemScores:
        place = self.places.open(benchmark, system.name, SystemWeights(system.model))
        qrels = {item.candidates.query.id: item.grades for item in judged}
        node, model = self.parts.engine, self.parts.model
        assert isinstance(node, EngineNode)
        with progress(f"{benchmark.name}: loading {system.label}"):
            engine = node.create(system.model, revision=system.revision, judgements=qrels, thinking=model.thinking)
        check_template(engine, self.parts.prompt)
        with self._with_others(system, place) as shared:
            return self._measured(benchmark, judged, system, place, RecordingEngine(engine, self.store, shared))

    @contextmanager
    def _with_others(self, system: System, place: Path) -> Iterator[CompletionStore | None]:
        """The answers that the sweep's jobs share of an untrained model, while no other one asks it the same."""
        if self.shared is None or system.name not in SHARED_IN_SWEEPS:
            yield None
            return
        self.shared.mkdir(parents=True, exist_ok=True)
        asked = {key: value for key, value in read_json(place / SETTINGS).items() if key != "seed"}
        with (self.shared / f"asked-{fingerprint(asked)}.lock").open("a") as lock:
            with progress(f"{system.label}: waiting for another job that asks it the same"):
                fcntl.flock(lock, fcntl.LOCK_EX)
            store = CompletionStore(self.shared / STORE)
            try:
                yield store
            finally:
                store.close()

    def _measured(
        self,
        benchmark: Benchmark,
        judged: Sequence[JudgedCandidates],
        system: System,
        place: Path,
        recording: RecordingEngine,
    ) -> SystemScores:
        engine, what = recording.engine, f"{benchmark.name}, {system.label}"
        reserved = reserved_of(getattr(engine, "tokenizer", None))
        # With these an answer is found again in the store, without a model: task=report shows every window so.
        write_json(
            place / ENGINE,
            {
                **{"model": system.model, "revision": system.revision, "identity": dict(recording.identity)},
                "samplings": [asdict(sampling) for sampling in system.samplings],
                "reserved": reserved.stored() if reserved is not None else None,
            },
        )
        work = [item.candidates.top(benchmark.depth) for item in judged if item.candidates.passages]
        parts, most = self.parts, self.settings.max_concurrent_queries
        sessions = [Session(recording, parts.prompt, parts.strategy, one, most) for one in system.samplings]
        limit = self._limit(system)
        passes = [Pass(session, recording, work, place, limit) for session in sessions]
        outcomes = asyncio.run(_every_sample(passes, recording, f"{benchmark.name}: {system.label}"))
        lost = self._lost(outcomes, what, len(work))
        figures = {**_total([outcome.figures for outcome in outcomes]), "failed": sum(map(len, lost))}
        paid = _total([outcome.paid for outcome in outcomes])
        _log.info("%s: %s", what, json.dumps({**figures, **paid}))
        causes, calls = unread_of(figures), int(figures["calls"])
        if causes.total() > MANY * calls:
            _log.warning(
                "%s: %s; their windows stayed as given, the texts are in completions.sqlite",
                *(what, describe_unread(causes, calls)),
            )
        return score_and_write(
            place,
            benchmark,
            [_rankings(outcome, judged, benchmark.depth) for outcome in outcomes],
            label=system.label,
            role=SYSTEM,
            figures=figures,
            row=system.published,
            published=published_system(parts, self.chosen, benchmark, judged, system),
            unreadable=limit.exceeded(causes.total(), calls),
        )

    def _limit(self, system: System) -> UnreadLimit:
        return UnreadLimit(self.settings.max_unread, system.trained)

    def _lost(self, outcomes: Sequence[PassResult], what: str, asked: int) -> list[list[str]]:
        """The failed queries of each sample, logged; those of samples that lost too many are added to ``failed``."""
        lost = [[str(one) for one in outcome.results.values() if isinstance(one, Failure)] for outcome in outcomes]
        for lines in lost:
            if len(lines) > self.settings.max_failed * asked:
                self.failed += lines
            for line in lines[:3]:
                _log.error("%s: %s", what, line)
        if asked and all(len(lines) == asked for lines in lost):
            raise EngineError(f"{what}: every query failed, the first: {lost[0][0]}")
        return lost


def first_stage_name(benchmark: Benchmark) -> str:
    """Under which the first stage's own row is kept."""
    return str(getattr(benchmark.retriever, "label", type(benchmark.retriever).__name__.lower()))


def check_template(engine: Engine, prompt: Prompt) -> None:
    """Raises ``EngineError`` where the template of a model on this machine refuses the prompt, in every query."""
    chat = getattr(engine, "chat", None)
    if isinstance(chat, Chat) and (reason := refusal(chat.render, example(prompt, getattr(engine, "tokenizer", None)))):
        asyncio.run(engine.aclose())
        raise EngineError(reason)


async def _every_sample(passes: Sequence[Pass], recording: RecordingEngine, what: str) -> list[PassResult]:
    try:
        return [await one.run(what) for one in passes]
    finally:
        await recording.aclose()
        with suppress(OSError):  # a full disk is what it may have stopped for
            for one in passes:
                one.settle()


def _ids(item: JudgedCandidates) -> list[str]:
    return [passage.id for passage in item.candidates.passages]


def _first_order(item: JudgedCandidates, ties: str) -> list[str]:
    """Of the first stage's own row; one that gives no scores has no ties."""
    if ties == "rank" or not item.candidates.scores:
        return _ids(item)
    return trec_order(zip(_ids(item), item.candidates.scores, strict=True))


def _ideal_order(item: JudgedCandidates, depth: int) -> list[str]:
    ids = _ids(item)
    return sorted(ids[:depth], key=lambda i: -max(item.grades.get(i, 0), 0)) + ids[depth:]


def _rankings(outcome: PassResult, judged: Sequence[JudgedCandidates], depth: int) -> dict[str, list[str]]:
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
