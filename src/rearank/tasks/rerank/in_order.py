"""The rerank loop over more queries than memory holds, with results in the order of the input.

``InOrder`` takes any lists - a file's, or a block of them - so that whoever spreads blocks over machines calls the same
code with each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from rearank.engines.session import Reranked, Session
from rearank.parsing import ParsedRanking
from rearank.ranking import Failure
from rearank.tasks.rerank.records import record_of
from rearank.types import Candidates, Completion, Ranking

T = TypeVar("T")
_AHEAD = 4
"""Times the queries under way: so many may have been read and not yet written, as one before them isn't done."""


@dataclass
class InOrder:
    """Lists in, records out, in the order of the lists; memory holds those under way and done out of turn.

    Args:
        session: reranks; its ``max_concurrent_queries`` bounds what memory holds.
        depth: the first passages of a list that are reranked.
        texts: records have titles and texts of passages.
        reasoning: records have windows.
        write: called with each record; what it raises ends everything.
        failed: called with each query that has no ranking; it has no record.
        on_answer: called with each answer, and how it was parsed.
        on_done: called as each list is done, with the length that was reranked and how many calls it took.
    """

    session: Session
    depth: int
    texts: bool
    reasoning: bool
    write: Callable[[dict[str, Any]], None]
    failed: Callable[[Failure], None]
    on_answer: Callable[[Completion, ParsedRanking], None] | None = None
    on_done: Callable[[int, int], None] = lambda length, calls: None
    strategy_scores: bool = field(default=False, init=False)
    """Whether a strategy's own scores were written, and not ``1 / rank``."""
    _waiting: dict[str, tuple[int, Candidates]] = field(default_factory=dict, init=False)
    _done: dict[int, dict[str, Any] | None] = field(default_factory=dict, init=False)
    _read: int = field(default=0, init=False)
    _written: int = field(default=0, init=False)

    async def run(self, lists: Iterable[Candidates]) -> None:
        """Rerank and write all of ``lists``, which are read in a thread of their own; query ids differ."""
        self._room = asyncio.Event()
        traced = None if self.reasoning else ()
        await self.session.rerank_stream(
            self._taken(read_apart(iter(lists))), traced=traced, on_answer=self.on_answer, on_done=self._finished
        )

    async def _taken(self, lists: AsyncIterator[Candidates]) -> AsyncIterator[Candidates]:
        most = self.session.max_concurrent_queries
        async for item in lists:
            while most is not None and self._read - self._written >= _AHEAD * most:
                self._room.clear()
                await self._room.wait()
            number, self._read = self._read, self._read + 1
            if item.passages:
                self._waiting[item.query.id] = (number, item)
                yield item.top(self.depth)
            else:  # nothing to ask
                self._turn(number, record_of(item, Ranking(item.query.id, ()), None, texts=self.texts))
                self.on_done(0, 0)

    def _finished(self, one: Reranked) -> None:
        number, given = self._waiting.pop(one.candidates.query.id)
        if isinstance(one.result, Failure):
            self.failed(one.result)
            self._turn(number, None)
        else:
            self.strategy_scores |= bool(one.result.scores)
            self._turn(number, record_of(given, one.result, one, texts=self.texts))
        self.on_done(len(one.candidates.passages), one.account.calls)

    def _turn(self, number: int, record: dict[str, Any] | None) -> None:
        """Write what is done up to the first that isn't."""
        self._done[number] = record
        while self._written in self._done:
            if (ready := self._done.pop(self._written)) is not None:
                self.write(ready)
            self._written += 1
        self._room.set()


async def read_apart(items: Iterator[T]) -> AsyncIterator[T]:
    """``items``, each read in one thread of their own when it is asked for.

    The event loop serves the engine meanwhile, however long a file, a pipe or a first stage takes. The thread doesn't
    keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    asked: SimpleQueue[asyncio.Future[list[T]] | None] = SimpleQueue()

    def read() -> None:
        while (future := asked.get()) is not None:
            found: list[T] = []
            error: Exception | None = None
            try:
                found = [next(items)]
            except StopIteration:
                pass
            except Exception as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(_answer, future, found, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    threading.Thread(target=read, name="rerank-input", daemon=True).start()
    try:
        while True:
            future: asyncio.Future[list[T]] = loop.create_future()
            asked.put(future)
            found = await future
            if not found:
                return
            yield found[0]
    finally:
        asked.put(None)


def _answer(future: asyncio.Future[list[T]], found: list[T], error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(found)
