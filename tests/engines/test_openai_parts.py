"""What servers say, read: replies, failures, waits, prompts that are too long, prices."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.engines.openai.budget import Budget, BudgetError, Prices, Usage
from rearank.engines.openai.overflow import Request, TooLong, fitted, too_long
from rearank.engines.openai.replies import is_served_as, read_reply, whole_text
from rearank.engines.openai.retries import Backoff, Kind, Trouble, read_failure, retry_after
from rearank.parsing import parse_ranking
from rearank.types import Message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["choices", "message", "usage"]), inner)
    ),
    max_leaves=12,
)


def reply(message: dict[str, Any], reason: str | None = "stop", **more: Any) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": reason}], **more})


@pytest.mark.parametrize(
    ("message", "reason", "text"),
    [
        ({"content": "[1]"}, "stop", "[1]"),
        ({"content": [{"type": "text", "text": "[1]"}, {"type": "x"}, {"text": " > [2]"}]}, "stop", "[1] > [2]"),
        ({"content": "a", "reasoning_content": "b"}, "stop", "<think>b</think>\na"),
        ({"content": "a", "reasoning": "b"}, None, "<think>b</think>\na"),
        ({"content": None, "reasoning_content": "b"}, "length", "<think>b"),
        (
            {"content": "", "reasoning_content": "[1] may well be better than [2]"},
            "stop",
            "<think>[1] may well be better than [2]</think>\n",
        ),
        ({"content": "<think>b</think>a", "reasoning_content": "b"}, "stop", "<think>b</think>a"),
        ({"content": "[1]", "refusal": "no"}, "stop", "[1]"),
    ],
)
def test_the_text_of_an_answer(message: dict[str, Any], reason: str | None, text: str) -> None:
    assert read_reply(reply(message, reason)).text == text


@pytest.mark.parametrize(
    ("content", "reason", "prefill", "status"),
    [
        ("The format is <answer> [2] > [1] </answer>. Now passage [1] is about", "length", "", "unclosed_think"),
        ("The format is <answer> [2] > [1] </answer>. Now passage [1] is about", "stop", "", "ok"),
        ("The format is <answer> [2] > [1] </answer>. Now </think> <answer>[1] > [2]", "length", "", "no_answer_tag"),
        ("<answer> [2] > [1] </answer> and [1]", "length", "", "ok"),
        ("[2] > [1] </answer> as it says", "length", "<think> </think> <answer>", "ok"),
    ],
)
def test_a_cut_reasoning_that_a_servers_template_opened(content: str, reason: str, prefill: str, status: str) -> None:
    text = whole_text(read_reply(reply({"content": content}, reason)), prefill)
    assert parse_ranking(text, 2).status == status
    assert text.endswith(prefill + content)


def test_usage_of_openai_and_deepseek() -> None:
    said, usage = {"content": "[1]"}, {"prompt_tokens": 10, "completion_tokens": 4}
    details = {**usage, "prompt_tokens_details": {"cached_tokens": 6}}
    assert read_reply(reply(said, usage=details)).usage == Usage(10, 4, 6)
    assert read_reply(reply(said, usage={**usage, "prompt_cache_hit_tokens": 6})).usage == Usage(10, 4, 6)
    assert read_reply(reply(said, usage={**usage, "prompt_tokens_details": None})).usage == Usage(10, 4, 0)
    assert read_reply(reply(said)).usage is None


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ('{"choices": [', Kind.RETRY, "not JSON"),
        ("<html>", Kind.RETRY, "not JSON"),
        ("[]", Kind.RETRY, "not a JSON object"),
        ('{"choices": []}', Kind.RETRY, "no choices"),
        ('{"choices": null, "error": {"message": "upstream"}}', Kind.RETRY, "upstream"),
        (reply({}, "content_filter"), Kind.FAIL, "content filter"),
        (reply({}, "insufficient_system_resource"), Kind.RETRY, "insufficient_system_resource"),
        (reply({}, "abort"), Kind.RETRY, "abort"),
    ],
)
def test_a_body_without_an_answer(body: str, kind: Kind, said: str) -> None:
    with pytest.raises(Trouble, match=said) as caught:
        read_reply(body)
    assert caught.value.kind is kind


@given(JSON)
def test_no_body_is_a_crash(body: Any) -> None:
    for text in (json.dumps(body), str(body)):
        with contextlib.suppress(Trouble):
            assert isinstance(read_reply(text).text, str)
        assert isinstance(read_failure(400, {}, text, None), Trouble)


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-3.5-turbo", "gpt-3.5-turbo-0125", True),
        ("m", None, True),
        ("m", "alias", True),
        ("gpt-4", "gpt-4o", False),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4", "gpt-4.1", False),
        ("qwen3", "qwen3-8b", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
    ],
)
def test_which_name_is_the_same_model(asked: str, answered: str | None, same: bool) -> None:
    assert is_served_as(asked, answered, "alias") is same


def test_when_to_come_back() -> None:
    now = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "0.25"}) == 0.25
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert retry_after({"retry-after": "Wed, 01 May 2024 12:01:30 GMT"}, now) == 90
    assert retry_after({"retry-after": "Wed, 01 May 2024 11:00:00 GMT"}, now) == 0
    assert retry_after({"retry-after": "-3"}) == 0
    for nonsense in ("soon", "", "nan", "inf"):
        assert retry_after({"retry-after": nonsense}) is None
    assert retry_after({}) is None


@given(st.integers(0, 10_000), st.none() | st.floats(0, 1e9))
def test_waits_grow_up_to_their_limit_and_honour_the_server(retry: int, asked: float | None) -> None:
    seconds = Backoff(first=1.0, longest=60.0).seconds(retry, asked)
    if asked is None:
        assert 0.5 * min(60, 2.0 ** min(retry, 10)) <= seconds <= min(60, 2.0 ** min(retry, 10))
    else:
        assert min(asked, 60) <= seconds <= min(asked, 60) + 1


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        *((status, {"message": "x"}, Kind.RETRY) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, {"message": "x"}, Kind.FAIL) for status in (400, 403, 405, 413, 422)),
        *((status, {"message": "x"}, Kind.STOP) for status in (401, 402)),
        (403, {"message": "x", "code": "permission_denied"}, Kind.REFUSED),
        (404, {"message": "x"}, Kind.NO_MODEL),
        (429, {"message": "x", "code": "insufficient_quota"}, Kind.STOP),
        (429, {"message": "x", "type": "insufficient_quota"}, Kind.STOP),
        (
            400,
            {"message": "Unsupported value: 'temperature' does not support 0", "code": "unsupported_value"},
            Kind.REFUSED,
        ),
        (400, {"message": "x", "code": "context_length_exceeded"}, Kind.OVERFLOW),
    ],
)
def test_what_a_status_means(status: int, error: dict[str, str], kind: Kind) -> None:
    assert read_failure(status, {}, json.dumps({"error": error}), None).kind is kind
    assert read_failure(status, {}, json.dumps(error), None).kind is kind


@pytest.mark.parametrize(
    ("message", "context", "prompt"),
    [
        (
            "This model's maximum context length is 128,000 tokens. However, your messages resulted in 130,001 tokens.",
            *(128000, 130001),
        ),
        (
            "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (4200 in the "
            "messages, 800 in the completion).",
            *(4097, 4200),
        ),
        (
            "This model's maximum context length is 1024 tokens. However, you requested 96 output tokens and your "
            "prompt contains at least 929 input tokens, for a total of at least 1025 tokens.",
            *(1024, None),
        ),
        (
            "This model's maximum context length is 1024 tokens. However, you requested 96 output tokens and your "
            "prompt contains 9000 characters (more than 8000 characters, which is the upper bound for 928 input "
            "tokens).",
            *(1024, None),
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 96. This model's maximum context length is 1024 "
            "tokens and your request has 1000 input tokens (96 > 1024 - 1000).",
            *(1024, 1000),
        ),
        (
            "max_tokens=5000 cannot be greater than max_model_len=max_total_tokens=1024. Please request fewer output "
            "tokens. (parameter=max_tokens, value=5000)",
            *(1024, None),
        ),
        ("The input (1200 tokens) is longer than the model's context length (1024 tokens).", 1024, 1200),
        (
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of "
            "9000 tokens: 8000 tokens from the input messages and 1000 tokens for the completion.",
            *(8192, 8000),
        ),
        ("prompt is too long: 210000 tokens > 200000 maximum", 200000, 210000),
        ("The input token count (1200) exceeds the maximum number of tokens allowed (1024).", 1024, 1200),
        (
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
            *(272000, 300000),
        ),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens "
            "and 100 `max_new_tokens`",
            *(4096, 5000),
        ),
    ],
)
def test_how_servers_say_that_a_prompt_is_too_long(message: str, context: int, prompt: int | None) -> None:
    assert too_long({}, message) == TooLong(context, prompt)


def test_what_is_not_about_length() -> None:
    fields = {"n_ctx": 1024, "n_prompt_tokens": 2000, "type": "exceed_context_size_error"}  # llama.cpp
    assert too_long(fields, "the request exceeds the available context size") == TooLong(1024, 2000)
    assert too_long({}, "max_tokens is too large: 100000. This model supports at most 16384 tokens") is None
    assert too_long({}, "invalid message") is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "exceed_context_size_error", Kind.OVERFLOW),
        (503, "context_length_exceeded", Kind.OVERFLOW),
        (500, "server_error", Kind.RETRY),
        (429, "tokens_limit_exceeded", Kind.RETRY),
    ],
)
def test_a_length_named_by_its_code_is_one_under_any_status_of_a_fault(status: int, code: str, kind: Kind) -> None:
    """The same prompt would fail again; a limit of tokens a minute would not."""
    body = json.dumps({"error": {"message": "the request exceeds the available context size", "type": code}})
    if kind is not Kind.OVERFLOW:
        body = body.replace("the available context size", "what I can do")
    assert read_failure(status, {}, body, None).kind is kind


@given(
    st.lists(st.integers(0, 4000), min_size=1, max_size=8),
    st.integers(1, 3000),
    st.integers(64, 2000),
    st.floats(0.2, 1.0),
    st.sampled_from(["exact", "no prompt", "nothing"]),
)
def test_a_shortened_prompt_fits_soon(
    lengths: list[int], most: int, context: int, tokens_each: float, says: str
) -> None:
    """Whatever a character weighs: the answer keeps its room, or half of the context, and little more is cut."""
    request: Request | None = Request(tuple(Message("user", "x" * length) for length in lengths), most)
    for _ in range(40):
        assert request is not None
        prompt = int(sum(len(message.content) for message in request.messages) * tokens_each)
        if prompt + request.max_tokens <= context:
            break
        said = {
            "exact": TooLong(context, prompt),
            "no prompt": TooLong(context),
            "nothing": TooLong(),
        }[says]
        before, request = request, fitted(request, said)
        if request is None:  # nothing is left to cut, or the server didn't say that the answer is what is too long
            assert sum(len(message.content) for message in before.messages) < 3 * len(lengths) or says == "nothing"
            return
        assert request.shortened or request.max_tokens < before.max_tokens
    else:
        raise AssertionError("it never fitted")
    assert request.max_tokens >= min(most, context // 2) or says == "nothing"
    if says == "exact" and request.shortened:
        assert prompt >= (context - min(most, context // 2)) * 0.9 - len(lengths)


def test_the_longest_messages_are_cut_in_their_middles() -> None:
    messages = (Message("system", "rules"), Message("user", "a" * 50 + "b" * 100 + "c" * 50), Message("user", "end"))
    cut = fitted(Request(messages, 10), TooLong(110, 208))
    assert cut is not None
    assert (cut.messages[0], cut.messages[2], cut.max_tokens) == (messages[0], messages[2], 10)
    middle = cut.messages[1].content
    assert 80 < len(middle) < 95
    assert middle.startswith("a" * 40)
    assert middle.endswith("c" * 40)


def test_prices() -> None:
    assert Prices(2.0, 8.0).cost(Usage(1_000_000, 500_000, 400_000)) == 6.0
    assert Prices(2.0, 8.0, cached=0.5).cost(Usage(1_000_000, 0, 400_000)) == pytest.approx(1.4)


def test_a_budget_stops_when_it_is_reached() -> None:
    budget = Budget(1.0)
    budget.earlier = 0.5
    budget.check()
    budget.charge(0.4)
    budget.check()
    budget.charge(0.4)
    with pytest.raises(
        BudgetError, match=r"\$1\.3000 of engine\.budget=1 .*\$0\.8000 .* 2 answers, \$0\.4 each.* \$0\.0000 is left"
    ):
        budget.check()
    free = Budget(None)
    free.charge(1e9)
    free.check()
