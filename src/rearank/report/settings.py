"""The section ``report`` of the config: what the page shows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Report:
    """What ``task=report`` puts together.

    Args:
        runs: output folders, each ``path`` or ``label=path``; a sweep's folder stands for its finished jobs; empty for
            this run's own.
        write: a pipeline and a sweep write their report at the end; ``sweep``: a sweep its own, its jobs none;
            ``false`` leaves it to ``task=report``.
        title: of the page; ``null`` for the run's name.
        full_text: queries with their passages and answers in full, those that changed most first, shared among the
            benchmarks; every other query is there with its figures.
        passage_characters: of each passage's text.
        megabytes: the page's size; fewer queries are shown in full where it would be larger.
        figures: also draw PNG and SVG, for papers.
    """

    runs: tuple[str, ...] = ()
    write: bool | Literal["sweep"] = True
    title: str | None = None
    full_text: int = 200
    passage_characters: int = 600
    megabytes: float = 25.0
    figures: bool = True

    def __post_init__(self) -> None:
        if self.write not in (True, False, "sweep"):
            raise ValueError(f"write must be true, false or sweep, not {self.write!r}")
        if self.full_text < 0:
            raise ValueError(f"full_text is a number of queries and must not be negative, not {self.full_text}")
        if self.passage_characters < 1:
            raise ValueError(f"passage_characters must be at least 1, not {self.passage_characters}")
        if self.megabytes <= 0:
            raise ValueError(f"megabytes must be above 0, not {self.megabytes}")
