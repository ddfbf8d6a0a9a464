"""One system over one benchmark's queries: what comes of each, what it cost, and how far it is."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rearank.data.trec import write_run
from rearank.engines import PromptRanker, RecordingEngine
from rearank.progress import progress
from rearank.ranking import Failure, rerank_all
from rearank.tasks.experiment import Run
from rearank.types import Candidates, Completion, Ranking, Sampling

COST, PARTIAL = "cost.jsonl", "run.partial.trec"
_DIGITS = 9  # of dollars: below it sums differ by the order in which answers came


@dataclass(frozen=True)
class Outcome:
    """One pass over a benchmark: a ranking or a failure for each query, and figures.

    ``figures`` follow from the answers alone, so that a run that was stopped and continued has an undisturbed one's;
    ``paid`` is what this command itself took: calls, tokens, US dollars, seconds.
    """

    results: Mapping[str, Ranking | Failure]
    figures: Mapping[str, float]
    paid: Mapping[str, float]


@dataclass
class _Tally:
    """Counts answers as they come. A query's ranker is let go when the query is done: memory holds those under way."""

    planned: Mapping[str, int] | None
    recording: RecordingEngine
    counts: Counter[str] = field(default_factory=Counter)
    rankers: dict[str, PromptRanker] = field(default_factory=dict)
    answered: dict[str, list[float]] = field(default_factory=dict)
    """What each answer of a query under way cost."""
    costs: list[float] = field(default_factory=list)
    """Of finished queries."""
    windows: int = 0
    rankings: dict[str, Ranking] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expected = sum(self.planned.values()) if self.planned is not None else None
        self._before = self.paid()

    def paid(self) -> dict[str, float]:
        """What the engine was asked for since it was made."""
        made = self.recording
        return {"calls": made.paid, "completion_tokens": made.paid_tokens, "cost": made.paid_cost}

    def paid_now(self) -> dict[str, float]:
        """As ``paid``, since this pass began."""
        return {name: value - self._before[name] for name, value in self.paid().items()}

    def answer(self, query: str, completion: Completion) -> None:
        """A window of ``query`` is answered, by the engine or the store."""
        self.windows += 1
        self.answered.setdefault(query, []).append(completion.cost)
        self.counts["truncated_prompts"] += completion.prompt_truncated
        self.counts["cut_answers"] += completion.finish == "length"
        self.counts["prompt_tokens"] += completion.prompt_tokens
        self.counts["completion_tokens"] += completion.completion_tokens

    def done(self, result: Ranking | Failure) -> None:
        """``result``'s query is finished: what was planned for it becomes what it took."""
        query = result.query_id
        costs = self.answered.pop(query, [])
        self.costs.append(math.fsum(costs))  # exact, so that the order in which answers came doesn't show
        if self.expected is not None and self.planned is not None:
            self.expected += len(costs) - self.planned[query]
        ranker = self.rankers.pop(query, None)
        if ranker is not None:
            self.counts["unparsed"] += ranker.unparsed
            self.counts.update({f"status_{status.value}": count for status, count in ranker.statuses.items()})
        if isinstance(result, Ranking):
            self.rankings[query] = result

    def note(self, seconds: float) -> str:
        """Windows, the engine's speed and the cost so far, for a line of progress."""
        now = self.paid_now()
        total = f"/{self.expected}" if self.expected is not None else ""
        said = [f"{self.windows}{total} windows", f"{now['completion_tokens'] / max(seconds, 1e-9):.0f} tokens/s"]
        if now["cost"]:
            said.append(f"${now['cost']:.4f}")
        return ", ".join(said)

    def left(self, seconds: float) -> float | None:
        """Seconds to come, by the pace of what the engine answered: what the store answers takes no time."""
        paid = self.paid_now()["calls"]
        if self.expected is None or not paid:
            return None
        return seconds * max(self.expected - self.windows, 0) / paid

    def figures(self) -> dict[str, float]:
        """Those that follow from the answers, in a fixed order."""
        names = ("unparsed", "truncated_prompts", "cut_answers", "prompt_tokens", "completion_tokens")
        statuses = sorted(name for name in self.counts if name.startswith("status_"))
        counted: dict[str, float] = {name: self.counts[name] for name in (*names, *statuses)}
        return {"calls": self.windows, **counted, "cost": round(math.fsum(self.costs), _DIGITS)}


async def rerank(
    run: Run, what: str, work: Sequence[Candidates], recording: RecordingEngine, sampling: Sampling, place: Path
) -> Outcome:
    """Rerank ``work``; what it took is appended to ``place/cost.jsonl``, however it ends.

    A pass that stops early leaves the rankings it had in ``place/run.partial.trec``.
    """
    experiment = run.experiment
    planned = getattr(experiment.strategy, "calls", None)
    plan = {item.query.id: int(planned(len(item.passages))) for item in work} if planned is not None else None
    tally = _Tally(plan, recording)
    began = time.monotonic()

    def ranker_for(item: Candidates) -> PromptRanker:
        query = item.query.id
        tokenizer = getattr(recording.engine, "tokenizer", None)

        def told(completion: Completion) -> None:
            tally.answer(query, completion)

        ranker = PromptRanker(recording, experiment.prompt, sampling, recording, tokenizer, told)
        tally.rankers[query] = ranker
        return ranker

    with _accounted(tally, place, began), progress(what, len(work), "queries", note=tally.note, left=tally.left) as bar:

        def done(result: Ranking | Failure) -> None:
            tally.done(result)
            bar.advance()

        most = experiment.evaluation.max_concurrent_queries
        results = await rerank_all(work, experiment.strategy, ranker_for, max_concurrent_queries=most, on_done=done)
    return Outcome(results, tally.figures(), _paid(tally, began))


@contextmanager
def _accounted(tally: _Tally, place: Path, began: float) -> Iterator[None]:
    """Write down what was paid and, where the block is left early, what there was until then."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk is what it may have stopped for
            write_run(place / PARTIAL, {q: r.passage_ids for q, r in tally.rankings.items()}, f"rearank-{place.name}")
            _account(tally, place, began, f"stopped: {type(error).__name__}")
        raise
    (place / PARTIAL).unlink(missing_ok=True)
    _account(tally, place, began, "finished")


def _account(tally: _Tally, place: Path, began: float, ended: str) -> None:
    line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "ended": ended}
    line |= {"queries": len(tally.rankings), "calls": tally.windows, **_paid(tally, began)}
    with (place / COST).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _paid(tally: _Tally, began: float) -> dict[str, float]:
    seconds = time.monotonic() - began
    now = tally.paid_now()
    return {
        "calls_paid_now": int(now["calls"]),
        "completion_tokens_paid_now": int(now["completion_tokens"]),
        "tokens_per_second": round(now["completion_tokens"] / max(seconds, 1e-9), 1),
        "cost_paid_now": round(now["cost"], _DIGITS),
        "seconds": round(seconds, 3),
    }
