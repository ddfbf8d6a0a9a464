"""Answers counted as they come: for figures, for what was paid, and for a line of progress."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rearank.engines import PromptRanker, RecordingEngine
from rearank.ranking import Failure
from rearank.types import Completion, Ranking

DIGITS = 9
"""Of US dollars."""


@dataclass
class Tally:
    """Counts answers as they come. A query's ranker is let go when the query is done: memory holds those under way."""

    planned: Mapping[str, int] | None
    recording: RecordingEngine
    counts: Counter[str] = field(default_factory=Counter)
    rankers: dict[str, PromptRanker] = field(default_factory=dict)
    answered: dict[str, list[float]] = field(default_factory=dict)
    """What each answer of a query under way cost."""
    costs: list[float] = field(default_factory=list)
    """Of finished queries."""
    windows: int = 0
    rankings: dict[str, Ranking] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expected = sum(self.planned.values()) if self.planned is not None else None
        self._before = self.paid()

    def paid(self) -> dict[str, float]:
        """What the engine was asked for since it was made."""
        made = self.recording
        counts = {"calls": made.paid, "failed": made.failed, "completion_tokens": made.paid_tokens}
        return {**counts, "cost": made.paid_cost}

    def paid_now(self) -> dict[str, float]:
        """As ``paid``, since this pass began."""
        return {name: value - self._before[name] for name, value in self.paid().items()}

    def answer(self, query: str, completion: Completion) -> None:
        """A window of ``query`` is answered, by the engine or the store."""
        self.windows += 1
        self.answered.setdefault(query, []).append(completion.cost)
        self.counts["truncated_prompts"] += completion.prompt_truncated
        self.counts["cut_answers"] += completion.finish == "length"
        self.counts["prompt_tokens"] += completion.prompt_tokens
        self.counts["completion_tokens"] += completion.completion_tokens

    def done(self, result: Ranking | Failure) -> None:
        """``result``'s query is finished: what was planned for it becomes what it took."""
        query = result.query_id
        costs = self.answered.pop(query, [])
        self.costs.append(math.fsum(costs))  # exact, so that the order in which answers came doesn't show
        if self.expected is not None and self.planned is not None:
            self.expected += len(costs) - self.planned[query]
        ranker = self.rankers.pop(query, None)
        if ranker is not None:
            self.counts["unparsed"] += ranker.unparsed
            self.counts.update({f"status_{status.value}": count for status, count in ranker.statuses.items()})
        if isinstance(result, Ranking):
            self.rankings[query] = result

    def note(self, seconds: float) -> str:
        """Windows, the engine's speed and the cost so far, for a line of progress."""
        now = self.paid_now()
        total = f"/{self.expected}" if self.expected is not None else ""
        said = [f"{self.windows}{total} windows", f"{now['completion_tokens'] / max(seconds, 1e-9):.0f} tokens/s"]
        if now["cost"]:
            said.append(f"${now['cost']:.4f}")
        return ", ".join(said)

    def left(self, seconds: float) -> float | None:
        """Seconds to come, by the pace of what the engine answered: what the store answers takes no time."""
        now = self.paid_now()
        answered = now["calls"] - now["failed"]
        if self.expected is None or answered < 1:
            return None
        return seconds * max(self.expected - self.windows, 0) / answered

    def figures(self) -> dict[str, float]:
        """Those that follow from the answers, in a fixed order."""
        names = ("unparsed", "truncated_prompts", "cut_answers", "prompt_tokens", "completion_tokens")
        statuses = sorted(name for name in self.counts if name.startswith("status_"))
        counted: dict[str, float] = {name: self.counts[name] for name in (*names, *statuses)}
        return {"calls": self.windows, **counted, "cost": round(math.fsum(self.costs), DIGITS)}
