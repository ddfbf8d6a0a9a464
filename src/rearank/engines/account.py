"""What answers were and what they cost: the one account of calls, tokens and dollars."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from rearank.parsing import ParsedRanking, ParseStatus
from rearank.types import Completion

DIGITS = 9
"""Of US dollars."""
_COUNTS = ("calls", "unparsed", "truncated_prompts", "cut_answers", "prompt_tokens", "completion_tokens")


@dataclass
class Account:
    """Of one query's answers, or of many queries' together.

    It follows from the answers alone: those that came from the completions store count like new ones.
    """

    calls: int = 0
    unparsed: int = 0
    """Answers that named no passage of the window (or neither yes nor no)."""
    truncated_prompts: int = 0
    cut_answers: int = 0
    """Answers that reached ``max_tokens``."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    statuses: Counter[ParseStatus] = field(default_factory=Counter)
    costs: list[float] = field(default_factory=list)
    """US dollars, of each answer or each query."""

    def count(self, completion: Completion, parsed: ParsedRanking) -> None:
        """One more answer, and how it was parsed."""
        self.calls += 1
        self.unparsed += parsed.named == 0
        self.truncated_prompts += completion.prompt_truncated
        self.cut_answers += completion.finish == "length"
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        self.statuses[parsed.status] += 1
        self.costs.append(completion.cost)

    def add(self, other: Account) -> None:
        """Another query's account."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.statuses.update(other.statuses)
        self.costs.append(other.cost)

    @property
    def cost(self) -> float:
        """US dollars; summed exactly, so that the order in which answers came changes no digit."""
        return math.fsum(self.costs)

    def figures(self) -> dict[str, float]:
        """As ``metrics.json`` has them, in a fixed order."""
        counts: dict[str, float] = {name: getattr(self, name) for name in _COUNTS}
        statuses = {f"status_{status.value}": count for status, count in self.statuses.items()}
        return {**counts, **dict(sorted(statuses.items())), "cost": round(self.cost, DIGITS)}
