"""Who may come in, and what becomes of a body that a refusal leaves unread."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from rearank.serving.limits import Serving

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Door:
    """ASGI around the endpoints.

    A page of another origin is answered 403: a browser would let it use a server that only its user can reach. The
    rest of an unread body is taken off the line and dropped: closing the connection before would reset it, and the
    caller would never see the answer.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], settings: Serving) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        loop, unread = asyncio.get_running_loop(), True
        until = loop.time() + self._settings.body_seconds

        async def read() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            if not unread or message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    while unread:
                        await read()
            await send({"type": "http.response.body", "body": b""})

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if _is_foreign(headers, self._settings.origins):
            await _refuse(headers["origin"], answer)
        else:
            await self._app(scope, read, answer)


async def _refuse(origin: str, send: Send) -> None:
    text = f"a page of {ascii(origin)[:80]} may not use this server: serve.origins=[...] lists those that may"
    body = json.dumps({"message": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_foreign(headers: Mapping[str, str], allowed: tuple[str, ...]) -> bool:
    """Whether a page of another origin sends this.

    The page's own host must be an address or localhost: a foreign name can be pointed at this machine for a moment,
    and its page would then be of the same origin.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return False
    try:
        place = urlsplit(origin)
        name = place.hostname or ""
        if name != "localhost":
            ipaddress.ip_address(name)
    except ValueError:
        return True
    return place.netloc.lower() != headers.get("host", "").lower()
