"""A small list whose order under the scripted engine is known: it is turned round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.rerankers import tiny

from rearank import Reranker
from rearank.engines import ScriptedNode

TEXTS = ["one", "two", "three", "four", "five", "six", "seven"]


@contextmanager
def reversing() -> Iterator[Reranker]:
    """Windows of five, two places apart, each turned round."""
    with tiny(ScriptedNode("reverse")) as reranker:
        yield reranker


def expected() -> list[int]:
    """Places in ``TEXTS``, best first, as the reranker itself gives them."""
    with reversing() as reranker:
        return list(reranker.rerank("which", TEXTS).indexes)
