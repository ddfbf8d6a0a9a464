"""TRL's reward protocol around our reward object."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rearank.engines.tokens import decoded
from rearank.rewards import RewardBreakdown, RewardFunction, score_groups
from rearank.tracking.names import rollout_name
from rearank.training.base import describe, spreads_of
from rearank.training.rows import TrainingRow


class TrlReward:
    """Scores a step's answers; keeps them for the advantages, the curves and the table of rollouts."""

    __name__ = "rearank"

    def __init__(
        self, reward: RewardFunction, rows: Sequence[TrainingRow], opened: str = "", tokenizer: Any = None
    ) -> None:
        """``opened``: the ``<think>`` with which the chat template begins each answer (``engines.chat.opening``).

        ``tokenizer`` makes the text of an answer's tokens, as TRL leaves out the special ones that mark a reasoning.
        """
        self._reward, self._rows, self._opened, self._tokenizer = reward, rows, opened, tokenizer
        self.scored: list[tuple[TrainingRow, str, RewardBreakdown]] = []

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        row: Sequence[int],
        log_metric: Any,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **_: Any,
    ) -> list[float]:
        rows = [self._rows[number] for number in row]
        if self._tokenizer is not None and completion_ids is not None:
            texts = [self._opened + decoded(self._tokenizer, tokens) for tokens in completion_ids]
        else:
            texts = [self._opened + completion[0]["content"] for completion in completions]
        began = time.perf_counter()
        answers = [(text, one.judged) for text, one in zip(texts, rows, strict=True)]
        tokens = None if completion_ids is None else [len(one) for one in completion_ids]
        breakdowns = score_groups(self._reward, answers, row, tokens)
        self.scored = list(zip(rows, texts, breakdowns, strict=True))
        for name, value in describe(breakdowns).items():
            log_metric(rollout_name(name), value)
        for name, value in spreads_of([one.total for one in breakdowns], row).items():
            log_metric(name, value)
        log_metric("rollout/reward_seconds", time.perf_counter() - began)
        return [breakdown.total for breakdown in breakdowns]
