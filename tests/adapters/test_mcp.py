"""The MCP server behind the official client, over both transports."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.adapters.real import example, real
from tests.conftest import ROOT
from tests.end_to_end.pipeline import environment
from tests.rerankers import tiny

from rearank.engines import Engine, EngineNode, ScriptedNode
from rearank.serving import Serving
from rearank.serving.server import address_of, bind, uvicorn_config

real("mcp")
from mcp import Client  # noqa: E402
from mcp.client.stdio import StdioServerParameters  # noqa: E402

from rearank.adapters import mcp as adapter  # noqa: E402

pytestmark = pytest.mark.slow

REVERSE = ScriptedNode("reverse")
ASKED = {"query": "which number", "documents": ["one", {"text": "two", "title": "T"}, "three"]}
COMMAND = ["task=serve", "serve.protocol=mcp", "model=tiny", "tracking=none", "name=mcp"]
SCRIPTED = ["engine=scripted", "engine.behaviour=reverse"]


@contextmanager
def over_http(engine: EngineNode | Engine, **settings: Any) -> Iterator[str]:
    """The address of the tools, served in a thread of this process."""
    import uvicorn

    serving = Serving(protocol="mcp", transport="http", port=0, shutdown_seconds=1, **settings)
    with bind(serving) as place, tiny(engine) as reranker:
        server = uvicorn.Server(uvicorn_config(adapter.create_app(reranker, serving), serving))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield address_of(place) + "/mcp"
        finally:
            server.should_exit = True
            thread.join()


def over_stdio(folder: Path, *overrides: str) -> StdioServerParameters:
    command = [str(ROOT / "run.py"), *COMMAND, f"paths.outputs={folder}", *overrides]
    return StdioServerParameters(command=sys.executable, args=command, env=environment(), cwd=folder)


@pytest.fixture(params=["stdio", "http", "http, handshake"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """A client that is connected; protocol versions with a handshake and the one without."""
    if request.param == "stdio":
        yield lambda: Client(over_stdio(tmp_path, *SCRIPTED))
    else:
        with over_http(REVERSE) as url:
            mode = "legacy" if "handshake" in request.param else "auto"
            yield lambda: Client(url, mode=mode)


def test_the_tools_over_each_transport(connect: Callable[[], Any]) -> None:
    async def session() -> None:
        async with connect() as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert tools.keys() == {"rerank", "explain"}
            assert tools["rerank"].input_schema["required"] == ["query", "documents"]

            answer = await client.call_tool("rerank", {**ASKED, "top_n": 2, "return_documents": True})
            assert not answer.is_error
            assert answer.structured_content["results"] == [
                {"index": 2, "relevance_score": 1.0, "document": {"text": "three"}},
                {"index": 1, "relevance_score": 0.5, "document": {"text": "two", "title": "T"}},
            ]
            assert answer.structured_content["model"] == "tiny"
            assert answer.structured_content.keys().isdisjoint({"reasoning", "data"})
            assert json.loads(answer.content[0].text) == answer.structured_content

            why = await client.call_tool("explain", ASKED)
            [window] = why.structured_content["reasoning"]
            assert (window["documents"], window["order"]) == ([0, 1, 2], [2, 1, 0])
            assert window["think"] == " The scripted engine's reverse order. "

            for wrong, says in (
                ({"query": " ", "documents": ["a"]}, "query"),
                ({"query": "q"}, "documents"),
                ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
                ({"query": "q", "documents": ["a"] * 1001}, "1001 are more than the 1000"),
            ):
                refused = await client.call_tool("rerank", wrong)
                assert refused.is_error
                assert says in refused.content[0].text
            unknown = await client.call_tool("rank\x1b", ASKED)
            assert unknown.is_error
            assert "it has rerank and explain" in unknown.content[0].text

    asyncio.run(session())


def test_standard_output_carries_the_protocol_alone(tmp_path: Path) -> None:
    """The raw bytes: a log line among them would end a stricter client. The end of the input ends the process."""
    asked: list[dict[str, Any]] = [
        {
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        },
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "rerank", "arguments": ASKED}},
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *COMMAND, *SCRIPTED, f"paths.outputs={tmp_path}"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    for message in asked:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["structuredContent"]["results"][0]["index"] == 2
    rest, log = process.communicate(timeout=60)
    assert rest == ""
    assert "3 documents, 1 windows" in log
    assert "which number" not in log
    assert process.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_the_input_stays_open(tmp_path: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *COMMAND, *SCRIPTED, f"paths.outputs={tmp_path}"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "tiny is loaded" in process.stderr.readline()
    process.send_signal(how)
    assert process.wait(timeout=60) == 0
    process.communicate()


@pytest.mark.parametrize(
    ("overrides", "text", "says"),
    [
        (["serve.max_bytes=1000", *SCRIPTED], "x" * 2000, "longer than serve.max_bytes=1000"),
        (["engine=scripted"], "", "the scripted oracle needs judgements"),
    ],
)
def test_what_ends_it_is_one_line(tmp_path: Path, overrides: list[str], text: str, says: str) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *COMMAND, *overrides, f"paths.outputs={tmp_path}"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()
    assert process.wait(timeout=60) == 1
    out, log = process.communicate()
    assert out == ""
    assert f"rearank: {says}" in log or f"rearank: a message is {says}" in log
    assert "Traceback" not in log


@asynccontextmanager
async def connected(url: str, **more: Any) -> AsyncIterator[Any]:
    async with Client(url, **more) as client:
        yield client


def test_failures_are_the_tools_error_and_their_reason_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def session(url: str) -> str:
        async with connected(url) as client:
            failed = await client.call_tool("rerank", ASKED)
            assert failed.is_error
            return str(failed.content[0].text)

    with over_http(ScriptedNode("reverse", failing=1.0)) as url:
        said = asyncio.run(session(url))
    assert "scripted" not in said
    assert "the scripted engine failed this call" in caplog.text
    assert f"call {said.rpartition(' ')[2]} failed" in caplog.text
    with over_http(ScriptedNode("reverse", seconds=1000.0), timeout_seconds=0.2) as url:
        assert "took longer" in asyncio.run(session(url))


def test_the_door_the_key_and_the_limits_are_those_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MCP_KEY", "k3y")
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    right = {"Authorization": "Bearer k3y", "Accept": "application/json, text/event-stream"}
    with over_http(REVERSE, key_variable="TEST_MCP_KEY", max_bytes=2000, max_values=50) as url, httpx.Client() as http:
        assert http.post(url, json=call).status_code == 401
        listed = http.post(url, json=call, headers=right)
        assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["rerank", "explain"]
        assert http.post(url, json=call, headers={**right, "Origin": "https://evil.example"}).status_code == 403
        assert http.post(url, json={**call, "params": "x" * 2000}, headers=right).status_code == 413
        assert http.post(url, json={**call, "params": list(range(100))}, headers=right).status_code == 413
        assert http.get(url, headers=right).status_code == 405
        lost = http.post(url.removesuffix("/mcp") + "/v1/rerank", json=call, headers=right)
        assert (lost.status_code, "POST MCP's messages to /mcp" in lost.json()["message"]) == (404, True)


def test_answers_that_cannot_be_read_reach_the_client_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """They hold half characters, which JSON as UTF-8 can't carry."""

    async def session(url: str) -> list[Any]:
        async with connected(url) as client:
            asked = [{"query": f"{n}", "documents": ["a", "\x00</answer>", "c"]} for n in range(12)]
            return [await client.call_tool("explain", one) for one in asked]

    caplog.set_level(logging.ERROR)
    with over_http(ScriptedNode("malformed")) as url:
        answers = asyncio.run(session(url))
    assert not any(answer.is_error for answer in answers)
    orders = [[item["index"] for item in answer.structured_content["results"]] for answer in answers]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert any("not in order" in str(answer.structured_content["meta"].get("warnings")) for answer in answers)
    assert not caplog.records


def test_the_docstrings_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.chdir(tmp_path)
    for name in ("run.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    names: dict[str, Any] = {"Client": Client, "StdioServerParameters": StdioServerParameters}
    code = eval(example(adapter), names)
    assert inspect.iscoroutine(code)
    asyncio.run(code)
    assert sorted(item["index"] for item in names["answer"].structured_content["results"]) == [0, 1]
