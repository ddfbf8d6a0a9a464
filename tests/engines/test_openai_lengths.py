"""Prompts that are too long, in words that nobody knows: by a code, by figures, by which prompts are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.engines.canned_server import canned_server, chat
from tests.engines.test_openai_servers import GOOD, ORDER, ask, engine

from rearank.engines import EngineError
from rearank.engines.openai.engine import ServerError
from rearank.engines.openai.overflow import Request, TooLong, too_long
from rearank.types import Completion, Message

pytest.importorskip("openai")

REQUEST = Request((Message("user", "word " * 500),), 2048)  # 2,500 characters, about 625 tokens


@pytest.mark.parametrize(
    ("message", "code", "found"),
    [
        ("Die Anfrage ist zu lang: 645 Tokens, erlaubt sind 300.", "string_too_long", TooLong(300, 645)),
        ("输入共645个，最多300个", "1261", TooLong(300, 645)),
        ("入力は2,500文字です。上限は1,200文字です", None, TooLong(1200, 2500)),
        ("L’entrée fait 2 500 signes, 1 200 au plus", None, TooLong(1200, 2500)),
        ("Anfrage: 2.500 Zeichen statt 1.200", None, TooLong(1200, 2500)),
        ("Запрос: 2693, предел 2000", None, TooLong(2000, 645)),  # with its answer
        ("zu lang", "context_length_exceeded", TooLong()),
        ("zu lang", "string_too_long", TooLong()),
        ("zu lang", "request_too_large", TooLong()),
        ("zu lang", "max_input_tokens_exceeded", TooLong()),
        # Not about a length, or not about this one's.
        ("输入长度超出限制", "1261", None),
        ("参数错误 12345，请求 99", "1210", None),
        ("输入 645", "300", None),
        ("Anfrage 645 von Nutzer 9", None, None),
        ("invalid message at position 600 of 700", None, None),
        ("quota: 700 of 600", None, None),
    ],
)
def test_what_a_refusal_says_of_a_prompts_length(message: str, code: str | None, found: TooLong | None) -> None:
    message = message.replace("2 500", "2\u202f500").replace("1 200", "1\u202f200")
    assert too_long({"message": message, "code": code}, message, REQUEST) == found


def test_a_code_about_another_field_is_not_about_the_prompt() -> None:
    assert too_long({"code": "string_too_long", "param": "user"}, "zu lang", REQUEST) is None
    assert too_long({"code": "string_too_long", "param": "messages[0].content"}, "zu lang", REQUEST) == TooLong()


def limited(most: int, refusal: tuple[int, Any]) -> Any:
    """A server that refuses prompts of more than ``most`` characters, sooner than it answers others."""

    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        if len(request["messages"][0]["content"]) > most:
            return refusal
        time.sleep(0.2)
        return 200, GOOD

    return respond


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_refusal_of_the_longest_prompts_alone_is_about_their_length(
    status: int, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = status, {"error": {"message": "输入长度超出限制", "code": "1261"}}
    with canned_server(limited(1000, refusal)) as server:
        made = engine(server.url)
        short, long, longer = ask(made, "a" * 500, "b" * 1200, "c" * 1900, at_once=at_once)
        sent = {len(request["messages"][0]["content"]) for request in server.requests}
    assert all(isinstance(one, Completion) for one in (short, long, longer))
    assert [one.prompt_truncated for one in (short, long, longer)] == [False, True, True]
    assert made.truncated == 2
    assert {500, 1200, 1900} < sent
    assert max(length for length in sent if length <= 1000) > 800, "no more is taken away than must be"
    (line,) = (record.getMessage() for record in caplog.records)
    assert "answers shorter prompts and refuses one of 1," in line
    assert "输入长度超出限制" in line


def test_what_may_be_its_length_and_is_not_to_be_shortened_fails() -> None:
    with canned_server(limited(1000, (400, {"error": {"message": "nein"}}))) as server:
        _, found = ask(engine(server.url, overflow="refuse"), "a" * 500, "b" * 1200)
    assert type(found) is EngineError
    assert "the prompt may be too long: shorter ones are answered (HTTP 400: nein); shorten the passages" in str(found)


def test_a_refusal_that_is_not_about_length_stays_one() -> None:
    """Cut below a length that was answered, and refused still: the refusal is passed on."""

    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        bad = request["messages"][0]["content"].startswith("bad")
        return (400, {"error": {"message": "nein"}}) if bad else (200, chat(ORDER))

    with canned_server(respond) as server:
        texts = ["a" * 1500, "bad" + "b" * 1600, "bad", "a" * 400]
        first, longest, short, last = ask(engine(server.url), *texts, at_once=False)
        assert len(server.requests) == 5
    assert isinstance(first, Completion)
    assert isinstance(last, Completion)
    for one in (longest, short):
        assert isinstance(one, EngineError)
        assert not isinstance(one, ServerError)
        assert str(one).endswith("HTTP 400: nein")
