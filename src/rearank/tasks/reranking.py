"""One system over one benchmark's queries: what comes of each, what it cost, and how far it is."""

from __future__ import annotations

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
from rearank.tasks.experiment import Run
from rearank.tasks.tally import DIGITS, Tally
from rearank.types import Candidates, Completion, Ranking, Sampling

COST, PARTIAL = "cost.jsonl", "run.partial.trec"


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
    began = time.monotonic()

    def ranker_for(item: Candidates) -> PromptRanker:
        query = item.query.id
        tokenizer = getattr(recording.engine, "tokenizer", None)

        def told(completion: Completion) -> None:
            tally.answer(query, completion)

        ranker = PromptRanker(recording, experiment.prompt, sampling, recording, tokenizer, told)
        tally.rankers[query] = ranker
        return ranker

    shown = progress(what, len(work), "queries", note=tally.note, left=tally.left)
    with _accounted(tally, place, began, unsettled), shown as bar:

        def done(result: Ranking | Failure) -> None:
            tally.done(result)
            bar.advance()

        most = experiment.evaluation.max_concurrent_queries
        results = await rerank_all(work, experiment.strategy, ranker_for, max_concurrent_queries=most, on_done=done)
    return Outcome(results, tally.figures(), _paid(tally, began))


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
        "completion_tokens_paid_now": int(now["completion_tokens"]),
        "tokens_per_second": round(now["completion_tokens"] / max(seconds, 1e-9), 1),
        "cost_paid_now": round(now["cost"], DIGITS),
        "seconds": round(seconds, 3),
    }
