"""How many requests are worked on, how many wait, and who is sent away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
        self._seconds = 0.0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Inside from before the body is read until the answer is ready; raises ``RequestError`` 429 where full."""
        if self._inside >= self._most:
            advice = {"Retry-After": str(self.retry_after())}
            raise RequestError(429, f"{self._inside} requests are under way or waiting; try again later", advice)
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
