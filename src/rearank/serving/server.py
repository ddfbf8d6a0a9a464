"""From a bound socket to an orderly end."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rearank.serving.limits import Serving, ServingError

_BACKLOG = 2048  # while nobody accepts yet
_LOOPBACK = ("127.", "::1", "localhost")
_log = logging.getLogger(__name__)


def bind(settings: Serving) -> socket.socket:
    """The socket to serve at, taken before a model is loaded for minutes; it refuses connections until then.

    Raises ``ServingError`` where that address can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(address)
        except OSError:
            place.close()
            raise
        return place
    except OSError as error:
        raise ServingError(
            f"serve.host={settings.host} serve.port={settings.port}: can't listen there ({error.strerror}); set "
            "another one (serve.port=0: any free port)"
        ) from error


def address_of(place: socket.socket) -> str:
    """``http://host:port``."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Any, settings: Serving, place: socket.socket, line: str) -> None:
    """Answer requests until SIGINT or SIGTERM, then let those under way finish; ``line`` is printed when it is ready.

    A server that was asked to stop and did has succeeded: the signal ends here.
    """
    import uvicorn

    if settings.key is None and not settings.host.startswith(_LOOPBACK):
        _log.warning("anyone who reaches %s can use this server: set serve.key_variable", address_of(place))
    server = uvicorn.Server(uvicorn_config(app, settings))
    with _stopped_by_signals(server):
        place.listen(_BACKLOG)  # from here on callers wait a moment instead of being refused
        print(line, flush=True)
        server.run(sockets=[place])


def uvicorn_config(app: Any, settings: Serving) -> Any:
    """The application with everything that bounds its connections."""
    import uvicorn

    from rearank.serving.connections import bounded, most_connections

    held, accepted = most_connections(settings.max_connections)
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=bounded(held, settings.header_seconds, settings.max_held_bytes),
        ws="none",
        backlog=accepted,  # asyncio accepts as many in one go
        lifespan="on",
        log_config=None,
        log_level="error",  # not a line for whatever is no HTTP
        access_log=False,  # a line a request is logged, without what was asked
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


@contextmanager
def _stopped_by_signals(server: Any) -> Iterator[None]:
    """Uvicorn stops at a signal and then raises it again for whoever listened before: that is the server alone.

    Its own handlers come late; one that arrives before them stops it, too.
    """

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
