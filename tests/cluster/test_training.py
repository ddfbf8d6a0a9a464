"""The quickstart on the cluster's code path: GRPO by verl on Ray, rollouts and evaluation by vLLM, one kill and resume.

One run, killed once, whose figures several tests look at: starting the cluster's processes takes a minute.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from scipy import stats
from tests.cluster.runs import QUICKSTART, Started, cluster_processes, curves, result, run, step_reached

from rearank.tracking.names import expected, undocumented

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STEPS, EVERY, KILLED_AFTER = 24, 8, 9
SETTINGS = (
    *QUICKSTART,
    "engine=vllm",
    f"algorithm.steps={STEPS}",
    f"trainer.save_every={EVERY}",
    f"trainer.validate_every={EVERY}",
    "evaluation.samples=0",
    "evaluation.base=false",
    "benchmark.collection.query_count=120",
)


@dataclass
class Run:
    """What the killed run left, and the one that continued it."""

    folder: Path
    said_first: str
    before: list[dict[str, Any]]
    left_over: list[str]
    said: str
    curves: list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    outputs = tmp_path_factory.mktemp("cluster")
    folder = outputs / "run"
    started = Started(outputs, SETTINGS)
    started.wait_until(step_reached(folder, KILLED_AFTER))
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    before = curves(folder)
    left_over = cluster_processes(patience=30)
    said = run(outputs, SETTINGS)
    return Run(folder, started.said, before, left_over, said, curves(folder))


def steps(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.curves if "train/loss" in line]


def test_it_learns(whole: Run) -> None:
    rewards = [line["train/reward/total"] for line in steps(whole)]
    quarter = STEPS // 4
    first, last = rewards[:quarter], rewards[-quarter:]
    assert fmean(last) > fmean(first)
    assert stats.ttest_ind(last, first, equal_var=False, alternative="greater").pvalue < 0.01
    validation = {line["step"]: line["val/ndcg@10"] for line in whole.curves if "val/ndcg@10" in line}
    assert list(validation) == [0, EVERY, 2 * EVERY, STEPS]
    assert max(validation.values()) > validation[0] + 0.02
    assert result(whole.folder)["best_ndcg"] == pytest.approx(max(validation.values()))


def test_rollouts_and_trainer_agree(whole: Run) -> None:
    for line in steps(whole):
        assert line["train/rollout_gap_mean"] < 1e-6
        # The largest of thousands of tokens: float32's own rounding at logits of this size, 6e-6 to 1.3e-5 where looked
        # at. bfloat16 on one side is a thousand times that.
        assert line["train/rollout_gap_max"] < 5e-5


def test_a_killed_run_continues(whole: Run) -> None:
    assert "continued from step 8" in whole.said
    assert [line["step"] for line in steps(whole)] == list(range(1, STEPS + 1)), "each step once, in order"
    kept = [line for line in whole.before if line["step"] <= EVERY]
    assert whole.curves[: len(kept)] == kept, "what was logged up to the checkpoint stays"
    lost = next((line for line in whole.before if line["step"] == EVERY + 1), None)
    again = next(line for line in whole.curves if line.get("step") == EVERY + 1)
    assert lost is not None
    # The same windows, the same answers, the same update: weights, optimiser, data order and seeds are all restored.
    for name in ("train/reward/total", "rollout/length", "train/grad_norm", "train/entropy"):
        assert again[name] == pytest.approx(lost[name], rel=1e-3), name


def test_nothing_is_left_behind(whole: Run) -> None:
    assert whole.left_over == [], "a killed driver takes its Ray with it"
    assert cluster_processes(patience=10) == []


def test_every_figure_is_there(whole: Run) -> None:
    line = steps(whole)[-1]
    parts = ("rollouts", "old_log_prob", "update", "weight_sync", "step")
    assert {f"time/{part}" for part in parts} <= line.keys()
    every = {name for line in whole.curves for name in line} - {"step"}
    assert undocumented(every) == []
    ours = {name for name in every if name.startswith(("train/", "rollout/", "val/"))}
    assert ours == expected("verl")
    assert expected("trl") < ours, "what the one-machine trainer logs, and more"
    rollouts = [
        json.loads(text) for text in (whole.folder / "training" / "train-rollouts.jsonl").read_text().splitlines()
    ]
    assert {"query", "prompt", "reasoning", "answer", "completion", "total", "ndcg_reranked", "status"} <= rollouts[
        0
    ].keys()
    assert rollouts[-1]["answer"].startswith(" [")
    assert {row["step"] for row in rollouts} == {EVERY, 2 * EVERY, STEPS}


def values(folder: Path) -> dict[str, float]:
    """nDCG@10 by query."""
    stored: dict[str, dict[str, dict[str, float]]] = json.loads((folder / "metrics.json").read_text())
    return stored["per_query"]["ndcg_cut_10"]


def test_the_best_checkpoint_is_measured_with_vllm(whole: Run) -> None:
    summary = json.loads((whole.folder / "summary.json").read_text())
    assert summary["queries"] == 120
    assert summary["grpo"] > summary["bm25"] + 0.05
    grpo, bm25 = (values(whole.folder / "evaluation" / "synthetic" / name) for name in ("grpo", "bm25"))
    assert stats.ttest_rel([grpo[query] for query in bm25], list(bm25.values())).pvalue < 1e-6
    assert (whole.folder / "training" / "model" / "model.safetensors").is_file()


def test_a_finished_run_starts_nothing(whole: Run) -> None:
    said = run(whole.folder.parent, SETTINGS, "task=train", timeout=60)
    assert "starting Ray" not in said
    assert "a finished training found" in said
