"""Hours of scripted delays in a second: an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Where a loop would wait for a timer, the clock moves on to it instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is due: a coroutine waits for something that virtual time can't bring about")
        self.now += max(timeout, 0.0)
        return super().select(0)


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_virtual(main: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Run ``main`` on a clock that never waits: ``(its result, the seconds it would have taken)``.

    For coroutines that wait for timers and for one another only; a thread or a socket is real and can't be hurried.
    """
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        result = runner.run(main)
        return result, runner.get_loop().time()
