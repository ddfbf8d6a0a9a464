"""The server is asked before any work: nobody there, a refused key, a model it doesn't have, a call that fails."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rearank.engines.openai.node import OpenAINode

pytest.importorskip("openai")


@contextmanager
def server(models: tuple[int, Any], chat: tuple[int, Any] = (500, {})) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the requests for answers that came."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def _reply(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._reply(*models)

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._reply(*chat)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/v1", asked
        finally:
            running.shutdown()
            thread.join()


LISTED = (200, {"data": [{"id": "m"}, {"id": "n"}]})
ANSWER = (200, {"choices": [{"message": {"content": "1"}, "finish_reason": "stop"}], "model": "m"})


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        node = OpenAINode(base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        (problem,), _ = node.examine_server("m")
    assert problem.startswith("engine.base_url=http://127.0.0.1:")
    assert "start the server there, or name another one" in problem


def test_a_server_in_order_is_not_asked_for_an_answer() -> None:
    with server(LISTED, ANSWER) as (url, asked):
        assert OpenAINode(base_url=url).examine_server("m") == ([], [])
    assert asked == []


def test_a_model_that_is_not_listed_is_a_warning() -> None:
    with server(LISTED) as (url, _):
        problems, (warning,) = OpenAINode(base_url=url).examine_server("other")
        assert OpenAINode(base_url=url, served_model="n").examine_server("other") == ([], [])
    assert problems == []
    assert "doesn't list the model 'other' (engine.served_model); it lists m, n" in warning


@pytest.mark.parametrize("models", [(404, {}), (500, {}), (200, []), (200, {"data": [{"name": "x"}]})])
def test_a_server_need_not_list_its_models(models: tuple[int, Any]) -> None:
    with server(models) as (url, _):
        assert OpenAINode(base_url=url).examine_server("m") == ([], [])


def test_a_refused_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k-123")
    with server((401, {"error": {"message": "bad key k-123"}})) as (url, _):
        (problem,), _ = OpenAINode(base_url=url, key_variable="MY_KEY").examine_server("m")
    assert "set the environment variable MY_KEY to a valid key" in problem
    assert "k-123" not in problem


def test_a_trial_is_one_small_call() -> None:
    with server(LISTED, ANSWER) as (url, asked):
        assert OpenAINode(base_url=url, trial=True).examine_server("m") == ([], [])
    (request,) = asked
    assert (request["model"], request["max_tokens"]) == ("m", 16)
    with server(LISTED, (400, {"error": {"message": "This model only support stream mode"}})) as (url, asked):
        (problem,), _ = OpenAINode(base_url=url, trial=True).examine_server("m")
    assert problem.startswith("engine.trial: http://127.0.0.1")
    assert "only support stream mode" in problem
    assert len(asked) == 1
