"""The protocols between a strategy and whatever orders a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rearank.types import Passage, Permutation, Query, Ranking, Window


@runtime_checkable
class Ranker(Protocol):
    """Orders one window: a model behind a prompt and a parser, or an oracle in a test.

    A failed call raises; it never answers with the order it was given.
    """

    async def order(self, window: Window) -> Permutation: ...


@runtime_checkable
class Strategy(Protocol):
    """Turns window orders into a ranking of one query's whole list: plain sequential async code."""

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking: ...
