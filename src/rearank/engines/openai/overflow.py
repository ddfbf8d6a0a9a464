"""A prompt that a server finds too long: what its error says, and what to send instead.

There is no tokenizer here: the server's own figures say how much must go. Its refusals cost nothing. Nothing is
remembered from one call to the next, so that no answer depends on which call came first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rearank.engines.chat import shorten, split_prefill
from rearank.types import Message

_SIGN = re.compile(
    r"context[_ ](?:length|size|window)|prompt is too long|input (?:tokens|token count) exceeds?|"
    r"exceeds the maximum number of tokens|max_new_tokens`? must be <=|longer than the model|max_model_len",
    re.IGNORECASE,
)
_CONTEXT = (
    re.compile(r"(?:context (?:length|size|window)|max_model_len)\D{0,25}(\d+)", re.IGNORECASE),
    re.compile(r"(?:limit of |allowed \(|tokens > |must be <= )(\d+)", re.IGNORECASE),
)
_PROMPT = (
    re.compile(r"(?:contains|has|passed) (\d+) input tokens", re.IGNORECASE),
    re.compile(r"(\d+) (?:tokens )?(?:in|from) the (?:input )?(?:messages|prompt)", re.IGNORECASE),
    re.compile(r"(?:messages|prompt|input) (?:resulted in|of|has|is) (\d+) tokens", re.IGNORECASE),
    re.compile(r"input \((\d+) tokens\)", re.IGNORECASE),
    re.compile(r"(?:too long: |token count \(|given: )(\d+)", re.IGNORECASE),
)
_SPARE = 0.98  # of the room: characters and tokens aren't quite proportional
_STEP = 0.8  # the share that is kept where the server doesn't say how long the prompt is
_CHARACTERS = 4  # a token of English text has about so many


@dataclass(frozen=True)
class TooLong:
    """What a server says about a prompt that doesn't fit, in tokens; ``None`` for what it leaves out."""

    context: int | None = None
    prompt: int | None = None


@dataclass(frozen=True)
class Request:
    """What is sent: the messages, and the most tokens of an answer."""

    messages: tuple[Message, ...]
    max_tokens: int
    shortened: bool = False


def too_long(error: Mapping[str, Any], message: str) -> TooLong | None:
    """Read a server's refusal; ``None`` if it is about something else.

    Known wordings: OpenAI, vLLM (old and new), SGLang, DeepSeek, llama.cpp, TGI, Gemini, Anthropic.
    """
    code = f"{error.get('code') or ''} {error.get('type') or ''}"
    if not _SIGN.search(message) and not re.search(r"context_(?:length|size)", code):
        return None
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", message)  # 128,000
    return TooLong(
        context=_whole(error.get("n_ctx")) or _first(_CONTEXT, plain),
        prompt=_whole(error.get("n_prompt_tokens")) or _first(_PROMPT, plain),
    )


def fitted(request: Request, said: TooLong) -> Request | None:
    """What to ask instead; ``None`` where nothing of the prompt is left to take away.

    The answer keeps ``max_tokens``, but never more than half of the context, as with models on this machine; the
    longest messages are cut in their middles, and the beginning of the answer is left as it is.
    """
    most = request.max_tokens
    if said.context is not None:
        half = max(said.context // 2, 1)
        if said.prompt is not None and said.prompt <= said.context - min(most, half):
            room = said.context - said.prompt  # the prompt fits, the answer asked for doesn't
            return replace(request, max_tokens=room if room < most else max(int(most * _STEP), 1))
        if most > half:
            most = half
            if said.prompt is None:
                return replace(request, max_tokens=most)
    asked, prefill = split_prefill(request.messages)
    characters = _characters(sum(len(message.content) for message in request.messages), most, said) - len(prefill)
    if characters < len(asked):
        return None
    return Request((*_cut_to(asked, characters), *request.messages[len(asked) :]), most, shortened=True)


def _characters(before: int, most: int, said: TooLong) -> int:
    """How many may stay."""
    if said.context is None:
        return int(before * _STEP)
    room = said.context - most
    if said.prompt is None or said.prompt <= room:
        return int(min(before * _STEP, room * _CHARACTERS))
    return int(before * _SPARE * room / said.prompt)


def _cut_to(messages: Sequence[Message], characters: int) -> tuple[Message, ...]:
    """The messages with the longest cut in their middles, so that all have at most ``characters``."""
    left, longest = characters, 0
    lengths = sorted(len(message.content) for message in messages)
    for place, length in enumerate(lengths):  # short ones stay whole, the long ones share what is left
        longest = left // (len(lengths) - place)
        if length > longest:
            break
        left -= length
    else:
        return tuple(messages)
    return tuple(replace(message, content=shorten(message.content, longest)) for message in messages)


def _first(patterns: Sequence[re.Pattern[str]], text: str) -> int | None:
    found = next((match for pattern in patterns if (match := pattern.search(text))), None)
    return int(found.group(1)) if found is not None else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
