"""One system over one benchmark's queries: what comes of each, what it cost, and how far it is."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rearank.data.trec import write_run
from rearank.engines import PromptRanker, RecordingEngine
from rearank.progress import progress
from rearank.ranking import Failure, rerank_all
from rearank.reranker.tracing import Tracer
from rearank.tasks.experiment import Run
from rearank.tasks.tally import DIGITS, Tally
from rearank.types import Candidates, Completion, Ranking, Sampling

COST, PARTIAL, TRACES = "cost.jsonl", "run.partial.trec", "traces.jsonl"
TRACED = 8
"""Queries whose windows are kept to be read, chosen by their ids' hashes: the same ones of every system."""
TRACE_COLUMNS = (
    *("benchmark", "system", "query", "text", "window", "shown", "ordered", "status", "reasoning", "answer"),
    *("completion", "prompt_tokens", "completion_tokens", "seconds"),
)


@dataclass(frozen=True)
class Outcome:
    """One pass over a benchmark: a ranking or a failure for each query, and figures.

    ``figures`` follow from the answers alone, so that a run that was stopped and continued has an undisturbed one's;
    ``paid`` is what this command itself took: calls, tokens, US dollars, seconds.
    """

    results: Mapping[str, Ranking | Failure]
    figures: Mapping[str, float]
    paid: Mapping[str, float]


async def rerank(
    run: Run,
    what: str,
    work: Sequence[Candidates],
    recording: RecordingEngine,
    sampling: Sampling,
    place: Path,
    unsettled: list[Callable[[], None]],
) -> Outcome:
    """Rerank ``work``; what it took is appended to ``place/cost.jsonl``.

    A pass that stops early leaves the rankings it had in ``place/run.partial.trec``, and its line of costs to be
    written by a function in ``unsettled``: calls are still under way, and are being paid for, until ``recording`` is
    closed.
    """
    experiment = run.experiment
    planned = getattr(experiment.strategy, "calls", None)
    plan = {item.query.id: int(planned(len(item.passages))) for item in work} if planned is not None else None
    tally = Tally(plan, recording)
    tracers: dict[str, tuple[Candidates, Tracer]] = {}
    traced = _traced(work) if sampling.sample == 0 else set()
    began = time.monotonic()

    def ranker_for(item: Candidates) -> PromptRanker:
        query = item.query.id
        tokenizer = getattr(recording.engine, "tokenizer", None)

        def told(completion: Completion) -> None:
            tally.answer(query, completion)

        asked: RecordingEngine | Tracer = recording
        if query in traced:
            asked = Tracer(recording, recording, item)
            tracers[query] = (item, asked)
        ranker = PromptRanker(asked, experiment.prompt, sampling, asked, tokenizer, told)
        tally.rankers[query] = ranker
        return ranker

    shown = progress(what, len(work), "queries", note=tally.note, left=tally.left)
    with _accounted(tally, place, began, unsettled), shown as bar:

        def done(result: Ranking | Failure) -> None:
            tally.done(result)
            bar.advance()

        most = experiment.evaluation.max_concurrent_queries
        results = await rerank_all(work, experiment.strategy, ranker_for, max_concurrent_queries=most, on_done=done)
    if traced:
        _write_traces(place / TRACES, tracers)
    return Outcome(results, tally.figures(), _paid(tally, began))


def _traced(work: Sequence[Candidates]) -> set[str]:
    ids = [item.query.id for item in work]
    return set(sorted(ids, key=lambda query: hashlib.sha256(query.encode()).digest())[:TRACED])


def _write_traces(path: Path, tracers: Mapping[str, tuple[Candidates, Tracer]]) -> None:
    """A line a window, in the order of their answers; passages by their ids."""
    lines = []
    for query, (item, tracer) in sorted(tracers.items()):
        for number, window in enumerate(tracer.windows()):
            line: dict[str, Any] = {"query": query, "text": item.query.text, "window": number}
            for name, places in (("shown", window.shown), ("ordered", window.ordered)):
                line[name] = None if places is None else " ".join(item.passages[i].id for i in places)
            line |= {"status": window.status.value if window.status is not None else None}
            line |= {"reasoning": window.think, "answer": window.answer, "completion": window.text}
            line |= {"prompt_tokens": window.prompt_tokens, "completion_tokens": window.completion_tokens}
            lines.append({**line, "seconds": window.seconds})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@contextmanager
def _accounted(tally: Tally, place: Path, began: float, unsettled: list[Callable[[], None]]) -> Iterator[None]:
    """Write down what was paid and, where the block is left early, what there was until then."""
    try:
        yield
    except BaseException as error:
        unsettled.append(partial(_account, tally, place, began, f"stopped: {type(error).__name__}"))
        with suppress(OSError):  # a full disk is what it may have stopped for
            write_run(place / PARTIAL, {q: r.passage_ids for q, r in tally.rankings.items()}, f"rearank-{place.name}")
        raise
    (place / PARTIAL).unlink(missing_ok=True)
    _account(tally, place, began, "finished")


def _account(tally: Tally, place: Path, began: float, ended: str) -> None:
    line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "ended": ended}
    line |= {"queries": len(tally.rankings), "calls": tally.windows, **_paid(tally, began)}
    with (place / COST).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _paid(tally: Tally, began: float) -> dict[str, float]:
    seconds = time.monotonic() - began
    now = tally.paid_now()
    return {
        "calls_paid_now": int(now["calls"]),
        "calls_failed_now": int(now["failed"]),
        "completion_tokens_paid_now": int(now["completion_tokens"]),
        "tokens_per_second": round(now["completion_tokens"] / max(seconds, 1e-9), 1),
        "cost_paid_now": round(now["cost"], DIGITS),
        "seconds": round(seconds, 3),
    }
