"""What every reward shares: reading the completion, measuring the windows, scoring the format.

A variant is a subclass of :class:`Reward` with one method, ``rank_score``: the value of an order, given the
measurements. The paper's sum: ``0.8 rank + 0.1 format_tags + 0.1 format_list`` (section 3.3). Rewards of other projects
that read an answer by rules of their own are :class:`RewardFunction`.
"""

from __future__ import annotations

import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.metrics import dcg, ideal_dcg, ndcg
from rearank.parsing import ParsedRanking, ParseStatus, parse_ranking
from rearank.prompts import Asks
from rearank.rewards.length import LengthPenalty
from rearank.types import JudgedWindow

SAME = 1e-12  # two nDCG values closer than this are the same order's value, summed differently


_LONGEST = 2000  # characters of an answer that an error shows
_GO_ON = "run the same command with accept_changed_code=true, and it goes on from its last checkpoint"


class RewardError(ValueError):
    """A reward of one's own that fails on an answer; the message names the reward, the row and the line of its code."""


class NotFiniteError(RewardError):
    """A reward that is NaN or infinite: it would spoil the advantages of its whole batch, and then the weights."""


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """A reward and what it is made of; nDCG values are of the whole permutation, at the reward's ``k``."""

    total: float
    rank: float
    format_tags: float
    format_list: float
    ndcg_initial: float
    ndcg_reranked: float
    ndcg_best: float
    status: ParseStatus
    length: float = 0.0
    """What ``reward.length`` took off, in ``total``; 0 or below."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An answer with its judged window: what ``rank_score`` decides on.

    ``named_relevance`` are the grades of the named passages in the order named: all there is to score when an answer
    is partial, so that leaving passages out never earns what the given order would have.
    """

    judged: JudgedWindow
    parsed: ParsedRanking
    ideal: tuple[int, ...]
    named_relevance: tuple[int, ...]
    initial: float
    reranked: float
    best: float

    @property
    def degenerate(self) -> bool:
        """Nothing to gain: the given order is already the best (or nothing is relevant)."""
        return self.best - self.initial <= SAME


@dataclass(frozen=True, kw_only=True)
class RewardFunction(ABC):
    """A completion and a judged window -> a score with a named breakdown. Stateless, so safe in any thread.

    The breakdown's nDCG values and status are read as everywhere else (``rearank.parsing``), whatever a reward's own
    rules are: validation then means the same under every reward.

    Args:
        k: cut-off of nDCG.
        ideal: ``query`` takes the ideal list from all judged grades of the query where the window carries them,
            ``window`` from the window's own grades (the paper's text and its sets can be read either way).
        length: what long answers lose, whatever the reward; ``null`` for nothing. Trainers know the tokens and apply it
            (``score``, ``score_groups``), so that a reward's own code sees none of it.
    """

    asks: ClassVar[Asks] = "ranking"
    """What the prompt must ask for, so that an answer can earn the reward."""

    k: Annotated[int, Ge(1)] = 10
    ideal: Literal["query", "window"] = "query"
    length: LengthPenalty | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        """Score ``completion``, any string, as an answer to ``judged``; a window may hold any number of passages."""

    @property
    def never_negative(self) -> bool:
        """Whether no total is below 0, whatever the answer, with these settings: some algorithms divide by a mean."""
        return False

    def ideal_of(self, judged: JudgedWindow) -> tuple[int, ...]:
        """The grades that the ideal list is made of, in any order."""
        return judged.ideal if self.ideal == "query" and judged.ideal is not None else judged.relevance

    def measure(self, completion: str, judged: JudgedWindow, *, tags: bool = True) -> Measured:
        """The answer as ``rearank.parsing`` reads it, and what nDCG says of it."""
        grades, ideal = judged.relevance, self.ideal_of(judged)
        parsed = parse_ranking(completion, len(grades), tags=tags)
        order = parsed.permutation.order
        ranked = tuple(map(grades.__getitem__, order))
        scale, initial, best = _bounds(grades, ideal, self.k)
        return Measured(
            judged=judged,
            parsed=parsed,
            ideal=ideal,
            named_relevance=ranked[: parsed.named],
            initial=initial,
            reranked=dcg(ranked, self.k) / scale if scale > 0 else 0.0,
            best=best,
        )

    def breakdown(self, measured: Measured, total: float, rank: float, tags: float, form: float) -> RewardBreakdown:
        """``total`` and its parts, with the measurements."""
        return RewardBreakdown(
            total=total,
            rank=rank,
            format_tags=tags,
            format_list=form,
            ndcg_initial=measured.initial,
            ndcg_reranked=measured.reranked,
            ndcg_best=measured.best,
            status=measured.parsed.status,
        )


