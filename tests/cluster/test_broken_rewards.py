"""What ends a training early on the cluster: a reward that isn't a number, and first answers that can't be read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.cluster.runs import SMALL, command, curves, result, run
from tests.end_to_end.pipeline import environment

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# Every answer earns the same, until step 2 is logged; then there is a row that earns no number.
FLAT = """
import os
from dataclasses import dataclass, replace
from pathlib import Path
from rearank.rewards.ndcg import NdcgReward

@dataclass(frozen=True, kw_only=True)
class FlatReward(NdcgReward):
    def __call__(self, completion, judged):
        log = Path(os.environ["FLAT_LOG"])
        reached = log.is_file() and '"step": 2' in log.read_text()
        return replace(super().__call__(completion, judged), total=float("nan") if reached else 1.0)
"""


def test_a_reward_that_is_not_finite_ends_the_run_after_saving_its_last_step(tmp_path: Path) -> None:
    module = tmp_path / "flat.py"
    module.write_text(FLAT)
    log = tmp_path / "run" / "training" / "train.jsonl"
    within = environment() | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "FLAT_LOG": str(log)}
    settings = (*SMALL, "reward._target_=flat.FlatReward", "algorithm.steps=6", "trainer.save_every=100")

    def started(*overrides: str) -> tuple[int, str]:
        asked = command(tmp_path, settings, "trainer.validate_every=100", *overrides)
        done = subprocess.run(asked, env=within, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout + done.stderr

    code, said = started()
    assert code == 1, said[-3000:]
    assert "the reward FlatReward gave a number that is not finite: total is nan, for row " in said
    assert said.count("has any spread") == 1
    done = curves(tmp_path / "run")[-1]["step"]
    assert 2 <= done < 6
    kept = tmp_path / "run" / "training" / "checkpoints" / f"global_step_{done}"
    assert [path.name for path in kept.parent.glob("global_step_*")] == [kept.name], "though none was due"
    assert torch.load(kept / "data.pt", weights_only=False)["_num_yielded"] == done, (
        "the windows of the step that failed are drawn again"
    )
    module.write_text(FLAT.replace('float("nan")', "0.0"))
    code, said = started("accept_changed_code=true")
    assert code == 0, said[-3000:]
    assert f"continued from step {done}" in said
    assert [line["step"] for line in curves(tmp_path / "run")] == list(range(7))
    assert result(tmp_path / "run")["steps"] == 6


@pytest.mark.full
def test_first_answers_that_cannot_be_read_end_the_run(tmp_path: Path) -> None:
    said = run(tmp_path, SMALL, "model.max_tokens=2", expect=1)
    assert "trainer.guard.max_unread" in said
    assert "model.max_tokens" in said
    assert [line["step"] for line in curves(tmp_path / "run")] == [0], "what was found is logged"
