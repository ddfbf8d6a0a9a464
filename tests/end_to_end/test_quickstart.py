"""The main job as the README says it: GRPO lifts held-out nDCG@10 over the base model and over BM25."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import ROOT, environment
from tests.golden import quickstart
from tests.wandb_file import read_offline

from rearank.tracking import read_jsonl
from rearank.tracking.names import expected

pytestmark = pytest.mark.slow

GAIN = 0.07


def run(outputs: Path, *overrides: str) -> tuple[Path, str]:
    """The run's folder and what it said."""
    done = subprocess.run(
        [sys.executable, "run.py", "experiment=quickstart", f"paths.outputs={outputs}", *overrides],
        cwd=ROOT,
        env={key: value for key, value in environment().items() if key != "WANDB_API_KEY"},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return outputs / "quickstart", done.stdout


def test_the_quickstart(tmp_path: Path) -> None:
    folder, said = run(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["queries"] >= 300
    assert summary["grpo"] >= summary["base"] + GAIN
    assert summary["grpo"] >= summary["bm25"] + GAIN
    assert summary["p_value"] < 0.001
    assert summary["p_value_bm25"] < 0.001
    assert summary["bm25"] < summary["base_sampled"] < summary["grpo"] < summary["ideal"] <= 1
    assert summary["seed"] == 1
    # The table on screen is the summary's.
    for name in ("bm25", "base", "base_sampled", "grpo", "ideal"):
        assert f"{summary[name]:.4f}" in said
        metrics = json.loads((folder / "evaluation" / "synthetic" / name / "metrics.json").read_text())
        assert metrics["mean"]["ndcg_cut_10"] == summary[name]
        low, high = metrics["interval_95"]["ndcg_cut_10"]
        assert low < summary[name] < high
    # TREC runs hold every candidate once, whatever the model said.
    ranked: dict[str, list[str]] = {}
    for line in (folder / "evaluation/synthetic/grpo/run.trec").read_text().splitlines():
        query, _, passage, *_ = line.split()
        ranked.setdefault(query, []).append(passage)
    assert len(ranked) == summary["queries"]
    assert all(len(set(ids)) == len(ids) for ids in ranked.values())
    check_golden(folder)
    check_offline(folder / "training")
    assert (folder / "training" / "figures" / "reward.png").stat().st_size > 5_000
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # GiB; Linux counts in KiB
    assert peak < 4


def check_golden(folder: Path) -> None:
    """The figures that are written down: all of them on the recorded processor and torch, near them on others.

    A summary may say more than it did.
    """
    now, then = quickstart.facts(folder), quickstart.recorded("shared")
    assert not set(then["files"]) - set(now["files"]), "a file that users know has gone"
    now["summary"] = {key: now["summary"].get(key) for key in then["summary"]}
    if now["made_on"] == then["made_on"]:
        for part in ("summary", "metrics", "curves", "digests"):
            assert now[part] == then[part], part
        return
    rows = [name for name in then["digests"] if name.startswith("prepared/")]
    assert [now["digests"][name] for name in rows] == [then["digests"][name] for name in rows]
    for name, system in then["metrics"].items():
        assert now["metrics"][name]["mean"] == pytest.approx(system["mean"], abs=quickstart.NEAR), name


def test_the_plain_path_is_what_it_was(tmp_path: Path) -> None:
    """``trainer.shared_prompt=false``: the curves are those from before prompts were shared, digit for digit."""
    folder, _ = run(tmp_path, "task=train", "trainer.shared_prompt=false", "tracking=none")
    then = quickstart.recorded("plain")
    rows = [name for name in then["digests"] if name.startswith("prepared/")]
    assert quickstart.digests(folder) == {name: then["digests"][name] for name in rows}
    found = quickstart.curves(folder / "training" / "train.jsonl")
    if quickstart.made_on() == then["made_on"]:
        assert found == then["curves"]
    assert [line["step"] for line in found] == [line["step"] for line in then["curves"]]


def test_both_paths_figures_are_near_one_another() -> None:
    """As they are written down: with each prompt computed once the same draws are taken."""
    shared, plain = (quickstart.recorded(path) for path in ("shared", "plain"))
    assert shared["metrics"].keys() == plain["metrics"].keys()
    for name, one in plain["metrics"].items():
        assert shared["metrics"][name]["mean"] == pytest.approx(one["mean"], abs=0.005), name
    for one, other in zip(shared["curves"], plain["curves"], strict=True):
        assert one["step"] == other["step"]
        for name in {"train/reward/total", "rollout/ndcg@10", "val/ndcg@10", "val/reward/total"} & other.keys():
            assert one[name] == pytest.approx(other[name], abs=0.005), (one["step"], name)
    names = {name for line in plain["curves"] for name in line}
    assert names >= {"train/reward/total", "rollout/ndcg@10", "val/ndcg@10", "val/reward/total"}, "they are compared"


def check_offline(folder: Path) -> None:
    """W&B's file of the training says what the JSONL says, under the documented names."""
    merged: dict[int, dict[str, float]] = {}
    for line in read_jsonl(folder / "train.jsonl"):
        merged.setdefault(line.pop("step"), {}).update(line)
    found = read_offline(folder, folder.parent)
    assert found.figures() == merged
    assert {name for line in merged.values() for name in line} == expected("trl")
    assert found.tables().keys() == {"rollouts"}
    assert (found.run.run_group, found.run.job_type) == ("quickstart", "train")
    assert sorted(one.type for one in found.artefacts if one.type != "run_table") == ["dataset", "model"]
    assert found.config["choices"]["reward"] == "ndcg"
