"""A request on its way in: its key, its type, its body, its time, and a caller who hangs up. Imports Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rearank.serving.door import has_key
from rearank.serving.encoding import as_json
from rearank.serving.request import RequestError

T = TypeVar("T")


class GoneError(Exception):
    """The caller hung up."""


def check_key(request: Request, key: str | None) -> None:
    """Raise ``RequestError`` 401 where a key is needed and the request has another one or none."""
    if key is None:
        return
    if not has_key(request.headers.get("authorization", ""), key):
        raise RequestError(401, "a valid key is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})


def check_type(request: Request) -> None:
    """A browser sends any other type for a foreign page without asking the server first, and so it does none at all;
    a program may leave it out.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    from_page = "origin" in request.headers or "sec-fetch-site" in request.headers
    if kind != "application/json" and (kind or from_page):
        raise RequestError(415, "the body must be JSON; send Content-Type: application/json with it")


async def read_body(request: Request, most: int, arrived: Callable[[int], None]) -> bytearray:
    """The whole body; raises ``RequestError`` 413 as soon as it is longer than ``most`` bytes."""
    too_long = RequestError(413, f"the body is longer than the {most} bytes this server takes")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > most:
        raise too_long
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_long
            arrived(len(chunk))
    except ClientDisconnect:
        raise GoneError from None
    return body


@asynccontextmanager
async def limit(seconds: float, status: int, message: str) -> AsyncIterator[None]:
    """``asyncio.timeout`` that answers the request with ``status``; what times out within is no affair of its."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if timeout.expired():
            raise RequestError(status, message) from None
        raise


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the caller hangs up: nobody would read it."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(hung_up())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``content`` as the answer's body."""
    return Response(as_json(content), status, headers, media_type="application/json")


def error_answer(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """A refusal: Cohere's clients read its ``message``, Voyage's its ``detail``."""
    return json_answer({"message": message, "detail": message}, status, headers)
