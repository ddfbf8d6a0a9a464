"""Untrusted text -> the same words, without the power to be more than words.

A passage, a title or a query must not produce a special token of the model, close a tag, or pose as an identifier.
What could is replaced by a look-alike at its first character; all other text stays as it is. Characters are compared as
a person or a tokenizer's normaliser sees them: invisible ones don't count, full-width and circled forms are plain ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_OPENING = "[［【〔〖〘〚⟦⁅❲﹝︗︹︻﹇⦋⦍⦏⟬⸢⌈⌊⎡⎣"
_CLOSING = "]］】〕〗〙〛⟧⁆❳﹞︘︺︼﹈⦌⦎⦐⟭⸣⌉⌋⎤⎦"
_BRACKETS = {**dict.fromkeys(_OPENING, "["), **dict.fromkeys(_CLOSING, "]")}
_PLAIN = re.compile(r"[\t\n\r -~]*")
_SUSPECT = re.compile(rf"[<＜﹤◁{re.escape(_OPENING)}]")
# Tag characters spell text that no person sees. Flags of countries' parts are written with up to six of them.
_HIDDEN = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f)|[\U000e0000-\U000e007f]+")

# What the parser reads as a tag or as a reasoning's mark, and what is spelt almost so.
_TAG = re.compile(
    r"[<\[◁]\s*+[|/]?\s*+(?:end_(?:of_)?|begin_(?:of_)?|start_(?:of_)?|\w{1,20}[:_])?"
    r"(?:answer|think(?:ing)?|thoughts?|reason(?:ing)?|analysis|scratchpad|reflection)(?:\s[^<>\[\]]{0,40})?\s*+"
    r"[|/]?\s*+[>\]▷]",
    re.IGNORECASE,
)
# Chat tokens of shapes that are no prose, no code and no HTML; documented with `prompt.neutralise`.
_CHAT = re.compile(
    r"<\|[\w▁ ./:+-]{1,60}\|?>|<[\w▁ ./:+-]{1,60}\|>|<\|(?=\w+\|)|\[\|\s*+/?\w++\s*+\|\]|<<\s*+/?\s*+sys\s*+>>"
    r"|\[\s*+/?\s*+(?:inst|sys|system|system_prompt|model_settings|available_tools|tools?_?(?:calls?|results?|content)"
    r"|gmask|smask)\s*+\]|<(?:/?tool_(?:call|response)s?|(?:start|end)_of_\w{1,20}|end_?of_?(?:text|turn|utterance)"
    r"|(?:begin|end)_?of_?sentence)>",
    re.IGNORECASE,
)
# Tokens of shapes that code and HTML have as well: for engines whose tokenizer isn't known here.
_GUESSED = re.compile(
    r"</?s>|<(?:bos|eos|pad|unk|mask|cls|sep|sop|eop|eod|eot|reponame|repo_name|filename|file_sep|gh_stars"
    r"|(?:fim|jupyter|issue|commit)_\w{1,20}|empty_output|unused\d+|extra_id_\d+|special_\d+|reserved_\d+)>"
    r"|\[(?-i:MASK|CLS|SEP|PAD|UNK|BOS|EOS|IMG|IMG_BREAK|IMG_END|PREFIX|MIDDLE|SUFFIX|ARGS|CALL_ID|AUDIO|sop|eop"
    r"|BEGIN_AUDIO|unused\d+|control_\d+)\]",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\[([^\[\]]*)\]")
_INSTEAD = {"<": "‹", "＜": "‹", "◁": "‹", "[": "(", "{": "(", "|": "¦"}
_LIST = re.compile(r"[,>;]")
_DECORATION = " \t\r\n\"'`´“”‘’«»*_#.()"
_ROUNDS = 10
_LONGEST = 3
"""Digits of an identifier: ``[1995]`` names no passage."""


@dataclass(frozen=True)
class Reserved:
    """The added tokens of a tokenizer: those that it looks for in a text as it is, and in the normalised one."""

    exact: tuple[str, ...] = ()
    normalised: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((len(self.exact), self.exact[:1], self.normalised[:1]))  # it is a key of each passage's cache


@dataclass(frozen=True)
class Reserving:
    """Stands for a tokenizer of which the added tokens alone are known."""

    reserved: Reserved

    @classmethod
    def of(cls, stored: Mapping[str, Sequence[str]] | None) -> Reserving | None:
        """From the JSON of a ``Reserved``."""
        if stored is None:
            return None
        return cls(Reserved(tuple(stored["exact"]), tuple(stored["normalised"])))


def reserved_of(tokenizer: Any) -> Reserved | None:
    """What ``tokenizer`` makes special or added tokens of; ``None`` for an engine without one, or one that hides it.

    A tokenizer may say it itself (``reserved``); those of ``transformers`` and ``tokenizers`` have lists. White space
    that was added to a vocabulary stays as it is, and so do plain words and single characters that aren't special.
    """
    if tokenizer is None or isinstance(said := getattr(tokenizer, "reserved", None), Reserved):
        return None if tokenizer is None else said
    try:
        return _listed(tokenizer)
    except TypeError:  # it can't be hashed
        return _listed.__wrapped__(tokenizer)


@lru_cache(maxsize=4)
def _listed(tokenizer: Any) -> Reserved | None:
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None and hasattr(tokenizer, "get_added_tokens_decoder"):
        added = tokenizer.get_added_tokens_decoder()
    if added is None:
        return None
    exact: list[str] = []
    normalised: list[str] = []
    for token in added.values():
        text = token.content
        word = len(text) == 1 or text.replace(" ", "").isalnum()
        if not text.strip(" \t\r\n▁") or (word and not token.special):
            continue
        (normalised if token.normalized else exact).append(text)
    return Reserved(tuple(exact), tuple(normalised))


def neutralise(
    text: str, reserved: Reserved | None = None, *, letters: bool = False, label: re.Pattern[str] | None = None
) -> str:
    """``text`` without the power to end a tag, open a chat turn or pose as an identifier; idempotent.

    ``</answer>`` becomes ``‹/answer>``, ``[INST]`` ``(INST]``, ``[3]`` ``(3)``. A reader, and a model, still see the
    same words.

    Args:
        text: anything.
        reserved: the tokens of the model that reads it; ``None`` for the documented list.
        letters: whether passages are labelled A, B, ...: ``[B]`` is then an identifier, too.
        label: how else the prompt labels its passages, with the label as the group; compared without case.
    """
    text = _HIDDEN.sub(r"\1", text)
    tokens = _tokens(reserved) if reserved is not None else None

    def change(text: str) -> str:
        if _SUSPECT.search(text) or label is not None:
            text = _defused(text, letters, label, guess=reserved is None)
        return tokens(text) if tokens is not None else text

    return _until_stable(text, change)


def without_tokens(text: str, reserved: Reserved, wording: str) -> str:
    """``text`` without the reserved tokens that ``wording`` lacks: a prompt whose other text is neutralised already."""
    return _until_stable(text, _tokens(_beside(reserved, wording)))


@lru_cache(maxsize=8)
def _beside(reserved: Reserved, wording: str) -> Reserved:
    exact, normalised = (
        tuple(token for token in tokens if token.lower() not in wording.lower())
        for tokens in (reserved.exact, reserved.normalised)
    )
    return Reserved(exact, normalised)


def _until_stable(text: str, change: Callable[[str], str]) -> str:
    for _ in range(_ROUNDS):
        before, text = text, change(text)
        if text == before:
            return text
    return "".join(c for c in text if c.isalnum() or c.isspace())  # tokens that spell one another: words alone are left


def _defused(text: str, letters: bool, label: re.Pattern[str] | None, *, guess: bool) -> str:
    view, places = _view(text)
    changed: dict[int, str] = {}
    for pattern in (_TAG, _CHAT, _GUESSED) if guess else (_TAG, _CHAT):
        for match in pattern.finditer(view):
            first, end = match.start(), match.end()
            changed[places[first]] = "(" if view[first] == "[" else "‹"
            if view.startswith("<", first + 1):
                changed[places[first + 1]] = "‹"
            if view.startswith("|>", end - 2):
                changed[places[end - 1]] = "›"
    for match in _BRACKETED.finditer(view):
        if _identifies(match[1], letters):
            changed[places[match.start()]], changed[places[match.end() - 1]] = "(", ")"
    if label is not None:
        for match in label.finditer(view):
            changed[places[match.start(1)]] = f"({text[places[match.start(1)]]}"
            last = places[match.end(1) - 1]
            changed[last] = f"{changed.get(last, text[last])})"
    if not changed:
        return text
    return "".join(changed.get(place, character) for place, character in enumerate(text))


def _identifies(inside: str, letters: bool) -> bool:
    """Whether what stands in brackets names a passage or is a list that names one."""
    parts = [stripped for part in _LIST.split(inside) if (stripped := part.strip(_DECORATION))]
    if letters and parts and all(len(part) == 1 and part.isalpha() for part in parts):
        return True
    return all(map(str.isdecimal, parts)) and any(len(part.lstrip("0")) in range(1, _LONGEST + 1) for part in parts)


def _view(text: str) -> tuple[str, Sequence[int]]:
    """``text`` as it is compared, and for each of its characters the place in ``text``."""
    if _PLAIN.fullmatch(text):
        return text, range(len(text))
    folded = [_folded(character) for character in text]
    places = [place for place, characters in enumerate(folded) for _ in characters]
    return "".join(folded), places


@lru_cache(maxsize=65536)
def _folded(character: str) -> str:
    """The plain form of a character; nothing for an invisible one or an accent."""
    if character.isspace():
        return character if character in "\t\n\r" else " "
    if character in _BRACKETS:
        return _BRACKETS[character]
    kind = unicodedata.category(character)
    if kind[0] in "CM" or character in "\u115f\u1160\u2800\u3164\uffa0":  # fillers are letters by category
        return ""
    plain = "".join(
        _BRACKETS.get(c, c) for c in unicodedata.normalize("NFKD", character) if unicodedata.category(c)[0] != "M"
    )
    if kind[0] == "N" and not plain.isascii() and (value := unicodedata.numeric(character)) == int(value):
        return str(int(value))
    return plain


@lru_cache(maxsize=8)
def _tokens(reserved: Reserved) -> Callable[[str], str]:
    """A function that breaks each of the reserved tokens in a text."""
    spaced = (token.replace("▁", " ") for token in reserved.normalised)
    exact = _finder(reserved.exact)
    folded = _finder(_lower(_view(token)[0]) for token in (*reserved.normalised, *spaced))

    def defuse(text: str) -> str:
        parts, rest = [], 0
        for start, end in exact(text):
            parts += [text[rest:start], _apart(text[start:end])]
            rest = end
        text = "".join([*parts, text[rest:]])
        if not reserved.normalised:
            return text
        view, places = _view(text)
        starts = {places[start] for start, _ in folded(_lower(view))}
        return "".join(_apart(c, c) if place in starts else c for place, c in enumerate(text)) if starts else text

    return defuse


def _lower(view: str) -> str:
    return "".join(low if len(low := c.lower()) == 1 else c for c in view)


def _finder(tokens: Iterable[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    """A function that finds where tokens lie, the longest at each place; some tokenizers have thousands."""
    known = {token for token in tokens if token.strip()}
    lengths: dict[str, list[int]] = {}
    for token in sorted(known, key=len, reverse=True):
        if len(token) not in (some := lengths.setdefault(token[0], [])):
            some.append(len(token))
    first = re.compile(f"[{''.join(map(re.escape, lengths))}]" if known else r"(?!)")

    def find(text: str) -> Iterator[tuple[int, int]]:
        end = 0
        for match in first.finditer(text):
            start = match.start()
            if start < end:
                continue
            for length in lengths[match[0]]:
                if text[start : start + length] in known:
                    end = start + length
                    yield start, end
                    break

    return find


def _apart(token: str, alone: str = "") -> str:
    """A token as other text: by another first character, or a space behind it; ``alone`` where it is all there is."""
    first = _INSTEAD.get(token[0])
    if first is not None:
        return first + token[1:]
    return f"{token[0]} {token[1:]}" if len(token) > 1 else alone and f"{alone} "
