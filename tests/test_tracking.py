"""Figures on disk as they come; W&B beside them, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rearank.tracking import JsonlTracker, NoTracking, WandbTracking, read_jsonl


def test_jsonl(tmp_path: Path) -> None:
    tracker = NoTracking().open(tmp_path / "run", "name", {}, "train")
    tracker.log({"train/loss": 1.0}, 1)
    tracker.log({"train/loss": 0.5}, 2)
    tracker.table("rollouts", ["query", "answer"], [["q", "[1]"]], 2)
    tracker.close()
    assert read_jsonl(tmp_path / "run" / "train.jsonl") == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 0.5},
    ]
    assert read_jsonl(tmp_path / "run" / "train-rollouts.jsonl") == [{"step": 2, "query": "q", "answer": "[1]"}]


def test_a_resumed_run_says_nothing_twice(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path, "train")
    for step in range(5):
        tracker.log({"x": step}, step)
    with tracker.path.open("a") as file:
        file.write('{"step": 5, "x"')  # a kill in the middle of a line
    tracker.rewind(2)
    tracker.log({"x": 30}, 3)
    assert [line["x"] for line in read_jsonl(tracker.path)] == [0, 1, 2, 30]


def test_a_key_is_asked_for_only_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert WandbTracking().preflight() == []
    assert "WANDB_API_KEY" in WandbTracking(mode="online").preflight()[0]
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert WandbTracking(mode="online").preflight() == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearank.tracking.wandb_runs.find_spec", lambda name: None)
    assert "tracking=none" in WandbTracking().preflight()[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = WandbTracking(mode="offline").open(tmp_path, "name", {"seed": 3}, "train")
    tracker.log({"train/reward/total": 0.25}, 1)
    tracker.table("rollouts", ["query"], [["q"]], 1)
    tracker.close()
    runs = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    assert (tmp_path / "wandb-id.txt").read_text() in runs[0].name
    written = runs[0].read_bytes()
    assert b"train/reward/total" in written
    assert json.loads((tmp_path / "train.jsonl").read_text()) == {"step": 1, "train/reward/total": 0.25}
