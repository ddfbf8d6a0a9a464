"""Length in the objective: what an answer's tokens beyond a budget take off its reward.

Linear as DAPO's soft punishment of overlong answers (arXiv 2503.14476, section 3.4), or with the cosine that Yeo et al.
use (arXiv 2502.03373, section 4), which is gentle at both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from rearank.checks import check_fields


@dataclass(frozen=True)
class LengthPenalty:
    """Nothing up to ``budget`` tokens, ``-weight`` from ``full`` tokens on.

    Args:
        budget: tokens of an answer, reasoning and end token included, that cost nothing.
        full: from so many on it costs all; ``null`` for twice the budget. In between a token more costs, with
            ``linear``, ``weight / (full - budget)``: the lambda of "reward minus lambda times tokens".
        weight: the most that is taken off; the penalty lies in [-weight, 0], however long the answer.
        form: ``linear`` or ``cosine`` between the two.
    """

    budget: Annotated[int, Ge(1)]
    full: Annotated[int, Ge(2)] | None = None
    weight: Annotated[float, Gt(0)] = 0.5
    form: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.full is not None and self.full <= self.budget:
            raise ValueError(f"full ({self.full}) must be more tokens than budget ({self.budget})")

    def __call__(self, tokens: int) -> float:
        """What an answer of so many tokens is given, 0 or below."""
        full = 2 * self.budget if self.full is None else self.full
        share = min(1.0, max(0, tokens - self.budget) / (full - self.budget))
        if self.form == "cosine":
            share = (1.0 - math.cos(math.pi * share)) / 2.0
        return -self.weight * share
