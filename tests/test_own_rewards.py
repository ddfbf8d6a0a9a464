"""A reward from outside of the package that fails: one line with its name, the row, the answer and where it failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rearank.cli.errors import explain
from rearank.rewards import NdcgReward, NotFiniteError, RewardBreakdown, RewardError, score, score_groups
from rearank.rewards.base import Measured
from rearank.types import JudgedWindow, Passage, Query, Window

PASSAGES = tuple(Passage(str(place), "text") for place in range(3))
JUDGED = JudgedWindow(Window(Query("q7", "query"), PASSAGES), (0, 1, 0))
ANSWER = "<think>so</think><answer>[2] > [1] > [3]</answer>"


@dataclass(frozen=True, kw_only=True)
class OwnReward(NdcgReward):
    fails: str = ""

    def rank_score(self, measured: Measured) -> float:
        if self.fails:
            raise ValueError(self.fails)
        return super().rank_score(measured)


@dataclass(frozen=True, kw_only=True)
class OwnGroupReward(NdcgReward):
    gives: Any = None

    def score_group(self, completions: Sequence[str], judged: JudgedWindow) -> list[RewardBreakdown]:
        if self.gives is None:
            raise KeyError("grade")
        found: list[RewardBreakdown] = self.gives
        return found


def test_what_an_own_reward_raises_is_one_line_and_keeps_its_traceback() -> None:
    reward = OwnReward(fails="no such\ngrade")
    with pytest.raises(RewardError) as caught:
        score(reward, ANSWER, JUDGED, 12)
    message = explain(caught.value, []) or ""
    assert message.startswith(f"the reward OwnReward raised ValueError: no such grade ({Path(__file__)}, line ")
    assert f"for row 12, query 'q7' and the answer {ANSWER!r}; mend the reward" in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, ValueError), "for REARANK_TRACE=1"
    assert not isinstance(caught.value, NotFiniteError)
    assert score(OwnReward(), ANSWER, JUDGED).rank == 1.0


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (None, "raised KeyError: 'grade'"),
        ([], "score_group gave 0 breakdowns for the 2 answers of its argument"),
        ([1.0, 2.0], "a reward gives a RewardBreakdown, not float"),
        (7, "raised TypeError: "),
    ],
)
def test_a_reward_of_groups_that_fails_is_named_with_its_row(gives: Any, said: str) -> None:
    with pytest.raises(RewardError, match="the reward OwnGroupReward raised ") as caught:
        score_groups(OwnGroupReward(gives=gives), [(ANSWER, JUDGED)] * 2, [3, 3])
    assert said in str(caught.value)
    assert "for row 3, query 'q7'" in str(caught.value)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(NdcgReward, "rank_score", broken)
    with pytest.raises(ZeroDivisionError):
        score(NdcgReward(), ANSWER, JUDGED)
