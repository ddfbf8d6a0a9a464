"""How many requests are worked on, how many wait, and who is sent away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from rearank.serving.request import RequestError

_LONGEST_ADVICE = 60  # seconds
_WEIGHT = 0.2  # of the newest request in the running mean


class Gate:
    """At most ``concurrent`` requests are worked on and ``waiting`` more are held, in ``most_bytes`` of memory."""

    def __init__(self, concurrent: int, waiting: int, most_bytes: int) -> None:
        self.places = asyncio.Semaphore(concurrent)
        """One for each request that is worked on, in the order they came."""
        self.parsing = asyncio.Lock()
        """Held while a body is parsed: that takes more memory for a moment."""
        self._concurrent = concurrent
        self._most = concurrent + waiting
        self._inside = 0
        self._most_bytes = most_bytes
        self._held = 0  # bytes
        self._reading: dict[asyncio.Timeout, int] = {}  # bytes of each that have arrived
        self._seconds = 0.0

    @property
    def inside(self) -> int:
        """Requests that are worked on or wait for it."""
        return self._inside

    @asynccontextmanager
    async def reading(self, seconds: float) -> AsyncIterator[Callable[[int], None]]:
        """While a body arrives, ``seconds`` at most; what it gives is called with the size of each piece.

        A slow body takes no place of a request that is here: where as many are on their way as requests are held, or
        more bytes, the oldest is given up. Raises ``RequestError`` 408 in the one given up, and 429 where there is no
        place for more.
        """
        self._refuse_where_full()
        if len(self._reading) >= self._most:
            self._give_up_oldest()
        timeout = asyncio.timeout(seconds)

        def arrived(size: int) -> None:
            if timeout not in self._reading:
                return  # given up
            self._reading[timeout] += size
            self._refuse_where_full(self._reading[timeout])
            while self._held + sum(self._reading.values()) > self._most_bytes:
                self._give_up_oldest()

        try:
            async with timeout:
                self._reading[timeout] = 0
                yield arrived
        except TimeoutError:
            raise RequestError(408, "the body took too long to arrive") from None
        finally:
            self._reading.pop(timeout, None)

    def _give_up_oldest(self) -> None:
        oldest = next(iter(self._reading))
        del self._reading[oldest]
        oldest.reschedule(asyncio.get_running_loop().time())

    def _refuse_where_full(self, size: int = 0) -> None:
        # One request alone is always taken, whatever it grows to when it is parsed.
        if self._inside >= self._most or (self._held and self._held + size > self._most_bytes):
            advice = {"Retry-After": str(self.retry_after())}
            raise RequestError(429, f"{self._inside} requests are under way or waiting; try again later", advice)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """While a request takes ``size`` bytes; raises ``RequestError`` 429 where there is no room for them."""
        self._refuse_where_full(size)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Inside once it is parsed, to ``size`` bytes, until it is answered; raises ``RequestError`` 429 where full."""
        began = time.monotonic()
        with self.holding(size):
            self._inside += 1
            try:
                yield
            finally:
                self._inside -= 1
                self._seconds += _WEIGHT * (time.monotonic() - began - self._seconds)

    def retry_after(self) -> int:
        """Whole seconds in which about one place becomes free, 1 to 60."""
        return min(max(math.ceil(self._seconds / self._concurrent), 1), _LONGEST_ADVICE)
