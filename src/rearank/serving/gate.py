"""How many requests are worked on, how many wait, and who is sent away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rearank.serving.request import RequestError

_LONGEST_ADVICE = 60  # seconds
_WEIGHT = 0.2  # of the newest request in the running mean


class Gate:
    """At most ``concurrent`` requests are worked on and ``waiting`` more are held in memory."""

    def __init__(self, concurrent: int, waiting: int) -> None:
        self.places = asyncio.Semaphore(concurrent)
        """One for each request that is worked on, in the order they came."""
        self._concurrent = concurrent
        self._most = concurrent + waiting
        self._inside = 0
        self._reading: dict[asyncio.Timeout, None] = {}
        self._seconds = 0.0

    @asynccontextmanager
    async def reading(self, seconds: float) -> AsyncIterator[None]:
        """While a body arrives, ``seconds`` at most.

        A slow body takes no place of a request that is here: where as many are on their way as requests are held, the
        oldest is given up. Raises ``RequestError`` 408 in the one given up, and 429 where there is no place for more.
        """
        self._refuse_where_full()
        if len(self._reading) >= self._most:
            oldest = next(iter(self._reading))
            del self._reading[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                self._reading[timeout] = None
                yield
        except TimeoutError:
            raise RequestError(408, "the body took too long to arrive") from None
        finally:
            self._reading.pop(timeout, None)

    def _refuse_where_full(self) -> None:
        if self._inside >= self._most:
            advice = {"Retry-After": str(self.retry_after())}
            raise RequestError(429, f"{self._inside} requests are under way or waiting; try again later", advice)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Inside once the body is here until the answer is ready; raises ``RequestError`` 429 where full."""
        self._refuse_where_full()
        self._inside += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._inside -= 1
            self._seconds += _WEIGHT * (time.monotonic() - began - self._seconds)

    def retry_after(self) -> int:
        """Whole seconds in which about one place becomes free, 1 to 60."""
        return min(max(math.ceil(self._seconds / self._concurrent), 1), _LONGEST_ADVICE)
