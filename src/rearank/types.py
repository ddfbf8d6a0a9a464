"""The vocabulary of every package: frozen values, no behaviour beyond checking themselves.

Positions are 0-based everywhere in the code; the identifiers a model reads and writes (``[1]``, ``[2]``...) are
1-based and exist only in prompts and answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, TypeVar

from annotated_types import Ge, Interval

from rearank.checks import check_fields

T = TypeVar("T")

Role: TypeAlias = Literal["system", "user", "assistant"]

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Relevance judgements: query id -> passage id -> grade (may be negative, which counts as not relevant)."""

MAX_GRADE = 10_000
"""The highest grade that is taken for one. Collections grade to 4, some in per cent; a number beyond this is a count, a
time or an id in the wrong column. trec_eval reserves memory for each level up to the highest: 16 GiB for 2**31 - 1."""


def well_formed(text: str) -> str:
    """``text`` without lone surrogates, which no tokenizer and no file takes; they come from JSON's escapes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def scorable(identifier: str) -> bool:
    """Whether trec_eval can hold this id: a lone surrogate crashes it, and a NUL ends the id early."""
    return "\0" not in identifier and well_formed(identifier) == identifier


@dataclass(frozen=True, slots=True)
class Query:
    """An information need: ``id`` as in the topics file, ``text`` as the user typed it."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable text. ``title`` is empty where the collection has none."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Candidates:
    """A query with its first-stage list, best first.

    ``scores`` are the first stage's own and may be empty where it gives an order only; otherwise one per passage.
    Raises ``ValueError`` if the lengths differ or a passage id occurs twice.
    """

    query: Query
    passages: tuple[Passage, ...]
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scores and len(self.scores) != len(self.passages):
            raise ValueError(f"query {self.query.id!r}: {len(self.scores)} scores for {len(self.passages)} passages")
        if len({p.id for p in self.passages}) != len(self.passages):
            raise ValueError(f"query {self.query.id!r}: a passage id occurs twice among its candidates")

    def top(self, depth: int) -> Candidates:
        """The first ``depth`` passages (all of them if there are fewer)."""
        return Candidates(self.query, self.passages[:depth], self.scores[:depth])


@dataclass(frozen=True, slots=True)
class Window:
    """What the model reads in one call: a query and passages in their given order."""

    query: Query
    passages: tuple[Passage, ...]

    def __len__(self) -> int:
        return len(self.passages)


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """A window with the grades of its passages, in window order.

    ``ideal`` holds all judged grades of the query (any order): the ideal ranking then comes from the query's
    judgements; ``None`` takes it from the window itself. ``gold`` is an order that somebody made of the passages (a
    teacher's list, or one label): positions, best first, some or all of them; ``None`` where grades are all there is.
    Raises ``ValueError`` if grades and passages differ in number, or ``gold`` isn't of the window's positions.
    """

    window: Window
    relevance: tuple[int, ...]
    ideal: tuple[int, ...] | None = None
    gold: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.relevance) != len(self.window.passages):
            raise ValueError(
                f"query {self.window.query.id!r}: {len(self.relevance)} grades for {len(self.window.passages)} passages"
            )
        gold = self.gold or ()
        if len(set(gold)) != len(gold) or not set(gold) <= set(range(len(self.relevance))):
            raise ValueError(
                f"query {self.window.query.id!r}: gold must hold some of the positions "
                f"0..{len(self.relevance) - 1}, each once, not {self.gold}"
            )

    @property
    def gold_order(self) -> tuple[int, ...]:
        """``gold``, or all positions by falling grade, ties as given."""
        if self.gold is not None:
            return self.gold
        return tuple(sorted(range(len(self.relevance)), key=lambda i: -self.relevance[i]))


@dataclass(frozen=True, slots=True)
class Permutation:
    """A reordering of a window: ``order[rank]`` is the 0-based position that moves to ``rank``.

    Raises ``ValueError`` unless ``order`` holds each of ``0..len-1`` exactly once.
    """

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"not a permutation of 0..{len(self.order) - 1}: {self.order}")

    @classmethod
    def identity(cls, size: int) -> Permutation:
        return cls(tuple(range(size)))

    def __len__(self) -> int:
        return len(self.order)

    def apply(self, items: Sequence[T]) -> tuple[T, ...]:
        """``items`` in the new order; raises ``ValueError`` if the lengths differ."""
        if len(items) != len(self.order):
            raise ValueError(f"a permutation of {len(self.order)} can't reorder {len(items)} items")
        return tuple(items[i] for i in self.order)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of reranking one query: passage ids, best first, and what it cost.

    ``calls`` counts windows answered; ``unparsed`` those whose answer named no order at all. ``scores`` are of the
    passages as they are ranked, where the strategy has any; they never rise, and only their differences matter.
    """

    query_id: str
    passage_ids: tuple[str, ...]
    calls: int = 0
    unparsed: int = 0
    scores: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn. ``temperature`` 0 is greedy.

    ``sample`` numbers the draws of one prompt: (messages, sampling) fixes the text, so that two different draws
    differ in ``sample`` (or ``seed``) and a repeated call can be answered from the store.
    """

    max_tokens: Annotated[int, Ge(1)] = 2048
    temperature: Annotated[float, Ge(0)] = 0.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    seed: int = 0
    sample: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer: untrusted text plus what it cost.

    ``finish`` is ``"stop"`` (the model ended its turn) or ``"length"`` (cut at ``max_tokens``);
    ``prompt_truncated``: the prompt was cut to fit the context.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: Literal["stop", "length"] = "stop"
    seconds: float = 0.0
    prompt_truncated: bool = False
    cost: float = 0.0
    """US dollars, where the engine has a price."""
    extra: Mapping[str, float] = field(default_factory=dict)
