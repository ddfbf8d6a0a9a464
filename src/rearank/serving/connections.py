"""Connections of a server, bounded before anything that comes over them is believed. Imports uvicorn.

Uvicorn has no limit on connections that send nothing, on headers that never end, or on answers that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_SLOWEST = 10_000
"""Bytes a second of an answer that a caller must take."""
_BUSY = json.dumps({"message": "this server has as many connections as it can hold; try again later"})
_FULL = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    f"Content-Length: {len(_BUSY)}\r\n\r\n{_BUSY}"
).encode()


def most_connections(wanted: int) -> tuple[int, int]:
    """How many connections to hold and how many to accept in one go, so that files are left for everything else."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return wanted, 128
    return max(min(wanted, allowed // 2), 1), max(min(128, allowed // 8), 1)


def bounded(most: int, seconds: float, most_bytes: int) -> type[H11Protocol]:
    """Uvicorn's protocol with at most ``most`` connections, and ``seconds`` in which a request's headers must be here.

    Answers that aren't read yet take ``most_bytes`` together; beyond, the connection that is open longest is ended.

    Where it is full, the oldest connection makes room that no request is worked on for: one that is idle, or whose
    request is still on its way. A new one is answered 503 only where there is none.
    """
    connections: dict[Any, None] = {}

    class Bounded(H11Protocol):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None
        _unsent = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            full = len(connections) >= most
            oldest = next(_without_work(connections), None) if full else None
            if oldest is not None:
                del connections[oldest]
                oldest.transport.abort()
            elif full:
                transport.write(_FULL)
                transport.close()
                return
            connections[self] = None
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            unsent = {one: size for one in connections if (size := one.transport.get_write_buffer_size())}
            total = sum(unsent.values())
            for one, size in unsent.items():
                if total > most_bytes and one is not self:
                    one.transport.abort()
                    total -= size
            self._watch()

        def send_400_response(self, msg: str) -> None:
            """h11 refuses this answer where another is under way, and to HEAD, which takes no body."""
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            body = json.dumps({"message": msg}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            try:
                for event in (
                    h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event))
                self.transport.close()
            except h11.LocalProtocolError:
                self.transport.close()

        def _watch(self) -> None:
            """The clock runs while no request is under way."""
            between = self.cycle is None or self.cycle.response_complete
            if not between and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            elif between and self._timer is None:
                self._unsent = self.transport.get_write_buffer_size()
                self._timer = self.loop.call_later(seconds, self._overdue)

        def _overdue(self) -> None:
            self._timer = None
            unsent = self.transport.get_write_buffer_size()
            if not unsent:
                self.transport.close()
            elif unsent > self._unsent - _SLOWEST * seconds:  # the last answer isn't read
                self.transport.abort()
            else:
                self._watch()

    return Bounded


def _without_work(connections: dict[Any, None]) -> Iterator[Any]:
    for one in connections:
        if one.cycle is None or one.cycle.response_complete or one.cycle.more_body:
            yield one
