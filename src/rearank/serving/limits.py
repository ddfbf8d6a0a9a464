"""The section ``serve`` of the config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec


class ServingError(RuntimeError):
    """The server can't start; the message says what to set instead."""


@dataclass(frozen=True)
class Serving:
    """Where the server listens and what it takes on.

    Args:
        host: address to listen at; another one than this machine's own (``0.0.0.0``) opens it to the network.
        port: of it; 0 for any free one, which is printed.
        key_variable: the environment variable with the key that callers send (``Authorization: Bearer ...``); ``null``
            for no key.
        max_documents: in a request.
        max_characters: of the query and the documents of a request together.
        max_bytes: of a request's body.
        max_concurrent: requests worked on at once; each hands the engine every window that its strategy has ready.
        max_waiting: requests that may wait for that; another one is answered 429.
        timeout_seconds: from a request's arrival to its answer, waiting included; then it is answered 504.
        body_seconds: in which a request's body must have arrived.
        shutdown_seconds: that requests under way are given when the server is asked to stop.
        store: a SQLite file of the model's answers, so that an equal window is never paid for twice; ``null`` for none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_variable: str | None = None
    max_documents: int = 1000
    max_characters: int = 4_000_000
    max_bytes: int = 16_000_000
    max_concurrent: int = 32
    max_waiting: int = 128
    timeout_seconds: float = 600.0
    body_seconds: float = 30.0
    shutdown_seconds: int = 10
    store: str | None = None

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host must not be empty: 127.0.0.1 for this machine alone, 0.0.0.0 for the network")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie between 0 (any free one) and 65535, not {self.port}")
        for name in ("max_documents", "max_characters", "max_bytes", "max_concurrent"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_waiting", "shutdown_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("timeout_seconds", "body_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    @property
    def key(self) -> str | None:
        """What callers must send; read when it is needed, kept nowhere."""
        return os.environ.get(self.key_variable) if self.key_variable is not None else None

    def preflight(self) -> list[str]:
        """Missing packages; a variable that should hold the key and doesn't."""
        missing = [
            f"the package {name} is missing; install rearank's extra serve: pip install -e '.[serve]'"
            for name in ("fastapi", "uvicorn")
            if find_spec(name) is None
        ]
        if self.key_variable is not None and not self.key:
            missing.append(
                f"serve.key_variable={self.key_variable}: this environment variable is not set; put the key that "
                "callers send there, or set serve.key_variable=null to serve without one"
            )
        return missing
