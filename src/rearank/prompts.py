"""A window -> chat messages. The wording lives in ``conf/prompt``; this file only fills it in, safely.

Passages and queries are untrusted text. Unless ``neutralise`` is off (the released checkpoints' exact input), what
could close a tag, open a chat turn or forge an identifier is replaced by look-alikes that no template or parser reads:
see ``rearank.neutral``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from string import ascii_uppercase
from typing import Annotated, Literal, Protocol, TypeAlias, runtime_checkable

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.neutral import Reserved, joined, neutralise, reserved_of
from rearank.types import Message, Passage, Role, Window

Asks: TypeAlias = Literal["ranking", "best", "yes_no"]
"""What a prompt wants to know: the order of all passages, the best alone, or whether the one it shows is relevant."""
Labels: TypeAlias = Literal["numbers", "letters"]
"""What a prompt calls its passages: 1, 2, ... or A, B, ..."""
WhiteSpace: TypeAlias = Literal["fold", "strip", "keep"]
"""Of passages: one space for each run, or as it is but for both ends, or as it is."""

_PLAIN_IDENTIFIER = re.compile(r"\[(\d+)\]")
_FIELD = re.compile(r"\{(\w+)\}")


@runtime_checkable
class Tokenizer(Protocol):
    """The two calls that truncation by tokens needs; Hugging Face tokenizers have both.

    What a tokenizer makes special tokens of is neutralised in passages and queries (``rearank.neutral.reserved_of``).
    """

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@runtime_checkable
class Prompt(Protocol):
    """What a prompt node builds to.

    ``tags``: whether it asks for ``<answer>`` tags; ``asks`` and ``labels`` what for, and by which names. A last
    message of the assistant's is the beginning of the answer, which the engine continues.
    """

    tags: bool
    asks: Asks
    labels: Labels

    def render(self, window: Window, tokenizer: Tokenizer | None = None) -> tuple[Message, ...]: ...


def repaired(text: str, entities: bool | Literal["auto"] = "auto") -> str:
    """``text`` without mojibake and curly quotes, as RankLLM and ReasonRank show texts.

    ``entities``: whether HTML's become characters; ``auto``, ftfy's default, where no ``<`` stands before them.
    """
    from ftfy import fix_text

    return fix_text(text, unescape_html=entities)


def fill(template: str, values: Mapping[str, str | int]) -> str:
    """``template`` with each ``{name}`` of ``values`` replaced in one pass: braces in the values stay as they are."""
    parts = list(_parts(template))
    parts[1::2] = [str(values[name]) if name in values else f"{{{name}}}" for name in parts[1::2]]
    return "".join(parts)


def _pieces(template: str, own: Mapping[str, str | int], texts: Mapping[str, str]) -> list[str]:
    """``template`` filled in, as its own words, a text, its own words, ..., its own words."""
    pieces = [""]
    for number, part in enumerate(_parts(template)):
        if number % 2 and part in texts:
            pieces += [texts[part], ""]
        else:
            pieces[-1] += str(own.get(part, f"{{{part}}}")) if number % 2 else part
    return pieces


@lru_cache(maxsize=256)
def _parts(template: str) -> tuple[str, ...]:
    """Text, field name, text, field name, ..., text."""
    return tuple(_FIELD.split(template))


# An augmented query shows each of its passages in about ten windows; 4,096 are the passages of forty queries.
@lru_cache(maxsize=4096)
def _shown(passage: Passage, form: _Form, reserved: Reserved | None) -> str:
    return form.safe(form.cut(passage), reserved)


@lru_cache(maxsize=64)
def _label_pattern(template: str, letters: bool) -> re.Pattern[str] | None:
    """The label as ``template`` writes it, if that isn't in square brackets: ``Passage B:``."""
    line = next((line for line in template.split("\n") if "{i}" in line), "")
    before, _, after = line.partition("{i}")
    before, after = before.rpartition("}")[2].strip(), after.partition("{")[0].strip()
    if not (before or after) or (before.endswith("[") and after.startswith("]")):
        return None
    label = r"[A-Z](?!\w)" if letters else r"\d++"
    word = r"(?<!\w)" if before[:1].isalnum() else ""
    return re.compile(rf"{word}{re.escape(before)}\s*+({label})\s*+{re.escape(after)}", re.IGNORECASE)


