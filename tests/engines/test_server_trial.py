"""The server is asked before any work: nobody there, a refused key, a model it doesn't have, a call that fails."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rearank.engines.openai.engine import ServerError
from rearank.engines.openai.node import OpenAINode
from rearank.types import Message, Sampling

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


@pytest.mark.parametrize("answering", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\nClient sent an HTTP request to TLS."])
def test_a_server_that_speaks_tls_is_asked_through_it(answering: bytes, tmp_path: Path) -> None:
    """One that ends the connection, and one that says so in plain text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made_certificate(tmp_path))

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    if connection.recv(1, socket.MSG_PEEK) == b"\x16":  # a handshake
                        context.wrap_socket(connection, server_side=True).close()
                    elif answering:
                        connection.recv(65536)
                        connection.sendall(answering)
                except OSError:
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        node = OpenAINode(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", retries=1, first_wait=0.01)
        (problem,), _ = node.examine_server("m")
        made = node.create("m")
        found = asked(made, "a", "b")
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for text in (problem, *map(str, found)):
        assert "the server speaks TLS and was asked in plain text: engine.base_url must begin with https://" in text
    assert all(isinstance(one, ServerError) for one in found)


def test_connections_that_are_never_answered_stop_the_run() -> None:
    """Whatever listens there is no chat server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.sendall(b"SSH-2.0-x\r\n")
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        node = OpenAINode(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", retries=1, first_wait=0.01)
        (problem,), _ = node.examine_server("m")
        (found,) = asked(node.create("m"), "a")
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "the connection failed" in problem
    assert isinstance(found, ServerError)
    assert "(tried 2 times); nobody answers there: start the server, or set engine.base_url" in str(found)


def asked(made: Any, *texts: str) -> list[Any]:
    async def main() -> list[Any]:
        try:
            calls = (made.complete((Message("user", text),), Sampling()) for text in texts)
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await made.aclose()

    return asyncio.run(main())


def made_certificate(folder: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(make, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both
