"""An answer cut into pieces: its tags, the passages it mentions, and plain text.

Pieces are what the page shows: a string is plain text, ``[tag]`` one of the tags, ``[mention, positions]`` a mention of
the passages at these 0-based positions of the window. Joined they are the answer again. No markup is made of any.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from rearank.analysis.mentions import mention_spans

Piece: TypeAlias = "str | list[str | list[int]]"

_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def pieces(text: str, size: int, *, letters: bool = False) -> list[Piece]:
    """``text``, an answer about a window of ``size`` passages, in pieces.

    Args:
        text: any string.
        size: passages in the window.
        letters: whether they were labelled A, B, ... instead of 1, 2, ...
    """
    found: list[Piece] = []
    start = 0
    for tag in _TAG.finditer(text):
        found += _mentions(text[start : tag.start()], size, letters)
        found.append([tag.group()])
        start = tag.end()
    return found + _mentions(text[start:], size, letters)


def _mentions(text: str, size: int, letters: bool) -> list[Piece]:
    found: list[Piece] = []
    start = 0
    for begin, end, positions in mention_spans(text, size, letters=letters):
        if begin > start:
            found.append(text[start:begin])
        found.append([text[begin:end], list(positions)])
        start = end
    if start < len(text):
        found.append(text[start:])
    return found


def cut(text: str, most: int) -> str:
    """At most so many characters of ``text``."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
