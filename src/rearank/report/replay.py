"""Every window of an evaluation again, from the completions store alone: no model is loaded and none is asked.

The strategy runs as it did, over a ranker that knows recorded answers only. So each query's windows come in their
order, with the passages that were shown, and nothing but answers need be kept while a benchmark is evaluated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rearank.engines import CompletionStore, EngineError, PromptRanker
from rearank.engines.store import call_key
from rearank.prompts import Prompt, Tokenizer
from rearank.ranking import Failure, Strategy, rerank_all
from rearank.reranker.result import WindowTrace
from rearank.reranker.tracing import Tracer
from rearank.types import Candidates, Completion, Message, Ranking, Sampling


class RecordedAnswers:
    """An engine that answers from ``store`` as the engine of that ``identity`` did, and makes up nothing."""

    def __init__(self, identity: Mapping[str, Any], store: CompletionStore) -> None:
        self._identity = dict(identity)
        self._store = store

    @property
    def identity(self) -> Mapping[str, Any]:
        """Of the engine whose answers these are."""
        return self._identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The recorded answer; raises ``EngineError`` where there is none."""
        found = self._store.get(call_key(self._identity, messages, sampling))
        if found is None:
            raise EngineError(f"{self._store.path}: this answer isn't recorded")
        return found

    async def aclose(self) -> None:
        """Nothing: the store is the caller's."""


@dataclass(frozen=True)
class Replayed:
    """One query's windows of one sample; ``complete`` says whether every answer was there."""

    query_id: str
    sample: int
    windows: tuple[WindowTrace, ...]
    complete: bool


def replay(
    work: Sequence[Candidates],
    strategy: Strategy,
    prompt: Prompt,
    engine: RecordedAnswers,
    samplings: Sequence[Sampling],
    tell: Callable[[Replayed], None],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Rerank ``work`` again; ``tell`` hears of each query as it is done, so that only what is shown need be kept."""

    async def once(number: int, sampling: Sampling) -> None:
        tracers: dict[str, Tracer] = {}

        def ranker_for(item: Candidates) -> PromptRanker:
            tracer = tracers[item.query.id] = Tracer(engine, None, item)
            return PromptRanker(tracer, prompt, sampling, tracer, tokenizer)

        def done(result: Ranking | Failure) -> None:
            windows = tracers.pop(result.query_id).windows()
            tell(Replayed(result.query_id, number, windows, isinstance(result, Ranking)))

        await rerank_all(work, strategy, ranker_for, max_concurrent_queries=1, on_done=done)

    for number, sampling in enumerate(samplings):
        asyncio.run(once(number, sampling))
