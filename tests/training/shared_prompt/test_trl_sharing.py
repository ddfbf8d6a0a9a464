"""TRL's training with each prompt computed once ends where the plain one does, with the same random draws."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tests.training.test_trl import ALGORITHM, MINIBATCHES, TRAINER, job, pytestmark, rows  # noqa: E402, F401

from rearank.rewards import NdcgReward  # noqa: E402
from rearank.tracking import read_jsonl  # noqa: E402
from rearank.training.base import Lora, TrainingError  # noqa: E402
from rearank.training.local import complete_checkpoint  # noqa: E402

NEAR = 1e-4
MEANS = ("train/entropy", "train/kl", "train/clip_ratio")
"""Means over passes, which needn't hold the same answers: TRL shuffles them where prompts aren't shared."""
CLOCKS = {"train/seconds", "rollout/reward_seconds", "time"}
ONE_UPDATE = replace(ALGORITHM, prompts_per_step=4, learning_rate=1e-3)
SHARING = replace(TRAINER, shared_prompt=True, validate_every=2)


def curves(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if name not in CLOCKS}
        for line in read_jsonl(folder / "train.jsonl")
    ]


@pytest.mark.parametrize(
    ("algorithm", "micro", "more"),
    [
        (ONE_UPDATE, None, {}),
        (ONE_UPDATE, 2, {}),
        (replace(ONE_UPDATE, prompts_per_step=6, group_size=2), 3, {}),  # blocks of three groups in two passes
        (replace(MINIBATCHES, kl=0.05), 4, {}),
        (replace(MINIBATCHES, updates=2, loss="sequence", ratio="sequence"), 2, {}),
        (replace(ONE_UPDATE, kl=0.05, temperature=0.7), 8, {"lora": Lora(rank=4)}),
        (replace(MINIBATCHES, kl=0.05, temperature=0.7), 4, {"gradient_checkpointing": True}),
        (ONE_UPDATE, 2, {"gradient_checkpointing": True, "lora": Lora(rank=4)}),
    ],
    ids=[
        "whole",
        "parts-of-groups",
        "across-groups",
        "minibatches-kl",
        "two-passes",
        "lora-kl",
        "checkpointing",
        "checkpointing-lora",
    ],
)
def test_curves_are_those_of_the_plain_path(
    rows: Path,  # noqa: F811
    tmp_path: Path,
    algorithm: Any,
    micro: int | None,
    more: Any,
) -> None:
    found = []
    for shared in (False, True):
        folder = tmp_path / str(shared)
        trainer = replace(SHARING, shared_prompt=shared, micro_batch=micro, **more)
        trainer.train(job(rows, folder), algorithm)
        found.append(curves(folder))
    for plain, ours in zip(*found, strict=True):
        assert ours == {
            name: pytest.approx(value, rel=NEAR if name not in MEANS else 0.02, abs=NEAR)
            for name, value in plain.items()
        }
    assert any(line.get("train/grad_norm", 0) > 0.01 for line in found[0])


def test_old_log_probabilities_are_those_of_the_policy_that_sampled(
    rows: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the first update of a step every ratio is 1; in the second it isn't."""
    from rearank.training.trl import policy

    far: list[float] = []

    class Watched(policy.PolicyTrainer):
        def _get_per_token_logps_and_entropies(self, *arguments: Any, **more: Any) -> Any:
            found = super()._get_per_token_logps_and_entropies(*arguments, **more)
            if torch.is_grad_enabled():
                now = self._buffered_inputs[self._step % self.args.steps_per_generation]
                far.append(float((found[0].detach() - now["old_per_token_logps"]).abs().max()))
            return found

    monkeypatch.setattr(policy, "PolicyTrainer", Watched)
    replace(SHARING, micro_batch=2).train(job(rows, tmp_path, validation=[]), replace(MINIBATCHES, steps=1))
    assert len(far) == 8
    assert max(far[:4]) < 1e-4
    assert min(far[4:]) > 1e-3


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_stopped_run_goes_on(rows: Path, tmp_path: Path, minibatches: int) -> None:  # noqa: F811
    algorithm, left = replace(MINIBATCHES, steps=3, minibatches=minibatches), 16 + 5
    trainer = replace(SHARING, micro_batch=2)

    class Stopped(NdcgReward):
        def __call__(self, *arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    trainer.train(job(rows, tmp_path / "whole", validation=[]), algorithm)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(job(rows, tmp_path / "stopped", validation=[], reward=Stopped()), algorithm)
    last = complete_checkpoint(tmp_path / "stopped" / "checkpoints")
    assert last is not None
    assert last.name == "checkpoint-1"
    trainer.train(job(rows, tmp_path / "stopped", validation=[]), algorithm)
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")


DROPPING = Lora(rank=2, dropout=0.1)


def test_where_prompts_cannot_be_shared(rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    small = replace(ALGORITHM, steps=1)
    with pytest.raises(TrainingError, match=r"trainer\.shared_prompt=true: .* dropout is above 0.*shared_prompt=auto"):
        replace(SHARING, lora=DROPPING).train(job(rows, tmp_path / "true", validation=[]), small)
    with caplog.at_level(logging.INFO, "rearank"):
        replace(SHARING, lora=DROPPING, shared_prompt="auto").train(job(rows, tmp_path / "auto", validation=[]), small)
    assert [r.getMessage() for r in caplog.records if "shared_prompt" in r.getMessage()] == [
        "trainer.shared_prompt: each answer's prompt is computed anew: "
        "dropout is above 0, and would differ from answer to answer"
    ]


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="shared_prompt must be 'auto' or True or False, not 'yes'"):
        replace(TRAINER, shared_prompt="yes")
