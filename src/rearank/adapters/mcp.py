"""An MCP server: the tools ``rerank`` and ``explain`` for assistants. Needs the extra ``mcp``, and ``serve`` for HTTP.

``python run.py task=serve serve.protocol=mcp`` is what an assistant starts; so does any client of MCP::

    command = "run.py task=serve serve.protocol=mcp model=tiny engine=transformers"
    async with Client(StdioServerParameters(command="python", args=command.split())) as client:
        answer = await client.call_tool("rerank", {"query": "soup", "documents": ["old bread", "hot soup"]})
        print(answer.structured_content["results"])

``serve.transport=http`` listens at ``http://host:port/mcp`` instead, without sessions. What goes in and what comes out
is ``/v1/rerank``'s, and so are the limits; a refusal is the tool's error, for the assistant to read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import TextIOWrapper
from typing import Any, BinaryIO

from rearank import __version__
from rearank.engines import EngineError
from rearank.ranking import AbortRunError
from rearank.reranker import Reranker
from rearank.serving import Serving, ServingError
from rearank.serving.encoding import as_json
from rearank.serving.gate import Gate
from rearank.serving.request import RequestError, RerankRequest, check_values, read_fields
from rearank.serving.response import render
from rearank.serving.schema import TOOL_SCHEMA

try:
    import anyio
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
except ImportError as error:
    raise ImportError(
        "rearank.adapters.mcp needs MCP's SDK: install rearank's extra mcp (pip install -e '.[mcp]')"
    ) from error

PATH = "/mcp"
_WHAT = {
    "rerank": "Order documents by how well they answer a query, best first. Gives each document's index in the list "
    "that was sent, and its text where return_documents is true.",
    "explain": "As rerank, and also why: for each window of documents that the model read, its reasoning and the order "
    "that it gave.",
}
_log = logging.getLogger(__name__)


class Tools:
    """Answers the tools' calls within the limits of ``settings``; ``gate`` is shared with whatever reads requests."""

    def __init__(self, reranker: Reranker, settings: Serving) -> None:
        self.settings = settings
        self.gate = Gate(settings.max_concurrent, settings.max_waiting, settings.max_held_bytes)
        self._reranker = reranker
        self._names = frozenset((reranker.model.name, reranker.model.path))

    def server(self) -> Any:
        """MCP's own server with both tools."""
        described = [types.Tool(name=name, description=what, input_schema=TOOL_SCHEMA) for name, what in _WHAT.items()]

        async def list_tools(context: Any, params: Any) -> Any:
            return types.ListToolsResult(tools=described)

        async def call_tool(context: Any, params: Any) -> Any:
            return await self._call(params.name, params.arguments or {})

        return Server("rearank", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        number = str(uuid.uuid4())
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                answer = await self._answer(name, arguments, number)
        except RequestError as error:
            return _result(error.message, refused=True)
        except TimeoutError:
            return _result("the answer took longer than this server allows", refused=True)
        except (EngineError, AbortRunError) as error:
            # The reason may name files or servers of ours: it is for the log.
            _log.error("call %s failed", number, exc_info=error)
            return _result(f"the model failed to answer; the server's log says why under {number}", refused=True)
        found = json.loads(answer)
        del found["data"]  # the results again, for clients of Voyage: an assistant would read them twice
        return _result(as_json(found).decode(), found)

    async def _answer(self, name: str, arguments: Mapping[str, Any], number: str) -> bytes:
        if name not in _WHAT:
            raise RequestError(404, f"{name[:80]!a} is no tool of this server; it has {' and '.join(_WHAT)}")
        asked = {**arguments, "return_reasoning": name == "explain"}
        wanted: RerankRequest = await asyncio.to_thread(read_fields, asked, self.settings, self._names)
        with self.gate.admitted(wanted.size):
            async with self.gate.places:
                result = await self._reranker.arerank(wanted.query, wanted.passages)
        _log.info("%s: %d documents, %d windows, %.2f s", number, len(result), result.calls, result.seconds)
        return render(number, "1", self._reranker.model.name, wanted, result)


def _result(text: str, structured: Any = None, *, refused: bool = False) -> Any:
    content = [types.TextContent(type="text", text=text)]
    return types.CallToolResult(content=content, structured_content=structured, is_error=refused)


def serve_stdio(reranker: Reranker, settings: Serving, output: BinaryIO) -> None:
    """Answer what standard input asks, on ``output``, until it ends or SIGINT or SIGTERM comes.

    The model is loaded meanwhile, as an assistant waits for the first answer (the list of tools) for seconds only.

    Raises:
        EngineError: where the model can't be loaded.
        ServingError: for a message of more than ``serve.max_bytes``, or a standard input that is no pipe.
    """
    asyncio.run(_over_stdio(reranker, settings, output))


async def _over_stdio(reranker: Reranker, settings: Serving, output: BinaryIO) -> None:
    lines = await _Lines.of_standard_input(settings.max_bytes)
    server = Tools(reranker, settings).server()

    async def answer() -> None:
        text = TextIOWrapper(output, encoding="utf-8", newline="\n")
        try:
            async with stdio_server(lines, anyio.wrap_file(text)) as (received, sent):
                await server.run(received, sent, server.create_initialization_options())
        finally:
            text.detach()  # it would close what isn't ours

    serving, loading = asyncio.create_task(answer()), asyncio.create_task(reranker.awarm_up())
    for kind in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(kind, serving.cancel)
    try:
        await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            _log.info("%s is loaded", reranker.model.name)
        await asyncio.wait((serving,))
        if lines.failure is not None:
            raise lines.failure
        if not serving.cancelled():
            serving.result()
    finally:
        for task in (serving, loading):
            task.cancel()
        await asyncio.gather(serving, loading, return_exceptions=True)


class _Lines:
    """Standard input line by line; unlike a thread that reads, a signal ends it. It ends at a line that is too long."""

    def __init__(self, reader: asyncio.StreamReader, most: int) -> None:
        self._reader, self._most = reader, most
        self.failure: ServingError | None = None

    @classmethod
    async def of_standard_input(cls, most: int) -> _Lines:
        reader = asyncio.StreamReader(limit=most)
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        except ValueError:
            raise ServingError(
                "serve.transport=stdio: standard input is a file, and a pipe is needed: let an MCP client start this "
                "command, or set serve.transport=http"
            ) from None
        return cls(reader, most)

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while line := await self._reader.readline():
                yield line.decode("utf-8", "replace")
        except ValueError:
            self.failure = ServingError(
                f"a message is longer than serve.max_bytes={self._most}; send less, or raise it"
            )


def create_app(reranker: Reranker, settings: Serving) -> Any:
    """The application over a reranker that is warm: tools at ``/mcp``, behind the same door as ``/v1/rerank``."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from rearank.serving.door import Door
    from rearank.serving.intake import GoneError, check_key, check_type, error_answer, read_body, unless_gone

    tools = Tools(reranker, settings)
    manager = StreamableHTTPSessionManager(
        tools.server(), json_response=True, stateless=True, max_request_body_size=settings.max_bytes
    )

    class Endpoint:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope, receive)
            if request.method != "POST":  # a stream that stays open, or the end of a session: there are none
                raise HTTPException(405, headers={"Allow": "POST"})
            check_key(request, settings.key)
            check_type(request)
            async with tools.gate.reading(settings.body_seconds) as arrived:
                body = await read_body(request, settings.max_bytes, arrived)
            check_values(body, settings.max_values)
            with tools.gate.holding(len(body)):
                await unless_gone(request, manager.handle_request(scope, _replayed(bytes(body)), send))

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[None]:
        async with manager.run():
            yield

    async def refused(request: Request, error: Any) -> Response:
        return error_answer(error.message, error.status, error.headers)

    async def elsewhere(request: Request, error: Any) -> Response:
        message = f"{request.scope['path'][:80]!a} doesn't take {request.method[:20]!a}: POST MCP's messages to {PATH}"
        return error_answer(message, error.status_code, dict(error.headers or {}))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    handlers = {RequestError: refused, HTTPException: elsewhere, GoneError: gone}
    app = Starlette(routes=[Route(PATH, Endpoint())], lifespan=running, exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.add_middleware(Door, settings=settings)
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"])
    return app


def _replayed(body: bytes) -> Any:
    """A body that was read, for one who reads it again; whether the caller hangs up is watched elsewhere."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive
