"""The body of a chat completion: untrusted JSON in, the answer and what it cost out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rearank.engines.openai.budget import Usage
from rearank.engines.openai.overflow import Request
from rearank.engines.openai.retries import WORDS, Kind, Trouble, read_failure
from rearank.parsing import cut_in_reasoning

_SNAPSHOT = re.compile(r"[-@:]v?\d[\d.-]*")
_CUT = {"length", "max_tokens"}
_GIVEN_UP = {"insufficient_system_resource", "abort", "error", "network_error"}  # DeepSeek under load; vLLM and SGLang
_CODES = ("code", "status_code", "error_code")
_SHOWN = 200  # characters of what is wrong
_REASONINGS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")  # fields of a message
_OF_A_REASONING = ("text", "summary", "thinking")  # fields of its parts
_REASONING_ALONE = re.compile(r"<think>(.*)</think>\s*", re.DOTALL)
_IDENTIFIERS = re.compile(r"\[?\b(?:\d+|[A-Z])\b\]?")
_FEW_LETTERS, _VERDICT = 20, 3  # "The final ranking is:" in front of an order; "yes"
_MOST_TOKENS = 2**31


@dataclass(frozen=True)
class Reply:
    """An answer. ``usage`` is ``None`` where the server doesn't say, ``model`` the name it answers under."""

    text: str
    finish: Literal["stop", "length"]
    usage: Usage | None
    model: str | None
    in_reasoning: bool = False
    """Whether the answer came in the field of the reasoning."""


def read_reply(body: str, key_variable: str | None = None, request: Request | None = None) -> Reply:
    """The choice of index 0 of a completed chat, or the first where none has that.

    A reasoning that the server sends apart (``reasoning_content``, for one) is put back in front of the answer as
    ``<think>...</think>``, so that one parser reads every server's. What a content filter took away, or the model
    refused (``refusal``), is no answer, and asking again won't help.

    Raises:
        Trouble: for a body without an answer. A failure that stands in it (``error``, in the reply or in its choice)
            is read like one that came under its own HTTP status; an empty answer is asked for again.
    """
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Trouble(Kind.RETRY, f"the reply is not JSON ({error})") from None
    if not isinstance(whole, dict):
        raise Trouble(Kind.RETRY, "the reply is not a JSON object")
    usage = _usage(whole.get("usage"))
    choice = _first_choice(whole.get("choices"))
    message = choice.get("message") if isinstance(choice, dict) else None
    if choice is None and whole.get("code"):  # the reply is the error itself
        whole["error"] = whole.get("error") or dict(whole)
    for place in (whole, choice, message):
        if isinstance(place, dict) and place.get("error"):
            raise _failure_inside(place["error"], usage, key_variable, request)
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise _nothing_in(whole, usage, key_variable, request)
    reasons = [str(choice.get(name)) for name in ("finish_reason", "native_finish_reason")]
    reason = reasons[0]
    if given_up := [name for name in reasons if name in _GIVEN_UP]:
        raise Trouble(Kind.RETRY, f"the server gave the answer up (finish_reason {given_up[0]})", usage=usage)
    if "content_filter" in reasons:
        raise Trouble(Kind.FAIL, "the server's content filter took the answer away", usage=usage)
    finish: Literal["stop", "length"] = "length" if reason in _CUT else "stop"
    text, in_reasoning = _text(message, finish)
    if not text.strip() and (refusal := _refusal(message)):
        raise Trouble(Kind.FAIL, f"the model refuses this prompt ({refusal[:_SHOWN]})", usage=usage or Usage())
    cut_unseen = finish == "length" and usage is not None and usage.completion > 0  # a reasoning not shown
    if not text.strip() and not cut_unseen:
        told = f" (finish_reason {', '.join(name for name in reasons if name != 'None')})" if reason != "None" else ""
        raise Trouble(Kind.RETRY, f"the answer is empty{told}", usage=usage or Usage(), empty=True)
    model = whole.get("model")
    named = model if isinstance(model, str) and model else None
    return Reply(text, finish, usage, named, in_reasoning)


def reread(text: str, finish: str) -> str | None:
    """A recorded answer as it is read today; ``None`` for a failure that an earlier version recorded as an answer."""
    if not text.strip():
        return text if finish == "length" else None
    alone = _REASONING_ALONE.fullmatch(text)
    if alone is None or finish == "length":
        return text
    return _answer_in(alone.group(1)) or text


def _failure_inside(error: Any, usage: Usage | None, key_variable: str | None, request: Request | None) -> Trouble:
    """A failure that came in a reply of status 200: under the status that it names, or read by its words."""
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    status = int(code) if isinstance(code, (int, str)) and re.fullmatch(r"[45]\d\d", str(code)) else None
    body = json.dumps({"error": error})
    trouble = read_failure(status or 500, {}, body, key_variable, request)
    if status is None:
        told = read_failure(400, {}, body, key_variable, request)
        if trouble.kind is Kind.RETRY and _is_explained(told):
            trouble = told
        trouble.args = (re.sub(r"HTTP [45]00: ", "", str(trouble), count=1),)
    trouble.usage = usage
    return trouble


def _is_explained(trouble: Trouble) -> bool:
    """Whether a text says for certain why another try would fare the same."""
    if trouble.kind is Kind.OVERFLOW:
        return trouble.too_long is not None and trouble.too_long.prompt is not None
    return trouble.kind in (Kind.STOP, Kind.REFUSED) or (trouble.kind is Kind.FAIL and not trouble.alike)


