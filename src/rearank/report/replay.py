"""Every window of an evaluation again, from the completions store alone: no model is loaded and none is asked.

The strategy runs as it did, over a ranker that knows recorded answers only. So each query's windows come in their
order, with the passages that were shown, and nothing but answers need be kept while a benchmark is evaluated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rearank.engines import CompletionStore, EngineError
from rearank.engines.session import Reranked, Session
from rearank.engines.store import call_key
from rearank.engines.tracing import WindowTrace
from rearank.prompts import Prompt, Tokenizer
from rearank.ranking import Strategy
from rearank.types import Candidates, Completion, Message, Ranking, Sampling


class RecordedAnswers:
    """An engine that answers from ``store`` as the engine of that ``identity`` did, and makes up nothing."""

    def __init__(self, identity: Mapping[str, Any], store: CompletionStore, tokenizer: Tokenizer | None = None) -> None:
        self._identity = dict(identity)
        self._store = store
        self.tokenizer = tokenizer
        """For a prompt that cuts passages by tokens."""

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
    on_done: Callable[[Replayed], None],
) -> None:
    """Rerank ``work`` again; ``on_done`` gets each query as it is done, so that only what is shown need be kept."""
    for number, sampling in enumerate(samplings):

        def done(one: Reranked, number: int = number) -> None:
            complete = isinstance(one.result, Ranking)
            on_done(Replayed(one.candidates.query.id, number, one.windows, complete))

        session = Session(engine, prompt, strategy, sampling, max_concurrent_queries=1)
        asyncio.run(session.rerank(work, on_done=done))
