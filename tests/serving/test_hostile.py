"""Callers who mean no good, over real sockets: connections, headers, bodies, answers, pages of other origins."""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.servers import QUESTION, served

from rearank.engines import ScriptedEngine, ScriptedNode

REVERSE = ScriptedNode("reverse")


def connect(client: httpx.Client, sent: bytes = b"") -> socket.socket:
    found = socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20)
    found.sendall(sent)
    return found


def closed(caller: socket.socket) -> bool:
    """Whether the server ends this connection within the socket's timeout; what it sends before is dropped."""
    try:
        while caller.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def answered(caller: socket.socket) -> bytes:
    """All that the server sends until it ends the connection."""
    sent = b""
    while chunk := caller.recv(65536):
        sent += chunk
    return sent


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(REVERSE, max_bytes=200_000, origins=("https://app.example.org",)) as found:
        yield found


SLOW_BODY = (
    b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/rer", b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nX-A: ", SLOW_BODY]
)
def test_connections_without_a_whole_request_make_room_for_one_with(sent: bytes) -> None:
    with served(REVERSE, max_connections=10, body_seconds=1000.0, header_seconds=1000.0) as client, ExitStack() as kept:
        crowd = [kept.enter_context(connect(client, sent)) for _ in range(40)]
        for _ in range(3):
            with httpx.Client(base_url=client.base_url, timeout=20) as honest:
                assert honest.post("/v1/rerank", json=QUESTION).status_code == 200
        for caller in crowd[:30]:
            assert closed(caller)
        last = crowd[-1]
        last.settimeout(0.2)
        assert not closed(last)