@dataclass(frozen=True)
class _Form:
    """What the prompt forms share: truncation, neutralisation, labels, what is asked, and how the answer begins.

    ``white_space``: how it is treated in passages; a cut by ``max_words`` folds it, too. ``ftfy`` repairs mojibake
    and curly quotes in them, before any cut, and in the query. ``renumber`` writes ``(3)`` for a ``[3]`` in either, all
    that RankLLM neutralises. ``titled`` is how a passage with a title is shown (the default: paper, appendix).

    ``prefill`` is text that the assistant's answer begins with, verbatim; ``""`` leaves the beginning to the model.
    ``<think> </think> <answer>`` switches any model's reasoning off.
    """

    max_characters: Annotated[int, Ge(1)] | None = None
    max_tokens: Annotated[int, Ge(1)] | None = None
    neutralise: bool = True
    max_words: Annotated[int, Ge(1)] | None = None
    asks: Asks = "ranking"
    labels: Labels = "numbers"
    prefill: str = ""
    white_space: WhiteSpace = "fold"
    ftfy: bool = False
    renumber: bool = False
    titled: str = "Title: {title} Content: {text}"
    passage: str = "[{i}] {passage}"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.prefill != self.prefill.strip():
            # Templates take it away, and a space alone is no beginning that a tokenizer would make of the whole.
            raise ValueError(f"prefill must not begin or end with white space: {self.prefill!r}")

    @property
    def wording(self) -> str | None:
        """The prompt's own words; ``None`` where texts are shown verbatim beside them."""
        if not self.neutralise:
            return None
        return "\n".join(str(getattr(self, one.name)) for one in fields(self) if one.type in ("str", "str | None"))

    def _begun(self) -> tuple[Message, ...]:
        return (Message("assistant", self.prefill),) if self.prefill else ()

    def _labels(self, window: Window) -> Sequence[int | str]:
        """What the passages are called, in window order; raises ``ValueError`` where the letters run out."""
        if self.labels == "numbers":
            return range(1, len(window) + 1)
        if len(window) > len(ascii_uppercase):
            raise ValueError(
                f"prompt.labels=letters can name {len(ascii_uppercase)} passages and the window holds {len(window)}; "
                "set prompt.labels=numbers, or choose a strategy that shows fewer in a call"
            )
        return ascii_uppercase[: len(window)]

    def safe(self, text: str, reserved: Reserved | None) -> str:
        """``text`` as a prompt may hold it: neutralised where that is asked for."""
        if not self.neutralise:
            return text
        letters = self.labels == "letters"
        return neutralise(text, reserved, letters=letters, label=_label_pattern(self.passage, letters))

    def _content(self, lines: Iterable[Sequence[str]], tokenizer: Tokenizer | None) -> str:
        """A message of lines, each in pieces; no token of the model lies across where a text begins or ends."""
        pieces: list[str] = []
        for line in lines:
            pieces[-1:] = [f"{pieces[-1]}\n{line[0]}" if pieces else line[0]]
            pieces += line[1:]
        reserved = reserved_of(tokenizer) if self.neutralise else None
        return joined(pieces, reserved) if reserved is not None else "".join(pieces)

    def _passage(self, passage: Passage, tokenizer: Tokenizer | None) -> str:
        return self._renumbered(self._read(passage, tokenizer))

    def _read(self, passage: Passage, tokenizer: Tokenizer | None) -> str:
        reserved = reserved_of(tokenizer)
        if self.max_tokens is None:
            return _shown(passage, self, reserved)
        if not isinstance(tokenizer, Tokenizer):
            raise ValueError("the prompt's max_tokens needs a tokenizer; use max_characters with this engine")
        text = self.cut(passage)
        tokens = tokenizer.encode(text, add_special_tokens=False)
        if len(tokens) > self.max_tokens:
            text = tokenizer.decode(tokens[: self.max_tokens])
        # Last, so that a cut can't bring a neutralised text back to life.
        return self.safe(text, reserved)

    def cut(self, passage: Passage) -> str:
        """The passage's title and text, cut by characters and words."""
        text = _valid(passage.text)
        if passage.title.strip():
            text = fill(self.titled, {"title": _valid(passage.title), "text": text})
        text = repaired(text) if self.ftfy else text
        if self.white_space == "fold":
            text = " ".join(text.split())
        elif self.white_space == "strip":
            text = text.strip()
        text = text.removeprefix("Title: Content: ")[: self.max_characters]
        return text if self.max_words is None else " ".join(text.split()[: self.max_words])

    def shortens(self, passage: Passage, tokenizer: Tokenizer | None = None) -> bool:
        """Whether the model reads a part of ``passage`` only: a limit of characters, words or tokens cuts it."""
        text = self.cut(passage)
        if self.max_characters is not None or self.max_words is not None:
            whole = replace(self, max_characters=None, max_words=None).cut(passage)
            if text.split() != whole.split():
                return True
        if self.max_tokens is None or not isinstance(tokenizer, Tokenizer):
            return False
        return len(tokenizer.encode(text, add_special_tokens=False)) > self.max_tokens

    def _renumbered(self, text: str) -> str:
        return _PLAIN_IDENTIFIER.sub(r"(\1)", text) if self.renumber else text

    def _query(self, text: str, tokenizer: Tokenizer | None) -> str:
        text = _valid(text)
        # Theirs is repaired within the whole prompt, after its template's first <: no entity is touched there.
        text = repaired(text, entities=False) if self.ftfy else text
        text = " ".join(text.split()) if self.neutralise else text
        return self._renumbered(self.safe(text, reserved_of(tokenizer)))


