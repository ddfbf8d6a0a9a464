"""One system over one benchmark's queries: what comes of each, what it cost, and how far it is."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rearank.data.trec import write_run
from rearank.engines import RecordingEngine
from rearank.engines.account import DIGITS, Unread, cause_of, describe_unread
from rearank.engines.recording import Spent
from rearank.engines.session import Reranked, Session
from rearank.engines.tracing import WindowTrace
from rearank.parsing import ParsedRanking
from rearank.progress import progress
from rearank.ranking import AbortRunError, Failure, Planned
from rearank.runs.layout import COST, PARTIAL_RUN, TRACES
from rearank.types import Candidates, Completion, Ranking

FIRST_ANSWERS = 50
"""After so many a row's unread answers are looked at for the first time."""
MANY = 0.1
"""Share of unread answers from which on a user is warned."""
TRACED = 8
"""Queries whose windows are kept to be read, chosen by their ids' hashes: the same ones of every system."""
TRACE_COLUMNS = (
    *("benchmark", "system", "query", "text", "window", "shown", "ordered", "status", "reasoning", "answer"),
    *("completion", "prompt_tokens", "completion_tokens", "seconds"),
)


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassResult:
    """One pass over a benchmark: a ranking or a failure for each query, and figures.

    ``figures`` follow from the answers alone, so that a run that was stopped and continued has an undisturbed one's;
    ``paid`` is what this command itself took: calls, tokens, US dollars, seconds.
    """

    results: Mapping[str, Ranking | Failure]
    figures: Mapping[str, float]
    paid: Mapping[str, float]


class UnreadError(AbortRunError):
    """More answers of a trained model than ``evaluation.max_unread`` allows can't be read."""


@dataclass(frozen=True)
class UnreadLimit:
    """What share of a row's answers may be unread.

    Args:
        most: ``evaluation.max_unread``; ``None`` allows all.
        stops: whether the run ends above it: the model was trained to rank, so that something is wrong.
        key: of the config, that sets it.
    """

    most: float | None = None
    stops: bool = False
    key: str = "evaluation.max_unread"

    def exceeded(self, unread: int, calls: int) -> bool:
        """Whether so many of ``calls`` answers are too many."""
        return self.most is not None and unread > self.most * calls

    def check(self, what: str, causes: Counter[Unread], calls: int) -> None:
        """Raises ``UnreadError`` where the limit stops the run."""
        if self.stops and self.exceeded(causes.total(), calls):
            raise UnreadError(
                f"{what}: {describe_unread(causes, calls)}. More than {self.key}={self.most:g} of a trained model's "
                "answers is a fault of the setting; what was done before is kept. Mend it and run the same command "
                f"again, or set {self.key}=null to go on all the same"
            )


class Spender(Protocol):
    """Knows what was spent so far."""

    @property
    def spent(self) -> Spent: ...


