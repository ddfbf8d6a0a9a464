"""GRPO of real weights: two windows, two answers each, with TRL here and with verl where it is installed; a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.pipeline import ROOT, environment, lines

from rearank.engines.chat import load_chat
from rearank.engines.model import Model

VERL = find_spec("verl") is not None and find_spec("ray") is not None
pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(not VERL and find_spec("trl") is None, reason="no trainer")]

# The untrained model's answers can't be read, so every one would earn the same and nothing would be learnt.
REWARD = """
from dataclasses import dataclass, replace
from rearank.rewards.ndcg import NdcgReward

@dataclass(frozen=True, kw_only=True)
class Vowels(NdcgReward):
    def __call__(self, completion, judged):
        share = sum(letter in "aeiou" for letter in completion) / max(1, len(completion))
        return replace(super().__call__(completion, judged), total=share)
"""
STEPS = 2
RATE = 1e-5
SETTINGS = (
    "experiment=quickstart",
    "task=train",
    "name=run",
    "tracking=none",
    "reward._target_=vowels.Vowels",
    "dataset.collection.query_count=8",
    "validation.collection.query_count=2",
    "prepare.validation_windows=2",
    "augmentation.sets=1",
    "augmentation.size=3",
    "prompt.max_characters=120",
    f"algorithm.steps={STEPS}",
    "algorithm.prompts_per_step=2",
    "algorithm.group_size=2",
    f"algorithm.learning_rate={RATE}",
    "trainer.save_every=1",
    f"trainer.validate_every={STEPS}",
    "trainer.guard.max_unread=null",
    "trainer.guard.min_readable=null",
    "trainer.guard.max_cut_off=null",
    "model.max_tokens=16",
)


@pytest.fixture(autouse=True)
def _nothing_is_kept(tmp_path: Path) -> Iterator[None]:
    """A checkpoint is 1.6 GB, and pytest would keep the folders of three sessions."""
    yield
    shutil.rmtree(tmp_path)


def command(real: Model, outputs: Path, trainer: str) -> tuple[list[str], dict[str, str]]:
    """``python run.py`` for the real model, and its environment."""
    (outputs / "vowels.py").write_text(REWARD)
    own = ("model=smollm2_q4_1", f"model.path={real.location}", f"trainer={trainer}", "prompt=compact")
    places = (f"paths.outputs={outputs}", f"paths.cache={outputs}/cache")
    within = environment() | {"PYTHONPATH": os.pathsep.join([str(outputs), os.environ.get("PYTHONPATH", "")])}
    return [sys.executable, str(ROOT / "run.py"), *SETTINGS, *own, *places], within


def finish(command: list[str], within: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=within, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def kill_when(reached: Callable[[], bool], command: list[str], within: dict[str, str], log: Path) -> None:
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=within, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + 400
            while not reached():
                assert process.poll() is None, f"it ended by itself: {log.read_text()[-4000:]}"
                assert time.monotonic() < deadline, "the moment to kill it never came"
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL


@dataclass
class Trained:
    """What a finished training left."""

    folder: Path
    said: str

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in lines(self.folder / "training" / "train.jsonl") if "train/loss" in line]

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "training" / "result.json").read_text())
        return found


def figures(line: dict[str, Any]) -> dict[str, float]:
    """A step's figures that are no seconds."""
    return {name: value for name, value in line.items() if "seconds" not in name}


def check_steps(trained: Trained) -> None:
    """Answers differ, so that there is a gradient; they are as long as allowed; entropy is a real model's."""
    assert [line["step"] for line in trained.steps] == list(range(1, STEPS + 1))
    for line in trained.steps:
        assert line["rollout/reward_spread"] > 0
        assert 0 < line["train/grad_norm"] < 1e4
        assert 0.1 < line["train/entropy"] < 8
        assert 1 <= line["rollout/length"] <= 16
    assert trained.result["steps"] == STEPS


def check_weights(real: Model, trained: Path) -> None:
    """Every matrix moved, by no more than the learning rate allows; tokenizer and end token are the model's own."""
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (Path(real.location), trained))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        moved = float((after[name] - weight).abs().max())
        assert 0 < moved < 3 * STEPS * RATE, (name, moved)
    ours, theirs = (load_chat(folder, None) for folder in (trained, Path(real.location)))
    assert (ours.ends, ours.context) == (theirs.ends, theirs.context)
    assert ours.tokenizer.get_chat_template() == theirs.tokenizer.get_chat_template()


@pytest.mark.skipif(VERL or find_spec("trl") is None, reason="TRL lives in the other environment")
def test_trl_takes_a_step_and_goes_on_after_a_kill(real: Model, tmp_path: Path) -> None:
    ran, within = command(real, tmp_path, "trl")
    training = tmp_path / "run" / "training"
    kill_when(lambda: (training / "checkpoints" / "checkpoint-1" / "complete").is_file(), ran, within, tmp_path / "log")
    before = [line for line in lines(training / "train.jsonl") if line["step"] <= 1]
    trained = Trained(tmp_path / "run", finish(ran, within))
    assert "continued from step 1" in trained.said
    assert [line for line in lines(training / "train.jsonl") if line["step"] <= 1] == before
    check_steps(trained)
    whole = tmp_path / "whole"
    whole.mkdir()
    finish(*command(real, whole, "trl"))
    assert [figures(line) for line in trained.steps] == [
        pytest.approx(figures(line), rel=1e-4, abs=1e-7) for line in Trained(whole / "run", "").steps
    ]
    check_weights(real, training / "checkpoints" / f"checkpoint-{STEPS}")


@pytest.mark.skipif(not VERL, reason="verl is not installed here: make .venv-cluster/.installed")
def test_verl_takes_a_step(real: Model, tmp_path: Path) -> None:
    trained = Trained(tmp_path / "run", finish(*command(real, tmp_path, "verl_cpu")))
    check_steps(trained)
    for line in trained.steps:
        assert line["train/rollout_gap_mean"] < 1e-4, "vLLM's probabilities are the trainer's"