def test_a_connection_is_refused_only_where_all_others_are_worked_for() -> None:
    with served(ScriptedNode("reverse", seconds=3.0), max_connections=2) as client, ExitStack() as kept:
        body = json.dumps(QUESTION).encode()
        head = (
            f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        under_way = [kept.enter_context(connect(client, head.encode() + body)) for _ in range(2)]
        time.sleep(0.5)
        refused = answered(kept.enter_context(connect(client)))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert "connections" in json.loads(refused.partition(b"\r\n\r\n")[2])["message"]
        assert all(answered(caller).startswith(b"HTTP/1.1 200 ") for caller in under_way)


@pytest.mark.parametrize(
    "first", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["a new connection", "after a request"]
)
def test_headers_must_arrive_in_time_however_they_drip(first: bytes) -> None:
    with served(REVERSE, header_seconds=0.5) as client, connect(client, first + b"GET /health HTTP/1.1\r\n") as caller:
        caller.settimeout(0.1)
        began = time.monotonic()
        while time.monotonic() < began + 10:
            try:
                caller.sendall(b"X-A: b\r\n")
                if not caller.recv(65536):
                    break
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
        assert 0.3 < time.monotonic() - began < 5


def test_slow_bodies_take_no_place_from_requests_that_are_here() -> None:
    limits: dict[str, Any] = {"max_concurrent": 1, "max_waiting": 1, "body_seconds": 1000.0}
    with served(REVERSE, **limits) as client, ExitStack() as kept:
        slow = [kept.enter_context(connect(client, SLOW_BODY)) for _ in range(6)]
        assert all(client.post("/v1/rerank", json=QUESTION).status_code == 200 for _ in range(3))
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 408 ")


def test_endless_headers_are_refused(client: httpx.Client) -> None:
    with connect(client, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 70_000) as caller:
        assert answered(caller).startswith(b"HTTP/1.1 400 ")
    assert client.get("/health").status_code == 200


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    asked = json.dumps(
        {"query": "q", "documents": [{"text": "a", "more": "x" * 9_000_000}], "return_documents": True}
    ).encode()
    head = f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n\r\n".encode()
    with served(REVERSE, header_seconds=0.5) as client, connect(client, head + asked) as caller:
        assert caller.recv(15) == b"HTTP/1.1 200 OK"
        time.sleep(2)
        assert len(answered(caller)) < 9_000_000


@pytest.mark.parametrize("path", ["/v1/rerank", "/v3/rerank"])
def test_a_refusal_reaches_a_caller_who_is_still_sending(client: httpx.Client, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{client.base_url}{path}", b"[" * 20_000_000, headers)
    for _ in range(3):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value as answer:
            assert answer.code == (413 if path == "/v1/rerank" else 404)
            message = json.loads(answer.read())["message"]
            assert ("200000 bytes" if path == "/v1/rerank" else "POST to /v1/rerank") in message
    assert client.post("/v1/rerank", content=b"[" * 20_000_000, headers=headers).status_code == 413


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    with served(REVERSE, body_seconds=0.5, header_seconds=0.5) as client, connect(client) as caller:
        caller.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")

        def sent_for(seconds: float) -> bool:
            began = time.monotonic()
            while time.monotonic() < began + seconds:
                try:
                    caller.sendall(b"400\r\n" + b"x" * 0x400 + b"\r\n")
                except (ConnectionResetError, BrokenPipeError):
                    return False
                time.sleep(0.01)
            return True

        assert not sent_for(10)


@pytest.mark.parametrize("line", ["POST /v1/rerank", "POST /nowhere", "HEAD /health"])
def test_a_broken_body_leaves_no_traceback(line: str, caplog: pytest.LogCaptureFixture) -> None:
    with served(REVERSE) as client:
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        with connect(client, head) as caller:
            time.sleep(0.2)
            caller.sendall(b"no length\r\n\r\n")
            assert closed(caller)
        assert client.get("/health").status_code == 200
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "Infinity", "NaN", "1" * 5000, "[" * 100_000, "[" * 100_000 + "]" * 100_000]
)
def test_numbers_and_nesting_beyond_what_can_be_sent_back_are_a_400(client: httpx.Client, number: str) -> None:
    document = '{"text": "a", "n": ' + number + "}"
    body = f'{{"query": "q", "return_documents": true, "documents": [{document}]}}'
    answer = client.post("/v1/rerank", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == (413 if len(body) > 200_000 else 400), answer.text


@pytest.mark.parametrize("depth", range(100, 1200, 25))
def test_a_nested_document_comes_back_or_is_refused(client: httpx.Client, depth: int) -> None:
    document = '{"text": "a", "n": ' + "[" * depth + "]" * depth + "}"
    body = f'{{"query": "q", "return_documents": true, "documents": [{document}, "b"]}}'
    answer = client.post("/v1/rerank", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert document.replace(" ", "") in answer.text.replace(" ", "")
    else:
        assert "nested too deeply" in answer.json()["message"]


def test_an_answer_is_about_as_long_as_what_was_asked(client: httpx.Client) -> None:
    many = {f"k{number}": 1 for number in range(10_000)}
    answer = client.post("/v1/rerank", json={**QUESTION, **many})
    assert answer.status_code == 200
    warnings = answer.json()["meta"]["warnings"]
    assert len(warnings) == 11
    assert warnings[-1].startswith("9990 more keys")
    assert len(client.post("/v1/rerank", json={**QUESTION, "\U0001f600" * 20_000: 1}).content) < 1000
    text = "\u00e9" * 50_000
    body = json.dumps({"query": "q", "documents": [text], "return_documents": True}, ensure_ascii=False).encode()
    answer = client.post("/v1/rerank", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["results"][0]["document"]["text"] == text
    assert len(answer.content) < len(body) + 1000


def test_a_field_named_many_times_is_refused(client: httpx.Client) -> None:
    asked = {"query": "q", "documents": [{"text": "x" * 10_000}], "rank_fields": ["text"] * 10_000}
    answer = client.post("/v1/rerank", json=asked)
    assert (answer.status_code, answer.json()["message"]) == (422, "rank_fields: a key is named twice")


def test_a_page_of_another_origin_is_refused(client: httpx.Client) -> None:
    host = client.base_url.netloc.decode()
    body = json.dumps(QUESTION).encode()

    def ask(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post("/v1/rerank", content=body, headers=sent).status_code

    assert ask(Content_Type="application/json") == 200
    assert ask(Content_Type="Application/JSON; charset=utf-8") == 200
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
    ):
        assert ask(Content_Type=kind) == 415
    assert ask(Sec_Fetch_Site="cross-site") == 415
    json_kind = {"Content_Type": "application/json"}
    for origin in ("https://evil.example", "null", f"http://{host}.evil.example", "http://localhost:1", "http://[", ""):
        assert ask(Origin=origin, **json_kind) == 403
    # A name that an attacker points at this machine: origin and host agree.
    assert ask(Origin="http://evil.example:8000", Host="evil.example:8000", **json_kind) == 403
    assert ask(Origin=f"http://{host}", **json_kind) == 200
    assert ask(Origin=f"http://{host}") == 415
    assert client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_page_that_is_named_may_use_it(client: httpx.Client) -> None:
    page = {"Origin": "https://app.example.org"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    allowed = client.options("/v1/rerank", headers={**page, **asked})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == page["Origin"]
    answer = client.post("/v1/rerank", json=QUESTION, headers=page)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, page["Origin"])
    foreign = client.options("/v1/rerank", headers={"Origin": "https://evil.example", **asked})
    assert "Access-Control-Allow-Origin" not in foreign.headers


HELD = {"max_bytes": 1_000_000, "max_held_bytes": 2_500_000, "body_seconds": 1000.0}
LARGE = json.dumps({"query": "q", "documents": ["x" * 900_000]}).encode()
LARGE_HEAD = f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode()


def test_bodies_on_their_way_share_a_bounded_memory() -> None:
    with served(REVERSE, **HELD) as client, ExitStack() as kept:
        slow = [kept.enter_context(connect(client, LARGE_HEAD + LARGE[:-1])) for _ in range(2)]
        time.sleep(0.5)
        honest = httpx.post(f"{client.base_url}/v1/rerank", content=LARGE, headers={"Content-Type": "application/json"})
        assert honest.status_code == 200
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 408 ")  # the oldest made room
        slow[1].sendall(LARGE[-1:])
        assert slow[1].recv(1000).startswith(b"HTTP/1.1 200 ")


def test_requests_that_are_held_share_a_bounded_memory() -> None:
    engine = ScriptedEngine("reverse", seconds=1000.0)
    two = json.dumps({"query": "q", "documents": ["x" * 450_000] * 2}).encode()
    json_kind = {"Content-Type": "application/json"}
    with served(engine, **HELD) as client, ExitStack() as kept:
        head = f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(two)}\r\n\r\n".encode()
        held = [kept.enter_context(connect(client, head + two)) for _ in range(2)]
        time.sleep(1)
        refused = client.post("/v1/rerank", content=two, headers=json_kind)
        assert (refused.status_code, refused.json()["message"][:19]) == (429, "2 requests are unde")
        small = [kept.enter_context(connect(client)) for _ in range(1)]
        small[0].sendall(
            f"{head.decode().partition('Content-Length')[0]}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
        )
        small[0].settimeout(0.5)
        with pytest.raises(TimeoutError):  # it is worked on
            small[0].recv(100)
        engine.seconds = 0.0
        for caller in held:
            caller.close()
        for _ in range(100):
            if client.post("/v1/rerank", content=two, headers=json_kind).status_code == 200:
                return
            time.sleep(0.1)
        raise AssertionError("what was held was never freed")


def test_answers_that_nobody_reads_share_a_bounded_memory() -> None:
    document = {"text": "a", "more": "x" * 9_000_000}
    asked = json.dumps({"query": "q", "documents": [document], "return_documents": True}).encode()
    head = f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n\r\n".encode()
    with (
        served(REVERSE, max_bytes=10_000_000, max_held_bytes=10_000_000, header_seconds=1000.0) as client,
        ExitStack() as kept,
    ):
        callers = []
        for _ in range(3):
            callers.append(kept.enter_context(connect(client, head + asked)))
            assert callers[-1].recv(15) == b"HTTP/1.1 200 OK"
        with suppress(ConnectionResetError):
            assert len(answered(callers[0])) < 9_000_000
        last = b""
        while len(last) < 9_000_000:
            last += callers[-1].recv(1 << 20)


def test_a_name_that_is_not_the_servers_is_refused(client: httpx.Client) -> None:
    def ask(host: str, **headers: str) -> list[int]:
        sent = {"Host": host, **headers}
        paths = ("/v1/models", "/health", "/openapi.json")
        answers = [client.get(path, headers=sent) for path in paths] + [
            client.post("/v1/rerank", json=QUESTION, headers=sent)
        ]
        assert all(("is no name of this server" in answer.text) == (answer.status_code == 403) for answer in answers)
        return sorted({answer.status_code for answer in answers})

    for host in (
        "evil.com",
        "evil.com:8000",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "[evil",
    ):
        assert ask(host) == [403], host
        assert ask(host, Authorization="Bearer x") == [403], host  # there is no key to send
    port = client.base_url.port
    for host in ("localhost", f"LOCALHOST:{port}", "localhost.", "a.localhost:1", "127.0.0.1", f"[::1]:{port}"):
        assert ask(host) == [200], host
    for host in ("10.0.0.7:8000", "app.example.org", "app.example.org:8443", socket.gethostname()):
        assert ask(host) == [200], host
    long = client.get("/health", headers={"Host": "e" * 10_000})
    assert len(long.content) < 300
    with connect(client, b"GET /health HTTP/1.0\r\n\r\n") as caller:  # no browser leaves it out
        assert b" 200 " in answered(caller).splitlines()[0]


def test_who_sends_the_key_may_use_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SERVE_KEY", "k3y")
    with served(REVERSE, key_variable="TEST_SERVE_KEY", host="127.0.0.1") as client:
        for sent, status in (("Bearer k3y", 200), ("Bearer other", 403), ("Basic k3y", 403)):
            headers = {"Host": "proxy.example.org", "Authorization": sent}
            assert client.get("/v1/models", headers=headers).status_code == status
            assert client.post("/v1/rerank", json=QUESTION, headers=headers).status_code == status
        assert client.get("/health", headers={"Host": "evil.com"}).status_code == 403
        assert client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\xff\r\n\r\n"],
)
def test_what_is_no_http_is_answered_in_json(client: httpx.Client, sent: bytes) -> None:
    with connect(client, sent) as caller:
        head, _, body = answered(caller).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body).keys() == {"message"}


LINES = [f"{method} {path} HTTP/1.1" for method in ("POST", "GET", "HEAD") for path in ("/v1/rerank", "/%00%ff", "*")]
BODY = json.dumps(QUESTION).encode()
HEADERS = [
    *(
        "Host: x",
        "Host: [",
        "Host: \xff",
        "Content-Type: application/json",
        "Content-Type: \xff",
        "Expect: 100-continue",
    ),
    *(f"Content-Length: {size}" for size in (len(BODY), 5, -1, 10**30)),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Connection: close", "Origin: http://[", "Origin: \xff"),
    *(
        "Upgrade: websocket\r\nConnection: upgrade",
        "Authorization: Bearer \xff\xe9",
        "X-A: " + "y" * 3000,
        "\x00\xff",
        "",
    ),
]
BODIES = [BODY, BODY * 2, BODY[:9], b"", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"\xff\x00", b"POST / HTTP/1.1\r\n\r\n"]
REQUESTS = st.tuples(st.sampled_from(LINES), st.lists(st.sampled_from(HEADERS), max_size=4), st.sampled_from(BODIES))


@settings(max_examples=80, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=3), cut=st.integers(0, 400), ends=st.booleans())
def test_whatever_is_sent_the_server_goes_on(client: httpx.Client, requests: list[Any], cut: int, ends: bool) -> None:
    sent = b"".join(
        "\r\n".join([line, "Host: localhost", *headers, "", ""]).encode("latin-1") + body
        for line, headers, body in requests
    )
    errors = Errors()
    logging.getLogger().addHandler(errors)
    try:
        with suppress(OSError), connect(client, sent[:cut]) as caller:
            caller.settimeout(0.05)
            caller.sendall(sent[cut:])
            if ends:
                caller.shutdown(socket.SHUT_WR)
            caller.recv(65536)
        assert client.post("/v1/rerank", json=QUESTION).status_code == 200
    finally:
        logging.getLogger().removeHandler(errors)
    assert errors.found == []


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())
