"""What servers really send: failures inside a 200, refusals of a prompt, of a key, of a setting; and what it costs."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.engines.canned_server import canned_server, chat

from rearank.engines import CompletionStore, EngineError, OpenAINode, PromptRanker, RecordingEngine
from rearank.engines.openai.engine import OpenAIEngine, ServerError
from rearank.engines.openai.overflow import Request, TooLong, too_long
from rearank.prompts import CompactPrompt
from rearank.ranking import AbortRunError, SlidingWindow, rerank_all
from rearank.types import Candidates, Completion, Message, Passage, Query, Sampling

ORDER = "<answer>[2] > [1]</answer>"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
GOOD = chat(ORDER, usage=USAGE)
PRICED: dict[str, Any] = {"price_prompt": 1e6, "price_completion": 2e6}  # a dollar a token, two for one of the answer


def engine(url: str, *, thinking: bool | None = None, **settings: Any) -> OpenAIEngine:
    node = OpenAINode(base_url=url, **{"first_wait": 0.01, "longest_wait": 0.02, "retries": 3, **settings})
    made = node.create("small", thinking=thinking)
    assert isinstance(made, OpenAIEngine)
    return made


def ask(made: Any, *texts: str, at_once: bool = True) -> list[Any]:
    """Answers, or what was raised."""

    async def main() -> list[Any]:
        calls = [made.complete((Message("user", text),), Sampling(max_tokens=50)) for text in texts]
        try:
            if at_once:
                return await asyncio.gather(*calls, return_exceptions=True)
            return [(await asyncio.gather(call, return_exceptions=True))[0] for call in calls]
        finally:
            await made.aclose()

    return asyncio.run(main())


NETWORK = chat("")
NETWORK["choices"][0]["native_finish_reason"] = "network_error"
IN_CHOICE = chat("[1] >", usage=USAGE)
IN_CHOICE["choices"][0]["error"] = {"code": 502, "message": "Upstream error"}


@pytest.mark.parametrize(
    "failure",
    [
        NETWORK,
        IN_CHOICE,
        chat("", usage=USAGE),
        chat("  \n", usage=USAGE),
        chat(None, usage=USAGE),
        chat("", "length"),  # nothing was generated
        chat("[1] >", "error"),
        {"error": {"code": 502, "message": "Upstream error"}},
        {"error": {"code": 429, "message": "slow down"}, "choices": [GOOD["choices"][0]]},
        {"error": "overloaded"},
        {"code": 50000, "msg": "system busy", "data": None},
        {"object": "error", "message": "busy", "code": 503},
    ],
)
def test_a_failure_inside_a_200_is_asked_again_and_never_recorded(failure: Any, tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "c.sqlite")
    with canned_server(lambda _, number: (200, failure if number == 0 else GOOD)) as server:
        (found,) = ask(RecordingEngine(engine(server.url), store), "rank")
        assert found.text == ORDER
        assert len(server.requests) == 2
    with canned_server(lambda *_: (200, failure)) as server:
        (failed,) = ask(RecordingEngine(engine(server.url), store), "another")
        assert isinstance(failed, EngineError)
        assert "tried" in str(failed)
        assert not isinstance(failed, AbortRunError)
        assert 3 <= len(server.requests) <= 4
    assert len(store) == 1
    store.close()


def test_a_failure_inside_a_200_is_read_like_one_of_its_own_status() -> None:
    for error, kind in (
        ({"code": 401, "message": "No auth credentials found"}, ServerError),
        ({"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"]}}, EngineError),
        ({"code": 400, "message": "System role not supported"}, ServerError),
    ):
        body = error if type(error["code"]) is int and error["code"] == 400 else {"error": error}
        with canned_server(lambda *_, body=body: (200, body)) as server:  # type: ignore[misc]
            (found,) = ask(engine(server.url), "rank")
            assert type(found) is kind
            assert len(server.requests) == 1


def test_an_unseen_reasoning_cut_at_the_limit_is_an_answer() -> None:
    """OpenAI's reasoning models: all of ``max_tokens`` went to what isn't shown. Another try would fare the same."""
    spent = chat("", "length", usage={"prompt_tokens": 9, "completion_tokens": 50})
    with canned_server(lambda *_: (200, spent)) as server:
        (found,) = ask(engine(server.url), "rank")
        assert (found.text, found.finish, len(server.requests)) == ("", "length", 1)


def test_failures_recorded_by_earlier_versions_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    store = CompletionStore(path)
    with canned_server(lambda *_: (200, GOOD)) as server:
        ask(RecordingEngine(engine(server.url, **PRICED), store), "rank", "kept")
        for text in ("", " \n"):
            store._db.execute(
                "update completions set text = ?, digest = null, cost = 7, parse_status = 'empty', permutation = '[0]' "
                "where key = (select min(key) from completions)",
                (text,),
            )
            asked = len(server.requests)
            recording = RecordingEngine(engine(server.url, **PRICED), store)
            found = ask(recording, "rank", "kept")
            assert [one.text for one in found] == [ORDER, ORDER]
            assert (len(server.requests) - asked, recording.recalled, len(store)) == (1, 1, 2)
            assert store.cost() == 20 + 7 + 20, "what the failure cost still counts"
    assert store._db.execute("select count(*) from completions where parse_status = 'empty'").fetchone() == (0,)
    store.close()


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_answer_in_the_reasoning_alone_is_read_and_logged_once(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CompletionStore(tmp_path / "c.sqlite")
    with canned_server(lambda *_: (200, chat(None, usage=USAGE, **{name: ORDER}))) as server:
        found = ask(RecordingEngine(engine(server.url), store), "one", "two", "three")
        assert {one.text for one in found} == {ORDER}
        assert [line.getMessage() for line in caplog.records if "reasoning" in line.getMessage()] == [
            f"{server.url} sends answers in the field of the reasoning, and no other text: they are read as answers; a "
            "server with a reasoning parser does that to a model that doesn't think (start it without, or set "
            "model.thinking=true)"
        ]
        # As an earlier version recorded it.
        store._db.execute("update completions set text = ?, digest = null, cost = 3", (f"<think>{ORDER}</think>\n",))
        again = ask(RecordingEngine(engine(server.url), store), "one", "two", "three")
        assert {one.text for one in again} == {ORDER}
        assert len(server.requests) == 3
    rows = store._db.execute("select text, cost, completion_tokens from completions").fetchall()
    assert rows == [(ORDER, 3, 5)] * 3, "whoever reads the store reads the same"
    store.close()


@pytest.mark.parametrize(
    ("reasoning", "finish", "text"),
    [
        ("[2] > [1]", "stop", "[2] > [1]"),
        ("Final order: [B] > [A]", "stop", "Final order: [B] > [A]"),
        ("yes", "stop", "yes"),
        ("so [2] it is</think>\n[2] > [1]", "stop", "so [2] it is</think>\n[2] > [1]"),
        # A reasoning that never came to an answer is none, and one that was cut is not one either.
        ("[1] may well be better than [2]", "stop", "<think>[1] may well be better than [2]</think>\n"),
        ("我认为[1]比[2]更好", "stop", "<think>我认为[1]比[2]更好</think>\n"),
        ("[2] > [1]", "length", "<think>[2] > [1]"),
    ],
)  # fmt: skip
def test_which_reasoning_is_an_answer(reasoning: str, finish: str, text: str) -> None:
    with canned_server(lambda *_: (200, chat(None, finish, USAGE, reasoning_content=reasoning))) as server:
        (found,) = ask(engine(server.url), "rank")
        assert found.text == text


MODERATED = [
    (403, {"error": {"code": 403, "message": "x requires moderation.", "metadata": {"reasons": ["violence"]}}}),
    (403, {"error": {"code": 403, "message": "no", "metadata": {"flagged_input": "...", "provider_name": "p"}}}),
    (400, {"error": {"code": "content_filter", "message": "The response was filtered", "innererror": {"code": "R"}}}),
    (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
    (400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}}),
]


@pytest.mark.parametrize(("status", "body"), MODERATED)
def test_a_moderated_prompt_fails_alone(status: int, body: Any) -> None:
    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        return (status, body) if "bad" in request["messages"][0]["content"] else (200, GOOD)

    with canned_server(respond) as server:
        found = ask(engine(server.url), "bad 1", "bad 2", "bad 3", "bad 4", "good", at_once=False)
        assert [type(one) for one in found] == [EngineError] * 4 + [Completion]
        assert "refuses this prompt for its content" in str(found[0])
        assert "key" not in str(found[0])
        assert len(server.requests) == 5


def test_a_refused_key_stops_the_run() -> None:
    for status, error in (
        (401, {"message": "no"}),
        (403, {"message": "Your API key lacks permission", "type": "permission_error"}),
        (400, {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}),
    ):
        with canned_server(lambda *_, s=status, e=error: (s, {"error": e})) as server:  # type: ignore[misc]
            found = ask(engine(server.url), "a", "b", at_once=False)
            assert [type(one) for one in found] == [ServerError] * 2
            assert "engine.key_variable" in str(found[0])
            assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "no"}),
        (400, {"message": "Model Not Exist"}),
        (400, {"message": "gone", "code": "model_decommissioned"}),
    ],
)
def test_no_such_model_stops_the_run(status: int, error: Any) -> None:
    with canned_server(lambda *_: (status, {"error": error})) as server:
        found = ask(engine(server.url), "a", "b", at_once=False)
        assert len(server.requests) == 1
    assert [type(one) for one in found] == [ServerError] * 2
    assert "has no model 'small'" in str(found[0])
    assert "set model.path or engine.served_model" in str(found[0])


def test_a_firewall_that_dislikes_one_prompt_fails_it_alone() -> None:
    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        return (403, "<html>Forbidden</html>") if "bad" in request["messages"][0]["content"] else (200, GOOD)

    with canned_server(respond) as server:
        found = ask(engine(server.url), "bad", "good", "bad 2", "bad 3", "bad 4", "good 2", at_once=False)
    assert [isinstance(one, Completion) for one in found] == [False, True, False, False, False, True]
    assert not any(isinstance(one, AbortRunError) for one in found)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "many",
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"prompt_tokens": -1, "completion_tokens": 10**30},
        {"prompt_tokens": True, "completion_tokens": "NaN"},
    ],
)
def test_tokens_that_the_server_does_not_count_are_estimated(usage: Any, caplog: pytest.LogCaptureFixture) -> None:
    reply = {**chat(ORDER), "usage": usage}
    with canned_server(lambda *_: (200, reply)) as server:
        texts = [str(number) * 400 for number in range(9)]
        found = ask(engine(server.url, **PRICED, budget=300, max_concurrent_calls=1), *texts)
    answers = [one for one in found if isinstance(one, Completion)]
    # 100 tokens of 400 characters and 7 of the answer's 26, at a dollar and two.
    assert {(one.prompt_tokens, one.completion_tokens, one.cost) for one in answers} == {(100, 7, 114.0)}
    assert len(answers) == 3
    assert all("the budget is spent" in str(one) for one in found[3:])
    assert [line.getMessage() for line in caplog.records if "does not count" in line.getMessage()] == [
        f"{server.url} does not count the tokens of its answers: they are estimated from the texts' lengths, and so "
        "are the costs"
    ]


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 10, "completion_tokens": None}, (10, 7)),
        ({"prompt_tokens": 0, "completion_tokens": 5}, (100, 5)),
        ({"input_tokens": 10, "output_tokens": 5}, (10, 5)),
        ({"prompt_tokens": 10.0, "completion_tokens": "5"}, (10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}, (10, 105)),  # the reasoning is in the sum
        ({"completion_tokens": 5, "total_tokens": 15}, (10, 5)),
    ],
)
def test_usage_in_any_form(usage: Any, counted: tuple[int, int]) -> None:
    with canned_server(lambda *_: (200, chat(ORDER, usage=usage))) as server:
        (found,) = ask(engine(server.url), "a" * 400)
    assert (found.prompt_tokens, found.completion_tokens) == counted


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (400, "This model only support stream mode, please enable the stream parameter", "whole answers, not"),
        (400, "parameter.enable_thinking must be set to false for non-streaming calls", "enable_thinking=false"),
        (400, "System role not supported", "prompt.system=''"),
        (500, "Jinja Exception: System role not supported", "prompt.system=''"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/...", "prompt.system=''"),
        (422, "Template error: Only user and assistant roles are supported!", "prompt.system=''"),
        (
            400,
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "prompt.system=''",
        ),
        (400, "`temperature` must be 1 for this model", "engine.send_temperature=false"),
        (400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", "model.max_tokens"),
        (422, "unknown field: chat_template_kwargs", "model.thinking=null"),
    ],
)
def test_a_setting_that_every_call_has_stops_the_run_at_once(status: int, message: str, remedy: str) -> None:
    with canned_server(lambda *_: (status, {"error": {"message": message}})) as server:
        found = ask(engine(server.url), "a", "b", "c", at_once=False)
        assert len(server.requests) == 1
    assert all(isinstance(one, ServerError) for one in found)
    assert message in str(found[0])
    assert remedy in str(found[0])


def test_a_refusal_of_the_first_prompts_alike_stops_the_run() -> None:
    def respond(_: Any, number: int) -> tuple[int, Any]:
        return 400, {"error": {"message": f"Request {number}: your plan has no such feature 'x{number}'"}}

    with canned_server(respond) as server:
        found = ask(engine(server.url), *"abcdef", at_once=False)
    assert [type(one) for one in found] == [EngineError] * 2 + [ServerError] * 4
    assert "Request 5: your plan has no such feature" in str(found[-1])
    assert "prompt.system" in str(found[-1])
    assert "engine.extra_body" in str(found[-1])
    assert "if it does so with every prompt, look at" in str(found[0])
    # Not where they differ, where they are of one prompt, or where a call was answered.
    for replies in (
        lambda _, number: (400, {"error": {"message": "no " + "abcdef"[number]}}),
        lambda _, number: (200, GOOD) if number == 0 else (400, {"error": {"message": "no"}}),
    ):
        with canned_server(replies) as server:
            assert not any(isinstance(one, ServerError) for one in ask(engine(server.url), *"abcdef", at_once=False))
    with canned_server(lambda *_: (400, {"error": {"message": "no"}})) as server:
        assert not any(isinstance(one, ServerError) for one in ask(engine(server.url), *"aaaa", at_once=False))


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    ("message", "room"),
    [
        ("Input length ({prompt} tokens) exceeds the maximum allowed length (300 tokens). Use a shorter input.", True),
        ("The number of tokens ({prompt}) is above what is served here: 300", True),
        ("got {total} tokens, 300 allowed", True),
        ("The request's text is too long", False),
        ("sequence exceeds the window", False),
    ],
)
def test_a_prompt_too_long_in_unknown_words_is_shortened(status: int, message: str, room: bool) -> None:
    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        prompt = len(request["messages"][0]["content"]) // 4
        if prompt + request["max_tokens"] <= 300:
            return 200, chat(ORDER, usage={"prompt_tokens": prompt, "completion_tokens": 5})
        said = message.format(prompt=prompt, total=prompt + request["max_tokens"])
        return status, {"error": {"message": said}}

    with canned_server(respond) as server:
        (found,) = ask(engine(server.url), "word " * 516)
        assert isinstance(found, Completion), found
        assert found.prompt_truncated
        assert found.prompt_tokens > (220 if room else 150)
        assert len(server.requests) <= (2 if room else 6)


def test_a_run_that_is_refused_throughout_stops_with_what_to_look_at() -> None:
    passages = tuple(Passage(f"d{number}", "text") for number in range(3))
    lists = [Candidates(Query(str(number), f"query {number}"), passages) for number in range(40)]

    async def main(made: OpenAIEngine) -> None:
        try:
            await rerank_all(lists, SlidingWindow(3, 2), lambda _: PromptRanker(made, CompactPrompt()))
        finally:
            await made.aclose()

    with canned_server(lambda *_: (400, {"error": {"message": "your plan has no such feature"}})) as server:
        with pytest.raises(
            ServerError, match=r"your plan has no such feature; so it does every prompt so far, look at"
        ):
            asyncio.run(main(engine(server.url, max_concurrent_calls=4)))
        assert len(server.requests) < 20


def test_refusals_that_come_sooner_than_answers_do_not_stop_the_run() -> None:
    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        if "bad" in request["messages"][0]["content"]:
            return 400, {"error": {"message": "no"}}
        time.sleep(0.5)
        return 200, GOOD

    with canned_server(respond) as server:
        found = ask(engine(server.url), *(f"{kind} {number}" for number in range(5) for kind in ("good", "bad")))
    assert [type(one) for one in found] == [Completion, EngineError] * 5


def test_a_key_is_taken_out_of_failures_and_out_of_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "1")
    with canned_server(lambda *_: (200, GOOD)) as server:
        assert ask(engine(server.url, key_variable="MY_KEY"), "a")[0].text == ORDER
    monkeypatch.setenv("MY_KEY", "sk-verysecret")
    with canned_server(lambda *_: (200, {"error": "who is sk-verysecret?"})) as server:
        (found,) = ask(engine(server.url, key_variable="MY_KEY"), "a")
    assert "who is ***?" in str(found)


def test_a_prompt_that_never_fits_fails_with_advice() -> None:
    said = "Input length (645 tokens) exceeds the maximum allowed length (300 tokens). Use a shorter input."
    with canned_server(lambda *_: (400, {"error": {"message": said}})) as server:
        found = ask(engine(server.url), "word " * 500, "short")
    assert [type(one) for one in found] == [EngineError] * 2
    for one in found:
        assert said in str(one)
        assert "shorten the passages (prompt.max_characters)" in str(one)


def test_a_failure_without_usage_costs_nothing_and_counts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with canned_server(lambda _, number: (200, NETWORK if number == 0 else GOOD)) as server:
        (found,) = ask(engine(server.url, **PRICED), "a")
    assert found.cost == 20
    assert not caplog.records


def test_figures_that_are_not_about_the_prompt() -> None:
    request = Request((Message("user", "word " * 500),), 2048)
    assert too_long({}, "max_tokens is too large: 2048. This model supports at most 1024 tokens", request) is None
    assert too_long({}, "Invalid max_tokens value, the valid range is [1, 1024]", request) is None
    assert too_long({}, "invalid message at position 600 of 700", request) is None
    assert too_long({}, "tokens: 625 + 2048 = 2673 > 2000", request) == TooLong(2000, 625)
    assert too_long({}, "Range of input length should be [1, 2000]", request) == TooLong(2000, None)
    assert too_long({}, "<h1>413 Request Entity Too Large</h1>", request) == TooLong()
    assert too_long({}, "2,673 tokens asked of a context of 2,000", request) == TooLong(2000, 625)


def test_prompts_cut_in_silence_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with canned_server(lambda *_: (200, chat(ORDER, usage={"prompt_tokens": 512, "completion_tokens": 5}))) as server:
        assert isinstance(ask(engine(server.url), "word " * 500)[0], Completion)
        assert not caplog.records, "2,500 characters in 512 tokens are usual"
        ask(engine(server.url), "word " * 4000, "text " * 4000)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "counts 512 tokens in a prompt of 20,000 characters (about 5,000 tokens)" in line
    assert "strategy.size" in line


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(pem)]
    subprocess.run(make, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "key.pem").read_text() + pem.read_text())
    with canned_server(lambda *_: (200, GOOD), both) as server:
        (found,) = ask(engine(server.url), "a")
        assert isinstance(found, ServerError)
        assert "certificate is not trusted (self-signed certificate)" in str(found)
        assert "SSL_CERT_FILE" in str(found)
        assert "engine.base_url" in str(found)
        assert "tried" not in str(found)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))  # the remedy
        assert ask(engine(server.url), "a")[0].text == ORDER
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert "SSL_CERT_FILE names" in OpenAINode(base_url="https://127.0.0.1/v1").preflight()[0]
    monkeypatch.delenv("SSL_CERT_FILE")
    with canned_server(lambda *_: (200, GOOD)) as server:
        (found,) = ask(engine(server.url.replace("http:", "https:")), "a")
        assert isinstance(found, ServerError)
        assert "engine.base_url must begin with http://" in str(found)
        assert "SSL_CERT_FILE" in str(found)
        assert "tried" not in str(found)


def test_a_store_of_an_earlier_version_keeps_its_answers_of_other_engines(tmp_path: Path) -> None:
    """An empty answer of a model on this machine is one: the same call would give it again."""

    class Silent:
        identity = {"engine": "silent"}  # noqa: RUF012
        calls = 0

        async def complete(self, *_: Any) -> Completion:
            self.calls += 1
            return Completion("")

        async def aclose(self) -> None: ...

    store, silent = CompletionStore(tmp_path / "c.sqlite"), Silent()
    for _ in range(2):
        ask(RecordingEngine(silent, store), "a")
    assert silent.calls == 1
    store.close()


def test_a_damaged_row_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with canned_server(lambda *_: (200, GOOD)) as server:
        store = CompletionStore(path)
        ask(RecordingEngine(engine(server.url), store), "a")
        store.close()
        with sqlite3.connect(path) as db:
            db.execute("update completions set extra = ?", (json.dumps({})[:1],))
        db.close()
        store = CompletionStore(path)
        (found,) = ask(RecordingEngine(engine(server.url), store), "a")
        assert isinstance(found, AbortRunError)
        assert f"{path}: can't read completions" in str(found)
        assert "move it away" in str(found)
        store.close()


def test_a_key_that_a_server_echoes_in_an_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-verysecret")
    echo = {"content": f"{ORDER} sk-verysecret", "reasoning_content": "I was sent sk-verysecret"}
    reply = {**GOOD, "choices": [{"message": echo, "finish_reason": "stop"}]}
    with canned_server(lambda *_: (200, reply)) as server:
        (found,) = ask(engine(server.url, key_variable="MY_KEY"), "a")
    assert isinstance(found, Completion)
    assert found.text == f"<think>I was sent ***</think>\n{ORDER} ***"
