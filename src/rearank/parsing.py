"""Completion text -> permutation and status. Training and evaluation read answers here and nowhere else.

A completion is untrusted: every string, however long or malformed, gives a full permutation of the window. What the
answer named comes first, in its order; the rest follows as it was given. Identifiers are read from the answer only,
never from the reasoning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from rearank.types import Permutation

_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_ANSWER_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
# One bracket pair around one or more numbers: [3], [3, 1], ["3", "1"], [3 > 1], and full-width ［3］, 【3】.
_BRACKETS = re.compile(r"[\[［【]([^\[\]［］【】]*)[\]］】]")
_NUMBERS = re.compile(r"\s*+[\"']?[-−]?\d++[\"']?\s*+(?:[,，>＞]\s*+[\"']?[-−]?\d++[\"']?\s*+)*+")
_NUMBER = re.compile(r"[-−]?\d+")
_DIGITS = re.compile(r"\d+")
# Without brackets, only text that is nothing but a list counts ("3 > 1", "3, 1"), or else the last chain of `>`.
_BARE_LIST = re.compile(r"\s*+\d++(?:(?:\s*+[,，>＞]\s*+|\s++)\d++)*+\s*+[.。]?\s*+")
_BARE_CHAIN = re.compile(r"(?<!\d)\d++(?:\s*+[>＞]\s*+\d++)++")
_CANONICAL = re.compile(r"\s*+\[\d++\](?:\s*+>\s*+\[\d++\])*+\s*+")
_LONGEST_NUMBER = 9  # digits; longer ones are out of any window's range, and int() refuses thousands of digits


class ParseStatus(StrEnum):
    """How an answer was read: the first that applies, from worst to best."""

    EMPTY = "empty"
    """No text, or an answer that names no passage."""
    UNCLOSED_THINK = "unclosed_think"
    """A ``<think>`` that never ends: cut at the token limit, as a rule."""
    NO_ANSWER_TAG = "no_answer_tag"
    """Tags were asked for, and there is no complete ``<answer>...</answer>`` outside the reasoning."""
    OUT_OF_RANGE = "out_of_range"
    """An identifier that is not in the window, ``[0]`` among them; it is ignored."""
    DUPLICATES = "duplicates"
    """A passage named twice; its first place counts."""
    PARTIAL = "partial"
    """Some passages were not named."""
    OK = "ok"
    """Each passage named exactly once."""


@dataclass(frozen=True, slots=True)
class ParsedRanking:
    """What was read.

    ``think`` and ``answer`` are the texts inside the tags (``None`` where absent or unfinished; without tags ``answer``
    is the reply after the reasoning); ``named`` counts the passages the answer named, each once.
    """

    permutation: Permutation
    status: ParseStatus
    think: str | None
    answer: str | None
    named: int = 0

    @property
    def is_canonical(self) -> bool:
        """True for a complete permutation in the form the prompts ask for, ``[3] > [1] > [2]``."""
        return self.status is ParseStatus.OK and self.answer is not None and bool(_CANONICAL.fullmatch(self.answer))


def parse_ranking(text: str, size: int, *, tags: bool = True) -> ParsedRanking:
    """Read the ranking that ``text`` gives of a window of ``size`` passages.

    Args:
        text: a model's completion; any string.
        size: number of passages in the window, at least 0.
        tags: whether the prompt asked for ``<answer>`` tags. If so identifiers come from the last complete
            ``<answer>``; if not, from the reply after the reasoning.

    Returns:
        A full permutation always; see :class:`ParseStatus` for what went wrong.

    Raises:
        ValueError: if ``size`` is negative. Never because of ``text``.
    """
    if size < 0:
        raise ValueError(f"a window can't have {size} passages")
    reply, think, unclosed = _split_reasoning(text)
    answer = _last_answer(reply) if tags else reply
    order, out_of_range, duplicates = _read_identifiers(answer or "", size)
    rest = (i for i in range(size) if i not in order) if len(order) < size else ()
    permutation = Permutation((*order, *rest))
    status = ParseStatus.OK
    if not text.strip() or (answer is not None and not unclosed and not order and not out_of_range):
        status = ParseStatus.EMPTY
    elif unclosed:
        status = ParseStatus.UNCLOSED_THINK
    elif answer is None:
        status = ParseStatus.NO_ANSWER_TAG
    elif out_of_range:
        status = ParseStatus.OUT_OF_RANGE
    elif duplicates:
        status = ParseStatus.DUPLICATES
    elif len(order) < size:
        status = ParseStatus.PARTIAL
    return ParsedRanking(permutation, status, think, answer, len(order))


def _split_reasoning(text: str) -> tuple[str, str | None, bool]:
    """(reply outside the reasoning, the first complete reasoning, whether a ``<think>`` stays open).

    Some chat templates open ``<think>`` themselves, so a ``</think>`` that comes first ends a reasoning that
    began with the completion.
    """
    reply: list[str] = []
    think: str | None = None
    start, inside = 0, False
    for number, tag in enumerate(_THINK.finditer(text)):
        closes = tag.group(1) == "/"
        segment = text[start : tag.start()]
        if closes and (inside or number == 0):
            think = segment if think is None else think
            inside, start = False, tag.end()
        elif not closes and not inside:
            reply.append(segment)
            inside, start = True, tag.end()
    if not inside:
        reply.append(text[start:])
    return "".join(reply), think, inside


def _last_answer(reply: str) -> str | None:
    """The content of the last ``<answer>`` that is closed."""
    last: str | None = None
    position = 0
    opens = [m.end() for m in _ANSWER_OPEN.finditer(reply)]
    for close in _ANSWER_CLOSE.finditer(reply):
        inner: int | None = None
        while position < len(opens) and opens[position] <= close.start():
            inner = opens[position]
            position += 1
        if inner is not None:
            last = reply[inner : close.start()]
    return last


def _read_identifiers(answer: str, size: int) -> tuple[dict[int, None], bool, bool]:
    """(0-based positions in the order named, whether any was out of range, whether any came twice)."""
    numbers: list[str] = []
    if _CANONICAL.fullmatch(answer):
        numbers = _DIGITS.findall(answer)  # what most trained models write, read in a third of the time
    else:
        for bracket in _BRACKETS.finditer(answer):
            if _NUMBERS.fullmatch(bracket.group(1)):
                numbers += _NUMBER.findall(bracket.group(1))
    if not numbers:
        if _BARE_LIST.fullmatch(answer):
            numbers = _NUMBER.findall(answer)
        else:
            chains = _BARE_CHAIN.findall(answer)
            numbers = _NUMBER.findall(chains[-1]) if chains else []
    order: dict[int, None] = {}
    out_of_range = duplicates = False
    for number in numbers:
        # The minus sign U+2212 and anything negative or over-long lie outside every window.
        position = int(number) - 1 if number[0] not in "-−" and len(number) <= _LONGEST_NUMBER else -1
        if not 0 <= position < size:
            out_of_range = True
        elif position in order:
            duplicates = True
        else:
            order[position] = None
    return order, out_of_range, duplicates
