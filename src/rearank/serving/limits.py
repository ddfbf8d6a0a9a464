"""The section ``serve`` of the config."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from rearank.checks import check_fields, check_variable, missing_packages, shown_variable

Positive = Annotated[int, Ge(1)]
Seconds = Annotated[float, Gt(0)]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,?#@]+")


class ServingError(RuntimeError):
    """The server can't start; the message says what to set instead."""


@dataclass(frozen=True)
class Serving:
    """Where the server listens and what it takes on.

    Args:
        protocol: ``http`` for ``/v1/rerank``; ``mcp`` for the Model Context Protocol, whose tools an assistant calls.
        transport: of ``mcp`` alone: ``stdio`` for a program that starts this one and talks over its standard input and
            output; ``http`` to listen at ``host`` and ``port``, path ``/mcp``.
        host: address to listen at; another one than this machine's own (``0.0.0.0``) opens it to the network.
        port: of it; 0 for any free one, which is printed.
        key_variable: the environment variable with the key that callers send (``Authorization: Bearer ...``); ``null``
            for no key.
        max_documents: in a request.
        max_characters: of the query and the documents of a request together.
        max_bytes: of a request's body.
        max_values: strings, lists, objects and commas in a body, those within texts aside: each small value takes much
            memory.
        max_held_bytes: of the bodies on their way and the requests under way or waiting, together; and of the answers
            that are not read yet. At least ``max_bytes``.
        max_connections: held at once; where there are more, the oldest one without a request that is worked on makes
            room. At most half of the files that this process may open (``ulimit -n``).
        max_concurrent: requests worked on at once; each hands the engine every window that its strategy has ready.
        max_waiting: requests that may wait for that; another one is answered 429.
        timeout_seconds: from a request's arrival to its answer, waiting included; then it is answered 504.
        header_seconds: in which a request's headers must have arrived, on a new connection and between two requests.
        body_seconds: in which a request's body must have arrived; where as many bodies are on their way as requests may
            be under way or waiting, the oldest is given up before.
        shutdown_seconds: that requests under way are given when the server is asked to stop.
        origins: of web pages that may use this server, ``https://app.example.org`` say; browsers let them, and
            every other page is refused. Their hosts, ``host`` and this machine's name are the names by which callers
            without a key may reach the server, beside addresses and ``localhost``.
        store: a SQLite file of the model's answers, so that an equal window is never paid for twice; ``null`` for none.
    """

    protocol: Literal["http", "mcp"] = "http"
    transport: Literal["stdio", "http"] = "stdio"
    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    key_variable: str | None = None
    max_documents: Positive = 1000
    max_characters: Positive = 4_000_000
    max_bytes: Positive = 16_000_000
    max_values: Positive = 200_000
    max_held_bytes: Positive = 256_000_000
    max_connections: Positive = 512
    max_concurrent: Positive = 32
    max_waiting: Annotated[int, Ge(0)] = 128
    timeout_seconds: Seconds = 600.0
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    shutdown_seconds: Annotated[int, Ge(0)] = 10
    origins: tuple[str, ...] = ()
    store: str | None = None

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host must not be empty: 127.0.0.1 for this machine alone, 0.0.0.0 for the network")
        check_variable("key_variable", self.key_variable)
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"origins: {origin!r} is no origin; write scheme://host or scheme://host:port")
        check_fields(self)
        if self.max_held_bytes < self.max_bytes:
            raise ValueError(f"max_held_bytes must be at least max_bytes={self.max_bytes}, not {self.max_held_bytes}")

    @property
    def key(self) -> str | None:
        """What callers must send; read when it is needed, kept nowhere."""
        return os.environ.get(self.key_variable) if self.key_variable is not None else None

    @property
    def over_stdio(self) -> bool:
        """Whether standard output carries the protocol, and nothing else may be written there."""
        return self.protocol == "mcp" and self.transport == "stdio"

    def preflight(self) -> list[str]:
        """Missing packages; a variable that should hold the key and doesn't."""
        missing = missing_packages("mcp", "mcp") if self.protocol == "mcp" else []
        if not self.over_stdio:
            missing += missing_packages("serve", "fastapi", "uvicorn")
        if self.key_variable is not None and not self.key:
            missing.append(
                f"serve.key_variable={shown_variable(self.key_variable)}: this environment variable is not set; put "
                "the key that callers send there, or set serve.key_variable=null to serve without one"
            )
        return missing
