"""The endpoints. Imports FastAPI: load this module where a server is started."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from rearank import __version__
from rearank.engines import EngineError
from rearank.ranking import AbortRunError
from rearank.reranker import Reranker, RerankResult
from rearank.serving.gate import Gate
from rearank.serving.limits import Serving
from rearank.serving.request import RequestError, RerankRequest, parse_request
from rearank.serving.response import render
from rearank.serving.schema import RERANK_SCHEMA

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _GoneError(Exception):
    """The caller hung up."""


def create_app(reranker: Reranker, settings: Serving) -> FastAPI:
    """The application over a reranker that is warm; it is not closed here."""
    app = FastAPI(title="rearank", version=__version__, docs_url=None, redoc_url=None)
    gate = Gate(settings.max_concurrent, settings.max_waiting)
    model = reranker.model
    names = frozenset((model.name, model.path))
    began = int(time.time())

    async def in_turn(wanted: RerankRequest) -> RerankResult:
        async with gate.places:
            return await reranker.arerank(wanted.query, wanted.passages)

    async def rerank(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        version = "2" if request.url.path.startswith("/v2") else "1"
        _check_key(request, settings.key)
        with gate.admitted():
            async with _limit(settings.timeout_seconds, 504, "the answer took longer than this server allows"):
                async with _limit(settings.body_seconds, 408, "the body took too long to arrive"):
                    body = await _body(request, settings.max_bytes)
                wanted = parse_request(body, settings, names)
                result = await _unless_gone(request, in_turn(wanted))
        _log.info("%s: %d documents, %d windows, %.2f s", request_id, len(result), result.calls, result.seconds)
        return _json(render(request_id, version, model.name, wanted, result))

    async def health() -> Response:
        return _json({"status": "ok", "model": model.name, "engine": reranker.engine_name, "version": __version__})

    async def models(request: Request) -> Response:
        _check_key(request, settings.key)
        entry = {"id": model.name, "object": "model", "created": began, "owned_by": "rearank"}
        return _json({"object": "list", "data": [entry]})

    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        app.add_api_route(path, rerank, methods=["POST"], response_class=Response, openapi_extra=RERANK_SCHEMA)
    app.add_api_route("/health", health, methods=["GET"], response_class=Response)
    app.add_api_route("/v1/models", models, methods=["GET"], response_class=Response)
    _say_errors_in_json(app)
    return app


def _say_errors_in_json(app: FastAPI) -> None:
    async def refused(request: Request, error: RequestError) -> Response:
        return _json({"message": error.message}, error.status, error.headers)

    async def no_such_page(request: Request, error: HTTPException) -> Response:
        return _json({"message": str(error.detail)}, error.status_code, dict(error.headers or {}))

    async def failed(request: Request, error: Exception) -> Response:
        # The reason may name files or servers of ours: it is for the log.
        number = uuid.uuid4()
        _log.error("request %s failed", number, exc_info=error)
        return _json({"message": f"the model failed to answer; the server's log says why under {number}"}, 500)

    async def gone(request: Request, error: Exception) -> Response:
        _log.info("a caller hung up before the answer; its work was stopped")
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, no_such_page)
    app.add_exception_handler(_GoneError, gone)
    for kind in (EngineError, AbortRunError, Exception):
        app.add_exception_handler(kind, failed)


def _check_key(request: Request, key: str | None) -> None:
    if key is None:
        return
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), key.encode()):
        raise RequestError(401, "a valid key is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})


async def _body(request: Request, most: int) -> bytes:
    """The whole body; raises ``RequestError`` 413 as soon as it is longer than ``most`` bytes."""
    too_long = RequestError(413, f"the body is longer than the {most} bytes this server takes", {"Connection": "close"})
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > most:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_long
    return bytes(body)


@asynccontextmanager
async def _limit(seconds: float, status: int, message: str) -> AsyncIterator[None]:
    """``asyncio.timeout`` that answers the request with ``status``; what times out within is no affair of its."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if timeout.expired():
            raise RequestError(status, message) from None
        raise


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the caller hangs up: nobody would read it."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(hung_up())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _GoneError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # ASCII: what was sent back may hold lone surrogates, which only escapes can carry.
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")
