"""The endpoints. Imports FastAPI: load this module where a server is started."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from rearank import __version__
from rearank.engines import EngineError
from rearank.engines.model import Model
from rearank.ranking import AbortRunError
from rearank.reranker import RerankResult
from rearank.serving.door import Door
from rearank.serving.gate import Gate
from rearank.serving.intake import (
    GoneError,
    check_key,
    check_type,
    error_answer,
    json_answer,
    limit,
    read_body,
    unless_gone,
)
from rearank.serving.limits import Serving
from rearank.serving.metrics import REQUEST_ID, TYPE, Metrics, RequestIds
from rearank.serving.request import RequestError, RerankRequest, parse_request
from rearank.serving.response import render
from rearank.serving.schema import RERANK_SCHEMA
from rearank.types import Passage

PATH = "/v1/rerank"
RERANK_PATHS = (PATH, "/v2/rerank", "/rerank")
DOUBLED_PATHS = ("/v1/v1/rerank", "/v1/v2/rerank", "/v2/v2/rerank")
"""Where Cohere's clients ask with a base_url that ends in /v1 or /v2."""

_PLACES = f"POST to {', '.join(RERANK_PATHS)}; GET /health, /metrics, /v1/models"
_log = logging.getLogger(__name__)


class Answers(Protocol):
    """What the application asks: a reranker, or a way to several."""

    @property
    def model(self) -> Model: ...

    @property
    def engine_name(self) -> str: ...

    async def arerank(self, query: str, passages: Sequence[Passage]) -> RerankResult: ...


def create_app(reranker: Answers, settings: Serving) -> FastAPI:
    """The application over a reranker that is warm; it is not closed here."""
    app = FastAPI(title="rearank", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False  # it would build an address of what a caller sends as Host
    app.add_middleware(Door, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID.decode()],
        )
    gate = Gate(settings.max_concurrent, settings.max_waiting, settings.max_held_bytes)
    model = reranker.model
    metrics = Metrics(model.name, lambda: gate.inside)
    app.add_middleware(RequestIds, metrics=metrics, paths=(*RERANK_PATHS, *DOUBLED_PATHS))
    names = frozenset((model.name, model.path))
    began = int(time.time())

    async def received(request: Request) -> RerankRequest:
        async with gate.reading(settings.body_seconds) as arrived:
            body = await read_body(request, settings.max_bytes, arrived)
        with gate.holding(len(body)):
            async with gate.parsing:
                return await asyncio.to_thread(parse_request, body, settings, names)

    async def in_turn(wanted: RerankRequest) -> RerankResult:
        async with gate.places:
            return await reranker.arerank(wanted.query, wanted.passages)

    async def rerank(request: Request) -> Response:
        request_id = request.state.request_id
        version = "2" if request.scope["path"].endswith("/v2/rerank") else "1"
        check_key(request, settings.key)
        check_type(request)
        async with limit(settings.timeout_seconds, 504, "the answer took longer than this server allows"):
            wanted = await received(request)
            with gate.admitted(wanted.size):
                result = await unless_gone(request, in_turn(wanted))
        metrics.ranked(result)
        _log.info("%s: %d documents, %d windows, %.2f s", request_id, len(result), result.calls, result.seconds)
        return Response(render(request_id, version, model.name, wanted, result), media_type="application/json")

    async def health() -> Response:
        return json_answer(
            {"status": "ok", "model": model.name, "engine": reranker.engine_name, "version": __version__}
        )

    async def models(request: Request) -> Response:
        check_key(request, settings.key)
        entry = {"id": model.name, "object": "model", "created": began, "owned_by": "rearank"}
        return json_answer({"object": "list", "data": [entry]})

    async def counts(request: Request) -> Response:
        check_key(request, settings.key)
        return Response(metrics.text(), media_type=TYPE)

    async def openapi(request: Request) -> Response:
        check_key(request, settings.key)
        return json_answer(app.openapi())

    def route(path: str, method: str, endpoint: Callable[..., Any], **more: Any) -> None:
        async def options() -> Response:
            return Response(status_code=204, headers={"Allow": f"{method}, OPTIONS"})

        app.add_api_route(path, endpoint, methods=[method], response_class=Response, **more)
        app.add_api_route(path, options, methods=["OPTIONS"], include_in_schema=False)

    for path in RERANK_PATHS:
        route(path, "POST", rerank, openapi_extra=RERANK_SCHEMA)
    for path in DOUBLED_PATHS:
        route(path, "POST", rerank, include_in_schema=False)
    route("/health", "GET", health)
    route("/v1/models", "GET", models)
    route("/metrics", "GET", counts)
    route("/openapi.json", "GET", openapi, include_in_schema=False)
    _say_errors_in_json(app)
    return app


def _say_errors_in_json(app: FastAPI) -> None:
    async def refused(request: Request, error: RequestError) -> Response:
        return error_answer(error.message, error.status, error.headers)

    async def no_such_page(request: Request, error: HTTPException) -> Response:
        path, message = ascii(request.scope["path"][:80]), str(error.detail)
        if error.status_code == 404:
            message = f"{path} is not here: {_PLACES}; a client's base_url is this server's address alone"
        elif error.status_code == 405:
            message = f"{path} doesn't take {request.method[:20]!a}: {_PLACES}"
        return error_answer(message, error.status_code, dict(error.headers or {}))

    async def failed(request: Request, error: Exception) -> Response:
        # The reason may name files or servers of ours: it is for the log.
        number = request.state.request_id
        _log.error("request %s failed", number, exc_info=error)
        return error_answer(f"the model failed to answer; the server's log says why under {number}", 500)

    async def gone(request: Request, error: Exception) -> Response:
        _log.info("%s: the caller hung up before the answer; its work was stopped", request.state.request_id)
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, no_such_page)
    app.add_exception_handler(GoneError, gone)
    for kind in (EngineError, AbortRunError, Exception):
        app.add_exception_handler(kind, failed)
