"""The section ``report`` of the config: what the page shows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from rearank.checks import check_fields


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
    full_text: Annotated[int, Ge(0)] = 200
    passage_characters: Annotated[int, Ge(1)] = 600
    megabytes: Annotated[float, Gt(0)] = 25.0
    figures: bool = True

    def __post_init__(self) -> None:
        if self.write not in (True, False, "sweep"):
            # By hand: a config spells these values otherwise than Python.
            raise ValueError(f"write must be true, false or sweep, not {self.write!r}")
        check_fields(self)
