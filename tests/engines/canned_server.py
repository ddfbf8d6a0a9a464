"""A chat server in a thread that gives each request the reply that a test's own function makes of it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Respond = Callable[[dict[str, Any], int], tuple[int, Any]]
"""A request's body and its number, from 0, to a status and a body: a text, or what becomes JSON."""


@dataclass
class Canned:
    """The address, and what was asked."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] | None = None
    """Those that it lists; it takes no such request without."""


@contextmanager
def canned_server(respond: Respond, certificate: Path | None = None) -> Iterator[Canned]:
    """One on a free port; ``certificate`` (with its key) makes it speak TLS."""
    canned, lock = Canned(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if canned.models is None:
                self.send_error(501)
            else:
                self._send(200, {"data": [{"id": name} for name in canned.models]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(canned.requests)
                canned.requests.append(request)
            self._send(*respond(request, number))

        def _send(self, status: int, body: Any) -> None:
            sent = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    canned.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        server.server_close()


def chat(content: str | None, finish: str = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    """A completed chat; without ``usage`` where it is ``None``."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"id": "x", "choices": [choice], **({} if usage is None else {"usage": usage})}
