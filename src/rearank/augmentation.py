"""Judged candidates -> many training windows ("initial state expansion", paper section 3.2 and 4.1).

``MultiSample`` draws random sets from each query's first-stage list; ``NoAugmentation`` takes its first window alone.
What is drawn for a query depends on the seed and that query's id: adding a query changes no other's windows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Interval, Le

from rearank.checks import check_fields
from rearank.metrics import ndcg
from rearank.types import Candidates, JudgedWindow, Passage, Window


@dataclass(frozen=True, slots=True)
class Augmented:
    """The windows of one query, and how many were dropped for which reason."""

    windows: tuple[JudgedWindow, ...]
    dropped: Mapping[str, int]


@runtime_checkable
class Augmentation(Protocol):
    """What an augmentation node builds to. ``grades`` are the query's judgements, passage id -> grade."""

    def augment(self, candidates: Candidates, grades: Mapping[str, int]) -> Augmented: ...


@dataclass(frozen=True)
class WindowFilter:
    """Which windows are worth training on.

    Args:
        on: the nDCG that ``minimum`` bounds. Section 4.1 of the paper names the window's ``initial`` order's, its
            ablation the ``best`` reachable one.
        minimum: windows below it are dropped (paper: 0.1).
        maximum_initial: windows whose given order is already this good or better are dropped, ``null`` for none: the
            normalised reward has nothing to pay there. A window with ``r* = r_init`` goes at any value up to 1.
        min_relevant: passages with grade >= 1 a window must hold (paper: 1).
        k: cut-off of nDCG.
    """

    on: Literal["initial", "best"] = "initial"
    minimum: Annotated[float, Interval(ge=0, le=1)] = 0.1
    maximum_initial: Annotated[float, Le(1)] | None = None
    min_relevant: Annotated[int, Ge(0)] = 1
    k: Annotated[int, Ge(1)] = 10

    def __post_init__(self) -> None:
        check_fields(self)
        if self.maximum_initial is not None and self.maximum_initial < self.minimum:
            raise ValueError(f"maximum_initial ({self.maximum_initial}) must not be below minimum ({self.minimum})")

    def reason_to_drop(self, judged: JudgedWindow) -> str | None:
        """The first reason that applies, or ``None`` for a window to keep."""
        grades = judged.relevance
        if sum(grade > 0 for grade in grades) < self.min_relevant:
            return "too few relevant"
        ideal = judged.ideal if judged.ideal is not None else grades
        initial = ndcg(grades, ideal, self.k)
        bounded = initial if self.on == "initial" else ndcg(sorted(grades, reverse=True), ideal, self.k)
        if bounded < self.minimum:
            return f"{self.on} nDCG too low"
        if self.maximum_initial is not None and initial >= self.maximum_initial:
            return "initial nDCG too high"
        return None


@dataclass(frozen=True)
class MultiSample:
    """``sets`` random sets of ``size`` from the first ``depth`` candidates of a query.

    A list of ``size`` or fewer gives one set, all of it, in several orders. An exact repeat of a window (same
    passages, same order) is dropped as such. Kept windows may be fewer than ``sets``; they are never padded.

    Args:
        order: ``random`` (paper) shuffles a set; ``first_stage`` keeps the candidates' order.
        ideal: ``query`` gives every window all judged grades of its query, ``window`` none but its own.
    """

    sets: Annotated[int, Ge(1)] = 50
    size: Annotated[int, Ge(2)] = 20
    depth: int = 100
    order: Literal["random", "first_stage"] = "random"
    ideal: Literal["query", "window"] = "query"
    filter: WindowFilter = field(default_factory=WindowFilter)
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.size > self.depth:
            raise ValueError(f"size must be at most depth ({self.depth}), not {self.size}")

    def augment(self, candidates: Candidates, grades: Mapping[str, int]) -> Augmented:
        """Draw, then filter. A query with fewer than two candidates has nothing to rank and gives no window."""
        pool = candidates.passages[: self.depth]
        if len(pool) < 2:
            return Augmented((), {"fewer than two candidates": self.sets})
        draw = random.Random(f"{self.seed}/{candidates.query.id}")
        kept: list[JudgedWindow] = []
        seen: set[tuple[int, ...]] = set()
        dropped: Counter[str] = Counter()
        for _ in range(self.sets):
            positions = draw.sample(range(len(pool)), min(self.size, len(pool)))
            chosen = tuple(positions if self.order == "random" else sorted(positions))
            window = _judge(candidates, tuple(pool[i] for i in chosen), grades, self.ideal)
            reason = "repeated" if chosen in seen else self.filter.reason_to_drop(window)
            seen.add(chosen)
            if reason is None:
                kept.append(window)
            else:
                dropped[reason] += 1
        return Augmented(tuple(kept), dict(dropped))


@dataclass(frozen=True)
class NoAugmentation:
    """One window a query: the first ``size`` candidates in first-stage order (the ablation without expansion)."""

    size: Annotated[int, Ge(2)] = 20
    ideal: Literal["query", "window"] = "query"
    filter: WindowFilter = field(default_factory=WindowFilter)

    def __post_init__(self) -> None:
        check_fields(self)

    def augment(self, candidates: Candidates, grades: Mapping[str, int]) -> Augmented:
        """The query's first window, or the reason why it was dropped."""
        if len(candidates.passages) < 2:
            return Augmented((), {"fewer than two candidates": 1})
        window = _judge(candidates, candidates.passages[: self.size], grades, self.ideal)
        reason = self.filter.reason_to_drop(window)
        return Augmented((window,), {}) if reason is None else Augmented((), {reason: 1})


def _judge(
    candidates: Candidates, passages: tuple[Passage, ...], grades: Mapping[str, int], ideal: Literal["query", "window"]
) -> JudgedWindow:
    relevance = tuple(grades.get(passage.id, 0) for passage in passages)
    # Grades of 0 and less add nothing to an ideal list: leaving them out keeps the training rows small.
    every = tuple(sorted((grade for grade in grades.values() if grade > 0), reverse=True))
    return JudgedWindow(Window(candidates.query, passages), relevance, every if ideal == "query" else None)
