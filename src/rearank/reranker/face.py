"""The library's face: a query and passages in, passages in a better order out."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rearank.engines import CompletionStore, Engine, EngineNode, RecordingEngine
from rearank.engines.model import Model
from rearank.engines.session import Reranked, Session
from rearank.progress import progress
from rearank.prompts import Prompt
from rearank.ranking import Failure, Strategy
from rearank.reranker.background import Background
from rearank.reranker.inputs import PassageLike, QueryLike, as_candidates
from rearank.reranker.result import RankedPassage, RerankResult
from rearank.reranker.setup import Parts, assemble, pretrained
from rearank.types import Candidates

_log = logging.getLogger(__name__)
_WARM_UP = as_candidates("warm-up", ["one", "two"])


@dataclass
class _Machinery:
    """What is alive behind a reranker; apart from it, so that it can be closed when the reranker is gone."""

    background: Background = field(default_factory=Background)
    store: CompletionStore | None = None
    engine: Engine | None = None

    async def end(self) -> None:
        if self.engine is not None:
            await self.engine.aclose()


class Reranker:
    """Reorders passages with a language model that reasons about them.

    ``Reranker("rearank7b").rerank("query", ["one passage", "another"])``. Arguments are names of nodes of ``conf/`` or
    the objects themselves. The model is loaded with the first call and stays loaded until ``close``; ``with
    Reranker(...) as reranker:`` closes by itself. Safe to call from several threads, and inside a running event loop.

    Args:
        model: a name (``tiny``, ``rearank7b``...) or a ``rearank.engines.model.Model``.
        strategy: a name or a ``rearank.ranking.Strategy``; the model's own, or the sliding window.
        engine: a name, a node of ``rearank.engines`` or an engine; by default vLLM where this machine can run it,
            transformers otherwise, or what the model's node says.
        prompt: a name or a ``rearank.prompts.Prompt``; the model's own. One that isn't is refused.
        store: a SQLite file of the answers: an equal call is answered from there, in this process or a later one.
        max_concurrent_queries: of ``rerank_many``, under way at once; ``None`` for all.
        overrides: any key of the four nodes, as on the command line: ``["strategy.size=5"]``.

    Raises:
        ConfigError: for a name, key or value that can't be, or a prompt or strategy that isn't the model's own.
        EngineError: where this machine lacks what the engine needs; the message says what.
    """

    def __init__(
        self,
        model: str | Model = "rearank7b",
        *,
        strategy: str | Strategy | None = None,
        engine: str | EngineNode | Engine | None = None,
        prompt: str | Prompt | None = None,
        store: str | Path | None = None,
        max_concurrent_queries: int | None = 256,
        overrides: Sequence[str] = (),
    ) -> None:
        if isinstance(overrides, str):
            raise TypeError("overrides is a list: write [override] for a single one")
        given = {"model": model, "prompt": prompt, "strategy": strategy, "engine": engine}
        self.parts: Parts = assemble(given, overrides)
        self._max_concurrent_queries = max_concurrent_queries
        self._starting = asyncio.Lock()  # of the background loop alone
        self._machinery = _Machinery(store=CompletionStore(store) if store is not None else None)
        # Collected or at the program's end: the engine's processes and threads must not stay.
        self._finalizer = weakref.finalize(self, _shut_down, self._machinery)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        prompt: str | None = None,
        revision: str | None = None,
        overrides: Sequence[str] = (),
        **arguments: Any,
    ) -> Reranker:
        """The reranker at a hub id or in a folder; ``arguments`` are the others of ``Reranker``.

        A checkpoint that a node of ``conf/model`` describes brings its prompt along; any other needs ``prompt``.
        """
        model, needed = pretrained(path, prompt, revision)
        return cls(model, prompt=prompt, overrides=[*needed, *overrides], **arguments)

    @property
    def model(self) -> Model:
        """Which one."""
        return self.parts.model

    @property
    def engine_name(self) -> str:
        """``transformers``, ``vllm``..., as its class is called."""
        return type(self.parts.engine).__name__.removesuffix("Node").removesuffix("Engine").lower()

    def rerank(self, query: QueryLike, passages: Iterable[PassageLike], *, top: int | None = None) -> RerankResult:
        """The passages, best first.

        Args:
            query: a string or a ``rearank.types.Query``.
            passages: strings, mappings with ``text`` (and ``id``, ``title``) or ``rearank.types.Passage``, in the
                order of the first stage where there is one.
            top: keep so many; all are ranked in any case.

        Raises:
            EngineError: for a call that failed, or a model that can't be loaded. Never the given order instead.
            ValueError: for an empty query, two passages with one id, or ``top`` below 1.
        """
        work = as_candidates(query, passages)
        _check(top)
        return _cut(self._machinery.background.run(self._one(work)), top)

    async def arerank(
        self, query: QueryLike, passages: Iterable[PassageLike], *, top: int | None = None
    ) -> RerankResult:
        """``rerank`` for callers with an event loop of their own; a cancelled call is cancelled in the engine, too."""
        work = as_candidates(query, passages)
        _check(top)
        return _cut(await self._machinery.background.arun(self._one(work)), top)

    def rerank_many(
        self,
        pairs: Iterable[tuple[QueryLike, Iterable[PassageLike]]],
        *,
        top: int | None = None,
        failures: Literal["raise", "keep"] = "raise",
        show_progress: bool = True,
    ) -> list[RerankResult | Failure]:
        """Many queries at once, each with its passages; results in the order given.

        A failed query doesn't stop the others. At the end ``failures="raise"`` raises the first one's cause, and
        ``"keep"`` leaves a ``rearank.ranking.Failure`` in its place.
        """
        work = _numbered(pairs)
        _check(top)
        return self._machinery.background.run(self._many(work, top, failures, show_progress))

    async def arerank_many(
        self,
        pairs: Iterable[tuple[QueryLike, Iterable[PassageLike]]],
        *,
        top: int | None = None,
        failures: Literal["raise", "keep"] = "raise",
        show_progress: bool = True,
    ) -> list[RerankResult | Failure]:
        """``rerank_many`` for callers with an event loop of their own."""
        work = _numbered(pairs)
        _check(top)
        return await self._machinery.background.arun(self._many(work, top, failures, show_progress))

    def warm_up(self) -> None:
        """Load the model and have it answer one small window, so that the first caller waits for nothing.

        Raises ``EngineError`` where that fails.
        """
        self._machinery.background.run(self._one(_WARM_UP, stored=False))

    async def awarm_up(self) -> None:
        """``warm_up`` for callers with an event loop of their own."""
        await self._machinery.background.arun(self._one(_WARM_UP, stored=False))

    def close(self) -> None:
        """Let the model go; calls under way are cancelled. Closing twice is no error, calling afterwards is."""
        self._finalizer()

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _one(self, work: Candidates, *, stored: bool = True) -> RerankResult:
        [result] = await self._results([work], stored=stored)
        if isinstance(result, Failure):
            raise result.error
        return result

    async def _many(
        self, work: Sequence[Candidates], top: int | None, failures: str, show: bool
    ) -> list[RerankResult | Failure]:
        if failures not in ("raise", "keep"):
            raise ValueError(f"failures is 'raise' or 'keep', not {failures!r}")
        if not show:
            results = await self._results(work)
        else:
            await self._started()
            with progress(f"reranking with {self.model.name}", len(work), "queries") as shown:
                results = await self._results(work, shown.advance)
        lost = [result for result in results if isinstance(result, Failure)]
        if lost and failures == "raise":
            lost[0].error.add_note(f"{len(lost)} of {len(work)} queries failed; this is query {lost[0].query_id!r}")
            raise lost[0].error
        return [result if isinstance(result, Failure) else _cut(result, top) for result in results]

    async def _results(
        self, work: Sequence[Candidates], on_done: Callable[[], None] = lambda: None, *, stored: bool = True
    ) -> list[RerankResult | Failure]:
        engine = await self._started()
        if not stored and isinstance(engine, RecordingEngine):
            engine = engine.engine
        parts, found = self.parts, dict[str, RerankResult | Failure]()
        session = Session(engine, parts.prompt, parts.strategy, parts.model.sampling, self._max_concurrent_queries)

        def done(one: Reranked) -> None:
            found[one.candidates.query.id] = _result(one)
            on_done()

        await session.rerank(work, on_done=done)
        return await asyncio.to_thread(self._with_shortened, [found[item.query.id] for item in work], engine)

    def _with_shortened(
        self, results: Sequence[RerankResult | Failure], engine: Engine
    ) -> list[RerankResult | Failure]:
        """The results, each with the passages that the prompt cut; a prompt of one's own may not know."""
        shortens = getattr(self.parts.prompt, "shortens", None)
        if shortens is None:
            return list(results)
        tokenizer = getattr(engine.engine if isinstance(engine, RecordingEngine) else engine, "tokenizer", None)

        def marked(result: RerankResult) -> RerankResult:
            cut = sorted(item.index for item in result if shortens(item.passage, tokenizer))
            return replace(result, shortened=tuple(cut)) if cut else result

        return [result if isinstance(result, Failure) else marked(result) for result in results]

    async def _started(self) -> Engine:
        machinery = self._machinery
        async with self._starting:
            if machinery.engine is None:
                made = self.parts.engine
                if isinstance(made, EngineNode):
                    model = self.model
                    made = made.create(model.location, revision=model.revision, thinking=model.thinking)
                machinery.engine = made if machinery.store is None else RecordingEngine(made, machinery.store)
            return machinery.engine


def _result(one: Reranked) -> RerankResult | Failure:
    if isinstance(one.result, Failure):
        return one.result
    passages = one.candidates.passages
    place = {passage.id: index for index, passage in enumerate(passages)}
    order = [place[passage_id] for passage_id in one.result.passage_ids]
    ranked = tuple(RankedPassage(i, rank, 1 / rank, passages[i]) for rank, i in enumerate(order, start=1))
    return RerankResult(one.candidates.query, ranked, one.windows, one.seconds, one.account.cost)


def _check(top: int | None) -> None:
    if top is not None and top < 1:
        raise ValueError(f"top is the number of passages to keep and must be at least 1, not {top}")


def _cut(result: RerankResult, top: int | None) -> RerankResult:
    return result if top is None else replace(result, passages=result.passages[:top])


def _numbered(pairs: Iterable[tuple[QueryLike, Iterable[PassageLike]]]) -> list[Candidates]:
    return [as_candidates(query, passages, number) for number, (query, passages) in enumerate(pairs)]


def _shut_down(machinery: _Machinery) -> None:
    try:
        machinery.background.close(machinery.end())
    except Exception:
        _log.exception("the engine did not close in order")
    finally:
        if machinery.store is not None:
            machinery.store.close()