def _nothing_in(
    whole: dict[str, Any], usage: Usage | None, key_variable: str | None, request: Request | None
) -> Trouble:
    """A reply without choices: read by what it says instead, itself or in a field of its own (``base_resp``)."""
    places = [whole, *(inner for inner in whole.values() if isinstance(inner, dict))]
    said = ((str(place[name]), place) for place in places for name in WORDS if place.get(name))
    if (found := next(said, None)) is None:
        shown = f": {json.dumps(whole)[:_SHOWN]}" if whole.keys() - {"choices"} else ""
        return Trouble(Kind.RETRY, f"the reply has no choices{shown}", usage=usage)
    code = next((found[1][name] for name in _CODES if isinstance(found[1].get(name), (int, str))), None)
    error = {"message": f"the reply has no choices: {found[0][:_SHOWN]}", "code": code}
    return _failure_inside(error, usage, key_variable, request)


def _first_choice(choices: Any) -> Any:
    """That of index 0: they may come in any order."""
    if not isinstance(choices, list) or not choices:
        return None
    return next((one for one in choices if isinstance(one, dict) and one.get("index") == 0), choices[0])


def whole_text(reply: Reply, prefill: str) -> str:
    """The answer with what the request began it with, and the ``<think>`` that the server's template opened for it.

    A server doesn't say that its template opened one. A text that was cut before a reasoning ended, and that doesn't
    begin with an answer, is read as such a reasoning, as engines that see the template read it.
    """
    opened = reply.finish == "length" and not prefill and cut_in_reasoning(reply.text)
    return ("<think>\n" if opened else prefill) + reply.text


def is_served_as(asked: str, answered: str | None, accepted: str | None) -> bool:
    """Whether a reply under the name ``answered`` is one of the model ``asked`` for.

    A dated or numbered snapshot is (``gpt-4o`` answers as ``gpt-4o-2024-08-06``), and so is ``accepted``; a server that
    gives no name is believed.
    """
    if answered is None or answered in (asked, accepted):
        return True
    return answered.startswith(asked) and _SNAPSHOT.fullmatch(answered[len(asked) :]) is not None


def _text(message: dict[str, Any], finish: str) -> tuple[str, bool]:
    """The answer, and whether it came as a reasoning."""
    content = _words(message.get("content"))
    apart = [_words(message.get(name), _OF_A_REASONING) for name in _REASONINGS]
    if isinstance(message.get("content"), list):
        apart.append(_words(message["content"], ("thinking",), inner=_OF_A_REASONING))
    reasoning = next((text for text in apart if text.strip()), "")
    if not reasoning.strip() or "<think>" in content or "</think>" in content:
        return content, False
    if not content.strip():
        if finish == "length":  # cut while it reasoned
            return f"<think>{reasoning}", False
        if (answer := _answer_in(reasoning)) is not None:
            return answer, True
    return f"<think>{reasoning}</think>\n{content}", False


def _answer_in(reasoning: str) -> str | None:
    """A reply that the server took for a reasoning, because no ``</think>`` came; ``None`` for a reasoning alone.

    It holds the tags of an answer, or hardly a word besides an order or a verdict.
    """
    if "<answer>" in reasoning or "</think>" in reasoning:
        return reasoning
    before, *after = _IDENTIFIERS.split(reasoning)
    words = [sum(map(str.isalpha, text)) for text in (before, "".join(after))]
    named = reasoning.isascii() and words[1] == 0 and words[0] <= (_FEW_LETTERS if after else _VERDICT)
    return reasoning if named else None


def _refusal(message: dict[str, Any]) -> str:
    """Why the model answers nothing, in a field of its own or in a part of the content; empty where it does not say."""
    content = message.get("content")
    said = _words(message.get("refusal")) or (_words(content, ("refusal",)) if isinstance(content, list) else "")
    return " ".join(said.split())


def _words(value: Any, names: Sequence[str] = ("text",), inner: Sequence[str] | None = None, depth: int = 3) -> str:
    """A text, or the texts of its parts, which some servers send.

    Args:
        value: anything.
        names: of the fields that a part has its text in.
        inner: those of a part's own parts, where they are others.
        depth: of parts in parts.
    """
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) and depth else []
    texts = (part[name] for part in parts if isinstance(part, dict) for name in names if name in part)
    return "".join(_words(text, inner or names, depth=depth - 1) for text in texts)


def _usage(value: Any) -> Usage | None:
    """``None`` where no count is given; 0 for a count that is not. ``total`` is set where it is the only one."""
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    prompt = _count(value.get("prompt_tokens")) or _count(value.get("input_tokens"))
    completion = _count(value.get("completion_tokens")) or _count(value.get("output_tokens"))
    total = _count(value.get("total_tokens"))
    if prompt or completion:  # some leave the reasoning out of the one, and count it in the total
        prompt = prompt or max(total - completion, 0)
        completion = max(completion, total - prompt)
    elif total:
        return Usage(total=total)
    else:
        return None
    return Usage(prompt, completion, cached or _count(value.get("prompt_cache_hit_tokens")))


def _count(value: Any) -> int:
    """A number of tokens, in digits or not; 0 for what can't be one."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(number) if math.isfinite(number) and 0 < number < _MOST_TOKENS else 0
