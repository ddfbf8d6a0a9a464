"""Scripted answers about a window of known grades."""

from __future__ import annotations

from collections.abc import Sequence

from rearank.analysis import Answer
from rearank.parsing import parse_ranking
from rearank.types import JudgedWindow, Passage, Query, Window


def window(grades: Sequence[int], query: str = "q") -> JudgedWindow:
    """Passages ``d0``, ``d1``... with these grades."""
    passages = tuple(Passage(f"d{i}", f"text {i}") for i in range(len(grades)))
    return JudgedWindow(Window(Query(query, f"about {query}"), passages), tuple(grades))


def chain(order: Sequence[int]) -> str:
    """``[2] > [1]`` of 0-based positions."""
    return " > ".join(f"[{i + 1}]" for i in order)


def answer(judged: JudgedWindow, order: Sequence[int], think: str = "", tokens: int = 0) -> Answer:
    """The answer that ranks ``order`` after reasoning ``think``."""
    return said(judged, f"<think>{think}</think><answer>{chain(order)}</answer>", tokens)


def said(judged: JudgedWindow, text: str, tokens: int = 0) -> Answer:
    """The answer whose text is ``text``."""
    return Answer(judged, parse_ranking(text, len(judged.window)), tokens)
