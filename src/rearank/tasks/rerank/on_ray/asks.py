"""The actor: it holds an engine, takes a block, reranks all of it and writes its shard."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO
from uuid import uuid4

from rearank.engines import CompletionStore, Engine, OpenAINode, RecordingEngine, VllmNode
from rearank.engines.openai.budget import Spends
from rearank.engines.recording import Drains, Spent
from rearank.engines.session import Session
from rearank.ranking import AbortRunError, Failure
from rearank.reranker.setup import Parts
from rearank.runs.layout import read_json
from rearank.sections import Rerank
from rearank.tasks.evaluate.measuring import check_template
from rearank.tasks.rerank import outputs
from rearank.tasks.rerank.in_order import InOrder
from rearank.tasks.rerank.on_ray.blocks import BLOCK, Block
from rearank.tasks.rerank.on_ray.shards import PLAN, DigestedStream, Done, Shards, unshared
from rearank.tasks.rerank.records import JsonLines, TrecLines
from rearank.types import Candidates

DONE = "done"
_SHOWN = 3  # failures that are told to the driver, a shard
_EVERY = 1.0  # seconds between two looks at what the others spent


@dataclass(frozen=True)
class Work:
    """What every actor of a command is to do.

    Args:
        settings: the section ``rerank``.
        parts: model, prompt, strategy, and the engine that it makes for itself.
        shards: where results go.
        command: names this command; it stands in the plan beside the shards, where every machine must see it.
        place: the driver's working directory: a relative path of a model starts there, where the machine has it.
        purse: the actor (``budget.Purse``) that knows what all of them spent, where a budget is to be kept.
    """

    settings: Rerank
    parts: Parts
    shards: Shards
    command: str
    place: str
    purse: Any = None


def for_each(engine: Any, actors: int) -> Any:
    """``engine`` as each of ``actors`` has it: an even share of a server's calls at once, one copy of a model."""
    if isinstance(engine, OpenAINode):
        return replace(engine, max_concurrent_calls=max(1, engine.max_concurrent_calls // actors))
    if isinstance(engine, VllmNode) and engine.data_parallel is None:
        return replace(engine, data_parallel=1)
    return engine


class Asks:
    """Takes an Arrow table with a pickled block, and gives one with a pickled result.

    That is ``(Done, Spent)``, or the error that ends the command. Several blocks are at work at once, so that the
    last queries of one don't leave places empty; together they have ``max_concurrent_queries`` under way.
    """

    def __init__(self, work: Work) -> None:
        self._work, self._name = work, uuid4().hex
        self._engine: Engine | None = None
        self._error: Exception | None = None
        most = work.settings.max_concurrent_queries
        self._places = threading.Semaphore(most) if most is not None else None
        self._looking: asyncio.Task[None] | None = None
        try:
            self._begin()
        except Exception as error:  # told with the first block: Ray would only try again
            self._error = error

    def _begin(self) -> None:
        work, parts = self._work, self._work.parts
        if read_json(work.shards.folder / PLAN).get("command") != work.command:
            raise unshared(work.shards.folder, socket.gethostname())
        with suppress(OSError):
            os.chdir(work.place)
        model = parts.model
        self._engine = parts.engine.create(model.location, revision=model.revision, thinking=model.thinking)  # type: ignore[union-attr]
        check_template(self._engine, parts.prompt)

    async def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        result: Any
        try:
            block: Block | Exception = pickle.loads(table[BLOCK][0].as_py())
            if isinstance(block, Exception):
                raise block
            result = await self._take(block)
        except Exception as error:
            result = _sendable(error)
        return pa.table({DONE: pa.array([pickle.dumps(result)], pa.binary())})

    async def _take(self, block: Block) -> tuple[Done, Spent]:
        shards = self._work.shards
        if block.done and (there := shards.done(block.number)) is not None:
            return there, Spent()
        if self._error is not None:
            raise self._error
        assert self._engine is not None
        if self._work.purse is not None and self._looking is None:
            self._looking = asyncio.create_task(self._share(self._engine))
        with ExitStack() as held:
            await asyncio.to_thread(held.enter_context, shards.held(block.number, self._work.command))
            if (there := shards.done(block.number)) is not None and not there.failed:
                return there, Spent()  # of an actor that died after it
            store = CompletionStore(shards.store(block.number))
            held.callback(store.close)
            return await self._rerank(block, self._recorded(self._engine, store))

    def _recorded(self, engine: Engine, store: CompletionStore) -> RecordingEngine:
        if not isinstance(engine, Spends):
            return RecordingEngine(engine, store)
        known = engine.budget.earlier
        recording = RecordingEngine(engine, store)
        engine.budget.earlier = known  # this one store is not all that was spent
        return recording

    async def _rerank(self, block: Block, recording: RecordingEngine) -> tuple[Done, Spent]:
        """Everything that a shard holds, then the word that it is whole."""
        settings, shards, parts = self._work.settings, self._work.shards, self._work.parts
        lines, skipped = shards.lines(block.number), shards.skipped(block.number)
        lines.parent.mkdir(parents=True, exist_ok=True)
        session = Session(recording, parts.prompt, parts.strategy, parts.model.sampling)
        came = _Came()
        with outputs.partial(lines).open("wb") as file, outputs.partial(skipped).open("wb") as lacking:
            for row in block.bad:
                outputs.write_line(lacking, row)
            stream: Any = DigestedStream(file)
            writer = TrecLines(stream) if shards.trec else JsonLines(stream)
            line = InOrder(
                session,
                settings.depth,
                settings.texts,
                settings.reasoning,
                writer.write,
                partial(came.failed, lacking),
                on_done=partial(self._finished, came),
            )
            try:
                await line.run(self._in_turn(block.lists))
            except AbortRunError:
                if isinstance(recording.engine, Drains):
                    await recording.engine.drain()
                raise
            finally:
                await recording.settle()
        outputs.partial(lines).replace(lines)
        if block.bad or came.failures:
            outputs.partial(skipped).replace(skipped)
        else:
            outputs.partial(skipped).unlink()
            skipped.unlink(missing_ok=True)
        done = Done(
            number=block.number,
            queries=came.queries,
            empty=came.empty,
            bad=len(block.bad),
            failed=len(came.failures),
            failures=tuple(came.failures[:_SHOWN]),
            strategy_scores=line.strategy_scores,
            figures=session.account.figures(),
            cost=session.account.cost,
            bytes=stream.bytes,
            digest=stream.digest,
        )
        shards.finish(done)
        return done, recording.spent

    def _in_turn(self, lists: list[Candidates]) -> Iterator[Candidates]:
        """Each when there is a place for it; asked for in a thread that may wait."""
        for one in lists:
            if self._places is not None:
                self._places.acquire()
            yield one

    def _finished(self, came: _Came, length: int, calls: int) -> None:
        if self._places is not None:
            self._places.release()
        came.queries += 1
        came.empty += not length

    async def _share(self, engine: Engine) -> None:
        """Every second, what this engine spent to the purse, and what the others did to its budget."""
        assert isinstance(engine, Spends)
        while True:
            with suppress(Exception):  # the cluster is going down, which says more
                engine.budget.earlier = await self._work.purse.exchange.remote(self._name, engine.budget.now)
            await asyncio.sleep(_EVERY)


@dataclass
class _Came:
    """What a block comes to."""

    queries: int = 0
    empty: int = 0
    failures: list[str] = field(default_factory=list)

    def failed(self, lacking: BinaryIO, failure: Failure) -> None:
        self.failures.append(str(failure))
        outputs.write_line(lacking, {"error": str(failure), "query": failure.query_id})


def _sendable(error: Exception) -> Exception:
    """As it is, where another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
