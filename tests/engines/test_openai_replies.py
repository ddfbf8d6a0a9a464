"""Replies in other shapes: choices out of order, refusals, reasonings in parts, sums of tokens, unnamed failures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.engines.canned_server import canned_server, chat
from tests.engines.test_openai_servers import GOOD, ORDER, PRICED, USAGE, ask, engine

from rearank.engines import EngineError
from rearank.engines.openai.engine import ServerError
from rearank.engines.openai.replies import read_reply
from rearank.engines.openai.retries import Kind, Trouble
from rearank.types import Completion

pytest.importorskip("openai")


def test_the_choice_of_index_0_is_read_wherever_it_stands() -> None:
    first, other = GOOD["choices"][0], {**chat("[3]")["choices"][0], "index": 1}
    for choices in ([other, first], [first, other], [{"message": other["message"]}, first], [None, first]):
        assert read_reply(json.dumps({"choices": choices})).text == ORDER
    assert read_reply(json.dumps({"choices": [{"message": {"content": "[1]"}}, other]})).text == "[1]"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "insufficient"),
        ({"code": 1113, "msg": "余额不足或无可用资源包,请充值。", "success": False}, "余额不足"),
        ({"error": {"code": "1113", "message": "Your credit balance is too low"}}, "credit balance is too low"),
    ],
)
def test_an_account_that_can_not_pay_stops_the_run_from_within_a_200(body: Any, said: str) -> None:
    with canned_server(lambda *_: (200, body)) as server:
        found = ask(engine(server.url), "a", "b", at_once=False)
        assert len(server.requests) == 1
    assert [type(one) for one in found] == [ServerError] * 2
    assert "the account has no credit left" in str(found[0])
    assert said in str(found[0])
    assert "HTTP" not in str(found[0])


def test_a_credit_that_ran_out_under_other_statuses() -> None:
    for status in (400, 403, 429):
        body = {"error": {"message": "Your credit balance is too low to access the API."}}
        with canned_server(lambda *_, s=status, b=body: (s, b)) as server:  # type: ignore[misc]
            (found,) = ask(engine(server.url), "a")
        assert isinstance(found, ServerError)
        assert "top it up" in str(found)
    # A rate limit is none, whatever it is called.
    limit = {"error": {"message": "You exceeded your current quota, please check your plan and billing details."}}
    with canned_server(lambda _, number: (429, limit) if number == 0 else (200, GOOD)) as server:
        assert ask(engine(server.url), "a")[0].text == ORDER


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (
            {"choices": [], "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}},
            Kind.FAIL,
            "content",
        ),
        ({"base_resp": {"status_code": 1004, "status_msg": "invalid api key"}}, Kind.REFUSED, "refuses the key"),
        ({"base_resp": {"status_code": 1000, "status_msg": "unknown error"}}, Kind.RETRY, "no choices: unknown error"),
        ({"result": None, "state": "FAILED"}, Kind.RETRY, 'no choices: {"result": null, "state": "FAILED"}'),
        ({"choices": None}, Kind.RETRY, "the reply has no choices"),
    ],
)
def test_what_a_reply_without_choices_says_is_read_and_shown(body: Any, kind: Kind, said: str) -> None:
    with pytest.raises(Trouble) as caught:
        read_reply(json.dumps(body))
    assert caught.value.kind is kind
    assert said in str(caught.value)
    assert "HTTP" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I cannot help with that."},
        {"content": [{"type": "refusal", "refusal": "I cannot help with that."}]},
    ],
)
def test_a_models_refusal_fails_its_query_and_is_named(message: dict[str, Any]) -> None:
    with canned_server(lambda *_: (200, chat(usage=USAGE, **message))) as server:
        made = engine(server.url, **PRICED)
        found = ask(made, "a", "b", "c", "d", at_once=False)
        assert len(server.requests) == 4
    assert [type(one) for one in found] == [EngineError] * 4
    assert str(found[0]).endswith("the model refuses this prompt (I cannot help with that.)")
    assert made.budget.spent == 4 * 20, "it is paid for"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "reasoning_details": [{"type": "reasoning.text", "text": ORDER}]}, ORDER),
        ({"content": "", "reasoning_details": [{"type": "reasoning.summary", "summary": ORDER}]}, ORDER),
        ({"content": ORDER, "reasoning_details": [{"text": "so"}, {"data": "x"}]}, f"<think>so</think>\n{ORDER}"),
        ({"content": ORDER, "reasoning": "so", "reasoning_details": [{"text": "so"}]}, f"<think>so</think>\n{ORDER}"),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}, {"text": ORDER}]},
            f"<think>so</think>\n{ORDER}",
        ),
        ({"content": ORDER, "reasoning_details": [{"text": 7}, [], None]}, ORDER),
    ],
)
def test_a_reasoning_in_parts(message: dict[str, Any], text: str) -> None:
    read = read_reply(json.dumps(chat(**message)))
    assert (read.text, read.in_reasoning) == (text, text == ORDER and not message["content"])


@pytest.mark.parametrize(
    ("total", "counted"),
    [(305, (100, 205)), ("305", (100, 205)), (100, (100, 7)), (60, (60, 7)), (0, (100, 7))],
)
def test_a_sum_of_tokens_alone_is_what_the_budget_counts(total: Any, counted: tuple[int, int]) -> None:
    with canned_server(lambda *_: (200, chat(ORDER, usage={"total_tokens": total}))) as server:
        made = engine(server.url, **PRICED)
        (found,) = ask(made, "a" * 400)
    assert isinstance(found, Completion)
    assert (found.prompt_tokens, found.completion_tokens) == counted
    assert made.budget.spent == found.cost == counted[0] + 2 * counted[1]


def test_a_chat_that_is_not_there_though_the_model_is_listed() -> None:
    with canned_server(lambda *_: (404, {"detail": "Not Found"})) as server:
        server.models = ["other", "small"]
        found = ask(engine(server.url), "a", "b", at_once=False)
        assert len(server.requests) == 1
    assert all(isinstance(one, ServerError) for one in found)
    assert "lists the model 'small' and takes no chat for it (HTTP 404: Not Found)" in str(found[0])
    assert "is engine.base_url right? Chats are sent to " + server.url + "/chat/completions" in str(found[0])
    assert "has no model" not in str(found[0])


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 32768. This model supports at most 4096 completion tokens, you provided 32768.",
        "max_tokens: 32768 > 4096, which is the maximum allowed number of output tokens",
        "it has a maxOutputTokens value of 32768 but the supported range is from 1 (inclusive) to 8193 (exclusive).",
        "'max_completion_tokens' must be less than or equal to 4096",
    ],
)
def test_too_long_an_answer_is_mended_by_asking_for_less(message: str) -> None:
    with canned_server(lambda *_: (400, {"error": {"message": message}})) as server:
        (found,) = ask(engine(server.url), "word " * 500)
        assert len(server.requests) == 1
    assert isinstance(found, ServerError)
    assert str(found).endswith("set a smaller model.max_tokens")


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens (96) must be at least 100 and at most 8192",
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, too small",
        "max_completion_tokens must be greater than or equal to 100",
    ],
)
def test_too_short_an_answer_is_mended_by_asking_for_more(message: str) -> None:
    with canned_server(lambda *_: (400, {"error": {"message": message}})) as server:
        (found,) = ask(engine(server.url), "a")
        assert len(server.requests) == 1
    assert isinstance(found, ServerError)
    assert str(found).endswith("set a larger model.max_tokens")


@pytest.mark.parametrize("status", [400, 403])
def test_a_prompt_that_violates_a_policy_fails_alone(status: int) -> None:
    said = {"message": "Prompt violates usage policies", "type": "permission_error"}
    with canned_server(lambda *_: (status, {"error": said})) as server:
        (found,) = ask(engine(server.url), "a")
    assert type(found) is EngineError
    assert "the server refuses this prompt for its content" in str(found)
    assert "key" not in str(found)


def test_another_name_for_the_most_tokens_is_still_that() -> None:
    message = "Unsupported parameter: 'max_tokens' is not supported with o4-mini-2025. Use 'max_completion_tokens'."
    with canned_server(lambda *_: (400, {"error": {"message": message}})) as server:
        (found,) = ask(engine(server.url), "a")
    assert str(found).endswith("set engine.max_tokens_field=max_completion_tokens")
