"""What a reasoning says about which passage: the passages it mentions, and the order it implies where it implies one.

A reasoning is untrusted text of any form. Mentions are ``[3]``, ``[1, 4]``, ``[2]-[5]``, ``Passage 3`` and
``passages 1, 2 and 5``; numbers outside the window are not mentions. An order is read from two forms only:

- a *chain*, ``[3] > [1] > [2]``: the last one counts, it is what the reasoning arrived at;
- *notes*, ``[1] ... 2 [2] ... 0``: every mention opens a note and every note ends with a number, its passage's grade
  or count (``score: 8/10`` too).

From other text none is read. Sentiment would need another model, and the order in which passages come up says when
they were read, not how good they are: reasoning that goes through the window from top to bottom, as the prompts ask,
mentions them in the given order whatever it finds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase

_LABEL = r"(?:\d{1,9}|[A-Z])"
_DASH = r"(?:[-–—~]|to|through)"
_OPEN, _CLOSE = r"[\[［【(]?", r"[\]］】)]?"
# One bracket pair around labels: [3], [1, 4], [2-5]; or a range of brackets: [2]-[5].
_BRACKETED = rf"[\[［【]\s*+(?P<inside>{_LABEL}(?:\s*+(?:[,，;&]|{_DASH}|and)\s*+{_LABEL})*+)\s*+[\]］】]"
# "Compare [1] to [3]" is no range, so that between brackets a dash is needed.
_RANGE = rf"(?:\s*+[-–—~]\s*+[\[［【]\s*+(?P<until>{_LABEL})\s*+[\]］】])?"
# "Passage 3"; a list may follow the plural only: "passage 3, 5 days old" speaks of one.
_ONE = rf"\b(?i:passage|document|candidate|text)\s++#?{_OPEN}(?P<one>{_LABEL}){_CLOSE}(?!\w)"
_SEVERAL = (
    rf"\b(?i:passages|documents|candidates|texts)\s++(?P<several>{_OPEN}{_LABEL}{_CLOSE}(?!\w)"
    rf"(?:\s*+(?:,\s*+and|[,，&]|and|{_DASH})\s*+{_OPEN}{_LABEL}{_CLOSE}(?!\w))*+)"
)
_MENTION = re.compile(f"{_SEVERAL}|{_ONE}|{_BRACKETED}{_RANGE}")
_PART = re.compile(rf"(?P<dash>{_DASH}\s*+[\[［【(]?)?\s*+(?P<label>{_LABEL})(?!\w)")
_CHAIN = re.compile(r"[\[［【]\s*+\w{1,9}\s*+[\]］】](?:\s*+[>＞≻]\s*+[\[［【]\s*+\w{1,9}\s*+[\]］】])++")
_IN_BRACKETS = re.compile(r"[\[［【]\s*+(\w{1,9})\s*+[\]］】]")
_NOTE_END = re.compile(r"(?<![\w.,−-])(\d{1,3}(?:\.\d{1,3})?)(?:\s*+/\s*+\d{1,3})?\s*+[).;,]*+\s*+\Z")
_TAIL = 32  # characters of a note that can hold its number
_LARGEST_NOTE = 100.0


class OrderSource(StrEnum):
    """Where an implied order was read."""

    CHAIN = "chain"
    NOTES = "notes"


@dataclass(frozen=True, slots=True)
class Implied:
    """How good the reasoning calls each passage it speaks of: 0-based position -> value, more is better."""

    source: OrderSource
    values: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Mentions:
    """The passages a reasoning mentions: 0-based positions by first mention, and how often each comes up."""

    first: tuple[int, ...]
    counts: Mapping[int, int]

    @property
    def in_given_order(self) -> bool:
        """Whether they come up from the window's top to its bottom."""
        return list(self.first) == sorted(self.first)


def read_mentions(text: str, size: int, *, letters: bool = False) -> Mentions:
    """The passages of a window of ``size`` that ``text`` mentions.

    Args:
        text: any string; nothing in it can raise.
        size: passages in the window.
        letters: whether the prompt labelled them A, B, ... instead of 1, 2, ...
    """
    counts = Counter(
        position for _, _, positions in mention_spans(text, size, letters=letters) for position in positions
    )
    return Mentions(tuple(counts), counts)


def mention_spans(text: str, size: int, *, letters: bool = False) -> Iterator[tuple[int, int, list[int]]]:
    """Start, end and 0-based positions of every mention, in the text's order; arguments are those of ``read_mentions``.

    Spans don't overlap; a mention of nothing in the window is left out.
    """
    for match in _MENTION.finditer(text):
        named = match.group("several") or match.group("one") or match.group("inside")
        if match.group("until"):
            named += f" - {match.group('until')}"
        if positions := _listed(named, size, letters):
            yield match.start(), match.end(), positions


def read_implied(text: str, size: int, *, letters: bool = False) -> Implied | None:
    """The order that ``text`` states by a chain, or else by notes; ``None`` where it states none.

    It speaks of two passages at least; arguments are those of ``read_mentions``.
    """
    return _read_chain(text, size, letters) or _read_notes(text, size, letters)


def _read_chain(text: str, size: int, letters: bool) -> Implied | None:
    for chain in reversed(list(_CHAIN.finditer(text))):
        found = (_position(label, size, letters) for label in _IN_BRACKETS.findall(chain.group()))
        order = list(dict.fromkeys(position for position in found if position is not None))
        if len(order) > 1:
            return Implied(OrderSource.CHAIN, {position: float(-rank) for rank, position in enumerate(order)})
    return None


def _read_notes(text: str, size: int, letters: bool) -> Implied | None:
    opened = list(mention_spans(text, size, letters=letters))
    if len(opened) < 2:
        return None
    ends = [start for start, _, _ in opened[1:]] + [len(text)]
    values: dict[int, float] = {}
    for (_, after, positions), end in zip(opened, ends, strict=True):
        number = _NOTE_END.search(text[max(after, end - _TAIL) : end])
        if len(positions) != 1 or positions[0] in values or number is None:
            return None
        values[positions[0]] = float(number.group(1))
    return Implied(OrderSource.NOTES, values) if max(values.values()) <= _LARGEST_NOTE else None


def _listed(named: str, size: int, letters: bool) -> list[int]:
    """The positions of ``1, 4`` or ``2-5``, each once; the inside of a range counts where both its ends exist."""
    positions: dict[int, None] = {}
    before: int | None = None
    for part in _PART.finditer(named):
        here = _position(part.group("label"), size, letters)
        if here is not None and part.group("dash") and before is not None:
            step = 1 if here >= before else -1
            positions.update(dict.fromkeys(range(before, here + step, step)))
        elif here is not None:
            positions[here] = None
        before = here
    return list(positions)


def _position(label: str, size: int, letters: bool) -> int | None:
    """0-based; ``None`` for what names no passage of the window."""
    if letters:
        place = ascii_uppercase.find(label) if len(label) == 1 else -1
    else:
        place = int(label) - 1 if label.isdecimal() else -1
    return place if 0 <= place < size else None
