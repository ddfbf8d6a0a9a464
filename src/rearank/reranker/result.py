"""What reranking one query gives: the passages in their new order, and every window that led to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rearank.engines.tracing import WindowTrace
from rearank.types import Passage, Query

_SHOWN = 72  # characters of a passage in the printed table


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """A passage and its new place.

    ``index`` is its 0-based position in the list that was given, ``rank`` its place now, from 1. ``score`` is
    ``1 / rank``: it falls with the rank and says nothing else. A listwise model gives an order, no probabilities.
    """

    index: int
    rank: int
    score: float
    passage: Passage

    @property
    def text(self) -> str:
        """Of the passage."""
        return self.passage.text


@dataclass(frozen=True, slots=True)
class RerankResult:
    """One query's passages, best first; iterates over them.

    ``windows`` are in the order of their answers; ``seconds`` is the wall time, waiting for other queries included;
    ``cost`` is in US dollars, where the engine has a price. ``shortened`` are positions in the list that was given, of
    passages longer than the prompt shows: the model read their beginnings.
    """

    query: Query
    passages: tuple[RankedPassage, ...]
    windows: tuple[WindowTrace, ...]
    seconds: float
    cost: float = 0.0
    shortened: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.passages)

    def __iter__(self) -> Iterator[RankedPassage]:
        return iter(self.passages)

    def __getitem__(self, place: int) -> RankedPassage:
        """By place, 0 for the best."""
        return self.passages[place]

    @property
    def indexes(self) -> tuple[int, ...]:
        """Positions in the list that was given, best first."""
        return tuple(item.index for item in self.passages)

    @property
    def texts(self) -> tuple[str, ...]:
        """Best first."""
        return tuple(item.text for item in self.passages)

    @property
    def calls(self) -> int:
        """Windows answered."""
        return len(self.windows)

    @property
    def statuses(self) -> dict[str, int]:
        """How often an answer was read in each way: ``{"ok": 9}`` where nothing went wrong."""
        return dict(Counter(window.status.value for window in self.windows if window.status is not None))

    @property
    def prompt_tokens(self) -> int:
        """Of all windows."""
        return sum(window.prompt_tokens for window in self.windows)

    @property
    def completion_tokens(self) -> int:
        """Of all windows, reasoning included."""
        return sum(window.completion_tokens for window in self.windows)

    def __str__(self) -> str:
        read = ", ".join(f"{count} {status}" for status, count in self.statuses.items()) or "none"
        lines = [f"{self.query.text}  ({self.calls} windows: {read}; {self.seconds:.1f} s)"]
        lines += [f"{item.rank:>4}. [{item.index}] {_short(item.text)}" for item in self.passages]
        return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."
