"""The application behind a real socket, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from tests.rerankers import tiny

from rearank.engines import Engine, EngineNode
from rearank.serving import Serving
from rearank.serving.server import address_of, bind, uvicorn_config

QUESTION = {"query": "which number", "documents": ["one", "two", "three"]}


@contextmanager
def served(engine: EngineNode | Engine, **settings: Any) -> Iterator[httpx.Client]:
    """A client of the server, which has ended when this does."""
    import uvicorn

    from rearank.serving.app import create_app

    serving = Serving(port=0, **{"shutdown_seconds": 1, **settings})
    with bind(serving) as place, tiny(engine) as reranker:
        server = uvicorn.Server(uvicorn_config(create_app(reranker, serving), serving))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        while not server.started and thread.is_alive():  # until then the place is taken, but nobody listens
            time.sleep(0.01)
        try:
            with httpx.Client(base_url=address_of(place), timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
