"""Studies from the command line: an arm that two have in common is done once; what fails is run again alone."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import ROOT, environment

pytestmark = pytest.mark.slow

STUDY = """# @package _global_
defaults:
  - /experiment/quickstart
  - override /task: evaluate
  - override /engine: scripted
  - override /tracking: none
  - override /hydra/sweeper: rearank_arms
  - _self_
name: {name}
benchmark:
  collection:
    query_count: 6
    passage_count: 1000
hydra:
  sweeper:
    seeds: [1, 2]
    arms:
      {arms}
"""


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder of configs with two studies; ``plain`` of the one is ``oracle`` of the other."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    first = "plain: []\n      reversed: [engine.behaviour=reverse, \"engine.seed='${seed}'\"]"
    second = "given: [engine.behaviour=given]\n      oracle: [engine.behaviour=oracle]"
    (folder / "first.yaml").write_text(STUDY.format(name="first", arms=first))
    (folder / "second.yaml").write_text(STUDY.format(name="second", arms=second))
    return folder.parent


def command(studies: Path, *words: str, expect: int = 0) -> str:
    """What ``run.py`` said; outputs lie beside ``studies``."""
    places = [f"paths.outputs={studies.parent}/outputs", f"paths.cache={studies.parent}/cache"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "--config-dir", str(studies), *words, *places],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_an_arm_that_two_studies_share_is_done_once(studies: Path) -> None:
    outputs = studies.parent / "outputs"
    assert "first-sweep: 4 of 4 jobs finished" in command(studies, "-m", "experiment=first")
    said = command(studies, "-m", "experiment=second")
    assert "second-sweep: 4 of 4 jobs finished" in said
    assert said.count("the same job is finished in") == 2
    for seed in (1, 2):
        twin, job = outputs / f"first-sweep/arm=plain,seed={seed}", outputs / f"second-sweep/arm=oracle,seed={seed}"
        stored = json.loads((job / "job.json").read_text())
        assert stored["taken_from"] == str(twin)
        assert stored["choices"] == {"arm": "oracle", "seed": str(seed)}
        run = "evaluation/synthetic/scripted/run.trec"
        assert (job / run).stat().st_ino == (twin / run).stat().st_ino
        assert "taken_from" not in json.loads((outputs / f"second-sweep/arm=given,seed={seed}/job.json").read_text())
    first, second = (json.loads((outputs / f"{name}-sweep/summary.json").read_text()) for name in ("first", "second"))
    means = {row["arm"]: row["mean"] for row in first["arms"]}
    again = {row["arm"]: row["mean"] for row in second["arms"]}
    assert list(means) == ["first stage (bm25)", "plain", "reversed"]
    assert list(again) == ["first stage (bm25)", "given", "oracle"], "in the study's order"
    assert again["oracle"] == means["plain"] > again["given"] > means["reversed"]
    assert "oracle" in (outputs / "second-sweep" / "table.md").read_text()
    assert (outputs / "second-sweep" / "report.html").is_file(), "it reads the job that was taken over, too"
    assert command(studies, "-m", "experiment=second", "arm=oracle").count("finished before") == 2
    other = outputs / "first-sweep" / "arm=reversed,seed=2"
    assert "engine.seed='${seed}'" in (other / ".hydra" / "overrides.yaml").read_text(), "each job's own seed"
    assert json.loads((other / "job.json").read_text())["fixed"] == json.loads((twin / "job.json").read_text())["fixed"]


def test_a_failed_arm_is_run_again_alone(studies: Path) -> None:
    folder = studies.parent / "outputs" / "first-sweep"
    stone = folder / "arm=reversed,seed=2" / "evaluation"
    stone.parent.mkdir(parents=True)
    stone.write_text("a file where a folder is needed")
    said = command(studies, "-m", "experiment=first", "arm=reversed", expect=1)
    assert "first-sweep: 1 of 2 jobs finished" in said
    (line,) = (line for line in said.splitlines() if line.startswith("    python run.py -m "))
    words = shlex.split(line)[3:]
    assert {"experiment=first", "arm=reversed", "seed=2"} <= set(words)
    assert not [word for word in words if word.startswith("engine.")], "the arm's name says it"
    stone.unlink()
    said = command(studies, "-m", *words)
    assert "first-sweep: 2 of 2 jobs finished" in said
    # The arms that were run first don't become what the others are compared with.
    command(studies, "-m", "experiment=first", "seed=1")
    tests = json.loads((folder / "summary.json").read_text())["comparisons"]
    assert [(one["a"], one["b"]) for one in tests] == [("plain", "reversed")]


def test_a_study_is_a_sweep(studies: Path) -> None:
    said = command(studies, "experiment=first", "seed=1", expect=1)
    assert "first is a study, and a study is a sweep: add -m (python run.py -m experiment=first seed=1" in said
    assert "arm=... (plain, reversed)" in said
    assert "Traceback" not in said
    assert not list((studies.parent / "outputs").glob("*/summary.json"))
    said = command(studies, "-m", "experiment=first,second", expect=1)
    assert "name one study a command" in said
    said = command(studies, "-m", "experiment=first", "arm=plan", expect=1)
    assert "rearank: arm=plan: this study has no such arm; there are plain, reversed" in said
    assert "Traceback" not in said


def test_what_does_no_jobs_work_needs_no_sweep(studies: Path) -> None:
    said = command(studies, "experiment=first", "task=preflight")
    assert "add -m" not in said


def test_a_sweep_needs_no_name(studies: Path) -> None:
    """Its folder is named after the options that are not swept."""
    small = ("model=tiny", "trainer=trl", "dataset=synthetic", "benchmark=synthetic", "reward=ndcg", "engine=scripted")
    command(studies, "-m", *small, "task=preflight", "tracking=none", "report.write=false", "seed=1,2")
    (folder,) = (studies.parent / "outputs").glob("*-sweep")
    assert folder.name == "tiny-synthetic-ndcg-sweep"
    assert {path.name for path in folder.glob("seed=*")} == {"seed=1", "seed=2"}
