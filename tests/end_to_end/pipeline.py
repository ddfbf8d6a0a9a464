"""The quickstart's pipeline, small: real BM25, GRPO with TRL and the transformers engine in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
SMALL = (
    "experiment=quickstart",
    "name=run",
    "tracking=none",
    "analyse.after_training=0",
    "dataset.collection.query_count=24",
    "validation.collection.query_count=8",
    "benchmark.collection.query_count=6",
    "prepare.validation_windows=12",
    "evaluation.samples=1",
    f"algorithm.steps={STEPS}",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "trainer.save_every=2",
    "trainer.validate_every=3",
    "report.write=false",
)


def command(outputs: Path, *overrides: str) -> list[str]:
    """``python run.py`` with the small settings; later overrides win."""
    places = [f"paths.outputs={outputs}", f"paths.cache={outputs.parent}/cache"]
    return [sys.executable, str(ROOT / "run.py"), *SMALL, *places, *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}


def run(outputs: Path, *overrides: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run to the end and check the exit status."""
    done = subprocess.run(
        command(outputs, *overrides), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def stop_when(outputs: Path, reached: Callable[[], bool], how: signal.Signals, *overrides: str) -> tuple[int, str]:
    """Run until ``reached``, then send ``how``; the exit status and what was said."""
    with (outputs / "stopped.log").open("w+") as said:
        process = subprocess.Popen(command(outputs, *overrides), cwd=ROOT, env=environment(), stdout=said, stderr=said)
        deadline = time.monotonic() + 300
        while not reached():
            assert process.poll() is None, f"it ended by itself: {(outputs / 'stopped.log').read_text()[-3000:]}"
            assert time.monotonic() < deadline, "the moment to stop it never came"
            time.sleep(0.005)
        process.send_signal(how)
        status = process.wait(timeout=120)
        return status, (outputs / "stopped.log").read_text()


def lines(path: Path) -> list[dict[str, Any]]:
    """A JSONL file that is being written."""
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def calls(path: Path) -> int:
    """Model calls recorded so far."""
    if not path.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            return int(db.execute("select count(*) from completions").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0


def metrics(folder: Path) -> dict[str, Any]:
    """Every system's values, without what differs between two runs of the same thing."""
    found = {}
    for path in sorted((folder / "evaluation").glob("*/*/metrics.json")):
        stored = json.loads(path.read_text())
        found["/".join(path.parts[-3:-1])] = {key: stored[key] for key in ("mean", "per_query", "queries", "system")}
    return found


def curves(folder: Path) -> list[dict[str, Any]]:
    """The training's curves without its clocks."""
    clocks = {"train/seconds", "rollout/reward_seconds"}
    return [
        {key: value for key, value in line.items() if key not in clocks}
        for line in lines(folder / "training" / "train.jsonl")
    ]
