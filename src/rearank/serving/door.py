"""Who may come in, and what becomes of a body that a refusal leaves unread."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import socket
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

    A page of another origin is answered 403: a browser would let it use a server that only its user can reach. So is
    a request to a name that isn't this server's: a foreign name can be pointed at this machine for a moment, and what
    its page asks for would then be of the same origin. Who sends the key may use any name.

    The rest of an unread body is taken off the line and dropped: closing the connection before would reset it, and the
    caller would never see the answer.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], settings: Serving) -> None:
        self._app = app
        self._settings = settings
        places = (urlsplit(origin).hostname or "" for origin in settings.origins)
        self._names = {"localhost", settings.host.lower(), socket.gethostname().lower(), *places}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
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
            page = ascii(headers["origin"])[:80]
            await _refuse(f"a page of {page} may not use this server: serve.origins=[...] lists those that may", answer)
        elif not self._is_known(headers):
            name = ascii(headers["host"])[:80]
            await _refuse(
                f"{name} is no name of this server: use its address, list http://... in serve.origins, or set "
                "serve.key_variable and send the key",
                answer,
            )
        else:
            await self._app(scope, read, answer)

    def _is_known(self, headers: Mapping[str, str]) -> bool:
        """Whether the request names this server by an address or a name of its own, or comes with the key.

        Every browser names one.
        """
        host, key = headers.get("host", ""), self._settings.key
        if not host or (key is not None and has_key(headers.get("authorization", ""), key)):
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            if name not in self._names and not name.endswith(".localhost"):
                ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def has_key(authorization: str, key: str) -> bool:
    """Whether this header's value holds the key."""
    kind, _, sent = authorization.partition(" ")
    # The bytes on both sides, whatever they are: a header is read as Latin-1, the environment as this system's.
    return kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode("latin-1"), os.fsencode(key))


async def _refuse(text: str, send: Send) -> None:
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
