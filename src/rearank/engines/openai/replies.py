"""The body of a chat completion: untrusted JSON in, the answer and what it cost out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from rearank.engines.openai.budget import Usage
from rearank.engines.openai.retries import Kind, Trouble
from rearank.parsing import cut_in_reasoning

_SNAPSHOT = re.compile(r"[-@:]v?\d[\d.-]*")
_CUT = {"length", "max_tokens"}
_GIVEN_UP = {"insufficient_system_resource", "abort", "error"}  # DeepSeek under load; vLLM and SGLang


@dataclass(frozen=True)
class Reply:
    """An answer. ``usage`` is ``None`` where the server doesn't say, ``model`` the name it answers under."""

    text: str
    finish: Literal["stop", "length"]
    usage: Usage | None
    model: str | None


def read_reply(body: str) -> Reply:
    """The first choice of a completed chat.

    A reasoning that the server sends apart (``reasoning_content``, ``reasoning``) is put back in front of the answer
    as ``<think>...</think>``, so that one parser reads every server's. A refusal in words is an answer: it names no
    order and is counted as such. An answer that a content filter took away is none, and asking again won't help.

    Raises:
        Trouble: for a body without an answer.
    """
    try:
        whole = json.loads(body)
    except ValueError as error:
        raise Trouble(Kind.RETRY, f"the reply is not JSON ({error})") from None
    if not isinstance(whole, dict):
        raise Trouble(Kind.RETRY, "the reply is not a JSON object")
    usage = _usage(whole.get("usage"))
    choices = whole.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        error_text = f": {str(whole['error'])[:200]}" if whole.get("error") else ""
        raise Trouble(Kind.RETRY, f"the reply has no choices{error_text}", usage=usage)
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise Trouble(Kind.FAIL, "the server's content filter took the answer away", usage=usage)
    if reason in _GIVEN_UP:
        raise Trouble(Kind.RETRY, f"the server gave the answer up (finish_reason {reason})", usage=usage)
    finish: Literal["stop", "length"] = "length" if reason in _CUT else "stop"
    model = whole.get("model")
    return Reply(_text(message, finish), finish, usage, model if isinstance(model, str) and model else None)


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


def _text(message: dict[str, Any], finish: str) -> str:
    content = _words(message.get("content")) or _words(message.get("refusal"))
    reasoning = _words(message.get("reasoning_content")) or _words(message.get("reasoning"))
    if not reasoning or "<think>" in content or "</think>" in content:
        return content
    if not content and finish == "length":  # cut while it reasoned
        return f"<think>{reasoning}"
    return f"<think>{reasoning}</think>\n{content}"


def _words(value: Any) -> str:
    """A text, or the texts of its parts, which some servers send."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = (
        value.get("prompt_tokens"),
        value.get("completion_tokens"),
        cached or value.get("prompt_cache_hit_tokens"),
    )
    prompt, completion, hits = (n if isinstance(n, int) and n > 0 else 0 for n in counts)
    return Usage(prompt, completion, hits)
