"""A home for the engine that blocking and awaiting callers share.

An engine belongs to the event loop that it was first called in. A notebook has a loop running already, a script has
none, a server has its own: all of them hand their work to this one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

from rearank.engines import EngineError
from rearank.engines.home import Home

T = TypeVar("T")


class Background:
    """An event loop in a thread; it starts with the first piece of work and ends with ``close``, for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home: Home | None = None
        self._closed = False
        self._under_way: set[Future[Any]] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, waited for; an interruption here (Ctrl-C) cancels it there.

        Raises ``EngineError`` where this is closed, before or meanwhile.
        """
        future = self._submit(work)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """As ``run``, awaited from any loop; cancelling this cancels it there."""
        caller = asyncio.current_task()
        try:
            return await asyncio.wrap_future(self._submit(work))
        except asyncio.CancelledError:
            if caller is not None and caller.cancelling():
                raise
            raise _closed() from None

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what is under way, run ``last``, end the thread."""
        with self._lock:
            self._closed = True
            home, self._home = self._home, None
        if home is None:
            last.close()  # nothing ran, so there is nothing to end
            return
        under_way = list(self._under_way)
        for future in under_way:
            future.cancel()
        wait(under_way)
        try:
            home.submit(last).result()
        finally:
            home.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise _closed()
            if self._home is None:
                self._home = Home("rearank-reranker")
            future = self._home.submit(work)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future


def _closed() -> EngineError:
    return EngineError("this reranker is closed; make another one")
