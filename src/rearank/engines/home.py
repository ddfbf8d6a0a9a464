"""An event loop in a thread of its own, for an engine whose callers' loops come and go."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from rearank.engines.base import EngineError
from rearank.types import Completion, Message, Sampling

T = TypeVar("T")


class Home:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` there; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``'s result, computed there; a caller that is cancelled cancels it.

        As ``asyncio.wrap_future(self.submit(work))`` does it, in half the time: no thread ever waits for this one.
        """
        here = asyncio.get_running_loop()
        result: asyncio.Future[T] = here.create_future()
        task: asyncio.Task[T] | None = None

        def begin() -> None:
            nonlocal task
            task = self._loop.create_task(work)
            task.add_done_callback(hand_over)

        def end() -> None:
            assert task is not None, "it was begun by an earlier callback"
            task.cancel()

        def hand_over(done: asyncio.Task[T]) -> None:
            if not done.cancelled():
                done.exception()  # seen: a caller that was cancelled meanwhile won't collect it
            with suppress(RuntimeError):  # the caller's loop is closed
                here.call_soon_threadsafe(settle, done)

        def settle(done: asyncio.Task[T]) -> None:
            if result.done():
                return
            if done.cancelled():
                result.cancel()
            elif (error := done.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(done.result())

        self._loop.call_soon_threadsafe(begin)
        try:
            return await result
        except asyncio.CancelledError:
            with suppress(RuntimeError):  # the home is closed
                self._loop.call_soon_threadsafe(end)
            raise

    def close(self) -> None:
        """Cancel what is left and end the thread."""
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class EngineAtHome(ABC):
    """An engine that works in an event loop of its own; the loop starts with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._home: Home | None = None
        self._closed = False

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The answer; raises ``EngineError`` for a call that gets none."""
        if self._closed:
            raise EngineError("the engine is closed and answers no more calls")
        if self._home is None:
            self._home = Home(self._name)
        return await self._home.run(self._complete(tuple(messages), sampling))

    async def aclose(self) -> None:
        """End what is under way, as ``_stop`` does, and the loop."""
        self._closed = True
        home, self._home = self._home, None
        if home is not None:
            await home.run(self._stop())
            home.close()

    @abstractmethod
    async def _complete(self, messages: tuple[Message, ...], sampling: Sampling) -> Completion: ...

    @abstractmethod
    async def _stop(self) -> None: ...


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