def _valid(text: str) -> str:
    """``text`` without lone surrogates, which no tokenizer takes, as the library and training rows write it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class ChatPrompt(_Form):
    """A conversation: the passages come one a turn (the protocol of RankGPT, RankZephyr's data and REARANK).

    ``{query}``, ``{num}``, ``{i}`` and ``{passage}`` are filled in. ``received`` is the assistant's turn after each
    passage, ``null`` for none.
    """

    system: str = ""
    opening: str = ""
    acknowledgement: str = "Okay, please provide the passages."
    passage: str = "[{i}] {passage}"
    received: str | None = None
    final: str = ""
    tags: bool = True

    def render(self, window: Window, tokenizer: Tokenizer | None = None) -> tuple[Message, ...]:
        """The turns for ``window``: system, opening, acknowledgement, one or two a passage, the request, prefill."""
        own: dict[str, str | int] = {"num": len(window)}
        texts = {"query": self._query(window.query.text, tokenizer)}

        def message(role: Role, template: str, i: str | int | None = None) -> Message:
            here = own if i is None else {**own, "i": i}
            return Message(role, self._content([_pieces(template, here, texts)], tokenizer))

        messages = [message("system", self.system)] if self.system else []
        messages += [message("user", self.opening), message("assistant", self.acknowledgement)]
        for i, item in zip(self._labels(window), window.passages, strict=True):
            texts["passage"] = self._passage(item, tokenizer)
            messages.append(message("user", self.passage, i))
            if self.received is not None:
                messages.append(message("assistant", self.received, i))
        texts.pop("passage", None)
        messages.append(message("user", self.final))
        return (*messages, *self._begun())


@dataclass(frozen=True)
class CompactPrompt(_Form):
    """Everything in one user turn: this project's own form, about a third of the chat form's tokens."""

    system: str = ""
    opening: str = "Query: {query}"
    passage: str = "[{i}] {passage}"
    final: str = "Think about each passage in <think> tags, then rank all {num} in <answer> tags: [2] > [1]"
    tags: bool = True

    def render(self, window: Window, tokenizer: Tokenizer | None = None) -> tuple[Message, ...]:
        """One user message, a line a passage, between ``system`` and ``prefill`` where these aren't empty."""
        own, texts = {"num": len(window)}, {"query": self._query(window.query.text, tokenizer)}
        lines = [_pieces(self.opening, own, texts)]
        for i, item in zip(self._labels(window), window.passages, strict=True):
            shown = {**texts, "passage": self._passage(item, tokenizer)}
            lines.append(_pieces(self.passage, {**own, "i": i}, shown))
        lines.append(_pieces(self.final, own, texts))
        system = (_pieces(self.system, own, texts),) if self.system else ()
        before = tuple(Message("system", self._content([line], tokenizer)) for line in system)
        return (*before, Message("user", self._content(lines, tokenizer)), *self._begun())
