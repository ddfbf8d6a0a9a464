"""Sweeps from the command line: what fails stops nothing else and is run again alone; every launcher; W&B offline."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
from tests.end_to_end.pipeline import ROOT, environment
from tests.wandb_file import read_offline

from rearank.tracking import read_jsonl
from rearank.tracking.names import undocumented

pytestmark = pytest.mark.slow

SMALL = (
    *("experiment=quickstart", "task=evaluate", "engine=scripted", "tracking=none", "name=run"),
    "benchmark.collection.query_count=6",
    "benchmark.collection.passage_count=1000",
    "report.write=false",
)


def sweep(outputs: Path, *overrides: str, expect: int = 0) -> str:
    places = [f"paths.outputs={outputs}", f"paths.cache={outputs.parent}/cache"]
    return said([sys.executable, str(ROOT / "run.py"), "-m", *SMALL, *places, *overrides], expect)


def said(command: list[str], expect: int) -> str:
    clean = {key: value for key, value in environment().items() if key != "WANDB_API_KEY"}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_a_failed_job_is_listed_and_run_again_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run-sweep"
    stone = folder / "engine.behaviour=reverse,seed=2" / "evaluation"
    stone.parent.mkdir(parents=True)
    stone.write_text("a file where a folder is needed")
    answer = sweep(tmp_path, "engine.behaviour=reverse,noisy", "seed=1,2", expect=1)
    assert "run-sweep: 3 of 4 jobs finished" in answer
    assert "1 of 4 jobs failed" in answer
    assert "engine.behaviour=reverse,seed=2: " in answer
    assert "Traceback" in (stone.parent / "failure.txt").read_text()
    assert "Traceback" not in answer
    stone.unlink()
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/job.json") if path.parent != stone.parent}
    assert len(done) == 3
    # The command that was printed, with W&B beside.
    (alone,) = (line for line in answer.splitlines() if line.startswith("    python run.py -m "))
    words = shlex.split(alone)[2:]
    answer = said([sys.executable, str(ROOT / "run.py"), *words, "tracking=wandb", "tracking.mode=offline"], 0)
    assert "run-sweep: 4 of 4 jobs finished" in answer
    assert {path: path.stat().st_mtime_ns for path in done} == done, "finished jobs are left alone"
    summary = json.loads((folder / "summary.json").read_text())
    for arm in summary["arms"][1:]:
        found = [json.loads((folder / f"{arm['arm']},seed={seed}" / "summary.json").read_text()) for seed in "12"]
        assert arm["mean"] == pytest.approx(fmean(one["scripted"] for one in found))
    assert [arm["arm"] for arm in summary["arms"]] == [
        "first stage (bm25)",
        "engine.behaviour=reverse",
        "engine.behaviour=noisy",
    ]
    check_offline(folder, stone.parent)


def check_offline(folder: Path, job: Path) -> None:
    """Of the job and of the sweep itself."""
    evaluated = read_offline(job / "evaluation", job)
    (line,) = read_jsonl(job / "evaluation" / "evaluate.jsonl")
    assert evaluated.figures() == {line.pop("step"): line}
    assert {"test/synthetic/scripted", "test/synthetic/bm25"} <= line.keys()
    assert undocumented(line) == []
    assert evaluated.tables() == {"queries": 6, "traces": len(read_jsonl(job / "evaluation/evaluate-traces.jsonl"))}
    assert (evaluated.run.run_group, evaluated.run.job_type) == ("run-sweep", "evaluate")
    assert evaluated.run.display_name == "engine.behaviour=reverse,seed=2/evaluate"
    assert evaluated.config["commit"] == json.loads((job / "environment.json").read_text())["commit"]
    assert evaluated.config["choices"]["engine"] == "scripted"
    (runs,) = (one for one in evaluated.artefacts if one.type == "run")
    assert {"synthetic/scripted/run.trec", "summary.json"} <= {file.path for file in runs.manifest.contents}
    whole = read_offline(folder)
    assert (whole.run.run_group, whole.run.job_type) == ("run-sweep", "sweep")
    means = {arm["arm"]: arm["mean"] for arm in json.loads((folder / "summary.json").read_text())["arms"]}
    assert whole.figures() == {0: {f"sweep/synthetic/{arm}": mean for arm, mean in means.items()}}
    assert whole.tables() == {"ablation": 3}


def test_a_plugin_that_is_missing_is_named(tmp_path: Path) -> None:
    if find_spec("hydra_plugins.hydra_optuna_sweeper") is not None:
        pytest.skip("it isn't missing")
    answer = sweep(tmp_path, "hydra/sweeper=optuna", expect=1)
    assert "hydra/sweeper=optuna: Hydra's plugin for it is missing; pip install hydra-optuna-sweeper" in answer


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers(launcher: str, tmp_path: Path) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher"
    try:
        there = find_spec(plugin) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        pytest.skip(f"{plugin} isn't installed: pip install -e '.[sweeps]'")
    answer = sweep(tmp_path, f"launcher={launcher}", "engine.failing=0,1", expect=1)
    assert "run-sweep: 1 of 2 jobs finished" in answer
    assert "engine.failing=1: synthetic, scripted: oracle: every query failed" in answer
