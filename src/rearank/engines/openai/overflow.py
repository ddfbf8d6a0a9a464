"""A prompt that a server finds too long: what its error says, and what to send instead.

There is no tokenizer here: the server's own figures say how much must go. Its refusals cost nothing. No figure is
remembered from one call to the next, so that no answer depends on which call came first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from rearank.engines.chat import split_prefill
from rearank.engines.template import shorten
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
_LENGTH = re.compile(r"context|tokens?\b|characters\b|\blength|\blong|sequence|too large|\bsize", re.IGNORECASE)
_PROMPT_OR_CONTEXT = re.compile(
    r"context|prompt|input|sequence|messages?\b|request|text|string|content|conversation", re.IGNORECASE
)
_EXCEEDS = re.compile(
    r"too (?:long|large|many|big)|exceed|longer|more (?:tokens )?than|over(?:flow|length)|maximum|at most|limit|larger|"
    r"greater|truncat|does ?n.t fit|not fit|less than|fewer than|should be|must be|range|within|no more than",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"context_(?:length|size|window)|too_?(?:long|large|many_tokens)|(?:length|size|tokens?(?:_limit)?)_?exceed|"
    r"exceed\w*_(?:length|size|context|tokens)|max_?length",
    re.IGNORECASE,
)
_OTHER_FIGURES = re.compile(
    r"position|\bline\b|column|index|offset|\bids?\b|quota|\brates?\b|\bms\b|seconds|minute|version|pixel|image",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}([,_.'’\u00a0\u202f])\d{3}(?:\1\d{3})*(?![\d.]*\d)")  # 128,000
_OF_THE_ANSWER = re.compile(r"max_?(?:completion_?|new_?|output_?)?tokens", re.IGNORECASE)
_SPARE = 0.98  # of the room: characters and tokens aren't quite proportional
_STEP = 0.8  # the share that is kept where the server doesn't say how long the prompt is
_CHARACTERS = 4  # a token of English text has about so many
_WIDEST = 12  # characters of a token, where a whole prompt has the longest
_NEAR = 0.9  # of the logarithms: two and a half times more or less
_CLOSE, _SAME = 0.5, 0.1  # in texts that may be about anything: of tokens, of characters
_FIGURE = 16  # smaller numbers are no sizes
_STATUSES = {400, 413, 422}  # which a page of words repeats


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

    @property
    def characters(self) -> int:
        """Of the messages."""
        return sum(len(message.content) for message in self.messages)


def tokens_of(text: str) -> int:
    """How many tokens a text has, by its length: there is no tokenizer here."""
    return -(-len(text.encode("utf-8", "replace")) // _CHARACTERS)


def too_long(error: Mapping[str, Any], message: str, request: Request | None = None) -> TooLong | None:
    """Read a server's refusal; ``None`` if it is about something else.

    The figures of known wordings are taken as they are meant (OpenAI, vLLM, SGLang, DeepSeek, llama.cpp, TGI, Gemini,
    Anthropic). In any other text, in any language, the figure that the prompt's own size explains is the prompt's, and
    what it exceeds is the context; without such figures the error's code or its text must say that a prompt or a
    context is too long.
    """
    code = f"{error.get('code') or ''} {error.get('type') or ''}"
    field = error.get("param")
    by_code = _CODE.search(code) is not None and not (isinstance(field, str) and not _PROMPT_OR_CONTEXT.search(field))
    plain = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match.group()), message)
    if _SIGN.search(message) or re.search(r"context_(?:length|size|window)", code):
        known = TooLong(
            context=_whole(error.get("n_ctx")) or _first(_CONTEXT, plain),
            prompt=_whole(error.get("n_prompt_tokens")) or _first(_PROMPT, plain),
        )
        return known if known.prompt or known.context else _by_size(plain, request) or known
    in_words = by_code or _LENGTH.search(message) is not None
    if in_words or not _OTHER_FIGURES.search(message):
        numbers = {int(number) for number in re.findall(r"\d{2,9}", code)}
        if (found := _by_size(plain, request, numbers, sure=in_words)) is not None:
            return found
    if not (by_code or (in_words and _PROMPT_OR_CONTEXT.search(message) and _EXCEEDS.search(message))):
        return None
    if _OF_THE_ANSWER.search(message):
        return None
    # A limit alone, where the prompt may well be above it.
    limits = _figures(plain) - _STATUSES if request is not None else set()
    asked = sum(tokens_of(turn.content) for turn in request.messages) + request.max_tokens if request is not None else 0
    return TooLong(context=max((figure for figure in limits if figure < asked), default=None))


def names_too_long(error: Mapping[str, Any]) -> bool:
    """Whether the error's code or type says that a prompt is too long, whatever the HTTP status is."""
    return _CODE.search(f"{error.get('code') or ''} {error.get('type') or ''}") is not None


def _by_size(
    message: str, request: Request | None, besides: Set[int] = frozenset(), *, sure: bool = True
) -> TooLong | None:
    """The two figures that a prompt of this size explains: it, alone or with its answer, exceeds the other.

    Args:
        message: of the server.
        request: what was asked.
        besides: figures that are no sizes.
        sure: the message is about a length; of another one, the prompt's figure must be close to ours.
    """
    if request is None:
        return None
    texts = [turn.content for turn in request.messages]
    size, most = sum(map(tokens_of, texts)), request.max_tokens
    characters, size_in_bytes = sum(map(len, texts)), sum(len(text.encode("utf-8", "replace")) for text in texts)
    least, longest = characters // _WIDEST, size_in_bytes + 64 * len(texts)  # what a template adds
    figures = _figures(message) - besides
    of_the_answer = most in figures or _OF_THE_ANSWER.search(message)
    figures.discard(most)
    prompts = {figure for figure in figures if least <= figure <= longest}
    # With its answer: more than the prompt could be, or the sum of two figures.
    totals = {figure - most for figure in figures if least <= figure - most <= longest}
    found: list[tuple[int, float, int, int]] = []
    for prompt in (prompts | totals) - {0}:
        below = {figure for figure in figures if figure < prompt + most and figure not in (prompt, prompt + most)}
        if not below or (max(below) >= prompt and prompt not in totals and not of_the_answer):
            continue
        distance = abs(math.log(prompt / max(size, 1)))
        counted = any(abs(math.log(prompt / max(one, 1))) < _SAME for one in (characters, size_in_bytes))
        near, both = distance < _NEAR or counted, prompt in prompts and prompt in totals
        if not sure and not (distance < _CLOSE or counted):
            continue
        rank = 0 if both else 3 if not near else 1 if prompt in prompts else 2
        found.append((rank, distance, prompt, max(below)))
    if not found:
        return None
    _, _, prompt, context = min(found)
    return TooLong(context, prompt)


def _figures(message: str) -> set[int]:
    """Whole numbers that may be sizes."""
    return {int(digits) for digits in re.findall(r"(?<![\d.])\d{2,9}(?![\d.]*\d)", message)} - set(range(_FIGURE))


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
    characters = _characters(request.characters, most, said) - len(prefill)
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
