"""Candidates -> rankings: the one rerank loop.

``Reranker``, evaluation, analysis and the report's replay all go through it, so that a query is asked, traced and
counted in the same way wherever it is reranked.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rearank.engines.account import Account
from rearank.engines.base import Engine
from rearank.engines.ranker import PromptRanker
from rearank.engines.recording import RecordingEngine
from rearank.engines.tracing import Tracer, WindowTrace
from rearank.parsing import ParsedRanking
from rearank.prompts import Prompt
from rearank.ranking import Failure, Ranker, Strategy, rerank_all, rerank_stream
from rearank.types import Candidates, Completion, Ranking, Sampling


@dataclass(frozen=True)
class Reranked:
    """One query's result and what led to it; ``windows`` are empty where the query wasn't traced.

    ``seconds`` is the wall time since the loop began, waiting for other queries included.
    """

    candidates: Candidates
    result: Ranking | Failure
    windows: tuple[WindowTrace, ...]
    account: Account
    seconds: float


@dataclass
class Session:
    """One engine behind one prompt, strategy and sampling; ``account`` is of all queries that it has reranked.

    Args:
        engine: answers; a ``RecordingEngine`` also takes down how each answer was parsed.
        prompt: asks.
        strategy: plans the windows.
        sampling: of every answer.
        max_concurrent_queries: under way at once; ``None`` for all.
    """

    engine: Engine
    prompt: Prompt
    strategy: Strategy
    sampling: Sampling = field(default_factory=Sampling)
    max_concurrent_queries: int | None = None
    account: Account = field(default_factory=Account, init=False)

    async def rerank(
        self,
        work: Sequence[Candidates],
        *,
        traced: Container[str] | None = None,
        on_answer: Callable[[Completion, ParsedRanking], None] | None = None,
        on_done: Callable[[Reranked], None] | None = None,
    ) -> dict[str, Ranking | Failure]:
        """A ranking or a failure for each query, in the order given.

        Args:
            work: one list a query; ids differ.
            traced: ids of the queries whose windows are kept until they are done; ``None`` for all.
            on_answer: called with each answer as it comes, and how it was parsed.
            on_done: called with each query as it is done. The session keeps none of it: memory holds what is under
                way, and what the caller keeps.

        Raises:
            ValueError: for a query id that occurs twice.
            AbortRunError: from the engine, after every other query was cancelled.
        """
        ranker_for, done = self._counted(traced, on_answer, on_done)
        return await rerank_all(
            work, self.strategy, ranker_for, max_concurrent_queries=self.max_concurrent_queries, on_done=done
        )

    async def rerank_stream(
        self,
        work: Iterable[Candidates] | AsyncIterable[Candidates],
        *,
        traced: Container[str] | None = None,
        on_answer: Callable[[Completion, ParsedRanking], None] | None = None,
        on_done: Callable[[Reranked], None],
    ) -> None:
        """As ``rerank``, of lists that are taken one by one, each when there is a place for it; nothing is kept.

        Ids of queries under way at one moment must differ. What ``work`` and ``on_done`` raise ends everything, as the
        engine's ``AbortRunError`` does.
        """
        ranker_for, done = self._counted(traced, on_answer, on_done)
        await rerank_stream(
            work, self.strategy, ranker_for, max_concurrent_queries=self.max_concurrent_queries, on_done=done
        )

    def _counted(
        self,
        traced: Container[str] | None,
        on_answer: Callable[[Completion, ParsedRanking], None] | None,
        on_done: Callable[[Reranked], None] | None,
    ) -> tuple[Callable[[Candidates], Ranker], Callable[[Ranking | Failure], None]]:
        """What makes each query's ranker, and what is called with its result."""
        under_way: dict[str, Candidates] = {}
        rankers: dict[str, PromptRanker] = {}
        tracers: dict[str, Tracer] = {}
        recorder = self.engine if isinstance(self.engine, RecordingEngine) else None
        tokenizer: Any = getattr(recorder.engine if recorder else self.engine, "tokenizer", None)
        began = time.perf_counter()

        def ranker_for(item: Candidates) -> PromptRanker:
            query = item.query.id
            under_way[query] = item
            asked: Any = self.engine
            if traced is None or query in traced:
                asked = tracers[query] = Tracer(self.engine, recorder, item)
            noted = tracers.get(query, recorder)
            rankers[query] = PromptRanker(asked, self.prompt, self.sampling, noted, tokenizer, on_answer)
            return rankers[query]

        def done(result: Ranking | Failure) -> None:
            query = result.query_id
            item = under_way.pop(query)
            account = rankers.pop(query).account if query in rankers else Account()
            self.account.add(account)
            windows = tracers.pop(query).windows() if query in tracers else ()
            if on_done is not None:
                on_done(Reranked(item, result, windows, account, time.perf_counter() - began))

        return ranker_for, done
