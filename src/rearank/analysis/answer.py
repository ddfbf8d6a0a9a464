"""One answer about one judged window: what every analysis looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rearank.metrics import ndcg
from rearank.parsing import ParsedRanking
from rearank.types import JudgedWindow


@dataclass(frozen=True)
class Answer:
    """A window with its grades, how the model's answer about it was read, and the answer's length in tokens."""

    judged: JudgedWindow
    parsed: ParsedRanking
    tokens: int = 0

    @property
    def query(self) -> str:
        """The query's id."""
        return self.judged.window.query.id

    @property
    def size(self) -> int:
        """Passages in the window."""
        return len(self.judged.window)

    @property
    def order(self) -> tuple[int, ...]:
        """0-based positions, best first."""
        return self.parsed.permutation.order

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Passage id -> the 1-based rank that the answer gives it."""
        passages = self.judged.window.passages
        return {passages[position].id: rank for rank, position in enumerate(self.order, start=1)}

    @property
    def read(self) -> bool:
        """Whether the answer named any passage at all; what it doesn't name stays in the given order."""
        return self.parsed.named > 0

    @property
    def as_given(self) -> bool:
        """Whether the window comes back in the order in which it was shown."""
        return self.order == tuple(range(self.size))

    @property
    def ndcg_given(self) -> float:
        """nDCG@10 of the window as shown, against the best order of its own passages; 0.0 with nothing relevant."""
        return ndcg(self.judged.relevance, self.judged.relevance)

    @property
    def ndcg_ranked(self) -> float:
        """nDCG@10 of the answer's order, against the same."""
        return ndcg(self.parsed.permutation.apply(self.judged.relevance), self.judged.relevance)

    @property
    def can_change(self) -> bool:
        """Whether the passages' grades differ, so that their order matters."""
        return len({max(grade, 0) for grade in self.judged.relevance}) > 1