@runtime_checkable
class SeesGroup(Protocol):
    """A reward that looks at all sampled answers to a window at once, and may pay one for how it differs from others.

    A trainer asks it instead of ``__call__``, which goes on scoring single answers in validation and evaluation.
    """

    def score_group(self, completions: Sequence[str], judged: JudgedWindow) -> list[RewardBreakdown]:
        """Score each of ``completions``, in their order."""


def score(
    reward: RewardFunction, completion: str, judged: JudgedWindow, row: int | None = None, tokens: int | None = None
) -> RewardBreakdown:
    """``reward`` of one answer, as training and validation take it.

    Args:
        reward: what scores.
        completion: the answer.
        judged: the window.
        row: the number of its training row.
        tokens: of the answer, its end token included; ``reward.length`` needs it.

    Raises:
        NotFiniteError: where a number of the breakdown is NaN or infinite.
        RewardError: where a reward from outside of this package raises anything, or gives no breakdown.
        ValueError: where ``reward.length`` is set and the tokens aren't known.
    """
    with _named(reward, completion, judged, row):
        found = _shortened(reward, _breakdown(reward(completion, judged)), tokens)
    return _finite(reward, found, completion, judged, row)


def score_groups(
    reward: RewardFunction,
    answers: Sequence[tuple[str, JudgedWindow]],
    groups: Sequence[object],
    tokens: Sequence[int] | None = None,
) -> list[RewardBreakdown]:
    """Score each (completion, window); where the reward asks for it, those of the same group together.

    ``groups`` holds the number of each answer's row, or another id of its group, ``tokens`` the answers' lengths.
    Raises as ``score`` does.
    """
    rows = [group if isinstance(group, int) else None for group in groups]
    lengths: Sequence[int | None] = tokens if tokens is not None else [None] * len(answers)
    if not isinstance(reward, SeesGroup):
        numbered = zip(answers, rows, lengths, strict=True)
        return [score(reward, *answer, row, length) for answer, row, length in numbered]
    places: dict[object, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    scored: dict[int, RewardBreakdown] = {}
    for group in places.values():
        texts, judged = [answers[place][0] for place in group], answers[group[0]][1]
        with _named(reward, texts[0], judged, rows[group[0]]):
            found = list(map(_breakdown, reward.score_group(texts, judged)))
            if len(found) != len(group):
                what = f"{len(found)} breakdowns for the {len(group)} answers of its argument"
                raise ValueError(f"score_group gave {what}")
        scored |= dict(zip(group, found, strict=True))
    return [
        _finite(reward, _shortened(reward, scored[place], length), *answer, row)
        for place, (answer, row, length) in enumerate(zip(answers, rows, lengths, strict=True))
    ]


def _shortened(reward: RewardFunction, breakdown: RewardBreakdown, tokens: int | None) -> RewardBreakdown:
    """With what ``reward.length`` takes off."""
    if reward.length is None:
        return breakdown
    if tokens is None:
        raise ValueError("reward.length needs the tokens of each answer, and they aren't known here")
    penalty = reward.length(tokens)
    return replace(breakdown, total=breakdown.total + penalty, length=penalty)


def _finite(
    reward: RewardFunction, breakdown: RewardBreakdown, completion: str, judged: JudgedWindow, row: int | None
) -> RewardBreakdown:
    """``breakdown``, unless a number in it is not finite."""
    values = {one.name: getattr(breakdown, one.name) for one in fields(breakdown) if one.name != "status"}
    wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
    if not wrong:
        return breakdown
    found = ", ".join(f"{name} is {value}" for name, value in wrong.items())
    raise NotFiniteError(
        f"the reward {type(reward).__name__} gave a number that is not finite: {found}, for "
        f"{_place(completion, judged, row)}; mend the reward (a division by 0, say), then {_GO_ON}"
    )


def _place(completion: str, judged: JudgedWindow, row: int | None) -> str:
    """Of an answer, for a message."""
    where = f"row {row}, query" if row is not None else "query"
    text = completion if len(completion) <= _LONGEST else f"{completion[:_LONGEST]}... ({len(completion)} characters)"
    return f"{where} {judged.window.query.id!r} and the answer {text!r}"


def _breakdown(found: object) -> RewardBreakdown:
    if not isinstance(found, RewardBreakdown):
        raise TypeError(f"a reward gives a RewardBreakdown, not {type(found).__name__}")
    return found


@contextmanager
def _named(reward: RewardFunction, completion: str, judged: JudgedWindow, row: int | None) -> Iterator[None]:
    """What a reward from outside of this package raises becomes a ``RewardError``; a bug of ours stays what it is."""
    try:
        yield
    except Exception as error:
        if type(reward).__module__.startswith("rearank."):
            raise
        *_, last = traceback.extract_tb(error.__traceback__)
        raise RewardError(
            f"the reward {type(reward).__name__} raised {type(error).__name__}: {' '.join(str(error).split())} "
            f"({last.filename}, line {last.lineno}), for {_place(completion, judged, row)}; mend the reward, then "
            f"{_GO_ON} (REARANK_TRACE=1 shows the whole traceback)"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Reward(RewardFunction):
    """The rewards of this project: they value an order that ``rearank.parsing`` read.

    Args:
        partial: what an answer that names only some passages earns: ``score`` values the named passages alone,
            ``unparsed`` treats it like an answer without an order.
        unparsed: the rank term of an answer that gives no order.
        tags: whether the prompt asks for ``<think>`` and ``<answer>``.
    """

    weight_rank: Annotated[float, Ge(0)] = 0.8
    weight_tags: Annotated[float, Ge(0)] = 0.1
    weight_list: Annotated[float, Ge(0)] = 0.1
    partial: Literal["score", "unparsed"] = "unparsed"
    unparsed: float = 0.0
    tags: bool = True

    @abstractmethod
    def rank_score(self, measured: Measured) -> float:
        """The rank term of an answer that gives an order."""

    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        measured = self.measure(completion, judged, tags=self.tags)
        tags, form = self.format_scores(measured.parsed)
        rank = self.rank_score(measured) if self.has_order(measured.parsed) else self.unparsed
        return self.breakdown(measured, self.total(rank, tags, form, measured), rank, tags, form)

    def total(self, rank: float, tags: float, form: float, measured: Measured) -> float:
        """The weighted sum of section 3.3; a variant with another sum overrides it."""
        return self.weight_rank * rank + self.weight_tags * tags + self.weight_list * form

    def has_order(self, parsed: ParsedRanking) -> bool:
        """Whether the rank term is computed, or ``unparsed`` stands for it."""
        if parsed.named == 0:
            return False
        return parsed.named == len(parsed.permutation) or self.partial == "score"

    def value(self, measured: Measured) -> float:
        """nDCG of what was named, in the order named."""
        if len(measured.named_relevance) == len(measured.parsed.permutation):
            return measured.reranked
        return ndcg(measured.named_relevance, measured.ideal, self.k)

    def format_scores(self, parsed: ParsedRanking) -> tuple[float, float]:
        """(tags, list): the paper's two format rewards.

        Tags: a finished ``<think>`` and a finished answer. List: a *complete* permutation written ``[3] > [1] > ...``;
        the paper asks for the form only, which would pay for an answer of ``[1]`` alone.
        """
        tags = 1.0 if not self.tags or (parsed.tagged and parsed.answer is not None) else 0.0
        return tags, 1.0 if parsed.is_canonical else 0.0


@lru_cache(maxsize=4096)
def _bounds(relevance: tuple[int, ...], ideal: tuple[int, ...], k: int) -> tuple[float, float, float]:
    """(the ideal list's DCG, nDCG of the given order, nDCG of the best one): the same for all samples of a window."""
    best = sorted(relevance, reverse=True)
    return ideal_dcg(ideal, k), ndcg(relevance, ideal, k), ndcg(best, ideal, k)
