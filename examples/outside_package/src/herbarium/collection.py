"""A collection: passages, queries and judgements. Files in BEIR's or TREC's layout need no class at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

from rearank.data import DataError
from rearank.types import Passage, Query

_COLOURS = {"red": "scarlet", "blue": "azure", "white": "snowy", "yellow": "golden", "purple": "violet"}
"""As passages say it, and as queries do: words that BM25 can't match."""
_SIZES = ("tall", "low", "climbing", "creeping")
_PLACES = ("meadow", "forest", "marsh", "dune")
_EVERY = 3  # one wanted plant of so many is kept for the test


@dataclass(frozen=True)
class Herbarium:
    """Eighty plants and a query for each; a passage's grade is how many of the three properties it shares, less one."""

    split: Literal["train", "test"]
    name: str = "herbarium"

    @cached_property
    def _plants(self) -> list[tuple[str, str, str]]:
        return list(product(_COLOURS, _SIZES, _PLACES))

    def _wanted(self) -> dict[str, tuple[str, str, str]]:
        return {
            f"q{number}": plant
            for number, plant in enumerate(self._plants)
            if (number % _EVERY == 0) == (self.split == "test")
        }

    def queries(self) -> dict[str, Query]:
        """By id."""
        return {
            key: Query(key, f"{size} {_COLOURS[colour]} {place}")
            for key, (colour, size, place) in self._wanted().items()
        }

    def qrels(self) -> dict[str, dict[str, int]]:
        """query id -> passage id -> grade."""
        return {
            key: {
                f"p{number}": shared - 1
                for number, plant in enumerate(self._plants)
                if (shared := sum(mine == theirs for mine, theirs in zip(wanted, plant, strict=True)))
            }
            for key, wanted in self._wanted().items()
        }

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        """Raises ``DataError`` for an id that no plant has."""
        known = {passage.id: passage for passage in self.iter_passages()}
        wanted = list(ids)
        if absent := next((one for one in wanted if one not in known), None):
            raise DataError(f"{self.name}: there is no plant {absent!r}; they are p0 to p{len(known) - 1}")
        return {one: known[one] for one in wanted}

    def iter_passages(self) -> Iterator[Passage]:
        """In the order of their numbers."""
        for number, (colour, size, place) in enumerate(self._plants):
            yield Passage(f"p{number}", f"a {size} plant of the {place} with {colour} flowers")

    def fingerprint(self) -> str:
        """Changes whenever the passages do: cached indexes are kept under it."""
        return f"herbarium-{len(self._plants)}-1"
