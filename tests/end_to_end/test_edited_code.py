"""A reward that is edited between two runs of one command: the second one never returns the first one's result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import run

pytestmark = pytest.mark.slow

REWARD = """
from dataclasses import dataclass
from rearank.rewards import Reward

@dataclass(frozen=True, kw_only=True)
class OwnReward(Reward):
    def rank_score(self, measured):
        return 0.5
"""
ONE_STEP = (
    *("task=train", "algorithm.steps=1", "prepare.validation_windows=0"),
    *("reward=absolute", "reward._target_=own_reward.OwnReward"),
)


def test_the_next_run_has_the_new_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    own, folder = tmp_path / "own_reward.py", tmp_path / "run"

    def command(*more: str) -> tuple[str, float]:
        """What was said, and the reward of the first step."""
        done = run(tmp_path, *ONE_STEP, *more)
        (line,) = (json.loads(text) for text in (folder / "training" / "train.jsonl").read_text().splitlines())
        return done.stdout + done.stderr, line["train/reward/rank"]

    own.write_text(REWARD)
    assert command()[1] == 0.5
    own.write_text(REWARD.replace("return 0.5", "return 0.5  # as it was"))
    assert "a finished training found" in command()[0], "a comment is no other reward"
    own.write_text(REWARD.replace("0.5", "0.25"))
    said, reward = command("accept_changed_code=true")
    assert "goes on although its code has changed (code of own_reward)" in said
    assert reward == 0.5
    stored = json.loads((folder / "training" / "settings.json").read_text())
    (before,) = stored["code_accepted"]
    assert before["own_reward"] != stored["code"]["own_reward"], "kept in the result"
    own.write_text(REWARD.replace("0.5", "0.75"))
    said, reward = command()
    assert "training: it was made with other settings or code (code of own_reward): kept as" in said
    assert reward == 0.75
    assert (folder / "training.1" / "result.json").is_file()
    assert not list(folder.glob("prepared.*")), "the rows don't depend on a reward"
