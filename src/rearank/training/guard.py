"""When to stop a training before its end: it has stopped getting better, or it is falling apart.

Runs that train rerankers with little KL are known to collapse late: answers grow to the token limit, or stop being
answers, or the policy runs away from its reference. A run that is stopped keeps what it has and says why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any

from annotated_types import Ge, Interval

from rearank.checks import check_fields
from rearank.engines.account import Unread, remedy_of
from rearank.parsing import ParseStatus
from rearank.runs import INCIDENTAL


@dataclass(frozen=True)
class Guard:
    """Bounds on means over ``window`` steps; ``null`` switches one off.

    A bound counts once the run has been within it: what a model can't do yet when training starts is no collapse.

    Args:
        patience: validations in a row without a better nDCG before the run is stopped; ``null``: never.
        window: steps averaged.
        max_kl: of the policy to the model it started from, nats a token; only where ``algorithm.kl`` is above 0, since
            there is no such model otherwise.
        min_entropy: of the policy, nats a token.
        max_entropy: likewise.
        min_length: tokens an answer.
        max_cut_off: share of answers that reach the token limit.
        min_readable: share of answers that name every passage once (parse status ``ok``).
        max_unread: share of the answers before the first step (in validation; without one, in the first step's samples)
            that can't be read as an order. Above it training does not begin: nothing would be learned.
    """

    patience: Annotated[int, Ge(1)] | None = None
    window: Annotated[int, Ge(1)] = 5
    max_kl: float | None = 10.0
    min_entropy: float | None = None
    max_entropy: float | None = 8.0
    min_length: float | None = 4.0
    max_cut_off: float | None = 0.95
    min_readable: float | None = 0.01
    max_unread: Annotated[float, Interval(ge=0, le=1)] | None = field(default=0.9, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def bounds(self) -> tuple[tuple[str, str, float | None, str], ...]:
        """(figure, key, bound, what its crossing means)."""
        return (
            ("train/kl", "max_kl", self.max_kl, "the policy ran away from the model it started from"),
            ("train/entropy", "min_entropy", self.min_entropy, "the policy stopped exploring"),
            ("train/entropy", "max_entropy", self.max_entropy, "the policy has become noise"),
            ("rollout/length", "min_length", self.min_length, "answers shrank to nothing"),
            ("rollout/cut_off", "max_cut_off", self.max_cut_off, "answers run into the token limit"),
            ("rollout/parse/ok", "min_readable", self.min_readable, "answers are no rankings any more"),
        )


_UNREAD = {
    ParseStatus.EMPTY: Unread.NOTHING_NAMED,
    ParseStatus.UNCLOSED_THINK: Unread.OPEN_REASONING,
    ParseStatus.NO_ANSWER_TAG: Unread.NO_TAG,
}


@dataclass
class Watchdog:
    """``guard`` over the figures of a run so far; ``step`` and ``validated`` return why to stop, or ``None``."""

    guard: Guard
    _recent: deque[Mapping[str, float]] = field(init=False)
    _best: float | None = field(default=None, init=False)
    _since_best: int = field(default=0, init=False)
    _armed: set[str] = field(default_factory=set, init=False)
    _flat: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._recent = deque(maxlen=self.guard.window)

    def begin(self, figures: Mapping[str, float], of: str, cut: float) -> str | None:
        """Why training can't begin with answers of which ``cut`` is the share that reached the token limit.

        ``figures``: of validation or of the first step, whose names begin with ``of``: ``val`` or ``rollout``.
        """
        shares = {cause: figures.get(f"{of}/parse/{status}", 0.0) for status, cause in _UNREAD.items()}
        unread = sum(shares.values())
        if self.guard.max_unread is None or unread <= self.guard.max_unread:
            return None
        causes = {Unread.CUT: min(cut, unread), **shares} if cut else shares
        listed = ", ".join(f"{share:.0%} {cause.value}" for cause, share in causes.items() if share)
        first = Unread.CUT if 2 * cut >= unread else max(shares, key=shares.__getitem__)
        return (
            f"{unread:.0%} of the answers before the first step can't be read as an order, more than "
            f"trainer.guard.max_unread={self.guard.max_unread:g}: {listed}; {remedy_of(first)}, or fine-tune the model "
            "first (task=sft); trainer.guard.max_unread=null trains all the same"
        )

    def no_spread(self, figures: Mapping[str, float]) -> str | None:
        """A warning at the first of the steps in a row in which every group's answers all earned the same."""
        before, self._flat = self._flat, figures.get("rollout/groups_without_spread", 0.0) >= 1
        if before or not self._flat:
            return None
        return (
            "no group of this step has any spread: all answers to a window earned the same, so that every advantage is "
            "0 and nothing is learned; sample hotter (algorithm.temperature) or more answers a window "
            "(algorithm.group_size), draw windows with more to gain (augmentation.filter), or pay finer differences "
            "(reward=...)"
        )

    def step(self, figures: Mapping[str, float]) -> str | None:
        """Figures of an optimiser step."""
        self._recent.append(figures)
        if len(self._recent) < self.guard.window:
            return None
        for name, key, bound, meaning in self.guard.bounds:
            values = [figures[name] for figures in self._recent if name in figures]
            if bound is None or len(values) < self.guard.window:
                continue
            mean = fmean(values)
            if mean >= bound if key.startswith("min_") else mean <= bound:  # NaN is within no bound
                self._armed.add(key)
            elif key in self._armed:
                return (
                    f"{meaning}: {name} is {mean:.4g} over the last {self.guard.window} steps, beyond "
                    f"trainer.guard.{key}={bound:g} (null switches this bound off)"
                )
        return None

    def validated(self, ndcg: float) -> str | None:
        """nDCG on the validation windows."""
        if self._best is None or ndcg > self._best + 1e-12:
            self._best, self._since_best = ndcg, 0
            return None
        self._since_best += 1
        if self.guard.patience is not None and self._since_best >= self.guard.patience:
            return (
                f"{self._since_best} validations in a row without a better nDCG@10 than {self._best:.4f} "
                "(trainer.guard.patience)"
            )
        return None

    def replay(self, lines: Sequence[Mapping[str, Any]]) -> str | None:
        """What was logged before a stop: a resumed run judges as an uninterrupted one.

        Returns why the run had come to its end, where it had.
        """
        reason: str | None = None
        for line in lines:
            stepped = self.step(line) if "train/reward/total" in line else None
            validated = self.validated(line["val/ndcg@10"]) if "val/ndcg@10" in line else None
            reason = reason or stepped or validated
        return reason
