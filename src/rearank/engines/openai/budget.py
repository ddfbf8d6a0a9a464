"""What calls cost, and the most that a run folder may spend on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rearank.engines.base import EngineError
from rearank.ranking import AbortRunError

_MILLION = 1_000_000


class BudgetError(EngineError, AbortRunError):
    """The budget is spent: no further call starts; the answers so far are kept."""


@dataclass(frozen=True)
class Usage:
    """Tokens that a server says it charges for; ``cached`` are those of the prompt it had seen before.

    ``total`` is 0 unless the server counts nothing but the sum.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    total: int = 0


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens; cached prompt tokens cost as others where they have no price of their own."""

    prompt: float
    completion: float
    cached: float | None = None

    def cost(self, usage: Usage) -> float:
        """US dollars."""
        cached = min(usage.cached, usage.prompt)
        dollars = (usage.prompt - cached) * self.prompt + usage.completion * self.completion
        return (dollars + cached * (self.prompt if self.cached is None else self.cached)) / _MILLION


class Budget:
    """Adds up what is spent and says when to stop. ``limit`` is in US dollars, ``None`` for no limit.

    The calls under way when the limit is reached still finish and are paid, so that a run can end that much above it.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.earlier = 0.0
        """Spent in the same folder by earlier runs, US dollars."""
        self.now = 0.0
        """Spent by this one."""
        self.charged = 0
        """Answers it was spent on."""

    @property
    def spent(self) -> float:
        """US dollars, earlier runs included."""
        return self.earlier + self.now

    def charge(self, dollars: float) -> None:
        """An answer came and cost this much."""
        self.now += dollars
        self.charged += 1

    def check(self) -> None:
        """Before a call: raises ``BudgetError`` where nothing is left."""
        if self.limit is None or self.spent < self.limit:
            return
        mean = f", ${self.now / self.charged:.4g} each" if self.charged else ""
        raise BudgetError(
            f"the budget is spent: ${self.spent:.4f} of engine.budget={self.limit:g} in this folder "
            f"(${self.now:.4f} by this command for {self.charged} answers{mean}), so $"
            f"{max(self.limit - self.spent, 0):.4f} is left and no further call was started. Every answer is kept: "
            "the same command with a larger engine.budget goes on from here"
        )


@runtime_checkable
class Spends(Protocol):
    """An engine whose calls cost money."""

    @property
    def budget(self) -> Budget: ...
