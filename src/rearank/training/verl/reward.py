"""The reward as verl calls it: ``reward.custom_reward_function.path=pkg://rearank.training.verl.reward``.

The same reward object as everywhere else, built once a process from its config node. verl calls the function from
several threads of several processes; rewards are stateless, so nothing is locked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from rearank.config import build
from rearank.rewards import RewardBreakdown, RewardFunction, score
from rearank.training.rows import judged_window

FUNCTION = "compute_score"


def compute_score(
    *,
    data_source: str,
    solution_str: str,
    ground_truth: Mapping[str, Any],
    extra_info: Mapping[str, Any],
    reward: str,
    opened: str = "",
    **_: Any,
) -> dict[str, Any]:
    """Score one answer.

    Args:
        data_source: of the row; every source is scored alike.
        solution_str: the completion without special tokens; any string. A ``CountedText`` one knows its tokens, too.
        ground_truth: the row's ``reward_model.ground_truth``.
        extra_info: the row's.
        reward: the reward's config node as JSON.
        opened: the ``<think>`` with which the chat template begins each answer.

    Returns:
        ``score`` (the total), then the breakdown under its own names, ``status`` as a string, and ``seconds``.

    Raises:
        NotFiniteError: for a reward that is NaN or infinite; it ends the run.
    """
    began = time.perf_counter()
    row = extra_info.get("index")
    judged = judged_window(ground_truth, extra_info)
    tokens = getattr(solution_str, "tokens", None)
    found = score(reward_of(reward), opened + solution_str, judged, None if row is None else int(row), tokens)
    scores = scores_of(found)
    return {**scores, "seconds": time.perf_counter() - began}


class CountedText(str):
    """A text that knows how many tokens it was made of: verl hands on the text alone."""

    tokens: int

    @classmethod
    def of(cls, text: str, tokens: int) -> CountedText:
        """``text``, of so many ``tokens``."""
        counted = cls(text)
        counted.tokens = tokens
        return counted


def scores_of(breakdown: RewardBreakdown) -> dict[str, Any]:
    """What verl gets of a breakdown."""
    scores = asdict(breakdown)
    return {"score": scores.pop("total"), **scores, "status": breakdown.status.value}


@lru_cache(maxsize=8)
def reward_of(node: str) -> RewardFunction:
    """The reward that the JSON of its node describes."""
    built: RewardFunction = build(json.loads(node))
    return built
