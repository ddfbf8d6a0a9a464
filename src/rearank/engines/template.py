"""Whether a model's chat template takes a prompt, what to set where it doesn't, and whose a prompt's tokens are.

Nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rearank.neutral import plain_unknown, reserved_of
from rearank.prompts import Prompt, Tokenizer
from rearank.runs.layout import read_json
from rearank.types import Message, Passage, Query, Window

# Between what a cut leaves of a text, so that its halves never join to a token, a tag or an identifier. A tokenizer may
# have the first as a token, or make one of it and what stands beside it: then the next is tried.
CUTS = (" … ", " ... ", " (...) ")
_FRAMES = 64  # forms of prompts that are kept: a run has one for each size of a window
_TEXTS = 1024  # of messages whose own tokens are kept: passages are shown in several windows
_SYSTEM = "the system role"
_ALTERNATION = "two turns of one role in a row"
_SINGLE = "more than one turn"
_REMEDIES = {
    _SYSTEM: "set prompt.system='' (say what it says in prompt.opening)",
    _ALTERNATION: "let the assistant acknowledge each passage (prompt.received='Received passage [{i}].'), or choose a "
    "prompt of one turn (prompt=compact)",
    _SINGLE: "choose a prompt of one turn (prompt=compact)",
}


class Frame:
    """The special and added tokens that prompts of one model may hold: the template's and the messages' own.

    Neutralised texts have none. One could still arise where a text meets the template, or the mark of a cut. That may
    be in any turn: ``{query}`` may stand in ``prompt.system``, say. Tokens that a message's text has by itself stay.
    They are of the prompt's own words, which are the user's wish, or of texts that are to be verbatim.
    """

    def __init__(self, tokenizer: Any, encode: Callable[[tuple[Message, ...]], list[int]]) -> None:
        """``encode`` gives the tokens of a conversation in the model's template."""
        reserved, self._tokenizer, self._encode = reserved_of(tokenizer), tokenizer, encode
        texts = {*reserved.exact, *reserved.normalised} if reserved is not None else set()
        texts.discard(plain_unknown(tokenizer) or "")
        added = getattr(tokenizer, "added_tokens_decoder", {}).items()
        self._names = {i: token.content for i, token in added if token.content in texts}
        self._frames: dict[tuple[Message, ...], Counter[int]] = {}
        self._own = lru_cache(maxsize=_TEXTS)(lambda text: self._count(self._tokens(text)))

    def stray(
        self,
        messages: tuple[Message, ...],
        tokens: Sequence[int],
        whole: tuple[tuple[Message, ...], Sequence[int]] | None = None,
    ) -> str | None:
        """A token more or fewer than the template and the messages have by themselves; ``None`` where there is none.

        Args:
            messages: a prompt.
            tokens: all of it as the model reads it.
            whole: messages and tokens before a cut, which adds none.
        """
        if not self._names:
            return None
        found, frame = self._count(tokens), self._frame(messages)
        more = found - frame
        if more:
            for message in (whole or (messages,))[0]:
                if message.role == "user":
                    more -= self._own(message.content)
        if whole is not None:
            more |= found - self._count(whole[1])
        strays = more or frame - found
        return self._names[next(iter(strays))] if strays else None

    def _frame(self, messages: tuple[Message, ...]) -> Counter[int]:
        """What is left of a prompt without the users' texts, and with each other text apart from the template.

        The others keep their words: templates look for some ("/no_think"). The answer's beginning is the user's own.
        """
        last = len(messages) - 1
        bare = tuple(
            message
            if not message.content or (message.role == "assistant" and place == last)
            else replace(message, content=self._apart(message))
            for place, message in enumerate(messages)
        )
        if bare not in self._frames:
            if len(self._frames) >= _FRAMES:
                self._frames.clear()
            self._frames[bare] = self._count(self._encode(bare))
        return self._frames[bare]

    def _apart(self, message: Message) -> str:
        before, after = self._plain
        return before.strip() if message.role == "user" else f"{before}{message.content}{after}"

    @cached_property
    def _plain(self) -> tuple[str, str]:
        """What stands before a text and behind it: without any of the tokens, and nearly always an x and a space."""

        def spelt(word: str) -> bool:
            return word.isascii() and word.isalnum() and not self._count(self._tokens(f"{word}{gap}{word}"))

        for gap in (" ", ""):
            if word := "x" if spelt("x") else next(filter(spelt, sorted(self._tokenizer.get_vocab())), ""):
                return f"{word}{gap}", f"{gap}{word}"
        return "x ", " x"

    def _tokens(self, text: str) -> Sequence[int]:
        found: Sequence[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _count(self, tokens: Sequence[int]) -> Counter[int]:
        return Counter(token for token in tokens if token in self._names)


def shorten(text: str, length: int, mark: str = CUTS[0]) -> str:
    """``text`` cut in its middle to ``length`` characters: a prompt says what it wants at its ends.

    ``mark`` stands at the cut, within the length. Where there is no room for it the end is cut off instead.
    """
    if len(text) <= length:
        return text
    left = length - len(mark)
    if left < 2:
        return text[:length]
    tail = left // 2
    return text[: left - tail] + mark + text[len(text) - tail :]


def example(prompt: Prompt, tokenizer: Tokenizer | None = None, size: int = 3) -> tuple[Message, ...]:
    """A conversation of the form that ``prompt`` always has, of ``size`` passages, to try a template with.

    The beginning of the answer, where the prompt gives one, is left out.
    """
    passages = tuple(Passage(str(number), f"Text {number}.") for number in range(1, size + 1))
    messages = prompt.render(Window(Query("q", "a query"), passages), tokenizer)
    return messages[:-1] if messages[-1].role == "assistant" else messages


def refusal(render: Callable[[Sequence[Message]], object], messages: Sequence[Message]) -> str | None:
    """Why a chat template can't render ``messages``, in a line with the remedy; ``None`` where it can.

    Args:
        render: the model's own template: a tokenizer's ``apply_chat_template``, say; whatever it raises is a refusal.
        messages: a prompt, without a beginning of its answer.
    """
    if (reason := _failure(render, messages)) is None:
        return None
    for kinds, changed in _changes(messages):
        if _failure(render, changed) is None:
            what, remedies = " and ".join(kinds), "; ".join(_REMEDIES[kind] for kind in kinds)
            return f"the model's chat template refuses {what} ({reason}): {remedies}"
    return (
        f"the model's chat template refuses this prompt ({reason}): choose another (prompt=...), or put a "
        "chat_template.jinja that takes it into the model's folder"
    )


def _failure(render: Callable[[Sequence[Message]], object], messages: Sequence[Message]) -> str | None:
    try:
        render(messages)
    except Exception as error:  # a template may raise anything, and each kind of tokenizer has its own
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def _changes(messages: Sequence[Message]) -> Iterator[tuple[tuple[str, ...], Sequence[Message]]]:
    """What a template may refuse, and ``messages`` without it: small changes first."""
    bare = [message for message in messages if message.role != "system"]
    single = [Message("user", bare[-1].content)] if bare else []
    without = ((_SYSTEM,), bare) if len(bare) < len(messages) else None
    head = messages[: len(messages) - len(bare)]
    if without:
        yield without
    yield (_ALTERNATION,), [*head, *_alternating(bare)]
    if without:
        yield (_SYSTEM, _ALTERNATION), _alternating(bare)
    yield (_SINGLE,), [*head, *single]
    if without:
        yield (_SYSTEM, _SINGLE), single


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """``messages`` with a turn of the other role between two of the same one."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1].role == message.role:
            found.append(Message("assistant" if message.role == "user" else "user", "Yes."))
        found.append(message)
    return found


def own_template(folder: Path) -> Callable[[Sequence[Message]], object] | None:
    """Renders messages by the template in a model's folder, as transformers does; ``None`` where it can't be tried.

    Without transformers: a template is a file, and jinja2 renders it within milliseconds.
    """
    settings = read_json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    text = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if isinstance(text, list):  # several under names
        text = next((one.get("template") for one in text if one.get("name") == "default"), None)
    if not isinstance(text, str) or find_spec("jinja2") is None:
        return None
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now(UTC).strftime(form))
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    tokens = {name: _token(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    try:
        template = environment.from_string(text)
    except TemplateError:  # with what only transformers knows (generation blocks): it has the last word
        return None

    def render(messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return template.render(messages=turns, add_generation_prompt=True, tools=None, documents=None, **tokens)

    return render


def _token(value: object) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")