@dataclass
class AnswerWatch:
    """Answers as they come: which can't be read, how far the work is, what this command pays.

    Args:
        what: is under way, for warnings.
        recording: the engine, or what adds up several engines' work.
        limit: of unread answers.
        enough: after so many answers the limit is held for the first time.
        expected: calls of all the work, ``None`` where that isn't known; corrected as queries are done.
    """

    what: str
    recording: Spender
    limit: UnreadLimit
    enough: int
    expected: int | None = None
    windows: int = field(default=0, init=False)
    """Answers so far."""
    unread: Counter[Unread] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self._before, self._began = self.recording.spent, time.monotonic()
        self._written_before = getattr(self.recording, "written", None) or 0

    def answered(self, completion: Completion, parsed: ParsedRanking) -> None:
        """One more; raises ``UnreadError`` where the first ones show that the model's answers can't be read."""
        cause = cause_of(completion, parsed)
        self.add(1, Counter() if cause is None else Counter((cause,)))

    def add(self, windows: int, unread: Counter[Unread]) -> None:
        """So many more at once; raises as ``answered`` does."""
        before, self.windows = self.windows, self.windows + windows
        self.unread += unread
        if before < FIRST_ANSWERS <= self.windows and self.unread.total() > MANY * self.windows:
            _log.warning("%s: of the first answers, %s", self.what, describe_unread(self.unread, self.windows))
        if before < self.enough <= self.windows:
            self.limit.check(f"{self.what}, stopped early", self.unread, self.windows)

    def note(self, seconds: float) -> str:
        """Windows, those under way, the engine's speed and the cost so far."""
        now, waiting = self.recording.spent - self._before, getattr(self.recording, "under_way", 0)
        total = f"/{self.expected}" if self.expected is not None else ""
        parts = [f"{self.windows}{total} windows", *([f"{waiting} under way"] if waiting else [])]
        parts.append(f"{(self._written() or now.completion_tokens) / max(seconds, 1e-9):.0f} tokens/s")
        return ", ".join([*parts, *([f"${now.cost:.4f}"] if now.cost else [])])

    def left(self, seconds: float) -> float | None:
        """Seconds to come, by the pace of what the engine answered: what the store answers takes no time.

        Answers that are half written count by their tokens, so that it doesn't grow while a batch is under way.
        """
        now = self.recording.spent - self._before
        answered = float(now.calls - now.failed - getattr(self.recording, "under_way", 0))
        if self.expected is None or answered < 1:
            return None
        unfinished = max(self._written() - now.completion_tokens, 0) * answered / max(now.completion_tokens, 1)
        return seconds * max(self.expected - self.windows - unfinished, 0.0) / (answered + unfinished)

    def _written(self) -> int:
        """Tokens that this command's answers have so far; 0 where the engine doesn't count them."""
        return (getattr(self.recording, "written", None) or 0) - self._written_before

    def paid(self) -> dict[str, float]:
        """What this command took: calls, tokens, US dollars, seconds."""
        seconds, now = time.monotonic() - self._began, self.recording.spent - self._before
        return {
            "calls_paid_now": now.calls,
            "calls_failed_now": now.failed,
            "completion_tokens_paid_now": now.completion_tokens,
            "tokens_per_second": round(now.completion_tokens / max(seconds, 1e-9), 1),
            "cost_paid_now": round(now.cost, DIGITS),
            "seconds": round(seconds, 3),
        }

    def account(self, path: Path, ended: str, queries: int) -> None:
        """Append a line about this command to the file of costs at ``path``."""
        line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "ended": ended}
        line |= {"queries": queries, "calls": self.windows, **self.paid()}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Pass:
    """One pass of ``session`` over ``work``; what it took is appended to ``place/cost.jsonl``.

    A pass that stops early leaves the rankings it had in ``place/run.partial.trec``. Its line of costs is then written
    by ``settle``, once the engine is closed: until then calls are under way, and are being paid for.
    """

    session: Session
    recording: RecordingEngine
    work: Sequence[Candidates]
    place: Path
    limit: UnreadLimit
    rankings: dict[str, Ranking] = field(default_factory=dict, init=False)
    settle: Callable[[], None] = field(default_factory=lambda: _nothing, init=False)

    def __post_init__(self) -> None:
        strategy = self.session.strategy
        planned = strategy.calls if isinstance(strategy, Planned) else None
        self._planned = {one.query.id: int(planned(len(one.passages))) for one in self.work} if planned else None
        # A quick answer is followed by another of the same query's: the first alone could all be of one kind.
        self._enough = max(FIRST_ANSWERS, min(self.session.max_concurrent_queries or len(self.work), len(self.work)))

    async def run(self, what: str) -> PassResult:
        """Rerank, under a bar of progress that is called ``what``.

        Raises:
            UnreadError: in the middle, where the first answers show that the model's can't be read.
        """
        expected = sum(self._planned.values()) if self._planned is not None else None
        watch = AnswerWatch(what, self.recording, self.limit, self._enough, expected)
        traced = self._traced() if self.session.sampling.sample == 0 else set()
        traces: dict[str, tuple[Candidates, tuple[WindowTrace, ...]]] = {}
        with (
            self._accounted(watch),
            progress(what, len(self.work), "queries", note=watch.note, left=watch.left) as bar,
        ):

            def done(one: Reranked) -> None:
                query = one.candidates.query.id
                if query in traced:
                    traces[query] = (one.candidates, one.windows)
                if isinstance(one.result, Ranking):
                    self.rankings[query] = one.result
                if watch.expected is not None and self._planned is not None:
                    watch.expected += one.account.calls - self._planned[query]
                bar.advance()

            results = await self.session.rerank(self.work, traced=traced, on_answer=watch.answered, on_done=done)
        if traced:
            _write_traces(self.place / TRACES, traces)
        return PassResult(results, self.session.account.figures(), watch.paid())

    def _traced(self) -> set[str]:
        ids = [item.query.id for item in self.work]
        return set(sorted(ids, key=lambda query: hashlib.sha256(query.encode()).digest())[:TRACED])

    @contextmanager
    def _accounted(self, watch: AnswerWatch) -> Iterator[None]:
        """Write down what was paid and, where the block is left early, what there was until then."""
        partial_run = self.place / PARTIAL_RUN
        try:
            yield
        except BaseException as error:
            self.settle = partial(self._account, watch, f"stopped: {type(error).__name__}")
            with suppress(OSError):  # a full disk is what it may have stopped for
                write_run(
                    partial_run, {q: r.passage_ids for q, r in self.rankings.items()}, f"rearank-{self.place.name}"
                )
            raise
        partial_run.unlink(missing_ok=True)
        self._account(watch, "finished")

    def _account(self, watch: AnswerWatch, ended: str) -> None:
        watch.account(self.place / COST, ended, len(self.rankings))


def _nothing() -> None:
    """What is left to do after a pass that came to its end."""


def _write_traces(path: Path, traces: Mapping[str, tuple[Candidates, Sequence[WindowTrace]]]) -> None:
    """A line a window, in the order of their answers; passages by their ids."""
    lines = []
    for query, (item, windows) in sorted(traces.items()):
        for number, window in enumerate(windows):
            line: dict[str, Any] = {"query": query, "text": item.query.text, "window": number}
            for name, places in (("shown", window.shown), ("ordered", window.ordered)):
                line[name] = None if places is None else " ".join(item.passages[i].id for i in places)
            line |= {"status": window.status.value if window.status is not None else None}
            line |= {"reasoning": window.think, "answer": window.answer, "completion": window.text}
            line |= {"prompt_tokens": window.prompt_tokens, "completion_tokens": window.completion_tokens}
            lines.append({**line, "seconds": window.seconds})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
