"""An engine's own loop gives results, errors and cancellations across threads, to loops that come and go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from rearank.engines.home import Home


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home("test-home")
    yield made
    made.close()


def test_work_is_done_there_and_its_result_or_error_comes_back(home: Home) -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def fails() -> None:
        raise KeyError("this one")

    for _ in range(2):  # each run has a loop of its own
        assert asyncio.run(home.run(where())) == "test-home"
        with pytest.raises(KeyError, match="this one"):
            asyncio.run(home.run(fails()))


def test_many_at_once_each_get_their_own(home: Home) -> None:
    async def later(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 3))
        return number

    async def main() -> list[int]:
        return await asyncio.gather(*(home.run(later(number)) for number in range(200)))

    assert asyncio.run(main()) == list(range(200))


def test_a_caller_that_is_cancelled_cancels_the_work(home: Home) -> None:
    began, ended = threading.Event(), threading.Event()

    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def main() -> None:
        call = asyncio.create_task(home.run(endless()))
        await asyncio.to_thread(began.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    assert ended.wait(10)


def test_work_that_is_cancelled_there_cancels_its_caller(home: Home) -> None:
    async def given_up() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await home.run(given_up())

    asyncio.run(main())
