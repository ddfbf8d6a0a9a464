"""``task.method=sft_then_rl``: fine-tuned, trained from there, and both measured; without the untrained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import ROOT, metrics, run

from rearank.runs.reader import score_of

pytestmark = pytest.mark.slow

TINY = (
    *("task.method=sft_then_rl", "sft.steps=2", "sft.batch=8", "sft.learning_rate=1e-3", "algorithm.steps=1"),
    # Without validation windows it is the last step that is kept, not whichever was best.
    *("prepare.validation_windows=0", "trainer.threads=1", "benchmark.collection.query_count=5"),
    *("evaluation.base=false", "evaluation.samples=0", "report.write=true"),
)


def distance(a: Path, b: Path) -> float:
    """Between two models' weights, Euclidean."""
    from safetensors.torch import load_file

    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    return float(sum((first[name].float() - second[name].float()).pow(2).sum() for name in first) ** 0.5)


def test_sft_then_rl_without_the_untrained_model(tmp_path: Path) -> None:
    said = run(tmp_path, *TINY)
    folder = tmp_path / "run"
    assert "no report was written" not in said.stdout + said.stderr
    # RL began where SFT ended.
    tuned, trained = (json.loads((folder / name / "result.json").read_text()) for name in ("sft", "training"))
    assert (tuned["best_step"], trained["best_step"]) == (2, 1)
    settings = {name: json.loads((folder / name / "settings.json").read_text()) for name in ("sft", "training")}
    assert settings["training"]["model"]["path"] == str(folder / "sft" / tuned["model"])
    before = ROOT / "src" / settings["sft"]["model"]["path"].removeprefix("pkg://")
    after_sft, after_rl = folder / "sft" / "model", folder / "training" / "model"
    assert 0 < distance(after_sft, after_rl) < distance(before, after_sft)
    assert distance(after_sft, after_rl) < distance(before, after_rl)
    # Both were measured, and nothing else.
    found = metrics(folder)
    assert set(found) == {f"synthetic/{name}" for name in ("bm25", "sft", "grpo", "ideal")}
    summary = json.loads((folder / "summary.json").read_text())
    assert "base" not in summary
    assert summary["queries"] == 5
    assert summary["grpo"] == found["synthetic/grpo"]["mean"]["ndcg_cut_10"] == score_of(folder)
    table = (folder / "evaluation" / "synthetic" / "table.md").read_text()
    report = (folder / "report.html").read_text()
    for name in ("sft", "grpo"):
        label = f"tiny after {name.upper()} (step {(tuned if name == 'sft' else trained)['best_step']})"
        assert label == found[f"synthetic/{name}"]["system"]
        assert label in table
        assert label in report
        assert f"{summary[name]:.4f}" in table
    # The same command finds all of it done.
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    run(tmp_path, *TINY)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == done
    assert not list(folder.glob("training.*"))
    assert metrics(folder) == found
