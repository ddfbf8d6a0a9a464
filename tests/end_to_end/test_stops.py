"""SIGINT and SIGKILL anywhere, then the same command: it finishes, with an uninterrupted run's results."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import STEPS, calls, curves, lines, metrics, run, stop_when

from rearank.tracking.names import expected

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    outputs = tmp_path_factory.mktemp("whole")
    run(outputs)
    return outputs / "run"


def moment(where: str, folder: Path) -> Callable[[], bool]:
    if where == "prepare":
        return lambda: (folder / "prepared" / "settings.json").is_file()
    if where == "train":
        return lambda: any(line["step"] >= 3 for line in lines(folder / "training" / "train.jsonl"))
    return lambda: calls(folder / "completions.sqlite") >= 20


def test_an_uninterrupted_run(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["queries"] == 6
    assert 0 < summary["bm25"] < summary["ideal"] <= 1
    assert {"base", "base_sampled", "grpo", "p_value", "seed"} <= summary.keys()
    steps = [line["step"] for line in curves(whole) if "train/loss" in line]
    assert steps == list(range(1, STEPS + 1))
    assert [line["step"] for line in curves(whole) if "val/ndcg@10" in line] == [0, 3, 6]
    logged = next(line for line in curves(whole) if "train/loss" in line)
    assert {"train/reward/rank", "rollout/parse/ok", "train/entropy", "train/learning_rate"} <= logged.keys()
    every = {name for line in curves(whole) for name in line} - {"step"}
    clocks = {"train/seconds", "rollout/reward_seconds"}  # which ``curves`` leaves out
    assert every == expected("trl") - clocks, "what is logged is what is documented"
    assert {path.name for path in (whole / "training" / "figures").iterdir()} == {
        f"{name}.{ending}" for name in ("reward", "ndcg", "length") for ending in ("png", "svg")
    }
    assert (whole / "training" / "model" / "model.safetensors").is_file()
    assert json.loads((whole / "environment.json").read_text())["packages"]["torch"]
    assert (whole / ".hydra" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("prepare", signal.SIGKILL),
        ("train", signal.SIGKILL),
        ("train", signal.SIGINT),
        ("evaluate", signal.SIGKILL),
        ("evaluate", signal.SIGINT),
    ],
)
def test_the_same_command_goes_on(where: str, how: signal.Signals, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, said = stop_when(tmp_path, moment(where, folder), how)
    if how is signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 130, said[-2000:]
        assert "interrupted; the same command goes on from here" in said
    paid_before = calls(folder / "completions.sqlite")
    again = run(tmp_path)
    if where == "train":
        assert re.search("continued from step [24]", again.stdout + again.stderr)
    assert curves(folder) == curves(whole)
    assert metrics(folder) == metrics(whole)
    if where == "evaluate":
        assert paid_before >= 20
        paid_now = sum(map(int, re.findall(r'"calls_paid_now": (\d+)', again.stdout + again.stderr)))
        assert paid_before + paid_now == calls(whole / "completions.sqlite"), "no recorded call was made again"


def test_a_finished_run_does_nothing_again(whole: Path) -> None:
    before, curve = metrics(whole), curves(whole)
    again = run(whole.parent, "task=evaluate")
    assert re.findall(r'"calls_paid_now": (\d+)', again.stdout + again.stderr) == ["0"] * 3
    assert metrics(whole) == before
    assert curves(whole) == curve


def test_other_settings_are_kept_apart(whole: Path) -> None:
    run(whole.parent, "task=prepare", "augmentation.sets=2")
    aside = whole / "prepared.1"
    assert (aside / "train.parquet").is_file()
    assert (whole / "prepared" / "train.parquet").is_file()
    run(whole.parent, "task=prepare")
