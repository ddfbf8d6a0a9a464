"""The protocols between a strategy and whatever orders a window, and what strategies share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from rearank.types import Passage, Permutation, Query, Ranking, Window

T = TypeVar("T")
_SHOWN = 3  # ids in an error

Reads: TypeAlias = Literal["ranking", "best", "yes_no"]
"""The least a strategy needs of an answer: the whole order, its first place alone, or a score of one passage."""


class AbortRunError(Exception):
    """Stops every query, not one: to go on would only pay for answers that can't be kept (a full disk, for example)."""


class StrategyError(ValueError):
    """A strategy's result that is no ranking of what it was given; the message names the class."""


@runtime_checkable
class Ranker(Protocol):
    """Orders one window: a model behind a prompt and a parser, or an oracle in a test.

    A failed call raises; it never answers with the order it was given.
    """

    async def order(self, window: Window) -> Permutation: ...


@runtime_checkable
class Scorer(Protocol):
    """A ranker that can also score the one passage of a window; only differences between scores matter."""

    async def score(self, window: Window) -> float: ...


@runtime_checkable
class Resamples(Protocol):
    """A ranker whose answers are drawn: ``resampled(number)`` is the same ranker with another draw of each."""

    def resampled(self, number: int) -> Ranker: ...


@runtime_checkable
class Strategy(Protocol):
    """Turns window orders into a ranking of one query's whole list: plain sequential async code.

    Several calls of one query may be under way at once: a ranker must allow that.
    """

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking: ...


@runtime_checkable
class Planned(Protocol):
    """A strategy that knows beforehand what a list of ``n`` takes.

    ``calls`` is the number of calls and ``chain`` the longest sequence of them in which each waits for the one before:
    what a query takes, in answers, where the engine has places for all. Exact where answers don't change them, else
    the most that any answers can bring about.
    """

    def calls(self, n: int) -> int: ...

    def chain(self, n: int) -> int: ...


@runtime_checkable
class UsesFirstStage(Protocol):
    """A strategy that goes by the first stage's scores: ``informed`` is it, for a list with these scores, or none."""

    def informed(self, scores: Sequence[float]) -> Strategy: ...


@runtime_checkable
class SaysWhatItReads(Protocol):
    """A strategy that declares what it needs of an answer, so that a prompt that asks for less is refused early."""

    @property
    def reads(self) -> Reads: ...


def check_inside(strategy: Any) -> None:
    """Raises ``ValueError`` unless a strategy can be inside another one, which counts its calls."""
    if not isinstance(strategy, Strategy) or not isinstance(strategy, Planned):
        raise ValueError(
            f"strategy must be a node of conf/strategy with `rerank`, `calls` and `chain`; {type(strategy).__name__} "
            "is none"
        )


def reads_of(strategy: Strategy) -> Reads:
    """What it needs of an answer; a whole order where it declares nothing."""
    return strategy.reads if isinstance(strategy, SaysWhatItReads) else "ranking"


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run ``work`` concurrently; its results, in the order given.

    The first failure cancels the rest and is raised itself, as sequential code would raise it, not in a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as errors:
        aborts = errors.subgroup(AbortRunError)
        raise (aborts or errors).exceptions[0] from None
    return [task.result() for task in tasks]


def ranking(query: Query, passages: Iterable[Passage], calls: int, scores: Iterable[float] = ()) -> Ranking:
    """The result of a strategy: the ids of ``passages``, best first, and their scores where it has any."""
    return Ranking(query.id, tuple(passage.id for passage in passages), calls, scores=tuple(scores))


def check_ranking(result: Ranking, query: Query, candidates: Sequence[Passage], strategy: Strategy) -> None:
    """Raises ``StrategyError`` unless ``result`` is of this query and holds every candidate once."""
    name = f"{type(strategy).__name__}.rerank"
    if not isinstance(result, Ranking):
        raise StrategyError(f"{name} returned {type(result).__name__} and not a Ranking")
    if result.query_id != query.id:
        raise StrategyError(f"{name} returned the ranking of another query, {result.query_id!r}")
    if result.scores and len(result.scores) != len(result.passage_ids):
        raise StrategyError(f"{name} returned {len(result.scores)} scores for {len(result.passage_ids)} passages")
    given, returned = Counter(passage.id for passage in candidates), Counter(result.passage_ids)
    wrong = {"lacks": given - returned, "repeats or adds": returned - given}
    if found := [f"{what} {', '.join(map(str, list(ids)[:_SHOWN]))}" for what, ids in wrong.items() if ids]:
        raise StrategyError(
            f"{name} must return every candidate once: of {given.total()} it returned {returned.total()}, and "
            f"{' and '.join(found)}"
        )
