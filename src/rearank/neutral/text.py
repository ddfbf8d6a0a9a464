"""Untrusted text -> the same words, without the power to be more than words.

A passage, a title or a query must not produce a special token of the model, close a tag, or pose as an identifier.
What could is replaced by a look-alike at its first character; all other text stays as it is. Characters are compared as
a person or a tokenizer's normaliser sees them: invisible ones don't count, full-width and circled forms are plain ones.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

from rearank.marks import MARK, is_parameter
from rearank.neutral.reserved import Reserved

_OPENING = "[［【〔〖〘〚⟦⁅❲﹝︗︹︻﹇⦋⦍⦏⟬⸢⌈⌊⎡⎣"
_CLOSING = "]］】〕〗〙〛⟧⁆❳﹞︘︺︼﹈⦌⦎⦐⟭⸣⌉⌋⎤⎦"
_BRACKETS = {**dict.fromkeys(_OPENING, "["), **dict.fromkeys(_CLOSING, "]")}
_PLAIN = re.compile(r"[\t\n\r -~]*")
_SUSPECT = re.compile(rf"[<＜﹤◁{re.escape(_OPENING)}]")
# Tag characters spell text that no person sees. Flags of countries' parts are written with up to six of them.
_HIDDEN = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f)|[\U000e0000-\U000e007f]+")

# What is spelt almost as the parser's tags and marks of a reasoning.
_TAG = re.compile(
    r"[<\[◁]\s*+[|/]?\s*+(?:end_(?:of_)?|begin_(?:of_)?|start_(?:of_)?)?(?:answer"
    r"|(?:\w{1,20}[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|scratchpad|reflection))"
    r"(?:\s[^<>\[\]]{0,40})?\s*+"
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
_MINUS = "-−"
_DECORATION = " \t\r\n\"'`´“”‘’«»*_#.()"
_APART = "·"
# Between the words of a token that is looked for in the normalised text. Normalisers write any white space as one of
# these, write some of them as white space, fold several into one, or drop them.
_SPACES = dict.fromkeys(map(ord, " \t\n\r▁"))
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0\ufffd"  # no control characters or accents by category, but dropped, too
_ROUNDS = 10
_LONGEST = 3
"""Digits of an identifier: ``[1995]`` names no passage."""


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

    return _until_stable(text, change, reserved)


def without_tokens(text: str, reserved: Reserved, wording: str) -> str:
    """``text`` without the reserved tokens that ``wording`` lacks: a prompt whose other text is neutralised already.

    What the tokenizer can't spell but by a control token goes, the prompt's own words included, as in ``joined``.
    """
    return _until_stable(text, _tokens(_beside(reserved, wording)), reserved)


def joined(pieces: Sequence[str], reserved: Reserved) -> str:
    """A prompt's own words and neutralised texts, in turn and words first, as one text; no token lies across a seam.

    The own words keep their tokens. What in them can't be spelt but by a control token nobody meant as one: it goes.
    """
    parts, found = list(pieces), _spans(reserved)
    parts[::2] = [_until_stable(words, lambda text: _spelt(text, reserved), reserved) for words in parts[::2]]
    gap = " " if reserved.unspelt(_APART) else _APART
    for _ in range(_ROUNDS):
        text, seams = "".join(parts), list(accumulate(map(len, parts)))
        crossed = {piece for start, end in found(text) if seams[piece := bisect_right(seams, start)] < end}
        if not crossed:
            break
        for piece in crossed:
            near = piece | 1  # the text, whose number is odd
            parts[near] = f"{parts[near]}{gap}" if near == piece else f"{gap}{parts[near]}"
    return "".join(parts)


@lru_cache(maxsize=8)
def _beside(reserved: Reserved, wording: str) -> Reserved:
    exact, normalised = (
        tuple(token for token in tokens if token.lower() not in wording.lower())
        for tokens in (reserved.exact, reserved.normalised)
    )
    return replace(reserved, exact=exact, normalised=normalised)


def _until_stable(text: str, change: Callable[[str], str], reserved: Reserved | None) -> str:
    for _ in range(_ROUNDS):
        before, text = text, change(text)
        if text == before:
            return text
    # Tokens that spell one another: words alone are left, and of them what can be spelt.
    text = "".join(c for c in text if c.isalnum() or c.isspace())
    while reserved is not None and (spans := reserved.unspelt(text)):
        text = _replaced(text, spans, lambda piece: "")
    return text


def _defused(text: str, letters: bool, label: re.Pattern[str] | None, *, guess: bool) -> str:
    view, places = _view(text)
    marks = [match.start() for match in MARK.finditer(text)]
    changed = {place: _INSTEAD[text[place]] for place in marks if not is_parameter(text, place)}
    for pattern in (MARK, _TAG, _CHAT, _GUESSED) if guess else (MARK, _TAG, _CHAT):
        for match in pattern.finditer(view):
            first, end = match.start(), match.end()
            if pattern in (MARK, _TAG) and is_parameter(text, places[first]):
                continue
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
    if not all(part.lstrip(_MINUS).isdecimal() for part in parts):
        return False
    return any(part[0] not in _MINUS and len(part.lstrip("0")) in range(1, _LONGEST + 1) for part in parts)


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
    if character in "\t\n\r":
        return character
    if character in _BRACKETS:
        return _BRACKETS[character]
    kind = unicodedata.category(character)
    if kind[0] in "CM" or character in _FILLERS:
        return ""
    if character.isspace():
        return " "
    plain = "".join(
        _BRACKETS.get(c, c) for c in unicodedata.normalize("NFKD", character) if unicodedata.category(c)[0] != "M"
    )
    if kind[0] == "N" and not plain.isascii() and (value := unicodedata.numeric(character)) == int(value):
        return str(int(value))
    return plain


@lru_cache(maxsize=8)
def _spans(reserved: Reserved) -> Callable[[str], list[tuple[int, int]]]:
    """A function that finds where tokens lie in a text."""
    exact, found = _finder(reserved.exact), _normalised(reserved)
    return lambda text: [*exact(text), *found(text), *reserved.unspelt(text)]


@lru_cache(maxsize=8)
def _tokens(reserved: Reserved) -> Callable[[str], str]:
    """A function that breaks each of the reserved tokens in a text."""
    exact, found = _finder(reserved.exact), _normalised(reserved)
    blank = "".join(token for token in reserved.normalised if not _view(token)[0].translate(_SPACES))
    unseen = {ord(c): " " if c.isspace() else None for c in blank}

    def defuse(text: str) -> str:
        text = _replaced(text, exact(text), _apart).translate(unseen)
        changed = {start: _unlike(text[start], alone=end == start + 1) for start, end in found(text)}
        text = "".join(changed.get(place, c) for place, c in enumerate(text)) if changed else text
        return _spelt(text, reserved)

    return defuse


def _spelt(text: str, reserved: Reserved) -> str:
    """``text`` with a look-alike, a space or nothing for what the tokenizer reads as a control token unspelt."""
    return _replaced(text, reserved.unspelt(text), _readable)


def _readable(piece: str) -> str:
    """The plain form of ``piece``; where it has that already, a space, and nothing for a space."""
    plain = "".join(map(_folded, piece))
    if plain != piece:
        return plain
    return "" if piece == " " * len(piece) else " "


def _replaced(text: str, spans: Iterable[tuple[int, int]], instead: Callable[[str], str]) -> str:
    parts, rest = [], 0
    for start, end in spans:
        parts += [text[rest:start], instead(text[start:end])]
        rest = end
    return "".join([*parts, text[rest:]]) if parts else text


def _normalised(reserved: Reserved) -> Callable[[str], list[tuple[int, int]]]:
    """A function that finds where tokens lie that a tokenizer looks for in the text as it has normalised it.

    One with white space in it is compared without any. In others white space counts: no normaliser drops it all.
    """
    views = {_lower(_view(token)[0]) for token in reserved.normalised}
    spaced = {view for view in views if view.translate(_SPACES) != view}
    groups = [({}, views - spaced), (_SPACES, spaced)]
    finders = [(ignored, _finder(view.translate(ignored) for view in some)) for ignored, some in groups if some]

    def find(text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        view, places = _view(text) if finders else ("", ())
        view = _lower(view)
        for ignored, finder in finders:
            if not (found := list(finder(view.translate(ignored)))):
                continue
            kept = [place for place, c in zip(places, view, strict=True) if ord(c) not in ignored]
            spans += [(kept[start], kept[end - 1] + 1) for start, end in found]
        return spans

    return find


def _unlike(character: str, *, alone: bool) -> str:
    """What stands for a token's first character; nothing where it is the token."""
    if alone:
        return ""
    return _INSTEAD.get(_folded(character)) or character + _APART


def _lower(view: str) -> str:
    low = view.lower()
    return low if len(low) == len(view) else "".join(low if len(low := c.lower()) == 1 else c for c in view)


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
                if (token := text[start : start + length]) in known:  # a shorter one, at the text's end
                    end = start + len(token)
                    yield start, end
                    break

    return find


def _apart(token: str) -> str:
    """A token as other text: by another first character, or parted behind it; nothing where that is all there is."""
    first = _INSTEAD.get(token[0])
    if first is not None:
        return first + token[1:]
    gap = _APART if token[0].isspace() else " "
    return f"{token[0]}{gap}{token[1:]}" if len(token) > 1 else ""
